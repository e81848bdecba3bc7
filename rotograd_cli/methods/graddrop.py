"""GradDrop: at every feature, the gradients of one sign."""

import torch
from torch import Tensor

from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod
from rotograd_cli.methods.rows import usable_rows


class GradDrop(MultiTaskMethod):
    r"""Entry by entry, only positive or only negative task gradients are kept and added.

    The sign is drawn: positive with probability :math:`P = \frac12\bigl(1 + \sum_k g_k /
    \sum_k |g_k|\bigr)`. Draws come from torch's generator on the features' device, which the run
    seeds and its checkpoints hold. Every entry of the features of every example has its own P and
    draw; the paper's Algorithm 1 first multiplies by the sign of the features and adds up the batch
    (lines 5 to 9) where activations are concerned, which is left out here, as in torchjd.

    Tasks without a loss, or with a gradient of zero, take no part; a task whose gradient or loss is
    infinite or NaN is left out and counted in ``num_nonfinite``. An entry at which all gradients
    are zero stays zero.

    Args:
        *args: As :class:`MultiTaskMethod`.
        **kwargs: As :class:`MultiTaskMethod`.

    References:
        Chen et al., "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign
        Dropout", NeurIPS 2020, Algorithm 1, lines 10 to 15.
    """

    def shared_gradient(self, task_gradients: Tensor, step: BackwardStep) -> Tensor:
        """Sum of the kept entries; see the class."""
        rows, _, _ = usable_rows(task_gradients, step, self.num_nonfinite, self.ranks)
        G = rows.view_as(task_gradients)
        if self.num_tasks == 1:  # a draw of exactly 0 would drop a negative entry
            return G[0]
        P = 0.5 * (1 + G.sum(0) / G.abs().sum(0))  # NaN where all are zero: nothing is kept
        U = self.ranks.draw(Tensor.uniform_, P)
        return torch.where((P > U) & (G > 0) | (P < U) & (G < 0), G, 0).sum(0)
