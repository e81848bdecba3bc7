"""Rotations as constants of one pass: whole matrices, or folded into a few rows per task."""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.linalg.chebyshev import series
from rotograd_cli.linalg.rotations import skew
from rotograd_cli.methods.rotation.maps import Trivialisation
from rotograd_cli.methods.rotation.plan import Workspace, parts, wide
from rotograd_cli.ranks.base import ONE, Ranks


@dataclass(frozen=True)
class Inputs:
    r"""What rotations :math:`R_k = B_k\,\psi(A_k)` are computed from."""

    X: Tensor
    """Free parameters, whose lower triangles A has; shape ``[K, m, m]``."""
    base: Tensor
    """B, shape ``[K, m, m]``."""
    map: Trivialisation
    planned: float | None
    """Norm of A to compute for; None reads it."""


class WholeRotations:
    r"""The rotations themselves, computed in parts whose temporaries stay small.

    Args:
        inputs: What they are computed from.
        ranks: Processes that share the work.
    """

    R: Tensor
    """Rotations, shape ``[K, m, m]``."""

    def __init__(self, inputs: Inputs, ranks: Ranks = ONE) -> None:
        base = inputs.base
        self.R = torch.empty_like(base)
        self._X = inputs.X.detach()
        self._map = inputs.map
        self._ranks = ranks
        self._bounds = []  # tasks computed together in this process, with a bound of their norms
        for part in parts(self._X, ranks.shard(len(base))):
            F, bound = self._map.minus_one(skew(wide(self._X[part])), inputs.planned)
            B = wide(base[part])
            self.R[part] = torch.baddbmm(B, B, F)
            self._bounds.append((part, bound))
        ranks.all_gather(self.R)

    def gradient_(self, W: Tensor) -> Tensor:
        r"""Return the gradient at X, given :math:`W_k = R_k^\top\,\partial L/\partial R_k`.

        Args:
            W: Any matrices with the skew part of :math:`R_k^\top\,\partial L/\partial R_k`, shape
                ``[K, m, m]``. Symmetric parts are ignored: they point off the manifold.
                Overwritten with the result.

        Returns:
            Strictly lower triangular, shape ``[K, m, m]``.
        """
        self._ranks.reduce_scatter(W)  # the other processes' tasks become zero
        for part, bound in self._bounds:
            A = skew(self._X[part].to(W.dtype))
            W[part] = self._map.pull_back(A, W[part] - W[part].mT, bound)
        return W.tril_(-1)


class FoldedRotations:
    r"""Rows times rotations, :math:`W_k R_k`, without any rotation.

    Args:
        inputs: What the rotations are computed from.
        rows: The rotated columns of the first layers' weights, shape ``[K, o, m]``.
        workspace: Memory of the m × m operand, given back when nobody holds the result any more.
    """

    weight: Tensor
    r"""Rows :math:`W_k R_k`, shape ``[K, o, m]``."""

    def __init__(self, inputs: Inputs, rows: Tensor, workspace: Workspace) -> None:
        X = wide(inputs.X)
        self.base = wide(inputs.base)
        self._map = inputs.map
        self._operand = workspace.take(X)
        weakref.finalize(self, workspace.give_back, self._operand).atexit = False
        norm = _fill_operand(self._operand, X, self._map)
        rows = wide(rows) @ self.base
        if inputs.planned is not None:
            rows = rows * torch.where(norm <= inputs.planned, 1.0, torch.nan)
        bound = float(norm) if inputs.planned is None else inputs.planned
        self._series = series(bound, X.dtype, X.device)
        self.weight, self._left = self._map.fold(self._operand, rows, self._series)

    def gradient(
        self, Q: Tensor, P: Tensor, without: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Return the gradient at X for :math:`(W_k R_k)^\top Q_k`, and :math:`P_k R_k^\top`.

        Args:
            Q: Shape ``[K, o, m]``.
            P: Shape ``[K, o, m]``.
            without: Tasks whose gradient at X is zero, whatever their rows W hold: boolean, shape
                ``[K, 1, 1]``; None for none.

        Returns:
            The gradient, strictly lower triangular, shape ``[K, m, m]``, and the rows
            :math:`P_k R_k^\top`, shape ``[K, o, m]``.
        """
        right, turned = self._map.unfold(self._operand, Q, P, self._series)
        left = self._left if without is None else self._left.masked_fill(without, 0)
        gradient = torch.bmm(left.mT, right).baddbmm_(right.mT, left, alpha=-1)
        return gradient.tril_(-1), turned @ self.base.mT


def _fill_operand(out: Tensor, X: Tensor, map: Trivialisation) -> Tensor:
    """Write the matrices of the low-rank form; return the largest norm of A."""
    norms = []
    for part in parts(X):
        lower = X[part].tril(-1)
        norms.append(torch.linalg.vector_norm(lower, dim=(1, 2)))
        A = torch.sub(lower, lower.mT, out=out[part])
        operand = map.operand(A)
        if operand is not A:
            A.copy_(operand)
    # of X, which bounds the spectral norm of A: its singular values come in pairs
    return torch.cat(norms).amax()
