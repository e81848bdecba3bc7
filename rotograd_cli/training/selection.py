r"""Which epoch is tested: the one with the best finite value of ``train.select``.

A value that is NaN or infinite is never chosen. Two keys sum up the losses of all tasks without
depending on their units:

- ``val/geomean_loss``: :func:`rotograd_cli.tasks.metrics.geometric_mean`, for losses that are never
  negative;
- ``val/relative_loss``: :func:`relative_loss`, for losses of either sign.

``val/auto`` is the first where every loss is one of :mod:`rotograd_cli.tasks.losses`, none of which
is ever negative, the second otherwise. With ``train`` instead of ``val``, the training split
decides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from rotograd_cli.data.base import Split
from rotograd_cli.errors import ConfigError, SelectionError
from rotograd_cli.tasks.losses import is_never_negative
from rotograd_cli.tasks.metrics import ROUNDING, SMALLEST_LOSS, Better
from rotograd_cli.tasks.task import Task, task_statistics
from rotograd_cli.training.options import TrainOptions


@dataclass(frozen=True)
class Selection:
    """How the epochs of a run are compared.

    Args:
        key: Key of the evaluation's metrics, never ``split/auto``.
        mode: ``min`` or ``max``.
        task_names: Names of the K tasks.
    """

    key: str
    mode: str
    task_names: tuple[str, ...]

    @property
    def split(self) -> Split:
        """Split that decides."""
        return cast(Split, self.key.partition("/")[0])

    def losses(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the losses by task on the split that decides."""
        return {name: metrics[f"{self.split}/{name}/loss"] for name in self.task_names}

    def tasks_needed(self, split: Split) -> tuple[str, ...]:
        """Return the tasks that must have labels in a split: to be trained, or for the key."""
        task, slash, _ = self.key.removeprefix(f"{split}/").partition("/")
        if split == "train" or (split == self.split and not slash):
            return self.task_names
        return (task,) if split == self.split else ()

    def is_better(self, value: float, best: float) -> bool:
        """Return whether a value beats the best so far; one that is not finite never does."""
        if not math.isfinite(value) or not math.isfinite(best):
            return math.isfinite(value)
        return value < best if self.mode == "min" else value > best

    def check(self, metrics: Mapping[str, float]) -> None:
        """Refuse losses that the key cannot rank: a negative one has no geometric mean.

        Args:
            metrics: Metrics of an evaluation.

        Raises:
            SelectionError: If a loss under a geometric mean is negative.
        """
        if self.key != f"{self.split}/geomean_loss":
            return
        for name, loss in self.losses(metrics).items():
            if loss <= -ROUNDING:
                raise SelectionError(
                    f"`train.select` must rank every epoch, but {self.key} has no value where a "
                    f"loss is negative: that of task {name!r} is {loss:.4g} on {self.split}; train "
                    f"with train.select={self.split}/relative_loss, or with a metric of one task."
                )

    def solved_tasks(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return the losses by task that are too small for the geometric mean that selects."""
        if self.key != f"{self.split}/geomean_loss":
            return {}
        losses = self.losses(metrics)
        return {name: loss for name, loss in losses.items() if loss < SMALLEST_LOSS}

    @property
    def is_relative(self) -> bool:
        """Whether epochs are compared with the losses of the untrained network."""
        return self.key == f"{self.split}/relative_loss"

    def check_initial(self, losses: Mapping[str, float]) -> None:
        """Refuse losses of the untrained network that nothing can be compared with.

        Args:
            losses: Losses by task, before the first step.

        Raises:
            SelectionError: If one is 0, infinite or NaN.
        """
        for name, loss in losses.items():
            if loss == 0 or not math.isfinite(loss):
                raise SelectionError(
                    f"{self.key} compares with the untrained network, whose loss of task {name!r} "
                    f"is {loss} on {self.split}; choose a metric of a task with train.select=KEY "
                    f"({self.split}/{name}/loss, say)."
                )


def select_by(options: TrainOptions, tasks: Sequence[Task]) -> Selection:
    """Return the rule that ``train.select`` and ``train.select_mode`` ask for.

    Args:
        options: The loop's options.
        tasks: The K tasks.

    Returns:
        The rule, with ``auto`` resolved.

    Raises:
        ConfigError: If the key is none of the evaluation's, the mode takes the worst epoch,
            more epochs are averaged than trained, or the last ones and training may stop early.
    """
    num_averaged = options.average_last_epochs
    if num_averaged is not None and num_averaged > options.epochs:
        raise ConfigError(
            f"`train.average_last_epochs` must be at most train.epochs, {options.epochs}, got "
            f"{num_averaged}; add train.average_last_epochs={options.epochs}."
        )
    if num_averaged is not None and options.patience is not None:
        raise ConfigError(
            f"`train.patience` must be null where the last epochs are averaged and none is "
            f"selected, got {options.patience}; add train.patience=null."
        )
    key = options.select
    mode = options.select_mode
    splits = options.evaluated_splits
    split, _, rest = key.partition("/")
    if rest == "auto":
        never_negative = all(is_never_negative(task.loss) for task in tasks)
        key = f"{split}/{'geomean' if never_negative else 'relative'}_loss"
    by_name = directions_of(tasks)
    directions = {f"{s}/{name}": better for s in splits for name, better in by_name.items()}
    if key not in directions:
        choices = ", ".join([*(f"{s}/auto" for s in splits), *directions])
        raise ConfigError(
            f"`train.select` must be a metric of the evaluation, got {options.select!r}; choose "
            f"from {choices}, or add train.evaluate_train=true for those of the training split."
        )
    better = directions[key]
    best = {"higher": "max", "lower": "min"}.get(better or "", mode)
    if mode != best:
        raise ConfigError(
            f"`train.select_mode` must be {best} for {key}, which is better when {better}, got "
            f"{mode}; add train.select_mode={best}."
        )
    return Selection(key, mode, tuple(task.name for task in tasks))


def directions_of(tasks: Sequence[Task]) -> dict[str, Better | None]:
    """Return what can be selected by.

    Args:
        tasks: The K tasks.

    Returns:
        Direction by key of an evaluation without its split; None where there is none.
    """
    keys: dict[str, Better | None] = {}
    for task in tasks:
        keys[f"{task.name}/loss"] = "lower"
        keys |= {f"{task.name}/{spec.name}": spec.better for spec in task.metrics}
    keys |= {statistic.name: statistic.better for statistic in task_statistics(tasks)}
    return keys | dict.fromkeys(("loss", "geomean_loss", "relative_loss"), "lower")


def relative_loss(losses: Mapping[str, float], initial: Mapping[str, float]) -> float:
    r"""Return :math:`\frac1K\sum_k (L_k - I_k)/\lvert I_k\rvert`, the mean relative change.

    It does not depend on the units of the tasks and takes losses of either sign. The untrained
    network is the reference, so that runs with other learning rates can be compared. A task whose
    initial loss is close to 0 outweighs the others.

    Args:
        losses: Loss :math:`L_k` of each task.
        initial: Loss :math:`I_k` of each task before the first step.

    Returns:
        The mean, negative where the losses have fallen; NaN if a loss is NaN.

    Examples:
        >>> relative_loss({"a": 1.0, "b": -3.0}, {"a": 2.0, "b": -2.0})
        -0.5
    """
    changes = [(losses[name] - start) / abs(start) for name, start in initial.items()]
    return sum(changes) / len(changes)
