"""Trajectories of the toy problems: what ``rotograd train experiment=toy`` does, watched."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rotograd_cli.config.compose import composing
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import TrainConfig, to_train_config
from rotograd_cli.data.base import MultiTaskDataset
from rotograd_cli.data.toy import OPTIMA, Problem
from rotograd_cli.runs.building import build_run
from rotograd_cli.training.batches import EpochBatches
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.stepper import Stepper


@dataclass(frozen=True)
class Trajectory:
    """Where training went, before the first step and after each of T steps."""

    features: np.ndarray
    """The point z, shape ``[T + 1, 2]``."""
    rotations: np.ndarray
    """R_k, the identity without rotations, shape ``[T + 1, K, 2, 2]``."""
    optima: np.ndarray
    """The point where the loss of a task is smallest, shape ``[K, 2]``."""

    @property
    def points(self) -> np.ndarray:
        """What the tasks see, R_k z, shape ``[T + 1, K, 2]``."""
        return np.asarray(np.einsum("tkij,tj->tki", self.rotations, self.features))

    @property
    def optima_in_z(self) -> np.ndarray:
        """Where z would have to be for each task, R_k' o_k, shape ``[T + 1, K, 2]``."""
        return np.asarray(np.einsum("tkji,kj->tki", self.rotations, self.optima))

    @property
    def distances(self) -> np.ndarray:
        """Distance of every task from its optimum at the end, shape ``[K]``."""
        return np.asarray(np.linalg.norm(self.points[-1] - self.optima, axis=1))


def configuration(problem: Problem, method: str, steps: int) -> TrainConfig:
    """Return the configuration of a run of ``experiment=toy``, on the CPU, with seed 0."""
    overrides = ["experiment=toy", f"method={method}", f"data.problem={problem}", "logger=none"]
    with composing():
        config = composed("train", [*overrides, f"train.epochs={steps}", "device=cpu"])
        return to_train_config(config)


def trajectory(config: TrainConfig, seed: int) -> Trajectory:
    """Train a run of ``experiment=toy`` and watch it; the same steps as ``rotograd train`` takes.

    Args:
        config: As :func:`configuration` returns it.
        seed: Seed of network and rotations.
    """
    run, dataset = build_run(dataclasses.replace(config, seed=seed))
    states = [_state(run), *_steps(config, run, dataset)]
    features, rotations = (torch.stack(parts).numpy() for parts in zip(*states, strict=True))
    optima = np.array(OPTIMA[config.data["problem"]])
    return Trajectory(features.astype(float), rotations.astype(float), optima)


def _steps(
    config: TrainConfig, run: RunState, dataset: MultiTaskDataset
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Take all steps; yield the state after each."""
    batches = EpochBatches(dataset, config.train, config.seed, run.device, run.ranks)
    stepper = Stepper(run, dataset.tasks, config.train)
    for epoch in range(config.train.epochs):
        run.begin_epoch()
        for micro_batches in batches.steps(epoch):
            stepper.take(micro_batches)
            run.end_step()
            yield _state(run)
        run.end_epoch()


@torch.no_grad()
def _state(run: RunState) -> tuple[torch.Tensor, torch.Tensor]:
    """Return z ``[2]`` and the rotations ``[K, 2, 2]``."""
    model = run.model
    (z,) = model.backbone(torch.zeros(1, 2))
    identity = torch.eye(2).expand(model.num_tasks, 2, 2)
    return z, identity if model.rotated is None else model.rotated.rotations.matrices.clone()
