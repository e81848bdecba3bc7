r"""Skew-symmetric matrices as the numbers that count: those below the diagonal, row by row."""

import torch
from torch import Tensor, nn

_ROWS = 128  # of a block of a product of which only the lower triangle is computed


class Triangle(nn.Module):
    r"""Packs and unpacks stacks of skew matrices of one size.

    :math:`x \in \mathbb{R}^{m(m-1)/2}` has the strictly lower triangle in the order of
    ``torch.tril_indices(m, m, -1)``. Both ways are one gather: it takes no longer than a skew
    matrix from a whole one, whatever the size.

    Args:
        size: m.
    """

    sources: Tensor
    """What each entry of a matrix is: the index of a number in (x, -x, 0); int32, ``[m * m]``."""
    places: Tensor
    """Where each number is in a flattened matrix; int32, ``[m (m - 1) / 2]``."""

    def __init__(self, size: int) -> None:
        super().__init__()
        rows, columns = torch.tril_indices(size, size, -1)
        numbers = torch.arange(len(rows), dtype=torch.int32)
        sources = torch.full((size, size), 2 * len(rows), dtype=torch.int32)
        sources[rows, columns] = numbers
        sources[columns, rows] = numbers + len(rows)
        self.size = size
        self.register_buffer("sources", sources.flatten(), persistent=False)
        self.register_buffer("places", (rows * size + columns).int(), persistent=False)

    def skew(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the skew matrices ``[K, m, m]`` of numbers ``[K, m (m - 1) / 2]``."""
        signed = torch.cat((x, -x, x.new_zeros(len(x), 1)), dim=1)
        if out is not None:
            torch.index_select(signed, 1, self.sources, out=out.view(len(x), -1))
            return out
        return signed.index_select(1, self.sources).view(-1, self.size, self.size)

    def pack(self, matrices: Tensor, out: Tensor) -> None:
        """Write the numbers below the diagonals of contiguous matrices ``[K, m, m]`` to ``out``."""
        torch.index_select(matrices.flatten(1), 1, self.places, out=out)

    def pack_skew(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        r"""Write the numbers below the diagonals of :math:`L^\top R - R^\top L` to ``out``.

        Args:
            left: L, shape ``[K, r, m]``.
            right: R, shape ``[K, r, m]``.
            out: Shape ``[K, m (m - 1) / 2]``.
        """
        S = left.new_empty(len(left), self.size, self.size)
        for start in range(0, self.size, _ROWS):
            rows = slice(start, start + _ROWS)
            columns = slice(0, start + _ROWS)  # most of what is above the diagonal is left out
            block = S[:, rows, columns]
            torch.bmm(left[..., rows].mT, right[..., columns], out=block)
            block.baddbmm_(right[..., rows].mT, left[..., columns], alpha=-1)
        self.pack(S, out)


def packed(values: Tensor) -> Tensor:
    """Return the numbers below the diagonals of ``[K, m, m]``; any other tensor as it is.

    Versions before this one saved whole matrices, with zeros elsewhere.
    """
    if values.dim() != 3:
        return values
    size = values.shape[1]
    rows, columns = torch.tril_indices(size, size, -1, device=values.device)
    return values[:, rows, columns]
