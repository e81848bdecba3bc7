"""The tracker contract."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Tracker(Protocol):
    """Mirrors a run. The run's own files are the source of truth; no tracker may stop a run."""

    def log(self, record: Mapping[str, float]) -> None:
        """Takes one record: ``step``, ``epoch`` and values by ``split/task/metric``."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Takes the content of ``summary.json`` and closes; called once, whatever happened."""


class NullTracker:
    """Mirrors nothing.

    Args:
        run_dir: Run directory.
        config: Resolved configuration.
        tags: Words to find the run by.
        mode: Accepted so that presets can switch every logger off in one way.
    """

    def __init__(
        self, *, run_dir: Path, config: Mapping[str, Any], tags: Sequence[str], mode: str = ""
    ) -> None:
        del run_dir, config, tags, mode

    def log(self, record: Mapping[str, float]) -> None:
        """Does nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Does nothing."""
