"""ResNet18 for small images."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import resnet18

from rotograd_cli.models.layers import require_images

MIN_SIZE = 32  # pixels, the images of CIFAR


class ResNet18(nn.Module):
    """torchvision's ResNet18 with the stem of CIFAR networks: 3×3, stride 1, no pooling.

    The last feature map, an eighth of the image, is averaged over 4×4 windows and flattened, so
    64×64 pixels give 512 · 2 · 2 = 2048 features (the network of the CelebA experiments of Sener
    and Koltun) and 32×32 pixels give 512. Weights start as torchvision's do (Kaiming, fan out),
    not as in that publication's code, which keeps torch's own start.

    Args:
        input_shape: Channels, height and width of an image; at least 32 pixels each way.

    Raises:
        ConfigError: If the input is not an image or too small.

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
        Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018.
    """

    def __init__(self, *, input_shape: Sequence[int]) -> None:
        super().__init__()
        advice = "backbone=lenet for smaller images, backbone=mlp for other inputs"
        require_images("ResNet18", input_shape, MIN_SIZE, advice)
        self.network = resnet18(num_classes=1)  # its classifier is thrown away
        stem = nn.Conv2d(input_shape[0], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        self.network.conv1 = stem
        self.network.maxpool = nn.Identity()
        self.network.avgpool = nn.AvgPool2d(4)
        self.network.fc = nn.Identity()  # torchvision flattens before it

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, d]`` of images ``[N, C, H, W]``, not negative."""
        features: Tensor = self.network(x)
        return features
