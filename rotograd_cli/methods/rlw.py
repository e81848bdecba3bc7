"""Random loss weighting."""

from typing import ClassVar

import torch
from torch import Tensor

from rotograd_cli.methods.rule import Losses, LossWeighting


class RandomLossWeighting(LossWeighting):
    """Every step trains everything with losses weighted at random: a softmax of normal draws.

    Weights are positive with sum 1 over the tasks that have a loss, whatever its value: one that is
    zero or negative takes its random share like any other. They are drawn from torch's generator on
    the losses' device, which the run seeds and its checkpoints hold, one draw per backward pass.

    References:
        Lin et al., "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
        Learning", TMLR 2022.
    """

    permutation_equivariant: ClassVar[bool] = False  # draws belong to positions

    def factors(self, losses: Losses) -> Tensor:
        """Return random weights, 0 for absent tasks, shape ``[K]``."""
        draws = torch.randn_like(losses.values)
        weights = draws.where(losses.present, -torch.inf).softmax(0)
        return weights.where(losses.present, 0)  # and not NaN where all are absent
