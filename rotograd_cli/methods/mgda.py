"""MGDA: the shortest vector in the convex hull of the task gradients."""

import torch
from scipy.optimize import nnls
from torch import Tensor

from rotograd_cli.methods.gramian import GramianMethod


class MGDA(GramianMethod):
    r"""Weights on the simplex that minimise :math:`\lVert\sum_k w_k g_k\rVert` ("MGDA-UB").

    The minimum is exact: with :math:`A^\top A` the Gramian, the minimiser over :math:`w \ge 0` of
    :math:`\lVert A w\rVert^2 + (\mathbf 1^\top w - 1)^2` is a multiple of the wanted weights, and
    non-negative least squares finds it in finitely many steps. (Frank-Wolfe, the usual solver,
    stops short of it.) A task whose gradient is zero takes all the weight: nothing can be improved
    without harm.

    Args:
        *args: As :class:`GramianMethod`.
        **kwargs: As :class:`GramianMethod`.

    References:
        Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization",
        2012; Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018,
        sections 3.2 and 3.3.
    """

    def weights(self, gramian: Tensor) -> Tensor:
        """Weights ≥ 0 with sum 1, shape ``[k]``."""
        eigenvalues, vectors = torch.linalg.eigh(gramian)
        root = eigenvalues.clamp_min(0).sqrt().unsqueeze(1) * vectors.mT
        matrix = torch.cat((root, torch.ones_like(root[:1])))
        target = torch.zeros(len(matrix), dtype=gramian.dtype)
        target[-1] = 1
        solution, _ = nnls(matrix.numpy(), target.numpy())
        return torch.from_numpy(solution / solution.sum())
