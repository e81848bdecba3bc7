r"""The K task gradients at the features, before rotation: :math:`g_k = R_k^\top\tilde g_k`.

Two forms with the same operations: whole gradients for any head, and their factors for heads that
begin with a linear layer. All is computed in float32 or wider.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero, norms_of, stacked
from rotograd_cli.methods.rotation.constants import FoldedRotations, WholeRotations


class DenseTaskGradients:
    """Whole gradients, for any head and any layout of the features.

    Args:
        gradients: Those at the features, all of one shape; they are the caller's no more. With
            rotations, the shape is ``[N, d, S]``: batch, rotated and carried axes.
        rotations: The rotations.
    """

    def __init__(self, gradients: Sequence[Tensor], rotations: WholeRotations | None = None):
        self.G = stacked(gradients)
        self.rows = self.G.flatten(1)
        self.shape = self.G.shape[1:]
        """Shape of one gradient."""
        self._rotations = rotations

    def norms(self) -> Tensor:
        r""":math:`\lVert g_k\rVert` over this process's examples, shape ``[K]``."""
        return norms_of(self.rows.unbind())

    def cosines(self, norms: Tensor) -> Tensor:
        r"""Inner products of the directions :math:`g_k / \lVert g_k\rVert`, shape ``[K, K]``.

        Args:
            norms: The norms over the whole batch, 0 for gradients that count as zero, ``[K]``.
        """
        units = divide_or_zero(self.rows, norms.unsqueeze(1))
        return units @ units.mT

    def drop(self, tasks: Tensor) -> None:
        """Make the gradients of some tasks zero; ``tasks`` is boolean, shape ``[K]``."""
        self.rows.masked_fill_(tasks.unsqueeze(1), 0)

    def matrix(self) -> Tensor:
        """The gradients themselves, flattened, shape ``[K, D]``."""
        return self.rows

    def combine(self, weights: Tensor) -> Tensor:
        r"""Sums :math:`\sum_k c_k g_k`; weights ``[..., K]`` give ``[..., *shape]``."""
        c = weights.to(self.rows.dtype).reshape(-1, weights.shape[-1])
        return (c @ self.rows).view(*weights.shape[:-1], *self.shape)

    def cosines_with(self, unit: Tensor, norms: Tensor) -> Tensor:
        r"""Inner products of the directions with a vector of length 1, shape ``[K]``.

        Args:
            unit: The vector, of the shape of a gradient.
            norms: See :meth:`cosines`.
        """
        return divide_or_zero(self.rows @ unit.flatten(), norms)

    def rotation_gradient(self, v: Tensor, factor: Tensor) -> Tensor:
        r"""Gradient of the free parameters for :math:`W_k = f \sum_n g_{n,k} v_n^\top`.

        Args:
            v: Shape ``[N, d, S]``: batch, rotated and carried axes.
            factor: f, a scalar.

        Returns:
            Shape ``[K, m (m - 1) / 2]``.
        """
        assert self._rotations is not None
        m = self._rotations.R.shape[-1]
        G, v = self.G[:, :, :m], v[:, :m]
        if G.shape[3] == 1:
            W = G[..., 0].mT @ v[..., 0]
        elif G.shape[3] < m:
            W = torch.einsum("knis,njs->kij", G, v)
        else:  # many positions: one product per example, without a transposed copy
            W = torch.stack([torch.bmm(g, v.mT).sum(0) for g in G])
        return self._rotations.gradient(W.mul_(factor))


class FactoredTaskGradients:
    r"""Factors :math:`g_k = \delta_k W_k`, of rank o, of heads that begin with a linear layer.

    Args:
        weight: Weights :math:`W` of the first layers, shape ``[K, o, d]``, float32 or wider.
        delta: :math:`\delta`, the gradient at their outputs, shape ``[K, N, o]``; 0 in columns that
            pad narrower heads.
    """

    def __init__(self, weight: Tensor, delta: Tensor) -> None:
        self._weight = weight
        self._delta = delta.to(weight.dtype)
        self._dropped: Tensor | None = None
        self.shape = torch.Size((delta.shape[1], weight.shape[2], 1))
        """See :class:`DenseTaskGradients`."""

    def norms(self) -> Tensor:
        r"""From the o × o Gram matrices: :math:`\langle\delta^\top\delta, W'W'^\top\rangle`.

        In float64: their terms cancel where rows of the weight are nearly equal.
        """
        largest = self._delta.abs().amax((1, 2))  # a unit in which no square over- or underflows
        delta = divide_or_zero(self._delta, largest.view(-1, 1, 1)).double()
        weight = self._weight.double()
        grams = (delta.mT @ delta) * (weight @ weight.mT)
        return largest * grams.sum((1, 2)).clamp_min(0).sqrt().to(largest.dtype)

    def cosines(self, norms: Tensor) -> Tensor:
        """As :meth:`norms`, for every pair of tasks."""
        K, _, o = self._delta.shape
        delta = _side_by_side(divide_or_zero(self._delta, norms.view(-1, 1, 1))).double()
        weight = self._weight.flatten(0, 1).double()
        grams = (delta.mT @ delta) * (weight @ weight.mT)
        return grams.view(K, o, K, o).sum((1, 3)).to(norms.dtype)

    def drop(self, tasks: Tensor) -> None:
        """See :class:`DenseTaskGradients`."""
        self._dropped = tasks.view(-1, 1, 1)
        self._delta = self._delta.masked_fill(self._dropped, 0)
        # the head of a task that was NaN once may be NaN for good, and so would be 0 times it
        self._weight = self._weight.masked_fill(self._dropped, 0)

    def matrix(self) -> Tensor:
        """See :class:`DenseTaskGradients`."""
        return torch.bmm(self._delta, self._weight).flatten(1)

    def combine(self, weights: Tensor) -> Tensor:
        """See :class:`DenseTaskGradients`."""
        o = self._delta.shape[2]
        flat = _side_by_side(self._delta)
        columns = weights.to(flat.dtype).repeat_interleave(o, dim=-1)  # [..., K o]
        scaled = (columns.unsqueeze(-2) * flat).reshape(-1, flat.shape[1])
        sums = scaled @ self._weight.flatten(0, 1)
        return sums.view(*weights.shape[:-1], *self.shape)

    def cosines_with(self, unit: Tensor, norms: Tensor) -> Tensor:
        """See :class:`DenseTaskGradients`."""
        by_output = _correlate(self._delta, unit.view(self.shape[:2]).to(self._weight.dtype))
        return divide_or_zero((by_output * self._weight).sum((1, 2)), norms)


class FoldedTaskGradients(FactoredTaskGradients):
    r"""Factors :math:`g_k = \delta_k W'_k`, of rank o: neither g nor a rotation is formed.

    :math:`\delta_k` is the gradient at the o outputs of the first layer and :math:`W'_k` that
    layer's weight with the rotation folded in. So :math:`W_k = f\,W_k'^\top Q_k` with
    :math:`Q_k = \delta_k^\top v`.

    Args:
        rotations: Rotations folded into the rotated columns.
        weight: :math:`W'`, unrotated columns included, shape ``[K, o, d]``.
        delta: :math:`\delta`, shape ``[K, N, o]``; 0 in columns that pad narrower heads.
        features: z, shape ``[N, d]``.
    """

    def __init__(
        self, rotations: FoldedRotations, weight: Tensor, delta: Tensor, features: Tensor
    ) -> None:
        super().__init__(weight, delta)
        self._rotations = rotations
        # δᵀz before any task is dropped: heads keep their own gradients
        self._by_features = _correlate(self._delta, features.to(weight.dtype))
        self.bias_gradient = self._delta.sum(1)
        """Gradients of the layers' biases, shape ``[K, o]``."""
        self.weight_gradient = torch.empty(())
        """Gradients of the layers' weights, shape ``[K, o, d]``; set by
        :meth:`rotation_gradient`, which shares most of the work."""

    def rotation_gradient(self, v: Tensor, factor: Tensor) -> Tensor:
        """See :class:`DenseTaskGradients`."""
        m = self._rotations.base.shape[-1]
        Q = _correlate(self._delta, v[:, :m, 0]) * factor
        P = self._by_features
        gradient, turned = self._rotations.gradient(Q, P[..., :m], self._dropped)
        self.weight_gradient = torch.cat((turned, P[..., m:]), dim=2)
        return gradient


TaskGradients = DenseTaskGradients | FoldedTaskGradients
"""What rotations can be trained by."""
MeasurableGradients = DenseTaskGradients | FactoredTaskGradients
"""What statistics can be taken of."""


def _side_by_side(delta: Tensor) -> Tensor:
    """Lay ``[K, N, o]`` out as one matrix ``[N, K o]``."""
    return delta.transpose(0, 1).flatten(1)


def _correlate(delta: Tensor, rows: Tensor) -> Tensor:
    """Sum products over the batch, shape ``[K, o, width of rows]``."""
    K, _, o = delta.shape
    return (_side_by_side(delta).mT @ rows).view(K, o, -1)


_SMALL = 2**20  # numbers that are copied sooner than K operations are started


def rotate(R: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    """Multiply the first entries of features or gradients by matrices; leave the others.

    Args:
        R: Shape ``[K, m, m]``.
        blocks: K tensors of shape ``[N, d, S]``, all different or all the same one.

    Returns:
        Shape ``[K, N, d, S]``.
    """
    K, m = R.shape[:2]
    N, d, S = blocks[0].shape
    broadcast = blocks[0] is blocks[-1]
    if S == 1 and d == m and (broadcast or K * N * d < _SMALL):
        rows = blocks[0].expand(K, N, d, 1) if broadcast else torch.stack(list(blocks))
        return torch.bmm(rows[..., 0], R.mT).unsqueeze(-1)
    out = R.new_empty(K, N, d, S)
    for k, block in enumerate(blocks):
        if S == 1:
            torch.mm(block[:, :m, 0], R[k].mT, out=out[k, :, :m, 0])
        else:
            torch.bmm(R[k].expand(N, m, m), block[:, :m], out=out[k, :, :m])
    if d > m:
        for k, block in enumerate(blocks):
            out[k, :, m:] = block[:, m:]
    return out
