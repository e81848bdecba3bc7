"""Rotations as constants of one pass: whole matrices, or folded into a few rows per task."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.linalg.chebyshev import series
from rotograd_cli.linalg.gradients import joined
from rotograd_cli.linalg.triangle import Triangle
from rotograd_cli.methods.rotation.maps import Trivialisation
from rotograd_cli.methods.rotation.plan import Workspace, lower_norms, parts, wide
from rotograd_cli.ranks.base import ONE, Ranks


@dataclass(frozen=True)
class Inputs:
    r"""What rotations :math:`R_k = B_k\,\psi(A_k)` are computed from."""

    X: Tensor
    """Free parameters: the numbers below the diagonal of A, shape ``[K, m (m - 1) / 2]``."""
    base: Tensor
    """B, shape ``[K, m, m]``."""
    triangle: Triangle
    """Makes A of X."""
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
        self._inputs = inputs
        self._ranks = ranks
        # tasks computed together in this process, with a bound of the norms of A, and small A
        self._parts: list[tuple[slice, float, Tensor | None]] = []
        for part in parts(base, ranks.shard(len(base))):
            A = self._skew(part)
            F, bound = inputs.map.minus_one(A, inputs.planned)
            B = wide(base[part])
            self.R[part] = torch.baddbmm(B, B, F)
            self._parts.append((part, bound, A if len(A) == len(base) else None))
        ranks.all_gather(self.R)

    def _skew(self, tasks: slice) -> Tensor:
        return self._inputs.triangle.skew(wide(self._inputs.X[tasks]))

    def gradient(self, W: Tensor) -> Tensor:
        r"""Return the gradient at X, given :math:`W_k = R_k^\top\,\partial L/\partial R_k`.

        Args:
            W: Any matrices with the skew part of :math:`R_k^\top\,\partial L/\partial R_k`, shape
                ``[K, m, m]``. Symmetric parts are ignored: they point off the manifold.
                Overwritten where several processes share the work.

        Returns:
            Shape ``[K, m (m - 1) / 2]``; zero for the other processes' tasks.
        """
        self._ranks.reduce_scatter(W)
        X = self._inputs.X
        result = W.new_zeros(X.shape)
        for part, bound, kept in self._parts:
            A = self._skew(part) if kept is None else kept
            T = W[part] - W[part].mT
            gradient = self._inputs.map.pull_back(A.to(W.dtype), T, bound)
            self._inputs.triangle.pack(gradient, out=result[part])
        return result


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
        self._inputs = inputs
        self._operand = workspace.take(self.base)
        weakref.finalize(self, workspace.give_back, self._operand).atexit = False
        # of X, which bounds the spectral norm of A: its singular values come in pairs
        norm = lower_norms(X).amax()
        bound = float(norm) if inputs.planned is None else inputs.planned
        self._series = series(bound, X.dtype, X.device)
        rows = wide(rows)
        if inputs.planned is not None:
            rows = rows * torch.where(norm <= inputs.planned, 1.0, torch.nan)

        folded = [self._fold(part, X, rows) for part in self._parts()]
        self.weight, self._left = map(joined, zip(*folded, strict=True))

    def _parts(self) -> Iterator[slice]:
        """Yield tasks whose matrices are read for every term from the caches of all threads."""
        on_cpu = self.base.device.type == "cpu"
        return parts(self.base, times=torch.get_num_threads() if on_cpu else 1)

    def _fold(self, part: slice, X: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        operand = _fill_operand(self._operand[part], X[part], self._inputs)
        U = torch.bmm(rows[part], self.base[part])
        return self._inputs.map.fold(operand, U, self._series)

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
            The gradient, shape ``[K, m (m - 1) / 2]``, and the rows :math:`P_k R_k^\top`, shape
            ``[K, o, m]``.
        """
        left = self._left if without is None else self._left.masked_fill(without, 0)
        gradient = left.new_empty(self._inputs.X.shape)
        turned = torch.empty_like(P)
        for part in self._parts():
            operand = self._operand[part]
            right, rows = self._inputs.map.unfold(operand, Q[part], P[part], self._series)
            self._inputs.triangle.pack_skew(left[part], right, out=gradient[part])
            torch.bmm(rows, self.base[part].mT, out=turned[part])
        return gradient, turned


def _fill_operand(out: Tensor, X: Tensor, inputs: Inputs) -> Tensor:
    """Write the matrices of the low-rank form to ``out``."""
    A = inputs.triangle.skew(X, out=out)
    operand = inputs.map.operand(A)
    return A if operand is A else A.copy_(operand)
