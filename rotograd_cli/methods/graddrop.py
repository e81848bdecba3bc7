"""GradDrop: at every feature, the gradients of one sign."""

import torch
from torch import Tensor

from rotograd_cli.methods.rule import Combining, Statistics


class GradDrop(Combining):
    r"""Entry by entry, only positive or only negative task gradients are kept and added.

    The sign is drawn: positive with probability :math:`P = \frac12\bigl(1 + \sum_k g_k /
    \sum_k |g_k|\bigr)`. Draws come from torch's generator on the features' device, which the run
    seeds and its checkpoints hold. Every entry of the features of every example has its own P and
    draw; the paper's Algorithm 1 first multiplies by the sign of the features and adds up the batch
    (lines 5 to 9) where activations are concerned, which is left out here, as in torchjd.

    An entry at which all gradients are zero stays zero.

    References:
        Chen et al., "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign
        Dropout", NeurIPS 2020, Algorithm 1, lines 10 to 15.
    """

    def combine(self, G: Tensor, s: Statistics) -> Tensor:
        """Return the sum of the kept entries, shape ``[D]``."""
        P = 0.5 * (1 + G.sum(0) / G.abs().sum(0))  # NaN where all are zero: nothing is kept
        U = s.uniform(P)  # never 1, so that entries of one sign are always kept
        return torch.where((P > U) & (G > 0) | (P <= U) & (G < 0), G, 0).sum(0)
