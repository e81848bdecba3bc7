r"""Random scale, crop and horizontal flip of a batch, in one pass over all examples.

As MTAN's published augmentation: a crop of 1/s of both sides, s one of 1, 1.2 and 1.5, at a whole
pixel, resized to the full size (images and normals bilinear with aligned corners, labels and depth
by nearest neighbour), depth divided by s, and with probability 1/2 a horizontal flip that negates
the normals' x. It departs from MTAN's in the normals: they have unit length again after the
interpolation, and pixels without one neither take part in it nor get one from their neighbours.

What is consistent afterwards: cropping and resizing turn a camera of focal length f and centre c
into one of s f and s (c - corner), and dividing all depths by s shrinks the seen scene by s, which
leaves normals unchanged. For a network that takes the focal length to be the same in all images, a
plane whose normal is n would rather have the direction of :math:`(n_x, n_y, s n_z)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_DRAWS = 4
_SHORT = 1e-3  # of a mean of unit vectors that all but cancel: no direction


@dataclass(frozen=True)
class Variation:
    """What happens to each of N examples."""

    step: Tensor
    """The crop's sides are 1 - step/6 of the full ones: s = 6/(6 - step), step 0, 1, 2; ``[N]``."""
    top: Tensor
    """First row of the crop, int64, shape ``[N]``."""
    left: Tensor
    """First column of the crop, int64, shape ``[N]``."""
    flip: Tensor
    """Whether it is mirrored, bool, shape ``[N]``."""

    @property
    def scale(self) -> Tensor:
        """Magnification s, float64, shape ``[N]``."""
        return 6 / (6 - self.step.double())


def vary(draws: Tensor, height: int, width: int) -> Variation:
    """Choose one of three scales and a position of the crop, all equally likely, and a flip.

    Args:
        draws: Uniform in [0, 1), shape ``[N, 4]``: scale, row, column, flip.
        height: Rows, a multiple of 6.
        width: Columns, a multiple of 6.
    """
    step = _whole(draws[:, 0], 3)
    return Variation(
        step=step,
        top=_whole(draws[:, 1], step * (height // 6) + 1),
        left=_whole(draws[:, 2], step * (width // 6) + 1),
        flip=draws[:, 3] < 0.5,
    )


def augment_maps(
    image: Tensor, targets: Mapping[str, Tensor], variation: Variation
) -> tuple[Tensor, dict[str, Tensor]]:
    """Apply variations. With s = 1 and no flip an example stays as it is, bit for bit.

    Args:
        image: Shape ``[N, 3, H, W]``.
        targets: Any of ``segmentation`` ``[N, H, W]``, ``depth`` ``[N, 1, H, W]`` and ``normals``
            ``[N, 3, H, W]``.
        variation: What to do with each example.

    Returns:
        Image and targets; the given ones are not changed.
    """
    grid = _Grid(variation, image.shape[2], image.shape[3])
    result = {}
    for name, target in targets.items():
        if name == "segmentation":
            result[name] = grid.nearest(target.unsqueeze(1)).squeeze(1)
        elif name == "depth":
            scale = variation.scale.to(target.dtype).view(-1, 1, 1, 1)
            result[name] = grid.nearest(target) / scale
        else:
            sign = 1 - 2 * variation.flip.to(target.dtype)
            signs = torch.stack([sign, torch.ones_like(sign), torch.ones_like(sign)], 1)
            result[name] = grid.directions(target) * signs[..., None, None]
    return grid.bilinear(image), result


class _Grid:
    """Where the pixels of the result come from: rows and columns apart, per example."""

    def __init__(self, variation: Variation, height: int, width: int) -> None:
        self._rows = _Axis(height, variation.step, variation.top)
        self._columns = _Axis(width, variation.step, variation.left, variation.flip)

    def nearest(self, maps: Tensor) -> Tensor:
        """Pixel by ``floor(i h / H)``, as ``F.interpolate(mode="nearest")``."""
        return _pick(maps, self._rows.nearest, self._columns.nearest)

    def bilinear(self, maps: Tensor) -> Tensor:
        """Interpolated, corners of the crop on corners of the result."""
        rows, columns = self._rows, self._columns
        turned = maps.transpose(2, 3).contiguous()
        left, right = _pick_rows(turned, columns.before), _pick_rows(turned, columns.after)
        turned = torch.lerp(left, right, columns.weight[:, None, :, None])
        mixed = turned.transpose(2, 3).contiguous()
        upper, lower = _pick_rows(mixed, rows.before), _pick_rows(mixed, rows.after)
        return torch.lerp(upper, lower, rows.weight[:, None, :, None])

    def directions(self, vectors: Tensor) -> Tensor:
        """Bilinear among the vectors that are not 0, brought back to unit length.

        0 where the source pixel closest to the position is 0. A position on a pixel takes that
        pixel as it is, and so does one where the neighbours cancel out.
        """
        closest = _pick(vectors, self._rows.closest, self._columns.closest)
        mean = self.bilinear(vectors)  # zeros add nothing to the direction
        # sums of three maps: on the CPU ten times faster than a norm over the second axis
        length = (mean[:, :1] ** 2 + mean[:, 1:2] ** 2 + mean[:, 2:] ** 2).sqrt()
        valid = (closest[:, :1] != 0) | (closest[:, 1:2] != 0) | (closest[:, 2:] != 0)
        between = self._rows.between[:, None, :, None] | self._columns.between[:, None, None, :]
        return torch.where(valid & between & (length > _SHORT), mean / length, closest)


class _Axis:
    """Positions of the result's pixels along one axis, shape ``[N, size]`` each."""

    def __init__(self, size: int, step: Tensor, start: Tensor, flip: Tensor | None = None) -> None:
        index = torch.arange(size, device=step.device)
        length = (size - step * (size // 6)).unsqueeze(1)
        start = start.unsqueeze(1)
        # float32 as F.interpolate computes it; a ratio of 1 is exact
        position = index.float() * ((length - 1).float() / (size - 1))
        before = position.long().clamp(max=size - 1)
        weight = position - before
        closest = torch.minimum((position + 0.5).long(), length - 1)
        self.nearest = _mirrored(start + index * length // size, flip)
        self.before = _mirrored(start + torch.minimum(before, length - 1), flip)
        self.after = _mirrored(start + torch.minimum(before + 1, length - 1), flip)
        self.weight = _mirrored(weight, flip)
        self.closest = _mirrored(start + closest, flip)
        self.between = self.weight != 0


def _mirrored(values: Tensor, flip: Tensor | None) -> Tensor:
    return values if flip is None else torch.where(flip.unsqueeze(1), values.flip(1), values)


def _pick(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    turned = _pick_rows(maps, rows).transpose(2, 3)
    return _pick_rows(turned, columns).transpose(2, 3)


def _pick_rows(maps: Tensor, rows: Tensor) -> Tensor:
    """Whole rows are copied: on the CPU many times faster than a gather of single pixels."""
    num, channels, height, width = maps.shape
    first = height * torch.arange(num * channels, device=maps.device).view(num, channels, 1)
    index = (first + rows.unsqueeze(1)).flatten()
    return maps.reshape(-1, width).index_select(0, index).view(num, channels, -1, width)


def _whole(draws: Tensor, count: Tensor | int) -> Tensor:
    """Whole numbers below ``count``, equally likely."""
    count = count * torch.ones_like(draws, dtype=torch.long)
    return torch.minimum((draws.double() * count).long(), count - 1)
