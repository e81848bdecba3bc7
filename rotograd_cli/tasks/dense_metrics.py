r"""Accumulators of metrics over the elements with a label; of dense tasks too.

Two protocols average depth and normal metrics (``metrics.Protocol``):

- *exact*: mean, median and shares over all valid pixels of the split, each with the same weight.
- *mtan_batch*: as ``depth_error`` and ``normal_error`` of MTAN (and of CAGrad, Nash-MTL, FAMO) with
  their batch of 2: the metric of every pair of consecutive images, then the mean over the pairs.
  Its "median" is a mean of medians, and a pair with few valid pixels weighs as much as any other.

Both are independent of the batch size of the evaluation. Everything stays on the device: masks
instead of indexing, and nothing is read before ``compute``.

An element without a label (:mod:`rotograd_cli.tasks.labels`) takes no part.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rotograd_cli.tasks import element_errors, labels
from rotograd_cli.tasks.element_errors import THRESHOLDS, Errors

BINS_PER_DEGREE = 1000
NUM_BINS = 180 * BINS_PER_DEGREE


class Accumulator(nn.Module):
    """Sums over a split, one buffer each, that add up over ranks.

    A subclass registers them with :meth:`add_sum`, adds a batch in ``update`` and returns the
    metrics in ``compute``. torchmetrics has such a class, but importing it takes a second, as it
    imports torchvision, SciPy's signal processing and matplotlib.
    """

    def add_sum(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Register a sum that begins at zero, float64 or int64."""
        self.register_buffer(name, torch.zeros(shape, dtype=dtype), persistent=False)


class ConfusionMatrix(Accumulator):
    """Mean intersection over union and pixel accuracy, from counts over the split.

    torchmetrics has the same counts, but picks labelled pixels by indexing, which waits for the
    device at every batch.

    Args:
        num_classes: Number of classes C.
        void: Target of pixels without a label; they take no part.
    """

    counts: Tensor

    def __init__(self, num_classes: int, void: int) -> None:
        super().__init__()
        self.num_classes, self.void = num_classes, void
        self.add_sum("counts", (num_classes**2 + 1,), torch.int64)  # the last: no class

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Counts pairs of target and prediction.

        Args:
            prediction: Predicted classes, int64, shape ``[N, H, W]``.
            target: Classes, any integer dtype, shape ``[N, H, W]``.
        """
        labels.check_shapes(prediction, target)
        labelled = labels.is_labelled(target, self.void)
        pairs = target.long() * self.num_classes + prediction  # long: 13 * 13 overflows int8
        wrong = labels.no_class(target, self.num_classes, self.void)
        pairs = torch.where(wrong, self.num_classes**2, torch.where(labelled, pairs, 0))
        self.counts.index_add_(0, pairs.flatten(), labelled.flatten().long())

    def compute(self) -> Tensor:
        """Mean intersection over union of the classes that occur, and pixel accuracy.

        Returns:
            Float64, shape ``[2]``; NaN when no pixel was labelled, or one with what is no class.
        """
        matrix = self.counts[:-1].view(self.num_classes, self.num_classes).double()
        matrix = torch.where(self.counts[-1] > 0, math.nan, matrix)
        correct = matrix.diagonal()
        unions = matrix.sum(0) + matrix.sum(1) - correct
        occurs = unions > 0
        mean_iou = torch.where(occurs, correct / unions, 0).sum() / occurs.sum()
        return torch.stack((mean_iou, correct.sum() / matrix.sum()))


class Means(Accumulator):
    """Means of errors, summed in float64.

    Args:
        errors: Errors of the pixels.
        num_means: Number of means, V.
    """

    sums: Tensor
    num: Tensor

    def __init__(self, errors: Errors, num_means: int) -> None:
        super().__init__()
        self.errors = errors
        self.add_sum("sums", (num_means,), torch.float64)
        self.add_sum("num", (), torch.int64)


class SplitMeans(Means):
    """Means of errors over all valid pixels of a split."""

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds the pixels of a batch.

        Args:
            prediction: Shape ``[N, C, H, W]``.
            target: Shape ``[N, C, H, W]``.
        """
        self._add(*self.errors(prediction, target))

    def compute(self) -> Tensor:
        """Means over the split.

        Returns:
            Float64, shape ``[V]``; NaN without a valid pixel.
        """
        return self.sums / self.num

    def _add(self, errors: Tensor, valid: Tensor) -> None:
        self.sums += torch.where(valid, errors, 0).sum((1, 2), dtype=torch.float64)
        self.num += valid.sum()


class SplitAngles(SplitMeans):
    """Mean, median and shares below the thresholds of the angles of a split.

    The median comes from counts of the angles in bins of 0.001 degrees: each of the one or two
    angles in the middle is placed inside its bin as if the angles there were evenly spread. It is
    off by less than a bin, 0.001 degrees, beyond the rounding of the angles (in float32 below 5e-5
    degrees). Mean and shares do not come from the bins.
    """

    histogram: Tensor

    def __init__(self) -> None:
        super().__init__(element_errors.accurate_angles, 1 + len(THRESHOLDS))
        self.add_sum("histogram", (NUM_BINS,), torch.int64)

    def compute(self) -> Tensor:
        """Mean, median, shares.

        Returns:
            Float64, shape ``[5]``; NaN without a valid pixel, and when a valid angle was NaN.
        """
        mean, *shares = super().compute()
        result = torch.stack((mean, self._median(), *shares))
        return torch.where(mean.isnan(), mean, result)

    def _add(self, errors: Tensor, valid: Tensor) -> None:
        super()._add(errors, valid)
        bins = (errors[0] * BINS_PER_DEGREE).nan_to_num(0).long().clamp(0, NUM_BINS - 1)
        self.histogram.index_add_(0, bins.flatten(), valid.flatten().long())

    def _median(self) -> Tensor:
        up_to = self.histogram.cumsum(0)
        middle = torch.stack(((self.num - 1) // 2, self.num // 2)).clamp(min=0)  # ranks from 0
        bins = torch.searchsorted(up_to, middle, right=True).clamp(max=NUM_BINS - 1)
        inside = self.histogram[bins]
        rank = middle - (up_to[bins] - inside)  # within the bin
        return ((bins + (rank.double() + 0.5) / inside) / BINS_PER_DEGREE).mean()


class PairMeans(Means):
    """Means of errors over every pair of consecutive images, averaged over the pairs.

    A pair may span two updates: an odd image waits for the next one. A last odd image is a pair of
    its own, as the last batch of a loader. A pair without a valid pixel is left out, where MTAN's
    code would divide by zero.
    """

    odd_sums: Tensor
    odd_num: Tensor

    def __init__(self, errors: Errors, num_means: int) -> None:
        super().__init__(errors, num_means)
        # of an odd image, as if it were the last
        self.add_sum("odd_sums", (num_means,), torch.float64)
        self.add_sum("odd_num", (), torch.int64)
        self.waiting: list[Tensor] = []  # its prediction and target: no sum

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds the pairs of a batch, beginning with an image that waited.

        Args:
            prediction: Shape ``[N, C, H, W]``.
            target: Shape ``[N, C, H, W]``.
        """
        if self.waiting:
            prediction = torch.cat((self.waiting[0], prediction))
            target = torch.cat((self.waiting[1], target))
        even = len(prediction) // 2 * 2
        self.waiting = [x[even:].clone() for x in (prediction, target) if len(x) > even]
        sums, num = self._sums(prediction[:even], target[:even], size=2)
        self.sums += sums
        self.num += num
        self.odd_sums, self.odd_num = self._sums(prediction[even:], target[even:], size=1)

    def compute(self) -> Tensor:
        """Means over the pairs.

        Returns:
            Float64, shape ``[V]``; NaN when no pair has a valid pixel.
        """
        return (self.sums + self.odd_sums) / (self.num + self.odd_num)

    def _sums(self, prediction: Tensor, target: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Sums over groups of ``size`` images, and the number of groups with a valid pixel."""
        errors, valid = self.errors(prediction, target)
        groups = len(prediction) // size
        num_pixels = size * errors.shape[-1]
        errors = errors.reshape(len(errors), groups, num_pixels)
        valid = valid.reshape(groups, num_pixels)
        num = valid.sum(1)
        of_pairs = self._of_pairs(errors, valid, num.clamp(min=1))
        return torch.where(num > 0, of_pairs, 0).sum(1), (num > 0).sum()

    def _of_pairs(self, errors: Tensor, valid: Tensor, num: Tensor) -> Tensor:
        """Means over the valid pixels of each of G groups, float64, shape ``[V, G]``."""
        return torch.where(valid, errors, 0).sum(2, dtype=torch.float64) / num


class PairAngles(PairMeans):
    """Mean, median and shares below the thresholds of the angles of pairs, averaged over the pairs.

    The median of an even number of angles is the mean of the middle two, as NumPy's in MTAN's code;
    forks that use ``torch.median`` take the smaller one, a difference of about the spacing of the
    angles.
    """

    def __init__(self) -> None:
        super().__init__(element_errors.mtan_angles, 2 + len(THRESHOLDS))

    def _of_pairs(self, errors: Tensor, valid: Tensor, num: Tensor) -> Tensor:
        mean, *shares = super()._of_pairs(errors, valid, num)
        ordered = torch.where(valid, errors[0], math.inf).sort(1).values
        middle = torch.stack(((num - 1) // 2, num // 2), 1)
        median = ordered.gather(1, middle).mean(1, dtype=torch.float64)
        result = torch.stack((mean, median, *shares))
        return torch.where(mean.isnan(), mean, result)
