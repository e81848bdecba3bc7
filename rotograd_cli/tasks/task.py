"""A task: its name, its loss, its metrics, the size of its prediction."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.metric_keys import OF_ALL_PAIRS
from rotograd_cli.tasks.losses import target_rule
from rotograd_cli.tasks.metrics import MetricSpec, Statistic, statistics
from rotograd_cli.tasks.targets import TargetForm


@dataclass(frozen=True)
class Task:
    """One of the K tasks of a data set.

    Targets may have elements without a label: -1 among classes and in binary tasks, NaN in
    regressions. The losses and metrics of this package leave them out and count the others; a loss
    of the user's that leaves elements out says with :attr:`count` how many remain.
    """

    name: str
    """Name in configs, keys and tables."""
    num_outputs: int
    """Size of the second axis of the head's output: classes, channels of a map, or 1."""
    loss: Callable[[Tensor, Tensor], Tensor]
    """Takes predictions ``[N, num_outputs, *map_shape]`` and targets to their mean loss, a scalar.

    Targets are ``[N]``, or with a ``map_shape`` whatever the loss takes, first axis N."""
    metrics: tuple[MetricSpec, ...]
    """Metrics over a split, the first one leading."""
    map_shape: tuple[int, ...] = ()
    """Trailing axes of the head's output, e.g. height and width; none unless the task is dense."""
    batchable: bool = False
    """Whether the losses of all tasks with this loss may be computed at once by ``torch.vmap``: the
    loss does not look at values to decide what to do."""
    count: Callable[[Tensor], Tensor] | None = None
    """Number of elements of a target that the loss averages over, a scalar on its device.

    None: what a loss of this package leaves, and for other losses the length of the first axis."""
    may_lack_labels: bool = True
    """Whether a batch may hold a target without any label, in which the task then takes no part;
    False saves the look at every batch where the data set never returns one."""
    target: TargetForm | None = None
    """What the target of one example is like, for data sets that have to make one of the user's
    values; None where the data set knows."""

    def __post_init__(self) -> None:
        """Refuse what keys, heads and tables could not use.

        Raises:
            ConfigError: If the name is no part of a key ``split/task/metric``, ``num_outputs`` no
                positive integer, or ``metrics`` no tuple of metrics.
        """
        if not isinstance(self.name, str) or not self.name.strip() or "/" in self.name:
            raise ConfigError(f"A task's name must be a word without /, got {self.name!r}.")
        if self.name == OF_ALL_PAIRS:
            raise ConfigError(
                f"A task's name must not be {OF_ALL_PAIRS!r}, under which records have numbers of "
                "all pairs of tasks; choose another name."
            )
        if type(self.num_outputs) is not int or self.num_outputs < 1:
            raise ConfigError(
                f"`num_outputs` of task {self.name!r} must be an integer of at least 1, got "
                f"{self.num_outputs!r}."
            )
        metrics: object = self.metrics
        if not isinstance(metrics, tuple) or not all(isinstance(m, MetricSpec) for m in metrics):
            raise ConfigError(
                f"`metrics` of task {self.name!r} must be a tuple of metrics, as in (mse(),), got "
                f"{metrics!r}."
            )

    def num_labelled(self, target: Tensor) -> Tensor:
        """Return the number of elements of a target that the loss averages over.

        It is the weight of a batch in a split's loss: float64, scalar, on the target's device.
        """
        if self.count is not None:
            return self.count(target).double()
        rule = target_rule(self.loss)
        if rule is not None:
            return rule.labelled(target).sum(dtype=torch.float64)
        return torch.full((), len(target), dtype=torch.float64, device=target.device)


def always_labelled(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Return tasks of a data set of which every batch has a label of each."""
    return tuple(replace(task, may_lack_labels=False) for task in tasks)


def select_tasks(available: Sequence[Task], names: Sequence[str] | None) -> tuple[Task, ...]:
    """Select tasks by name, in the given order.

    Args:
        available: All tasks of a data set.
        names: Names of the tasks; None selects all.

    Raises:
        ConfigError: If a name is unknown or repeated, or none is given.
    """
    by_name = {task.name: task for task in available}
    if names is None:
        return tuple(available)
    if len(names) == 0:
        raise ConfigError("`tasks` must name at least one task, got []; use null for all of them.")
    for name in names:
        if name not in tuple(by_name):  # whatever Python code passes
            remedy = suggest(str(name), list(by_name))
            raise ConfigError(f"`tasks` must name tasks of the data set, got {name!r}; {remedy}")
    if len(set(names)) < len(names):
        raise ConfigError(f"`tasks` must name each task once, got [{', '.join(names)}].")
    return tuple(by_name[name] for name in names)


def task_statistics(tasks: Sequence[Task]) -> tuple[Statistic, ...]:
    """Return the statistics over tasks of the metric that all of them lead with, if they do."""
    return statistics([task.metrics[0] if task.metrics else None for task in tasks])
