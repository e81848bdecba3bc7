"""DeepLab's head: atrous spatial pyramid pooling."""

from collections.abc import Sequence

from torch import Tensor, nn

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.models.layers import require_maps, require_two_examples


class ASPPHead(nn.Module):
    """torchvision's DeepLab head, then bilinear upsampling with aligned corners.

    Parallel 1×1 and dilated 3×3 convolutions and a branch of the map's mean, 256 channels each,
    are projected to 256 channels; dropout 0.5, a 3×3 convolution and a 1×1 convolution follow.
    The layers and their start are those of LibMTL's head for NYUv2, which upsamples to 288×384.
    The output for feature maps ``[N, C, h, w]`` is ``[N, num_outputs, upsample h, upsample w]``.

    Training takes two examples or more: the branch of the means has one value per example and
    channel, of which BatchNorm needs a variance.

    Args:
        feature_shape: Channels, height and width of one example's features.
        num_outputs: Channels of the prediction.
        atrous_rates: Dilations of the 3×3 branches, in pixels of the features.
        upsample: Factor by which the prediction is larger than the features; 8 for the features
            of ``backbone=resnet50_dilated``.

    Raises:
        ConfigError: If the features are not a map, or a number is not positive.

    References:
        Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017; LibMTL,
        examples/nyu and LibMTL/model/decoder/DeepLabHead.py.
    """

    @checked
    def __init__(
        self,
        *,
        feature_shape: Sequence[int],
        num_outputs: AtLeastOne,
        atrous_rates: Sequence[AtLeastOne],
        upsample: AtLeastOne,
    ) -> None:
        super().__init__()
        require_maps("ASPPHead", feature_shape)
        from torchvision.models.segmentation.deeplabv3 import DeepLabHead  # slow import

        self.layers = DeepLabHead(feature_shape[0], num_outputs, tuple(atrous_rates))
        self.upsample = nn.Upsample(scale_factor=upsample, mode="bilinear", align_corners=True)

    def forward(self, features: Tensor) -> Tensor:
        """Prediction ``[N, num_outputs, H, W]`` from feature maps ``[N, C, h, w]``.

        Raises:
            ShapeError: If there is one example in training mode.
        """
        if self.training:
            require_two_examples("ASPPHead", features)
        prediction: Tensor = self.upsample(self.layers(features))
        return prediction
