"""Fixed task weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.parts import check_task_names
from rotograd_cli.methods.rule import Losses, LossWeighting

Weight = Annotated[float, Ge(0), Lt(math.inf)]


class FixedWeights(LossWeighting):
    r"""Everything is trained by :math:`\sum_k w_k L_k`, with weights that stay as they are.

    Args:
        num_tasks: Number K of tasks.
        weights: Weights by name of the task, 1 for each that is not named; or one for each task,
            in order. None is 1 for all.
        task_names: Names of the K tasks; only weights by name need them.

    Raises:
        ConfigError: If a name is no task's, or the number of weights is wrong.
    """

    weight: Tensor
    """Weights of the losses, shape ``[K]``."""

    @checked
    def __init__(
        self,
        *,
        num_tasks: int,
        weights: Mapping[str, Weight] | Sequence[Weight] | None = None,
        task_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        numbers = _in_order({} if weights is None else weights, num_tasks, task_names)
        self.register_buffer("weight", torch.tensor(numbers), persistent=False)

    def factors(self, losses: Losses) -> Tensor:
        """Return the weights, shape ``[K]``."""
        return self.weight


def _in_order(
    weights: Mapping[str, float] | Sequence[float],
    num_tasks: int,
    task_names: Sequence[str] | None,
) -> list[float]:
    """Return a weight per task."""
    if not isinstance(weights, Mapping) and len(weights) != num_tasks:
        raise ConfigError(
            f"`weights` must hold one number per task, {num_tasks}, got {len(weights)}; name the "
            "tasks whose weight is not 1 instead, as in 'method.weights={TASK: 2}'."
        )
    if not isinstance(weights, Mapping):
        return [float(weight) for weight in weights]
    names = [str(k) for k in range(num_tasks)] if task_names is None else list(task_names)
    check_task_names("weights", weights, names)
    return [float(weights.get(name, 1)) for name in names]
