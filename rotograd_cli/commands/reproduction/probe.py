"""How long a run may take, from a few of its steps."""

import dataclasses
import math
import time
from collections.abc import Callable
from itertools import chain, count, islice

from rotograd_cli.runs.building import build_run
from rotograd_cli.runs.config import TrainConfig
from rotograd_cli.training.batches import EpochBatches
from rotograd_cli.training.evaluation import Evaluator
from rotograd_cli.training.stepper import Stepper

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
    num_val = _num_batches(dataset.num_examples("val"), config)
    num_test = _num_batches(dataset.num_examples("test"), config)
    evaluation_s = batch_s * (num_evaluations * num_val + num_test)
    return options.epochs * batches.num_steps * step_s + evaluation_s


def _seconds(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def _num_batches(num_examples: int, config: TrainConfig) -> int:
    num = math.ceil(num_examples / config.train.eval_batch_size)
    limit = config.train.limit_eval_batches
    return num if limit is None else min(num, limit)
