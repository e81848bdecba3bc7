"""UPGrad: every gradient is projected so that it harms no task."""

from typing import Any

import torch
from torch import Tensor

from rotograd_cli.extras import needing_extra
from rotograd_cli.linalg.gradients import directions
from rotograd_cli.methods.rule import GramianWeighting

_REGULARISATION = 1e-8  # added to the cosines' diagonal: quadprog takes definite matrices only


class UPGrad(GramianWeighting):
    r"""The mean of the gradients, each projected onto the cone of directions that harm no task.

    The cone is :math:`\{d : \langle g_k, d\rangle \ge 0\ \forall k\}`, so that the result conflicts
    with no task, whatever the lengths of the gradients: the constraints are those of the
    directions. Needs the extra ``upgrad``.

    Raises:
        ConfigError: If the extra is missing.

    References:
        Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024. Computed by
        torchjd.
    """

    def __init__(self) -> None:
        super().__init__()
        from torchjd.linalg import QuadprogProjector

        with needing_extra("UPGrad", "upgrad", "quadprog, GPL 2 or later"):
            self._project: Any = QuadprogProjector(reg_eps=_REGULARISATION)

    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights ≥ 0 of the mean of the projections, shape ``[k]``."""
        cosines, lengths = directions(gramian)
        projected: Tensor = self._project(torch.diag(lengths / len(lengths)), cosines)
        weights: Tensor = projected.sum(0) / lengths
        return weights
