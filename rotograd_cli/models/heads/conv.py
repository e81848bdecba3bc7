"""The dense head of the SegNet settings."""

from collections.abc import Sequence

from torch import nn

from rotograd_cli.models.layers import require_maps, start_like_mtan


class ConvHead(nn.Sequential):
    """A 3×3 convolution that keeps the channels, then a 1×1 convolution: one output per pixel.

    There is no activation in between, and the weights start as in the published networks for
    NYUv2: Xavier normal, zero biases. Their log-softmax (segmentation) and normalisation (normals)
    are no part of the head: here they belong to the task's loss. The output for feature maps
    ``[N, C, H, W]`` is ``[N, num_outputs, H, W]``.

    Args:
        feature_shape: Channels, height and width of one example's features.
        num_outputs: Channels of the prediction.

    Raises:
        ConfigError: If the features are not a map, or there is no output.

    References:
        Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019; the
        authors' im2im_pred/model_segnet_split.py.
    """

    def __init__(self, *, feature_shape: Sequence[int], num_outputs: int) -> None:
        require_maps("ConvHead", feature_shape)
        channels = feature_shape[0]
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, num_outputs, 1)
        )
        start_like_mtan(self)
