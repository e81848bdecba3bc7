"""What several networks have in common: layers, their start, and checks of shapes."""

from collections.abc import Sequence

from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError


def conv_unit(
    num_inputs: int, num_outputs: int, *, kernel_size: int = 3, bias: bool = True
) -> nn.Sequential:
    """A convolution that keeps height and width, BatchNorm and ReLU.

    The ReLU is not in place: autograd keeps its result alone, so that would save next to nothing in
    training, and methods copy the features for heads with a module that writes into its input.

    Args:
        num_inputs: Channels of the input.
        num_outputs: Channels of the output.
        kernel_size: Height and width of the kernel, odd.
        bias: Whether the convolution has a bias (BatchNorm takes it out again).

    Returns:
        The three layers; they start as torch's do.
    """
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_outputs, kernel_size, padding=kernel_size // 2, bias=bias),
        nn.BatchNorm2d(num_outputs),
        nn.ReLU(),
    )


def start_like_mtan(network: nn.Module) -> None:
    """Starts all convolutions of a network as MTAN's code does.

    Weights are Xavier normal, of variance 2 / (fan in + fan out); biases are zero. BatchNorm needs
    nothing: that code starts it as torch does, with weight 1 and bias 0.

    Args:
        network: Its convolutions are changed.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def require_images(network: str, input_shape: Sequence[int], min_size: int, advice: str) -> None:
    """Refuse inputs that are no image, or too small.

    Args:
        network: Name of the network, for the message.
        input_shape: Shape of one example's input.
        min_size: Smallest height and width in pixels.
        advice: What to use instead.

    Raises:
        ConfigError: If they are.
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < min_size:
        raise ConfigError(
            f"{network} needs images of at least {min_size}x{min_size} pixels, [channels, height, "
            f"width], got {list(input_shape)}; use {advice}."
        )


def require_maps(head: str, feature_shape: Sequence[int]) -> None:
    """Refuse features that are no map.

    Args:
        head: Name of the head, for the message.
        feature_shape: Shape of one example's features.

    Raises:
        ConfigError: If they are no map.
    """
    if len(feature_shape) != 3:
        raise ConfigError(
            f"{head} needs feature maps, [channels, height, width], got features of shape "
            f"{list(feature_shape)}; use a backbone that returns maps (backbone=conv), or "
            "head=mlp."
        )


def require_two_examples(network: str, batch: Tensor) -> None:
    """Refuses to train on one example where BatchNorm sees one value per example.

    Args:
        network: Name of the network, for the message.
        batch: Its input.

    Raises:
        ShapeError: If the batch holds fewer than two examples.
    """
    if len(batch) < 2:
        raise ShapeError(
            f"{network} needs batches of at least 2 examples in training, for the variance of its "
            f"BatchNorm, got {len(batch)}; raise train.batch_size or lower train.accumulate_steps."
        )
