"""ResNet50 with dilated convolutions: feature maps at an eighth of the image."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from rotograd_cli.errors import ConfigError
from rotograd_cli.models.backbones.torchvision_models import readable

WEIGHTS = ResNet50_Weights.IMAGENET1K_V1
_CLASSIFIER = ("avgpool", "fc")


class ResNet50Dilated(nn.Module):
    """torchvision's ResNet50 without classifier; its last two stages are dilated, not strided.

    The 3×3 convolutions of the third stage have dilation 2 (1 in its first block), those of the
    fourth 4 (2 in its first block), and neither stage has a stride: the network of DeepLab, and the
    very dilations of LibMTL's. Features are maps ``[2048, H / 8, W / 8]``, sizes that are not
    multiples of 8 rounded up; it has 23,508,032 parameters.

    Weights start as torchvision's do (Kaiming, fan out), or from ImageNet. LibMTL reads an older
    upload of ImageNet weights (resnet50-19c8e357.pth); torchvision's first generation, read here
    (resnet50-0676ba61.pth), is what took its place. ``head=aspp`` completes LibMTL's network.

    Args:
        input_shape: Channels, height and width of an image; three channels.
        pretrained: Start from ImageNet weights. They are downloaded once, into the folder that
            torch keeps models in (``TORCH_HOME``), and read from there afterwards.

    Raises:
        ConfigError: If the input is not a colour image.
        DatasetError: If the ImageNet weights can neither be read nor downloaded.

    References:
        Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017; LibMTL,
        LibMTL/model/resnet_dilated.py.
    """

    def __init__(self, *, input_shape: Sequence[int], pretrained: bool) -> None:
        super().__init__()
        if len(input_shape) != 3 or input_shape[0] != 3 or min(input_shape) < 1:
            raise ConfigError(
                "ResNet50Dilated needs colour images, [3, height, width], got inputs of shape "
                f"{list(input_shape)}; use backbone=conv for other images."
            )
        network = resnet50(replace_stride_with_dilation=[False, True, True])
        if pretrained:
            with readable(WEIGHTS, "backbone.pretrained=false"):
                network.load_state_dict(WEIGHTS.get_state_dict(check_hash=True, weights_only=True))
        self.layers = nn.Sequential(
            OrderedDict((k, v) for k, v in network.named_children() if k not in _CLASSIFIER)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, 2048, ⌈H/8⌉, ⌈W/8⌉]`` of images ``[N, 3, H, W]``, not negative."""
        features: Tensor = self.layers(x)
        return features
