"""What all mirrors of a run have in common: trouble costs a warning, never the run."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar

from rotograd_cli.errors import first_line


class Mirror:
    """Base class of trackers that copy a run's records to somewhere else."""

    name: ClassVar[str]
    """Name in warnings."""

    def __init__(self) -> None:
        self._warnings: set[str] = set()

    def guard(self, what: str, action: Callable[[], Any]) -> bool:
        """Run an action, and warn instead of raising; the same warning is given once.

        Args:
            what: What the action does, as a verb.
            action: The action.

        Returns:
            Whether it went well.
        """
        try:
            action()
        except Exception as error:  # libraries raise many kinds
            self._warn(
                f"{self.name} could not {what}, the run goes on without: {first_line(error)}"
            )
            return False
        return True

    def _warn(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.add(message)
            logging.getLogger(type(self).__module__).warning("%s", message)
