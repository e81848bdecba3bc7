"""How long a run may take, from a few of its steps."""

import dataclasses
import math
import time
from pathlib import Path

from rotograd_cli.runs.config import TrainConfig
from rotograd_cli.runs.experiment import make_trainer
from rotograd_cli.training.state import TrainState

STEPS = 3
"""Steps that are timed, after one that is not."""


def measured_seconds(config: TrainConfig) -> float:
    """Wall time of a run in seconds, as a few training steps and one evaluation batch let expect.

    Nothing is written.

    Args:
        config: Configuration of the run.

    Returns:
        Epochs times steps and evaluation batches, plus the test.

    Raises:
        RotogradError: If the run cannot be built.
    """
    trainer = make_trainer(config, _Silent(), Path())
    options = trainer.options
    num_steps = trainer.num_batches
    evaluated = {split: trainer.dataset.num_examples(split) for split in ("val", "test")}
    batches = {split: _num_batches(num, config) for split, num in evaluated.items()}
    few = dataclasses.replace(options, log_every_steps=STEPS + 2, limit_eval_batches=1)
    trainer.options = dataclasses.replace(few, limit_batches=1)
    trainer.train_epoch()
    trainer.options = dataclasses.replace(few, limit_batches=STEPS)
    start = time.monotonic()
    trainer.train_epoch()
    step_s = (time.monotonic() - start) / min(STEPS, num_steps)
    start = time.monotonic()
    trainer.metrics("val")
    batch_s = time.monotonic() - start
    num_evaluations = math.ceil(options.epochs / options.eval_every_epochs)
    evaluation_s = batch_s * (num_evaluations * batches["val"] + batches["test"])
    return options.epochs * num_steps * step_s + evaluation_s


def _num_batches(num_examples: int, config: TrainConfig) -> int:
    num = math.ceil(num_examples / config.train.eval_batch_size)
    limit = config.train.limit_eval_batches
    return num if limit is None else min(num, limit)


class _Silent:
    """A recorder that keeps nothing."""

    def log(self, record: dict[str, float]) -> None:
        """Nothing."""

    def position(self) -> dict[str, int]:
        """Nothing."""
        return {}

    def poll(self) -> None:
        """Nothing."""

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        """Nothing."""
