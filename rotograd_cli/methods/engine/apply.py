"""A rule applied to the task gradients of one step."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from rotograd_cli.linalg.gradients import divide_or_zero, norms_of
from rotograd_cli.methods.rotation.task_gradients import TaskGradients
from rotograd_cli.methods.rule import Combining, LossWeighting, Rule, Statistics, Weighting
from rotograd_cli.ranks.base import Ranks

Learned = Mapping[nn.Parameter, Tensor]


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
