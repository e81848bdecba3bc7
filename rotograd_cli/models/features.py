"""Features of networks from libraries: the layer that they come from, and their shape."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError, suggest
from rotograd_cli.models.layers import require_two_examples
from rotograd_cli.user_code import blamed

Pool = Literal["mean", "first", "flatten"] | None
"""How features become vectors; None leaves them as they are."""
_KEY = "features"


def pooled(features: Tensor, pool: Pool, mask: Tensor | None = None) -> Tensor:
    """Return features as vectors, one per example.

    Args:
        features: Vectors ``[N, d]``, which stay; tokens ``[N, T, d]``; maps ``[N, d, H, W]``.
        pool: ``mean`` over the tokens or pixels; ``first`` token; ``flatten`` all axes but the
            first; None leaves the features as they are.
        mask: Tokens that count in the mean, 1 or 0, shape ``[N, T]``; None for all.

    Returns:
        Shape ``[N, d]``, or ``[N, T * d]`` and ``[N, d * H * W]`` if they are flattened.

    Raises:
        ShapeError: If features of another shape are to be averaged, or have no tokens.
    """
    axes = features.dim()
    if pool is None or axes == 2:
        return features
    if pool == "flatten":
        return features.flatten(1)
    if pool == "first" and axes == 3:
        return features[:, 0]
    if pool == "mean" and axes == 4:
        return features.mean((2, 3))
    if pool == "mean" and axes == 3:
        if mask is None:
            return features.mean(1)
        weight = mask.to(features.dtype).unsqueeze(2)
        return (features * weight).sum(1) / weight.sum(1).clamp_min(1)
    expected = "[N, T, d]" if pool == "first" else "[N, T, d] or [N, d, H, W]"
    raise ShapeError(
        f"`backbone.pool={pool}` needs features {expected}, got {list(features.shape)}; write "
        "backbone.pool=flatten, or backbone.pool=null to leave them as they are."
    )


class LibraryNetwork(nn.Module):
    """A network of a library without its classifier, or up to one of its layers.

    Args:
        network: The network; its last child is its classifier.
        layer: Name of the layer, or node of its graph, whose output is taken; None takes the input
            of the classifier.
        pool: See :func:`pooled`.
        graphs: Module with the library's ``create_feature_extractor`` and ``get_graph_node_names``.

    Raises:
        ConfigError: If there is no such layer, the network cannot be traced, or a mean is asked of
            maps with channels last.
    """

    def __init__(self, network: nn.Module, layer: str | None, pool: Pool, graphs: Any) -> None:
        super().__init__()
        if layer is not None and pool == "mean" and _has_channels_last(network):
            raise ConfigError(
                "`backbone.pool=mean` needs maps [N, d, H, W], but those inside of "
                f"{type(network).__name__} are [N, H, W, d]; set backbone.layer=null, or "
                "backbone.pool=flatten."
            )
        self.network = network if layer is None else _up_to(network, layer, graphs)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of images ``[N, C, H, W]``."""
        try:
            output: Any = self.network(x)
        except ValueError:  # BatchNorm's, of one value per channel
            if self.training:
                require_two_examples(type(self).__name__, x)
            raise
        return pooled(output[_KEY] if isinstance(output, Mapping) else output, self.pool)


def _has_channels_last(network: nn.Module) -> bool:
    """Whether maps inside are ``[N, H, W, d]``: torchvision's Swin, or where timm says so."""
    is_swin = type(network).__name__.startswith("SwinTransformer")
    return is_swin or getattr(network, "output_fmt", None) == "NHWC"


def _up_to(network: nn.Module, layer: str, graphs: Any) -> nn.Module:
    """Return the part of a network that a layer's output needs; it shares all parameters."""
    what = (
        f"`backbone.layer` needs a network that torch.fx can trace, {type(network).__name__} fails"
    )
    remedy = "leave it null, or choose another `backbone.model`"
    # graphs of both modes may differ
    with blamed(what, remedy), warnings.catch_warnings(action="ignore"):
        nodes = set.intersection(*map(set, graphs.get_graph_node_names(network)))
        _check_layer(layer, nodes)
        result: nn.Module = graphs.create_feature_extractor(network, {layer: _KEY})
    return result


def _check_layer(layer: str, nodes: set[str]) -> None:
    parts = [node.split(".") for node in nodes]
    names = {".".join(part[:num]) for part in parts for num in range(1, len(part) + 1)}
    if layer not in names:
        raise ConfigError(
            f"`backbone.layer` must be a layer of the network, got {layer!r}; "
            f"{suggest(layer, sorted(names))}"
        )


def first_convolution(network: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return name and module of the convolution that sees the image; None if there is none."""
    found = ((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    return next(found, None)


def weight_for_channels(weight: Tensor, num_channels: int) -> Tensor:
    r"""Return the weight of a first convolution for images with another number of channels.

    Every channel gets :math:`\frac{1}{C} \sum_c W_c`. The response to a gray image, whose channels
    are equal, stays what it was.

    Args:
        weight: Shape ``[o, channels, height, width]``.
        num_channels: C.

    Returns:
        Shape ``[o, C, height, width]``.
    """
    mean = weight.sum(1, keepdim=True) / num_channels
    return mean.repeat(1, num_channels, 1, 1)
