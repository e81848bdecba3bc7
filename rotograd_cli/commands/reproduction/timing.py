"""How long a run takes, from a few steps of it."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, count, islice

from rotograd_cli.commands.reproduction.cells import Cell, first_of_rows
from rotograd_cli.config.schema import TrainConfig
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.runs.building import build_run
from rotograd_cli.training.batches import EpochBatches, evaluation_parts
from rotograd_cli.training.evaluation import Evaluator
from rotograd_cli.training.stepper import Stepper

STEPS = 3
"""Steps that are timed, after one that is not."""
PROBING_S = 20.0
"""Seconds after which no other row is timed."""


def seconds_by_row(cells: Sequence[Cell]) -> dict[str, float]:
    """Measure the seconds of a run of rows without a finished one, as long as ``PROBING_S`` lasts.

    Raises:
        RotogradError: If a run cannot be built.
    """
    end = time.monotonic() + PROBING_S
    done = {cell.run.row for cell in cells if cell.finished}
    seconds = {}
    for row, cell in first_of_rows(cells).items():
        if row not in done and time.monotonic() < end:
            with suppress(NonFiniteError):  # training will say so, run by run
                seconds[row] = measured_seconds(cell.config)
    return seconds


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
    run, dataset = build_run(config)
    batches = EpochBatches(dataset, config.train, config.seed, run.device)
    stepper = Stepper(run, dataset.tasks, config.train)
    run.begin_epoch()
    steps = chain.from_iterable(map(batches.steps, count()))

    def train(num_steps: int) -> None:
        for micro_batches in islice(steps, num_steps):
            stepper.take(micro_batches)
        run.record(dataset.tasks)  # waits for the device

    train(1)
    step_s = _seconds(lambda: train(STEPS)) / STEPS
    few = dataclasses.replace(config.train, limit_eval_batches=1)
    evaluator = Evaluator(run.model, dataset, few)
    batch_s = _seconds(lambda: evaluator.metrics("val"))
    options = config.train
    num_evaluations = math.ceil(options.epochs / options.eval_every_epochs)
    num_val = len(evaluation_parts(dataset, "val", options))
    num_test = len(evaluation_parts(dataset, "test", options))
    evaluation_s = batch_s * (num_evaluations * num_val + num_test)
    return options.epochs * batches.num_steps * step_s + evaluation_s


def _seconds(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start
