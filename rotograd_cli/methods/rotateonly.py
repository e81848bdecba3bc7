"""RotateOnly: rotations that align the task gradients, magnitudes left alone."""

from typing import Any

from rotograd_cli.methods.rotate import Rotate
from rotograd_cli.methods.rule import Rule


class RotateOnly(Rotate):
    r"""Task k sees the features rotated by its own :math:`R_k`, so that task gradients align.

    With z the features, :math:`\tilde g_k = \partial L_k/\partial (R_k z)` and
    :math:`g_k = R_k^\top \tilde g_k`, every rotation descends

    .. math:: \sum_n \lVert R_k v'_n - \tilde g_{n,k} \rVert^2, \qquad
        v' = \frac{1}{K}\sum_k \frac{\lVert \bar g\rVert}{\lVert g_k\rVert}\, g_k, \qquad
        \bar g = \frac{1}{K}\sum_k g_k,

    with :math:`\tilde g_k` and :math:`v'` constant: the mean of the unit gradients (V of Algorithm
    1) at the length of the mean gradient, as the authors' code has it. The backbone receives
    :math:`\sum_k g_k`. Tasks without a loss or with a gradient of zero take no part in the means.
    The rotations' gradient is quadratic in those of the tasks: float32 holds it where these are
    between 1e-19 and 1e19 (beyond, it is 0 or infinite; the backbone's is right).

    Args:
        *args: As :class:`~rotograd_cli.methods.rotate.Rotate`.
        rule: What the backbone receives instead of the sum, for the methods built on this one.
        **options: As :class:`~rotograd_cli.methods.rotate.Rotate`.

    References:
        Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022,
        section 4.2 and Algorithm 1.
    """

    def __init__(self, *args: Any, rule: Rule | None = None, **options: Any) -> None:
        super().__init__(*args, rule=rule, **options)
