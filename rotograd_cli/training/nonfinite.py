"""A run that meets a loss or gradient that is not finite leaves a dump of the step behind.

No step keeps a copy of what it changes: after the failure the run goes back to its last checkpoint
and trains on, silently, until it stands before that step again.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import CheckpointError, NonFiniteError, suggested
from rotograd_cli.training.checkpoint import (
    load_checkpoint,
    load_newest,
    previous_of,
    save_checkpoint,
)
from rotograd_cli.training.interrupts import StopRequested
from rotograd_cli.training.loop import REMEDY, Recorder, Trainer
from rotograd_cli.training.state import TrainState

NAME = "nonfinite.pt"
logger = logging.getLogger(__name__)


class Silent:
    """A recorder that records nothing.

    Args:
        recorder: Whose :meth:`poll` stops the run; None lets nothing stop it.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self.recorder = recorder

    def log(self, record: dict[str, float]) -> None:
        """Takes nothing."""

    def poll(self) -> None:
        """As the recorder of the run."""
        if self.recorder is not None:
            self.recorder.poll()

    def position(self) -> dict[str, int]:
        """No file."""
        return {}

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        """Tells nobody."""


def fit_or_dump(trainer: Trainer) -> dict[str, float]:
    """:meth:`Trainer.fit`, which leaves a dump behind where a step is not finite.

    Args:
        trainer: The run.

    Returns:
        What :meth:`Trainer.fit` returns.

    Raises:
        NonFiniteError: As there; its message names the dump, or says why there is none.
    """
    try:
        return trainer.fit()
    except NonFiniteError as error:
        logger.info("A step is not finite: back to the last checkpoint, for a dump of it.")
        try:
            path, first = _dump(trainer, error)
        except (CheckpointError, StopRequested) as reason:
            raise NonFiniteError(f"{error} There is no dump of it: {reason}") from error
        where = "" if error.step == first.step else f", of step {first.step}"
        told = error if REMEDY in str(first) else first  # which names a fault of the data
        raise NonFiniteError(
            f"{told} {suggested('replay', os.path.relpath(path))} shows where it began{where}.",
            step=first.step,
        ) from error


def _dump(trainer: Trainer, error: NonFiniteError) -> tuple[Path, NonFiniteError]:
    """Writes the dump; its path, and the error of the step that is in it.

    Raises:
        CheckpointError: If there is nothing to go back to, the step does not fail again, or the
            file cannot be written.
    """
    first, batches = error, trainer.failed_batches
    with _quiet():
        if error.step is None:  # noticed where losses are recorded
            first, batches = _find(trainer)
        assert first.step is not None
        rerun = _Rerun(trainer, until=first.step)
        rerun.train_until()
        batches = batches or rerun.failed_batches
        content = _on_host(rerun.content())
        observed = rerun.failure_of(batches)
    if observed is None or (error.step is not None and str(observed) != str(error.__cause__)):
        _refuse(first.step)
    if trainer.ranks.size > 1:
        batches = rerun.whole_batches()
    path = trainer.checkpoint_dir / NAME
    if trainer.ranks.is_first:
        failure = _describe(trainer, first.step, observed, batches)
        save_checkpoint(path, {**content, "failure": failure})
    return path, first


def _refuse(step: int) -> NoReturn:
    raise CheckpointError(f"taken again from the last checkpoint, step {step} did not fail so.")


def _find(trainer: Trainer) -> tuple[NonFiniteError, list[Batch]]:
    """The first step that is not finite, of those since the last checkpoint."""
    rerun = _Rerun(trainer, until=trainer.state.step + 1)
    try:
        rerun.train_until()
    except NonFiniteError as error:
        if error.step is None:
            raise CheckpointError(str(error)) from error
        return error, rerun.failed_batches
    _refuse(trainer.state.step)


def _describe(
    trainer: Trainer, step: int, observed: NonFiniteError, batches: list[Batch]
) -> dict[str, Any]:
    return {
        "step": step,
        "message": str(observed),
        "losses": observed.losses,
        "gradients": observed.gradients,
        "micro_batches": [
            {"inputs": _on_host(batch.inputs), "targets": _on_host(dict(batch.targets))}
            for batch in batches
        ],
        "device": str(trainer.device),
        "num_threads": torch.get_num_threads(),
        "num_ranks": trainer.ranks.size,
    }


class _Reached(Exception):  # noqa: N818 - no error
    """The run stands before the step that was looked for."""


class _Rerun(Trainer):
    """The same run from its last checkpoint, without records, checkpoints and evaluations.

    Every step is looked at, on an accelerator too.

    Args:
        trainer: The run; its model and optimisers go back.
        until: Step (from 1) to stand before.

    Raises:
        CheckpointError: If there is no checkpoint to go back to.
    """

    def __init__(self, trainer: Trainer, *, until: int) -> None:
        super().__init__(
            trainer.model,
            trainer.dataset,
            trainer.groups,
            trainer.options,
            Silent(trainer.recorder),
            checkpoint_dir=trainer.checkpoint_dir,
            seed=trainer.seed,
            device=trainer.device,
            config=trainer.config,
        )
        self.until, self.looks_at_every_step = until, True
        self.model.forget()
        self.model.zero_grad()
        content = self.ranks.same_content(self._start)
        self.restore(content, self.checkpoint_dir / "last.pt")

    def _start(self) -> dict[str, Any]:
        """The newest checkpoint, or the one before it where that one came after the failure."""
        last = self.checkpoint_dir / "last.pt"
        newest = load_newest(self.checkpoint_dir, self._read_to)
        if newest is None:
            raise CheckpointError(f"there is no {last} to go back to.")
        if not self._is_finite(newest):
            with suppress(CheckpointError):
                before = load_checkpoint(previous_of(last), self._read_to)
                return before if self._is_finite(before) else newest
        return newest

    def _is_finite(self, content: Mapping[str, Any]) -> bool:
        names = dict(self.model.named_parameters())
        return all(bool(content["model"][name].isfinite().all()) for name in names)

    def train_until(self) -> None:
        """Trains until the run stands before the step."""
        with suppress(_Reached):
            while True:
                self.state.evaluation_due = False
                self.train_epoch()

    def failure_of(self, batches: list[Batch]) -> NonFiniteError | None:
        """Takes the step; how it fails, None if it does not."""
        try:
            self.take_step(batches)
        except NonFiniteError as error:
            return error
        return None

    def whole_batches(self) -> list[Batch]:
        """Micro-batches of the step, with the rows of all ranks."""
        return next(self._micro_batches(whole=True))

    def _step(self, micro_batches: list[Batch]) -> None:
        if self.state.step + 1 >= self.until:
            self.failed_batches = micro_batches
            raise _Reached
        super()._step(micro_batches)

    def _save(self, name: str) -> None:
        """Nothing: the checkpoints are the run's."""


def _on_host(value: Any) -> Any:
    """Copies of all tensors in it, on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_host(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_host(item) for item in value)
    return value


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, skipped steps are not warned of a second time."""
    loop = logging.getLogger("rotograd_cli.training.loop")
    before = loop.level
    loop.setLevel(logging.ERROR)
    try:
        yield
    finally:
        loop.setLevel(before)
