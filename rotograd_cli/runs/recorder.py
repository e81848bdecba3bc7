"""Where a run's records go: its own file, the terminal, and what the user has chosen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rotograd_cli.tracking.base import Tracker
from rotograd_cli.tracking.console import ConsoleTracker
from rotograd_cli.tracking.jsonl import JsonlTracker
from rotograd_cli.training.run_state import TrainState

RECORDS = "metrics.jsonl"
"""File of the records in a run directory."""


class RunRecorder:
    """Hands the loop's records to the trackers of a run."""

    def __init__(self) -> None:
        self.trackers: list[Tracker] = []
        self.file: JsonlTracker | None = None

    def add(self, tracker: Tracker) -> None:
        """Add a tracker."""
        self.trackers.append(tracker)

    def open_file(self, run_dir: Path, positions: Mapping[str, int]) -> None:
        """Open the record file, whose length checkpoints remember.

        Args:
            run_dir: Run directory.
            positions: Length by name at the checkpoint that the run goes on from; what follows is
                cut off.
        """
        self.file = JsonlTracker(run_dir / RECORDS, positions.get(RECORDS, 0))
        self.add(self.file)

    def position(self) -> dict[str, int]:
        """Return how far the record file is written."""
        return {} if self.file is None else {RECORDS: self.file.position()}

    def log(self, record: dict[str, float]) -> None:
        """Hand on one record."""
        for tracker in self.trackers:
            tracker.log(record)

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        """Show progress on the terminal."""
        for tracker in self.trackers:
            if isinstance(tracker, ConsoleTracker):
                tracker.progress(state, num_batches, batch_index)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Hand on the summary and close."""
        for tracker in self.trackers:
            tracker.finish(summary)
