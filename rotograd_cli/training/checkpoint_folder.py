"""The checkpoints of a run: its first rank writes them, all ranks read the same."""

import time
from pathlib import Path
from typing import Any

import torch

from rotograd_cli.errors import CheckpointError
from rotograd_cli.training.checkpoint import (
    drop_previous,
    keep_epoch,
    load_checkpoint,
    load_newest,
    load_weights,
    previous_of,
    restore_best,
    save_checkpoint,
)
from rotograd_cli.training.options import CheckpointOptions
from rotograd_cli.training.records import Recorder
from rotograd_cli.training.run_state import RunState


class CheckpointFolder:
    """``last.pt``, ``best.pt`` and their predecessors.

    Args:
        path: The folder; exists when something is saved.
        run: What is saved.
        recorder: Says how far the record files are written.
        options: When checkpoints are written, and which are kept.
        config: Resolved configuration, stored in every checkpoint.
    """

    def __init__(
        self,
        path: Path,
        run: RunState,
        recorder: Recorder,
        options: CheckpointOptions,
        config: dict[str, Any],
    ) -> None:
        self.path = path
        self._run = run
        self._recorder = recorder
        self._options = options
        self._config = config
        self._saved_at = time.monotonic()

    def save(self, name: str) -> None:
        """Write the run as it is now."""
        if not self._run.ranks.is_first:
            return
        records = {"records": self._recorder.position(), "config": self._config}
        save_checkpoint(self.path / name, {**self._run.content(), **records})
        self._saved_at = time.monotonic()

    def save_start(self) -> None:
        """Write what comes before the first ``last.pt``: where diagnosis begins if that fails."""
        before = previous_of(self.path / "last.pt")
        is_new = not (self.path / "last.pt").exists() and not before.exists()
        if self._run.state.step == 0 and is_new:
            self.save(before.name)

    def save_if_due(self) -> None:
        """Write ``last.pt`` if the newest checkpoint is older than the options allow."""
        if time.monotonic() - self._saved_at > 60 * self._options.every_minutes:
            self.save("last.pt")

    def save_epoch(self) -> None:
        """Write ``last.pt`` at the end of an epoch, and keep the newest epochs."""
        self.save("last.pt")
        if self._options.keep_epochs and self._run.ranks.is_first:
            keep_epoch(self.path, self._run.state.epoch, self._options.keep_epochs)

    def resume(self) -> dict[str, int] | None:
        """Go back to the newest checkpoint, as if the run had never been stopped.

        Returns:
            How far the record files were written then; None if there is no checkpoint, so that the
            run begins anew.

        Raises:
            CheckpointError: If no checkpoint can be read, or it is another run's.
        """
        content = self._run.ranks.broadcast(lambda: load_newest(self.path, self._read_to))
        if content is None:
            return None
        self._run.restore(content, self.path / "last.pt")
        if self._run.ranks.is_first:
            restore_best(self.path, self._run.state.best_epoch)
        return _positions(content, self.path / "last.pt")

    def load_best(self) -> None:
        """Load the weights of the selected epoch.

        Raises:
            CheckpointError: If ``best.pt`` is missing, or of another epoch.
        """
        path = self.path / "best.pt"
        expected = self._run.state.best_epoch
        content = self._run.ranks.broadcast(lambda: load_checkpoint(path, self._read_to))
        epoch = content["state"]["best_epoch"]
        if epoch != expected:
            raise CheckpointError(
                f"{path} must be of epoch {expected}, which was selected, got one of epoch {epoch};"
                " train the run again."
            )
        load_weights(self._run.model, content["model"], path)

    def finish(self) -> None:
        """Drop what a finished run has no use for."""
        if self._run.ranks.is_first:
            drop_previous(self.path)

    @property
    def _read_to(self) -> torch.device:
        """Where checkpoints are read to: the host where they are sent on."""
        return self._run.device if self._run.ranks.size == 1 else torch.device("cpu")


def _positions(content: dict[str, Any], path: Path) -> dict[str, int]:
    positions = content.get("records")
    if not isinstance(positions, dict) or any(type(x) is not int for x in positions.values()):
        raise CheckpointError(
            f"{path} is no checkpoint of this run (it does not say how far the records go); resume "
            "with the version that it was trained with."
        )
    return positions
