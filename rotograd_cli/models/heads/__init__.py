"""Task heads. A head is built with ``feature_shape``, ``num_outputs`` and its own options.

It maps features ``[N, *feature_shape]`` to predictions ``[N, num_outputs]``, or to maps ``[N,
num_outputs, ...]`` for dense tasks, and refuses a ``feature_shape`` that it cannot take. All heads
see the same features, so a head never writes into its input.

Heads that have layers in common are built apart, too, and then joined: see :func:`share_layers`.
"""

from rotograd_cli.models.heads.aspp import ASPPHead
from rotograd_cli.models.heads.conv import ConvHead
from rotograd_cli.models.heads.mtan import MTANHead
from rotograd_cli.models.heads.perceptron import MLPHead
from rotograd_cli.models.heads.sharing import share_layers

__all__ = ["ASPPHead", "ConvHead", "MLPHead", "MTANHead", "share_layers"]
