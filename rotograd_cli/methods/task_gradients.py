r"""The K task gradients at the features before rotation, :math:`g_k = R_k^\top\tilde g_k`.

Two forms with the same operations: whole gradients for any head, and their factors for heads that
begin with a linear layer.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rotograd_cli.linalg.gradients import divide_or_zero, norms_of, stacked
from rotograd_cli.methods.features import RotatedAxes
from rotograd_cli.methods.rotations import FoldedRotations, Rotations


class TaskGradients(Protocol):
    """What a method computes with task gradients."""

    def norms(self) -> Tensor:
        r""":math:`\lVert g_k\rVert` over the whole batch, shape ``[K]``, float32 or wider."""

    def cosines(self, norms: Tensor) -> Tensor:
        r"""Inner products of the directions :math:`g_k / \lVert g_k\rVert`, shape ``[K, K]``.

        Args:
            norms: The norms over the whole batch, 0 for gradients that count as zero, ``[K]``.
        """

    def drop(self, tasks: Tensor) -> None:
        """Makes the gradients of some tasks zero; ``tasks`` is boolean, shape ``[K]``."""

    def combine(self, weights: Tensor) -> Tensor:
        r"""Sums :math:`\sum_k c_{rk} g_k` for weights ``[r, K]``, shape ``[r, N, d, S]``."""

    def rotation_gradient(self, direction: Tensor, factor: Tensor) -> Tensor:
        r"""Gradient of the free parameters for :math:`W_k = f \sum_n g_{n,k} v_n^\top`.

        Args:
            direction: v, shape ``[N, d, S]``.
            factor: f, a scalar.

        Returns:
            Strictly lower triangular, shape ``[K, m, m]``.
        """


class DenseTaskGradients:
    """Whole gradients, for any head and any layout of the features.

    Args:
        rotations: The rotations.
        axes: Layout of the features.
        gradients: K gradients, each of the features' shape; the tensors are the caller's no more.
        rotated: The gradients are those at the rotated features.
    """

    def __init__(
        self,
        rotations: Rotations,
        axes: RotatedAxes,
        gradients: Sequence[Tensor],
        *,
        rotated: bool,
    ) -> None:
        self.rotations = rotations
        dtype = torch.promote_types(gradients[0].dtype, torch.float32)
        blocks = [axes.to_blocks(gradient.to(dtype)) for gradient in gradients]  # [N, d, S]
        if rotated:
            self.G = rotate(rotations.current().to(dtype).mT, blocks)  # [K, N, d, S]
        else:
            self.G = stacked(blocks)
        self.rows = self.G.view(len(blocks), -1)

    def norms(self) -> Tensor:
        """See :class:`TaskGradients`."""
        return norms_of(self.rows.unbind())

    def cosines(self, norms: Tensor) -> Tensor:
        """See :class:`TaskGradients`."""
        units = divide_or_zero(self.rows, norms.unsqueeze(1))
        return units @ units.mT

    def drop(self, tasks: Tensor) -> None:
        """See :class:`TaskGradients`."""
        self.rows.masked_fill_(tasks.unsqueeze(1), 0)

    def combine(self, weights: Tensor) -> Tensor:
        """See :class:`TaskGradients`."""
        return (weights.to(self.rows.dtype) @ self.rows).view(-1, *self.G.shape[1:])

    def rotation_gradient(self, direction: Tensor, factor: Tensor) -> Tensor:
        """See :class:`TaskGradients`."""
        m = self.rotations.size
        G, v = self.G[:, :, :m], direction[:, :m]
        if G.shape[3] == 1:
            W = G[..., 0].mT @ v[..., 0]
        elif G.shape[3] < m:
            W = torch.einsum("knis,njs->kij", G, v)
        else:  # many positions: one product per example, without a transposed copy
            W = torch.stack([torch.bmm(g, v.mT).sum(0) for g in G])
        return self.rotations.gradient_(W.mul_(factor))


_SMALL = 2**20  # numbers that are copied sooner than K operations are started


def rotate(R: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    """Matrices times the first entries of features or gradients, the others unchanged.

    Args:
        R: Shape ``[K, m, m]``.
        blocks: K tensors of shape ``[N, d, S]``, all different or all the same one.

    Returns:
        Shape ``[K, N, d, S]``.
    """
    K, m = R.shape[:2]
    N, d, S = blocks[0].shape
    if S == 1 and d == m and (blocks[0] is blocks[-1] or K * N * d < _SMALL):
        same = blocks[0] is blocks[-1]
        rows = blocks[0].expand(K, N, d, 1) if same else torch.stack(list(blocks))
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


class FoldedTaskGradients:
    r"""Factors :math:`g_k = \delta_k W'_k`, of rank o: neither g nor a rotation is formed.

    :math:`\delta_k` is the gradient at the o outputs of the first layer and :math:`W'_k` that
    layer's weight with the rotation folded in. So :math:`W_k = f\,W_k'^\top Q_k` with
    :math:`Q_k = \delta_k^\top v`.

    Args:
        rotations: The rotations.
        folded: Their folding.
        weight: :math:`W'`, unrotated columns included, shape ``[K, o, d]``.
        delta: :math:`\delta`, shape ``[K, N, o]``; 0 in columns that pad narrower heads.
        features: z, shape ``[N, d]``.
    """

    def __init__(
        self,
        rotations: Rotations,
        folded: FoldedRotations,
        weight: Tensor,
        delta: Tensor,
        features: Tensor,
    ) -> None:
        self.rotations, self.folded, self.weight = rotations, folded, weight
        self.delta = delta.to(weight.dtype)
        self.features = features.to(weight.dtype)
        self.by_features = self._correlate(self.delta, self.features)  # δᵀz, before any drop
        self.bias_gradient = self.delta.sum(1)
        self.weight_gradient = torch.empty(())  # set by rotation_gradient

    def norms(self) -> Tensor:
        r"""From the o × o Gram matrices: :math:`\langle\delta^\top\delta, W'W'^\top\rangle`."""
        largest = self.delta.abs().amax((1, 2))  # a unit in which no square over- or underflows
        delta = divide_or_zero(self.delta, largest.view(-1, 1, 1))
        grams = (delta.mT @ delta) * (self.weight @ self.weight.mT)
        return largest * grams.sum((1, 2)).clamp_min(0).sqrt()

    def cosines(self, norms: Tensor) -> Tensor:
        """As :meth:`norms`, for every pair of tasks."""
        K, N, o = self.delta.shape
        delta = divide_or_zero(self.delta, norms.view(-1, 1, 1))
        delta = delta.transpose(0, 1).reshape(N, K * o)
        weight = self.weight.flatten(0, 1)
        return ((delta.mT @ delta) * (weight @ weight.mT)).view(K, o, K, o).sum((1, 3))

    def drop(self, tasks: Tensor) -> None:
        """See :class:`TaskGradients`."""
        self.delta = self.delta.masked_fill(tasks.view(-1, 1, 1), 0)

    def combine(self, weights: Tensor) -> Tensor:
        """See :class:`TaskGradients`."""
        K, N, o = self.delta.shape
        flat = self.delta.transpose(0, 1).reshape(N, K * o)
        columns = weights.to(flat.dtype).repeat_interleave(o, dim=1)  # [r, K o]
        scaled = columns.unsqueeze(1) * flat
        return (scaled.flatten(0, 1) @ self.weight.flatten(0, 1)).view(len(weights), N, -1, 1)

    def rotation_gradient(self, direction: Tensor, factor: Tensor) -> Tensor:
        """See :class:`TaskGradients`; sets ``weight_gradient``, shape ``[K, o, d]``, as well."""
        m = self.rotations.size
        Q = self._correlate(self.delta, direction[:, :m, 0]) * factor
        P = self.by_features
        gradient, turned = self.rotations.folded_gradient(self.folded, Q, P[..., :m])
        self.weight_gradient = torch.cat((turned, P[..., m:]), dim=2)
        return gradient

    @staticmethod
    def _correlate(delta: Tensor, rows: Tensor) -> Tensor:
        """Sums over the batch, shape ``[K, o, width of rows]``."""
        K, N, o = delta.shape
        flat = delta.transpose(0, 1).reshape(N, K * o)
        return (flat.mT @ rows).view(K, o, -1)
