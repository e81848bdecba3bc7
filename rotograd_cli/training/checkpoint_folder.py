"""The checkpoints of a run: what is saved, when, and how the run goes on from there."""

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rotograd_cli.errors import CheckpointError
from rotograd_cli.files import remove_temporaries
from rotograd_cli.training.checkpoint import (
    STATES,
    bases_file,
    fingerprint,
    link,
    load_checkpoint,
    load_newest,
    previous_of,
    serialized,
    write_checkpoint,
)
from rotograd_cli.training.checkpoint_content import SELECTED, content_of, load_weights, restore
from rotograd_cli.training.options import CheckpointOptions
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.writer import Writer

logger = logging.getLogger(__name__)


@dataclass
class CheckpointFolder:
    """``last.pt``, ``best.pt`` and their predecessors, written beside training.

    Saving takes a copy to the host's memory; a thread writes it. What cannot be written ends the
    run at its next step.

    Args:
        path: The folder; exists when something is saved.
        run: What is saved.
        options: When checkpoints are written, and which are kept.
        extra: Returns what every checkpoint holds besides the run: ``records`` (how far the record
            files are written, bytes by name) and ``config`` (the resolved configuration).
    """

    path: Path
    run: RunState
    options: CheckpointOptions
    extra: Callable[[], dict[str, Any]]
    _saved_at: float = field(default_factory=time.monotonic, init=False)
    _writer: Writer = field(default_factory=Writer, init=False)
    _bases: tuple[str, list[int]] | None = field(default=None, init=False)  # see _without_bases

    def save(self, name: str) -> None:
        """Save the run as it is now."""
        if not self.run.ranks.is_first:
            return
        content = content_of(self.run) | self.extra()
        if name == "best.pt":
            content = {key: content[key] for key in SELECTED}
        data = serialized(self._without_bases(content))
        self._writer.submit(partial(write_checkpoint, self.path / name, data))
        self._saved_at = time.monotonic()

    def _without_bases(self, content: dict[str, Any]) -> dict[str, Any]:
        """Leave bases that no step changes to a file of their own, which is written once."""
        bases = self.run.model.constant_state()
        if not bases:
            return content
        versions = [tensor._version for tensor in bases.values()]
        if self._bases is None or self._bases[1] != versions:
            self._bases = (fingerprint(bases), versions)
            path = bases_file(self.path, self._bases[0])
            if not path.exists():
                self._writer.submit(partial(write_checkpoint, path, serialized({"model": bases})))
        for state in STATES & content.keys():
            for name in bases:
                del content[state][name]
        return content | {"bases": self._bases[0]}

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            CheckpointError: If something cannot be written.
        """
        self._writer.wait()

    def save_start(self) -> None:
        """Write what comes before the first ``last.pt``: where diagnosis begins if that fails."""
        before = previous_of(self.path / "last.pt")
        is_new = not (self.path / "last.pt").exists() and not before.exists()
        if self.run.state.step == 0 and is_new:
            self.save(before.name)

    def save_if_due(self) -> None:
        """Save ``last.pt`` if the newest checkpoint is older than the options allow.

        Raises:
            CheckpointError: If one before it cannot be written.
        """
        self._writer.check()
        if time.monotonic() - self._saved_at > 60 * self.options.every_minutes:
            self.save("last.pt")

    def save_epoch(self) -> None:
        """Write ``last.pt`` at the end of an epoch, and keep the newest epochs."""
        self.save("last.pt")
        num = self.options.keep_epochs
        if num and self.run.ranks.is_first:
            name = f"epoch_{self.run.state.epoch:05d}.pt"
            self._writer.submit(partial(_keep, self.path, name, num))

    def resume(self) -> dict[str, int] | None:
        """Go back to the newest checkpoint, as if the run had never been stopped.

        Returns:
            How far the record files were written then; None if there is no checkpoint, so that the
            run begins anew.

        Raises:
            CheckpointError: If no checkpoint can be read, or it is another run's.
        """
        content = self.run.ranks.broadcast_content(lambda: load_newest(self.path, self._read_to))
        if content is None:
            return None
        epochs = self.extra()["config"]["train"]["epochs"]
        positions = restore(self.run, content, self.path / "last.pt", epochs)
        if self.run.ranks.is_first:
            remove_temporaries(self.path)  # of a process that was killed
            self._restore_best(self.run.state.best_epoch)
        return positions

    def _restore_best(self, best_epoch: int) -> None:
        """Make ``best.pt`` the selected epoch again that the resumed state knows of.

        A run that was killed between writing ``best.pt`` and ``last.pt`` has a ``best.pt`` from
        after the state it goes on from; the one before it has been kept.
        """
        best = self.path / "best.pt"
        for path in (best, previous_of(best)):
            with suppress(CheckpointError, KeyError, TypeError):  # a state of another kind
                if load_checkpoint(path)["state"]["best_epoch"] == best_epoch:
                    path.replace(best)
                    return
        if best_epoch:
            logger.warning("The checkpoint of the selected epoch %d is lost.", best_epoch)

    def load_best(self) -> None:
        """Load the weights of the selected epoch.

        Raises:
            CheckpointError: If ``best.pt`` is missing, or of another epoch.
        """
        path = self.path / "best.pt"
        expected = self.run.state.best_epoch
        content = self.run.ranks.broadcast_content(lambda: load_checkpoint(path, self._read_to))
        epoch = content["state"]["best_epoch"]
        if epoch != expected:
            raise CheckpointError(
                f"{path} must be of epoch {expected}, which was selected, got one of epoch {epoch};"
                " train the run again."
            )
        load_weights(self.run.evaluated_model, content["model"], path)

    def finish(self) -> None:
        """Drop what a finished run has no use for."""
        if self.run.ranks.is_first:
            for path in self.path.glob("*.previous.pt"):
                path.unlink()

    @property
    def _read_to(self) -> torch.device:
        """Where checkpoints are read to: the host where they are sent on."""
        return self.run.device if self.run.ranks.size == 1 else torch.device("cpu")


def _keep(folder: Path, name: str, num: int) -> None:
    """Keep ``last.pt`` under another name, and the newest ``num`` of these."""
    link(folder / "last.pt", folder / name, otherwise=shutil.copyfile)
    for path in sorted(folder.glob("epoch_*.pt"))[:-num]:
        path.unlink()
