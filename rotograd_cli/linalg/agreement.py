r"""How gradients agree: numbers of K gradients, from their inner products alone.

The argument is the Gramian, entries :math:`\langle g_i, g_j\rangle`, or what :func:`cosines` makes
of it. Pairs are unordered, i < j. A pair one of whose gradients is zero or not known (NaN) has no
angle: it is left out, and a mean over no pair is NaN.
"""

import torch
from torch import Tensor


def norms(gramian: Tensor) -> Tensor:
    r"""Return :math:`\lVert g_k\rVert`, shape ``[K]``, of a Gramian ``[K, K]``."""
    return gramian.diagonal().clamp_min(0).sqrt()


def cosines(gramian: Tensor) -> Tensor:
    r"""Return :math:`\langle g_i, g_j\rangle / (\lVert g_i\rVert\lVert g_j\rVert)`, ``[K, K]``.

    In [-1, 1]; NaN where a gradient is zero.

    Examples:
        >>> cosines(torch.tensor([[4.0, -1.0], [-1.0, 1.0]]))
        tensor([[ 1.0000, -0.5000],
                [-0.5000,  1.0000]])
    """
    lengths = norms(gramian)
    return (gramian / lengths.unsqueeze(1) / lengths).clamp(-1, 1)


def conflict_rate(cosines: Tensor) -> float:
    """Return the share of pairs whose cosine is negative ("conflicting": Yu et al., definition 1).

    Examples:
        >>> conflict_rate(torch.tensor([[1.0, -0.5, 0.1], [-0.5, 1.0, 0.2], [0.1, 0.2, 1.0]]))
        0.3333333333333333
    """
    return float((_pairs(cosines) < 0).double().mean())


def mean_cosine(cosines: Tensor) -> float:
    """Return the mean cosine over pairs."""
    return float(_pairs(cosines).mean())


def magnitude_similarity(gramian: Tensor) -> float:
    r"""Return the mean over pairs of the gradient magnitude similarity, in [0, 1].

    .. math:: \Phi_{ij} = \frac{2\lVert g_i\rVert\lVert g_j\rVert}
        {\lVert g_i\rVert^2 + \lVert g_j\rVert^2},

    1 for gradients of equal length.

    References:
        Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, definition 2.

    Examples:
        >>> magnitude_similarity(torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
        0.8
    """
    lengths = norms(gramian)
    lengths = torch.where(lengths > 0, lengths, torch.nan)
    ratios = lengths.unsqueeze(1) / lengths
    return float(_pairs(2 / (ratios + 1 / ratios)).mean())


def _pairs(values: Tensor) -> Tensor:
    """Return the values of pairs i < j that are known."""
    K = len(values)
    upper = torch.ones(K, K, dtype=torch.bool).triu(1)
    pairs = values[upper]
    return pairs[~pairs.isnan()]
