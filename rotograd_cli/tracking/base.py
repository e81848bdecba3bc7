"""The tracker contract."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rotograd_cli.training.evaluation_view import EvaluationView


@runtime_checkable
class Tracker(Protocol):
    """A mirror of a run. The run's own files are the source of truth; no tracker may stop a run."""

    def log(self, record: Mapping[str, float]) -> None:
        """Mirror one record: ``step``, ``epoch``, ``seconds``, values by ``split/task/metric``."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mirror the content of ``summary.json`` and close; called once, whatever happened."""


@runtime_checkable
class PictureTracker(Protocol):
    """A tracker that takes pictures too: its options ``images`` and ``confusion`` ask for them."""

    def show(self, step: int, view: EvaluationView) -> None:
        """Mirror what an evaluation shows, after its record."""


@runtime_checkable
class RewindingTracker(Protocol):
    """A tracker that has to be told what a resumed run takes again."""

    def rewind(self, step: int, kept: Sequence[Mapping[str, float | None]]) -> None:
        """Drop everything from a step on, and mirror again what remains of it.

        Args:
            step: Step of the first record that was cut off.
            kept: Records of this step that were not; None stands for a value that was not finite.
        """


class NullTracker:
    """A tracker that records nothing; earlier versions of ``debug=smoke`` gave it a ``mode``."""

    def __init__(
        self, *, run_dir: Path, config: Mapping[str, Any], tags: Sequence[str], mode: str = ""
    ) -> None:
        del run_dir, config, tags, mode

    def log(self, record: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""
