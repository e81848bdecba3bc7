"""Whole rotation matrices of one pass, for any head."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.linalg.rotations import skew
from rotograd_cli.methods.rotation.maps import Trivialisation
from rotograd_cli.methods.rotation.plan import parts, wide
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
