"""MGDA: the shortest vector in the convex hull of the task gradients."""

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import directions
from rotograd_cli.methods.rule import GramianWeighting

_ITERATIONS = 100  # of the solver, for each task; it needs about two
_ROUNDING = 1e-14  # of eigenvalues: their roots would be a million times as large


class MGDA(GramianWeighting):
    r"""Weights on the simplex that minimise :math:`\lVert\sum_k w_k g_k\rVert` ("MGDA-UB").

    The minimum is exact: with :math:`g_k = l_k u_k` and :math:`c_k = l_{\min} / l_k`, the minimiser
    over :math:`v \ge 0` of :math:`\lVert\sum_k v_k u_k\rVert^2 + (c^\top v - 1)^2` is a multiple of
    :math:`l_k w_k`, and non-negative least squares finds it in finitely many steps. (Frank-Wolfe,
    the usual solver and torchjd's, stops short of it.)

    The step is never longer than the shortest gradient: a task that has nearly converged slows the
    others down. By the letter of the problem, one whose gradient is exactly zero (masked,
    satisfied) would stop them; here it takes no part.

    References:
        Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization",
        2012; Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018,
        sections 3.2 and 3.3.
    """

    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        """Weights ≥ 0 with sum 1, shape ``[k]``."""
        cosines, lengths = directions(gramian)
        return simplex_weights(factor(cosines), lengths)


def factor(cosines: Tensor) -> Tensor:
    """Return vectors with the given inner products.

    Args:
        cosines: Positive semi-definite but for rounding, float64 on the CPU, shape ``[k, k]``.

    Returns:
        One vector per row, shape ``[k, r]`` where the rank is r.
    """
    eigenvalues, vectors = torch.linalg.eigh(cosines)
    kept = eigenvalues > _ROUNDING * len(cosines)
    root: Tensor = vectors[:, kept] * eigenvalues[kept].sqrt()
    return root


def simplex_weights(units: Tensor, lengths: Tensor) -> Tensor:
    """Return the weights of the shortest convex combination of vectors; see :class:`MGDA`.

    Args:
        units: Their directions, float64 on the CPU, shape ``[k, r]``.
        lengths: Their lengths, shape ``[k]``.

    Returns:
        Weights ≥ 0 with sum 1, shape ``[k]``.
    """
    from scipy.optimize import nnls  # slow to import

    shortest = lengths.amin()
    if shortest == 0:
        weights = (lengths == 0).to(lengths.dtype)
        return weights / weights.sum()
    c = shortest / lengths
    matrix = torch.cat((units, c.unsqueeze(1)), dim=1).mT
    target = torch.zeros(len(matrix), dtype=c.dtype)
    target[-1] = 1
    solution, _ = nnls(matrix.numpy(), target.numpy(), maxiter=_ITERATIONS * len(c))
    weights = torch.from_numpy(solution) * c
    return weights / weights.sum()
