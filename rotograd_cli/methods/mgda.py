"""MGDA: the shortest vector in the convex hull of the task gradients."""

import torch
from scipy.optimize import nnls
from torch import Tensor

from rotograd_cli.methods.gramian import GramianMethod, directions

_ITERATIONS = 100  # of the solver, for each task; it needs about two
_ROUNDING = 1e-14  # of eigenvalues: their roots would be a million times as large


class MGDA(GramianMethod):
    r"""Weights on the simplex that minimise :math:`\lVert\sum_k w_k g_k\rVert` ("MGDA-UB").

    The minimum is exact: with :math:`g_k = l_k u_k` and :math:`c_k = l_{\min} / l_k`, the minimiser
    over :math:`v \ge 0` of :math:`\lVert\sum_k v_k u_k\rVert^2 + (c^\top v - 1)^2` is a multiple of
    :math:`l_k w_k`, and non-negative least squares finds it in finitely many steps. (Frank-Wolfe,
    the usual solver and torchjd's, stops short of it.) Tasks whose gradient is zero share all the
    weight: nothing can be improved without harm.

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
        cosines, lengths = directions(gramian)
        shortest = lengths.amin()
        if shortest == 0:
            weights = (lengths == 0).to(gramian.dtype)
        else:
            weights = _shortest(cosines, shortest / lengths) * shortest / lengths
        return weights / weights.sum()


def _shortest(cosines: Tensor, c: Tensor) -> Tensor:
    """The v of :class:`MGDA`, shape ``[k]``."""
    eigenvalues, vectors = torch.linalg.eigh(cosines)
    eigenvalues = torch.where(eigenvalues > _ROUNDING * len(c), eigenvalues, 0)
    root = eigenvalues.sqrt().unsqueeze(1) * vectors.mT
    matrix = torch.cat((root, c.unsqueeze(0)))
    target = torch.zeros(len(matrix), dtype=c.dtype)
    target[-1] = 1
    solution, _ = nnls(matrix.numpy(), target.numpy(), maxiter=_ITERATIONS * len(c))
    return torch.from_numpy(solution)
