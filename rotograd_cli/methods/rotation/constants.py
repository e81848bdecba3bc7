"""Rotations as constants of one pass: whole matrices, or folded into a few rows per task."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.linalg.chebyshev import Series, series
from rotograd_cli.linalg.rotations import skew
from rotograd_cli.methods.rotation.maps import Trivialisation
from rotograd_cli.methods.rotation.plan import Workspace, parts, wide
from rotograd_cli.ranks.base import Ranks


@dataclass(frozen=True)
class WholeRotations:
    r"""The rotations :math:`R_k = B_k\,\psi(A_k)` as constants, and what their gradient takes."""

    R: Tensor
    """Rotations, shape ``[K, m, m]``."""
    free_parameters: Tensor
    """X, shape ``[K, m, m]``."""
    map: Trivialisation
    bounds: Sequence[tuple[slice, float]]
    """Tasks computed together in this process, with a bound of their norms."""
    ranks: Ranks | None
    """Processes that share the work; None where each computes all rotations."""

    @classmethod
    def compute(
        cls,
        X: Tensor,
        base: Tensor,
        map: Trivialisation,
        planned: float | None,
        ranks: Ranks | None = None,
    ) -> "WholeRotations":
        """Compute the rotations, in parts whose temporaries stay small.

        Args:
            X: Free parameters, shape ``[K, m, m]``.
            base: B, shape ``[K, m, m]``.
            map: The map.
            planned: Norm to compute for; None reads it.
            ranks: Processes that share the work.

        Returns:
            The rotations.
        """
        R = torch.empty_like(base)
        bounds = []
        for part in parts(X, None if ranks is None else ranks.shard(len(X))):
            F, bound = map.minus_one(skew(wide(X[part])), planned)
            B = wide(base[part])
            R[part] = torch.baddbmm(B, B, F)
            bounds.append((part, bound))
        if ranks is not None:
            ranks.all_gather(R)
        return cls(R, X.detach(), map, bounds, ranks)

    def gradient_(self, W: Tensor) -> Tensor:
        r"""Return the gradient at X, given :math:`W_k = R_k^\top\,\partial L/\partial R_k`.

        Args:
            W: Any matrices with the skew part of :math:`R_k^\top\,\partial L/\partial R_k`, shape
                ``[K, m, m]``. Symmetric parts are ignored: they point off the manifold.
                Overwritten with the result.

        Returns:
            Strictly lower triangular, shape ``[K, m, m]``.
        """
        if self.ranks is not None:
            self.ranks.reduce_scatter(W)  # the other tasks' part becomes zero
        for part, bound in self.bounds:
            A = skew(self.free_parameters[part].to(W.dtype))
            W[part] = self.map.pull_back(A, W[part] - W[part].mT, bound)
        return W.tril_(-1)


@dataclass(frozen=True)
class FoldedRotations:
    r"""Rows times rotations, :math:`W_k R_k`, and what the gradient takes."""

    weight: Tensor
    r"""Rows :math:`W_k R_k`, shape ``[K, o, m]``."""
    left: Tensor
    """Left factors of the rotation gradient, shape ``[K, q o, m]``."""
    operand: Tensor
    """Matrices that rows are multiplied with, shape ``[K, m, m]``."""
    base: Tensor
    """B, shape ``[K, m, m]``."""
    map: Trivialisation
    plan: Series

    @classmethod
    def compute(
        cls,
        rows: Tensor,
        X: Tensor,
        base: Tensor,
        map: Trivialisation,
        planned: float | None,
        workspace: Workspace,
    ) -> "FoldedRotations":
        """Fold the rotations into rows.

        Args:
            rows: The rotated columns of the first layers' weights, shape ``[K, o, m]``.
            X: Free parameters, shape ``[K, m, m]``.
            base: B, shape ``[K, m, m]``.
            map: The map.
            planned: Norm to compute for; None reads it.
            workspace: Memory of the operand, given back when nobody holds the result any more.

        Returns:
            The folded rows.
        """
        X = wide(X)
        base = wide(base)
        operand = workspace.take(X)
        norm = _fill_operand(operand, X, map)
        rows = wide(rows) @ base
        if planned is None:
            plan = series(float(norm), X.dtype, X.device)
        else:
            plan = series(planned, X.dtype, X.device)
            rows = rows * torch.where(norm <= planned, 1.0, torch.nan)
        weight, left = map.fold(operand, rows, plan)
        result = cls(weight, left, operand, base, map, plan)
        weakref.finalize(result, workspace.give_back, operand).atexit = False
        return result

    def gradient(self, Q: Tensor, P: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return the gradient at X for :math:`(W_k R_k)^\top Q_k`, and :math:`P_k R_k^\top`.

        Args:
            Q: Shape ``[K, o, m]``.
            P: Shape ``[K, o, m]``.

        Returns:
            The gradient, strictly lower triangular, shape ``[K, m, m]``, and the rows
            :math:`P_k R_k^\top`, shape ``[K, o, m]``.
        """
        right, turned = self.map.unfold(self.operand, Q, P, self.plan)
        gradient = torch.bmm(self.left.mT, right).baddbmm_(right.mT, self.left, alpha=-1)
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
