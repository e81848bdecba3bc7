"""The tracker contract."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Tracker(Protocol):
    """A mirror of a run. The run's own files are the source of truth; no tracker may stop a run."""

    def log(self, record: Mapping[str, float]) -> None:
        """Mirror one record: ``step``, ``epoch``, ``seconds``, values by ``split/task/metric``."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mirror the content of ``summary.json`` and close; called once, whatever happened."""


class NullTracker:
    """A tracker that records nothing; it accepts ``mode`` as every tracker does."""

    def __init__(
        self, *, run_dir: Path, config: Mapping[str, Any], tags: Sequence[str], mode: str = ""
    ) -> None:
        del run_dir, config, tags, mode

    def log(self, record: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""
