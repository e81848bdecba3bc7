"""GO4Align: tasks in groups of similar weights."""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.linalg import devices
from rotograd_cli.methods.logarithms import LogarithmicLosses
from rotograd_cli.methods.rule import Losses, LossWeighting


class GO4Align(LogarithmicLosses, LossWeighting):
    r"""Everything is trained by :math:`\sum_k w_{g(k)} L_k`, with one weight for each group.

    A task has the indicator :math:`p_k \sum_j L_j / L_k`, which makes losses equally large but for
    :math:`p_k`. These shares, all 1/K at first, are multiplied by :math:`\exp(-\eta L_k)` in every
    step and scaled to sum 1 over the tasks of the step: tasks with large losses get less. The
    groups minimise the squared distances of the indicators to the means of their groups, which are
    the weights.

    Groups of numbers can be found exactly; the authors' k-means begins at random centres. A loss
    that has no logarithm (:class:`~rotograd_cli.methods.logarithms.LogarithmicLosses`) is in no
    group and has the weight 1. With micro-batches the last one moves the shares.

    Args:
        num_tasks: Number K of tasks.
        num_groups: Groups; as many as tasks give each task its own indicator.
        step_size: :math:`\eta`.

    References:
        Shen et al., "GO4Align: Group Optimization for Multi-Task Alignment", NeurIPS 2024, and its
        code.
    """

    plain_for_one_task: ClassVar[bool] = True  # its indicator is 1
    num_device_waits: ClassVar[int] = 1

    share: Tensor  # [K]

    @checked
    def __init__(
        self,
        *,
        num_tasks: int,
        num_groups: Annotated[int, Ge(1)] = 2,
        step_size: Annotated[float, Gt(0)] = 1e-4,
    ) -> None:
        super().__init__(num_tasks=num_tasks)
        self.num_groups = num_groups
        self.step_size = float(step_size)
        self.register_buffer("share", torch.full((num_tasks,), 1 / num_tasks))

    def factors(self, losses: Losses) -> Tensor:
        """Return the weights of the groups by task, shape ``[K]``; 0 for absent tasks."""
        usable = self.observe(losses)
        values = torch.where(usable, losses.values, 0)
        tiny = torch.finfo(self.share.dtype).tiny  # a share that underflows does not stay zero
        logits = self.share.clamp_min(tiny).log() - self.step_size * values
        if not losses.accumulating:
            self.share.copy_(logits.softmax(0))
        share = torch.where(usable, logits, -torch.inf).softmax(0)  # NaN where no task is usable
        indicators = share * values.sum() / torch.where(usable, values, 1)
        on_host, flags = devices.to_host(torch.stack((indicators, usable.to(share)))).unbind()
        (grouped,) = flags.nonzero(as_tuple=True)
        weights = torch.zeros_like(on_host)
        if len(grouped):
            weights[grouped] = group_means(on_host[grouped], self.num_groups)
        weights = weights.to(share.device, share.dtype, non_blocking=True)
        return torch.where(usable, weights, losses.present.to(weights.dtype))


def group_means(values: Tensor, num_groups: int) -> Tensor:
    """Replace numbers by the means of their groups, with the least squared error (1-D k-means).

    Groups of the best solution lie one after the other in the order of the numbers, so that the
    best cut of the first j numbers into g groups follows from those into g - 1.

    Args:
        values: float64, at least one, shape ``[k]``.
        num_groups: Groups; at most k of them are used.

    Returns:
        Shape ``[k]``.
    """
    ordered, order = values.sort()
    k = len(ordered)
    sums = F.pad(ordered.cumsum(0), (1, 0))
    squares = F.pad(ordered.square().cumsum(0), (1, 0))
    first = torch.arange(k).unsqueeze(1)
    last = torch.arange(k)
    sizes = last - first + 1
    means = (sums[1:] - sums[:-1].unsqueeze(1)) / sizes.clamp_min(1)  # [first, last]
    errors = squares[1:] - squares[:-1].unsqueeze(1) - sizes * means.square()
    errors = torch.where(sizes > 0, errors, torch.inf)
    best = errors[0]  # of the first j + 1 numbers
    starts = [torch.zeros(k, dtype=torch.int64)]  # of the last group
    for _ in range(min(num_groups, k) - 1):
        before = F.pad(best[:-1], (1, 0), value=torch.inf)
        best, start = (before.unsqueeze(1) + errors).min(0)
        starts.append(start)
    result = torch.empty_like(values)
    end = k
    for start_of in reversed(starts):
        begin = int(start_of[end - 1])
        result[order[begin:end]] = means[begin, end - 1]
        end = begin
    return result
