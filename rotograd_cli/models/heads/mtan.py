"""MTAN's task-specific attention on the maps of a shared SegNet."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.models.layers import conv_unit, require_maps, start_like_mtan
from rotograd_cli.models.segnet_maps import PackedMaps


class MTANHead(nn.Module):
    r"""One task's attention modules and predictor.

    A stage of the shared network hands out two maps, u and p (:mod:`rotograd_cli.models.
    segnet_maps`). With :math:`a` what the stage before handed on, :math:`h` the mask (1×1
    convolution, BatchNorm, ReLU, 1×1 convolution, BatchNorm, sigmoid) and :math:`f` a block (3×3
    convolution, BatchNorm, ReLU), the new :math:`a` is

    .. math:: \text{encoder: } \mathrm{pool}(f(h([u, a]) \odot p)), \qquad
        \text{decoder: } h([u, f(\mathrm{up}(a))]) \odot p,

    with 2×2 maximum pooling, and bilinear upsampling by two with aligned corners. The first stage
    has no a. A 3×3 and a 1×1 convolution without activation turn the last a into the prediction.

    In the published network the blocks f are **shared** by all tasks, BatchNorm included; masks
    and predictors are not. The runner joins the heads (:func:`rotograd_cli.models.heads.
    share_layers`), unless ``shared_blocks`` is false. Whatever a method does to the gradients at
    the features, the blocks get the plain sum of the tasks' gradients, as all parts of heads do;
    the public code of methods that combine the gradients of shared parameters counts all but the
    predictors as shared.

    Args:
        feature_shape: Shape of the packed maps of ``backbone=segnet_mtan``, ``[C', H, W]``.
        num_outputs: Channels of the prediction, which has the height and width of the image.
        filters: Channels of the backbone's levels; None where the backbone has no levels.
        shared_blocks: Whether the blocks f are one for all tasks, as published, or one per task.

    Raises:
        ConfigError: If the features are not those of such a backbone.

    References:
        Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019; the
        authors' im2im_pred/model_segnet_mtan.py.
    """

    def __init__(
        self,
        *,
        feature_shape: Sequence[int],
        num_outputs: int,
        filters: Sequence[int] | None,
        shared_blocks: bool,
    ) -> None:
        super().__init__()
        if filters is None:
            raise ConfigError(
                "MTANHead needs the `filters` of the backbone whose maps it reads, got null; use "
                "backbone=segnet_mtan, or head=conv for other feature maps."
            )
        require_maps("MTANHead", feature_shape)
        self.maps = PackedMaps(filters)
        self.maps.check(feature_shape)
        self.shared_blocks = shared_blocks
        self.masks, self.blocks = nn.ModuleList(), nn.ModuleList()
        channels = 0  # of what the stage before hands on
        for stage in self.maps.encoder:
            self.masks.append(_mask(stage.source + channels, stage.target))
            channels = filters[min(stage.level + 1, len(filters) - 1)]
            self.blocks.append(conv_unit(stage.target, channels))
        for stage in self.maps.decoder:
            # the deepest block keeps its channels, the others have those of the map they lead to
            width = channels if stage.level == len(filters) - 1 else stage.target
            self.blocks.append(conv_unit(channels, width))
            self.masks.append(_mask(stage.source + width, stage.target))
            channels = stage.target
        self.predictor = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, num_outputs, 1)
        )
        start_like_mtan(self)

    def forward(self, features: Tensor) -> Tensor:
        """Prediction ``[N, num_outputs, H, W]`` from packed maps ``[N, C', H, W]``."""
        stages = zip(self.maps.unpack(features), self.masks, self.blocks, strict=True)
        a: Tensor | None = None
        for index, ((source, target), mask, block) in enumerate(stages):
            if index < len(self.maps.encoder):
                seen = source if a is None else torch.cat((source, a), dim=1)
                a = F.max_pool2d(block(mask(seen) * target), 2)
            else:
                assert a is not None
                up = F.interpolate(a, scale_factor=2, mode="bilinear", align_corners=True)
                a = mask(torch.cat((source, block(up)), dim=1)) * target
        prediction: Tensor = self.predictor(a)
        return prediction

    def share_layers(self, other: "MTANHead") -> None:
        """Takes the blocks over from the head of another task, where they are shared.

        Raises:
            ConfigError: If the two heads have other options.
        """
        if self.shared_blocks != other.shared_blocks:
            raise ConfigError(
                "`shared_blocks` must be the same for all tasks, got true and false; set it in "
                "head, not in heads.TASK."
            )
        if self.shared_blocks:
            self.blocks = other.blocks


def _mask(num_inputs: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        conv_unit(num_inputs, num_outputs, kernel_size=1),
        nn.Conv2d(num_outputs, num_outputs, 1),
        nn.BatchNorm2d(num_outputs),
        nn.Sigmoid(),
    )
