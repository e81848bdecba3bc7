"""Task gradients of one step: their statistics over all ranks, and a rule applied to them."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from rotograd_cli.linalg.gradients import divide_or_zero, norms_of
from rotograd_cli.methods.rotation import plan
from rotograd_cli.methods.rotation.task_gradients import TaskGradients
from rotograd_cli.methods.rule import Combining, Losses, LossWeighting, Rule, Statistics, Weighting
from rotograd_cli.ranks.base import Ranks

Learned = Mapping[nn.Parameter, Tensor]


def measure(
    G: TaskGradients, losses: Losses, num_nonfinite: Tensor, ranks: Ranks, shape: torch.Size
) -> Statistics:
    """Measure the task gradients, and make those that take no part zero.

    A task takes no part if it has no loss, if its loss or gradient is infinite or NaN, or if its
    gradient is zero: there is nothing to combine, and as one more direction or as one more term of
    a mean it would hold up the others.

    Args:
        G: This rank's part of the task gradients; changed in place.
        losses: The task losses.
        num_nonfinite: Counts, in place, the tasks whose gradient or loss is infinite or NaN.
        ranks: Who has the other examples of the batch.
        shape: Shape of the features; the first axis is the examples'.

    Returns:
        The statistics.
    """
    norms = ranks.norms(G.norms())
    finite = norms.isfinite() & losses.values.isfinite()
    num_nonfinite += losses.present & ~finite
    # the reciprocal of a smaller norm would overflow
    present = losses.present & finite & (norms >= torch.finfo(norms.dtype).tiny)
    if not (plan.reads_are_free(norms.device) and bool(present.all())):
        G.drop(~present)
        norms = torch.where(present, norms, 0)

    def cosines() -> tuple[Tensor, Tensor, Tensor]:
        products = ranks.sum(G.cosines(norms))
        host = to_host(torch.cat((products, torch.stack((norms, present.to(norms.dtype))))))
        return host[:-2], host[-2], host[-1] > 0

    return Statistics(
        losses=losses,
        present=present,
        norms=norms,
        cosines=cosines,
        norms_of=lambda weights: ranks.norms(norms_of(G.combine(weights).unbind())),
        uniform=lambda like: ranks.draw(Tensor.uniform_, like.view(shape)).view_as(like),
    )


def to_host(tensor: Tensor) -> Tensor:
    """Move a small tensor to the CPU in float64: the only way a step may wait for the device.

    Every call counts in :attr:`Rule.num_device_waits`.
    """
    return tensor.double().cpu()


def apply_rule(
    rule: Rule | None, G: TaskGradients, s: Statistics, factors: Tensor | None, ranks: Ranks
) -> tuple[Tensor, Learned]:
    """Combine the task gradients, and find the gradients of the rule's own parameters.

    Args:
        rule: The rule; None adds the gradients up.
        G: This rank's part of the task gradients.
        s: Their statistics.
        factors: Factors of the losses, for a rule that weighs them.
        ranks: The processes.

    Returns:
        The combination, and the gradients by parameter, of all ranks.
    """
    if isinstance(rule, Combining):
        return rule.combine(G.matrix(), s), {}
    if isinstance(rule, Weighting):
        weights = rule.weights(s)
        shared = G.combine(weights.unsqueeze(0))[0]
        if next(rule.parameters(), None) is None:
            return shared, {}
        mean_norm = ranks.norms(norms_of([shared]))[0] / s.present.sum().clamp_min(1)
        return shared, rule.learn(s, weights, mean_norm)
    shared = G.combine(torch.ones_like(s.norms).unsqueeze(0))[0]
    if factors is None or not isinstance(rule, LossWeighting) or not rule.sees_gradients:
        return shared, {}
    unweighed = divide_or_zero(s.norms, factors.to(s.norms.dtype))
    return shared, rule.learn_from_gradients(replace(s, norms=unweighed), factors)
