"""The residual networks that were made for CIFAR: ResNet20 and smaller ones."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.models.layers import require_images

NUM_STAGES = 3  # each with twice the channels and half the height and width of the one before


class ResNetCIFAR(nn.Module):
    """A 3×3 convolution, three stages of residual blocks, and the mean over all pixels.

    It has 6 · ``blocks`` + 1 layers, to which heads add one, and d = 4 · ``width`` features: three
    blocks of width 16 are ResNet20. Shortcuts that change the shape are 1×1 convolutions, as in
    torchvision (option B of the publication, which takes A, without parameters, on CIFAR).

    Args:
        input_shape: Channels, height and width of an image; at least 8 pixels each way.
        blocks: Residual blocks of each stage.
        width: Channels of the first stage.
        stem_stride: Stride of the first convolution: 1 as published, 2 for a quarter of the cost.
        channels_last: Lay images out with the channels last: the same function, which a CPU
            computes faster; results differ by rounding.

    Raises:
        ConfigError: If the input is not an image or too small, or a number is below 1.

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """

    @checked
    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        blocks: AtLeastOne,
        width: AtLeastOne,
        stem_stride: AtLeastOne,
        channels_last: bool,
    ) -> None:
        super().__init__()
        require_images("ResNetCIFAR", input_shape, 8, "backbone=mlp for other inputs")
        self.stem = nn.Sequential(
            nn.Conv2d(input_shape[0], width, 3, stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        widths = [width * 2**stage for stage in range(NUM_STAGES)]
        inputs = [width, *widths[:-1]]
        stages = [_stage(*sizes, blocks) for sizes in zip(inputs, widths, strict=True)]
        self.stages = nn.Sequential(*stages)
        _start_like_torchvision(self)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, 4 * width]`` of images ``[N, C, H, W]``, not negative."""
        x = x.contiguous(memory_format=self.memory_format)
        maps = self.stages(self.stem(x))
        features: Tensor = F.adaptive_avg_pool2d(maps, 1).flatten(1)
        return features


def _stage(num_inputs: int, width: int, blocks: int) -> nn.Sequential:
    """Residual blocks, the first of which halves height and width where the channels change."""
    first = BasicBlock(num_inputs, width)
    if num_inputs != width:
        shortcut = nn.Sequential(conv1x1(num_inputs, width, stride=2), nn.BatchNorm2d(width))
        first = BasicBlock(num_inputs, width, stride=2, downsample=shortcut)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))


def _start_like_torchvision(network: nn.Module) -> None:
    """Start convolutions Kaiming normal, fan out, as torchvision's and the publication's do."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
