"""Synthetic: random inputs and targets of any shape, for benchmarks and debugging."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.data.base import Batch, MultiTaskDataset, Seed, Split, hash_tensors
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task, always_labelled, losses, metrics, select_tasks

Kind = Literal["classification", "binary", "regression", "map"]


class Synthetic(MultiTaskDataset):
    """Inputs and targets drawn independently of each other: nothing to learn beyond the mean.

    All tasks ``task_0``, ``task_1``, ... are of one kind:

    =============== ====================== ============================= ==============
    kind            prediction             target                        loss, metric
    =============== ====================== ============================= ==============
    classification  ``[N, num_outputs]``   uniform class, ``[N]``        CE, accuracy
    binary          ``[N, 1]``             fair coin 0 or 1, ``[N]``     BCE, F1
    regression      ``[N, 1]``             standard normal, ``[N]``      MSE
    map             ``[N, num_outputs,     standard normal, the          MSE
                    *map_shape]``          prediction's shape
    =============== ====================== ============================= ==============

    Inputs are standard normal. Everything is drawn on the CPU, so the values are those of the seed
    on every device, and lives on the device: 4 bytes per number (8 per class).

    Args:
        data_dir: Not used: there are no files.
        tasks: Names of the wanted tasks; None for all.
        device: Where the values live.
        input_shape: Shape of one example's input.
        num_tasks: Number K of tasks.
        kind: Kind of the tasks.
        num_outputs: Classes (at least 2), channels of a map, or 1.
        map_shape: Height and width of a map; None for other kinds.
        num_train: Examples of the training split.
        num_val: Examples of the validation split.
        num_test: Examples of the test split.
        seed: Seed of all values, independent of the seed of a run.

    Raises:
        ConfigError: If an option is out of range or does not belong to the kind.
    """

    name = "synthetic"

    @checked
    def __init__(
        self,
        *,
        data_dir: Path,
        tasks: Sequence[str] | None,
        device: torch.device,
        input_shape: Sequence[AtLeastOne],
        num_tasks: AtLeastOne,
        kind: Kind,
        num_outputs: AtLeastOne,
        map_shape: Sequence[AtLeastOne] | None,
        num_train: AtLeastOne,
        num_val: AtLeastOne,
        num_test: AtLeastOne,
        seed: Seed,
    ) -> None:
        del data_dir
        if len(input_shape) == 0:
            raise ConfigError("`data.input_shape` must hold positive sizes, got [].")
        _check_kind(kind, num_outputs, map_shape)
        self.input_shape = tuple(input_shape)
        available = [
            _task(f"task_{k}", kind, num_outputs, map_shape or ()) for k in range(num_tasks)
        ]
        self.tasks = select_tasks(always_labelled(available), tasks)
        sizes: Mapping[Split, int] = {"train": num_train, "val": num_val, "test": num_test}
        generator = torch.Generator().manual_seed(seed)
        self._inputs: dict[Split, Tensor] = {}
        self._targets: dict[Split, dict[str, Tensor]] = {}
        for split, num in sizes.items():
            self._inputs[split] = _normal(num, *input_shape, generator=generator).to(device)
            self._targets[split] = {
                task.name: _target(task, kind, num, generator).to(device) for task in available
            }

    def num_examples(self, split: Split) -> int:
        """Return the number of examples of a split."""
        return len(self._inputs[split])

    def batch(self, split: Split, indices: Tensor) -> Batch:
        """Return inputs ``[N, *input_shape]`` and the chosen tasks' targets (see the table)."""
        indices = indices.to(self._inputs[split].device)
        targets = {task.name: self._targets[split][task.name][indices] for task in self.tasks}
        return Batch(self._inputs[split][indices], targets)

    @property
    def fingerprint(self) -> str:
        """Hash of all inputs and of the targets of all tasks."""
        targets = (target for split in self._targets.values() for target in split.values())
        return hash_tensors(*self._inputs.values(), *targets)


def _check_kind(kind: Kind, num_outputs: int, map_shape: Sequence[int] | None) -> None:
    fits = {"map": True, "classification": num_outputs > 1}.get(kind, num_outputs == 1)
    if not fits:
        requirement = "at least 2" if kind == "classification" else "1"
        raise ConfigError(
            f"`data.num_outputs` must be {requirement} for kind={kind}, got {num_outputs}."
        )
    if (kind == "map") != bool(map_shape):
        requirement = "height and width of the features" if kind == "map" else "null"
        raise ConfigError(
            f"`data.map_shape` must be {requirement} for kind={kind}, got {map_shape}; set it to "
            "[16,16] with kind=map, or leave it out."
        )


def _task(name: str, kind: Kind, num_outputs: int, map_shape: Sequence[int]) -> Task:
    if kind == "classification":
        return Task(name, num_outputs, losses.cross_entropy, (metrics.accuracy(num_outputs),))
    if kind == "binary":
        return Task(name, 1, losses.binary_cross_entropy, (metrics.f1(),), batchable=True)
    mse = (metrics.mse(),)
    return Task(name, num_outputs, losses.mean_squared_error, mse, tuple(map_shape))


def _target(task: Task, kind: Kind, num: int, generator: torch.Generator) -> Tensor:
    if kind == "classification":
        return torch.randint(task.num_outputs, (num,), generator=generator)
    if kind == "binary":
        return torch.randint(2, (num,), generator=generator).float()
    shape = (task.num_outputs, *task.map_shape) if kind == "map" else ()
    return _normal(num, *shape, generator=generator)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32)
