r"""Maps from skew matrices to rotations, with everything that a rotation step needs of them.

A map :math:`\psi` gives :math:`R = B\,\psi(A)`. Besides :math:`\psi` itself and its adjoint there
is a low-rank form for heads that begin with a linear layer of o outputs, whose rotation gradient is
:math:`W - W^\top` with :math:`W = (U\psi(A))^\top Q` for o rows U and Q: only products of a few
rows with one :math:`m \times m` matrix (:meth:`ExponentialMap.operand`) are needed then.
"""

from typing import Literal

import torch
from torch import Tensor

from rotograd_cli.linalg.chebyshev import Series
from rotograd_cli.linalg.exponential import (
    chebyshev_rows,
    combine_terms,
    exp_skew_adjoint,
    exponential_minus_one,
)
from rotograd_cli.linalg.rotations import cayley, cayley_inverse

RotationMap = Literal["expm", "cayley"]


class ExponentialMap:
    r""":math:`\psi = \exp`.

    The low-rank form is Gauss's rule for :math:`\int_0^1 e^{tA} W e^{-tA}\,dt` with
    :math:`e^{tA}(Ue^A)^\top = (U e^{(1-t)A})^\top`: left factors are on the way from U to
    :math:`Ue^A` already.
    """

    @staticmethod
    def differentiable(A: Tensor) -> Tensor:
        """The map for autograd, which compiles, exports and batches; half precision in float32."""
        wide = A.to(torch.promote_types(A.dtype, torch.float32))
        result: Tensor = torch.linalg.matrix_exp(wide)
        return result.to(A.dtype)

    def minus_one(self, A: Tensor, bound: float | None) -> tuple[Tensor, float]:
        r""":math:`\psi(A) - I` and a bound of the norms of A (``bound``, unless it is None)."""
        return exponential_minus_one(A, bound)

    def pull_back(self, A: Tensor, T: Tensor, bound: float) -> Tensor:
        r"""Gradient at A, skew, given the skew :math:`T = W - W^\top`."""
        return exp_skew_adjoint(A, T, bound)

    def operand(self, A: Tensor) -> Tensor:
        """The matrix that the low-rank form multiplies rows with: A itself."""
        return A

    def fold(self, operand: Tensor, U: Tensor, plan: Series) -> tuple[Tensor, Tensor]:
        r"""Rows :math:`U\psi(A)`, shape ``[K, o, m]``, and the left factors, ``[K, q o, m]``."""
        rows = combine_terms(plan.forward, chebyshev_rows(operand, U, plan))
        return rows[:, 0], rows[:, 1:].flatten(1, 2)

    def unfold(self, operand: Tensor, Q: Tensor, P: Tensor, plan: Series) -> tuple[Tensor, Tensor]:
        r"""Right factors ``[K, q o, m]``, and :math:`P\psi(A)^\top`, shape ``[K, o, m]``.

        The gradient at A for :math:`W = (U\psi(A))^\top Q` is :math:`S - S^\top` with
        :math:`S = \mathrm{left}^\top\,\mathrm{right}`.
        """
        terms = chebyshev_rows(operand, torch.cat((Q, P), dim=1), plan)
        o = Q.shape[1]
        nodes = plan.weights.unsqueeze(1) * plan.backward[1:]
        right = combine_terms(nodes, terms[:, :, :o]).flatten(1, 2)
        return right, combine_terms(plan.backward[:1], terms[:, :, o:])[:, 0]


class CayleyMap:
    r""":math:`\psi(A) = 2M - I` with :math:`M = (I - A/2)^{-1}`; its low-rank form is exact.

    Since :math:`dR = B\,M\,dA\,M` and :math:`M^\top(2M - I) = M`, the gradient is
    :math:`M T M^\top`; and :math:`M (U\psi(A))^\top = (UM)^\top`.
    """

    differentiable = staticmethod(cayley)

    def minus_one(self, A: Tensor, bound: float | None) -> tuple[Tensor, float]:
        """See :class:`ExponentialMap`."""
        F = 2 * cayley_inverse(A)
        F.diagonal(dim1=-2, dim2=-1).sub_(2.0)
        return F, 0.0 if bound is None else bound

    def pull_back(self, A: Tensor, T: Tensor, bound: float) -> Tensor:
        """See :class:`ExponentialMap`."""
        M = cayley_inverse(A)
        return M @ T @ M.mT

    def operand(self, A: Tensor) -> Tensor:
        """See :class:`ExponentialMap`; M here."""
        return cayley_inverse(A)

    def fold(self, operand: Tensor, U: Tensor, plan: Series) -> tuple[Tensor, Tensor]:
        """See :class:`ExponentialMap`."""
        left = U @ operand
        return 2 * left - U, left

    def unfold(self, operand: Tensor, Q: Tensor, P: Tensor, plan: Series) -> tuple[Tensor, Tensor]:
        """See :class:`ExponentialMap`."""
        rows = torch.cat((Q, P), dim=1) @ operand.mT
        o = Q.shape[1]
        return rows[:, :o], 2 * rows[:, o:] - P


Trivialisation = ExponentialMap | CayleyMap
MAPS: dict[RotationMap, type[Trivialisation]] = {"expm": ExponentialMap, "cayley": CayleyMap}
