"""Task heads. A head is built with ``feature_shape``, ``num_outputs`` and its own options.

It maps features ``[N, *feature_shape]`` to predictions ``[N, num_outputs]``, or to maps ``[N,
num_outputs, ...]`` for dense tasks, and refuses a ``feature_shape`` that it cannot take. All heads
see the same features, so a head never writes into its input.

Heads that have layers in common are built apart, too, and then joined: see :func:`share_layers`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn

from rotograd_cli.models.heads.aspp import ASPPHead
from rotograd_cli.models.heads.conv import ConvHead
from rotograd_cli.models.heads.identity import IdentityHead
from rotograd_cli.models.heads.mtan import MTANHead
from rotograd_cli.models.heads.perceptron import MLPHead

__all__ = ["ASPPHead", "ConvHead", "IdentityHead", "MLPHead", "MTANHead", "share_layers"]


@runtime_checkable
class SharesLayers(Protocol):
    """A head that can take layers over from another head of its class."""

    def share_layers(self, other: Any) -> None:
        """Replaces own layers by those of ``other``, which stay the very same modules."""


def share_layers(heads: Sequence[nn.Module]) -> None:
    """Joins heads that want it: each takes layers over from the first head of its class.

    The shared parameters then belong to several heads. They count once among the parameters of a
    method, get the sum of the task gradients, as if every task had a copy and the copies were
    tied, and stand in a ``state_dict`` once per head.

    Args:
        heads: One head per task; those with a method ``share_layers`` are changed.

    Raises:
        ConfigError: If two heads of one class do not fit together.
    """
    first: dict[type, nn.Module] = {}
    for head in heads:
        owner = first.setdefault(type(head), head)
        if owner is not head and isinstance(head, SharesLayers):
            head.share_layers(owner)
