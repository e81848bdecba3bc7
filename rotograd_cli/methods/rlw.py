"""Random loss weighting."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from rotograd_cli.methods.backward import multiply_losses
from rotograd_cli.methods.base import BackwardStep
from rotograd_cli.methods.vanilla import VanillaMTL


class RandomLossWeighting(VanillaMTL):
    """Every step trains everything with losses weighted at random: a softmax of normal draws.

    Weights are positive with sum 1 over the tasks that have a loss, whatever its value: one that is
    zero or negative takes its random share like any other. They are drawn from torch's generator on
    the losses' device, which the run seeds and its checkpoints hold, one draw per backward pass.

    Args:
        backbone: Shared network.
        heads: One network per task.
        feature_shape: Shape of the features of one example; not needed here.

    References:
        Lin et al., "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task
        Learning", TMLR 2022.
    """

    permutation_equivariant: ClassVar[bool] = False  # draws belong to positions

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """Losses times their random weights."""
        draws = torch.randn_like(step.losses)
        return multiply_losses(losses, draws.where(step.present, -torch.inf).softmax(0))
