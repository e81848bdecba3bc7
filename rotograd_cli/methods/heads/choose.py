"""Which form of the heads a pass takes: the one place that knows all of them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.heads.batched import BatchedHeads
from rotograd_cli.methods.heads.folded_conv import FoldedConvLeaves, begin_with_convolutions
from rotograd_cli.methods.heads.folded_linear import FoldedLinearLeaves, folding_pays, split_heads
from rotograd_cli.methods.heads.leaves import Leaf, Leaves, PlainLeaves, new_leaf
from rotograd_cli.methods.rotation.features import RotatedFeatures
from rotograd_cli.methods.rotation.holding import is_traced
from rotograd_cli.methods.rotation.task_gradients import DenseTaskGradients, TaskGradients


def training_leaves(
    heads: nn.ModuleList, features: Tensor, rotated: RotatedFeatures | None, *, per_task: bool
) -> Leaves:
    """Return the leaves of a pass that :meth:`MultiTaskMethod.backward` differentiates.

    Args:
        heads: The K heads.
        features: Output of the backbone, detached.
        rotated: How they are rotated; None where they are not.
        per_task: Whether the gradient of every task is needed, rather than their sum.

    Returns:
        The leaves.
    """
    batched = BatchedHeads.of(heads, features)
    if not per_task:
        return PlainLeaves(heads, [new_leaf(features)], batched)
    if rotated is None:
        views = features.expand(len(heads), *features.shape)
        return _views(heads, views, new_leaf, batched)
    folded = _folded(heads, features, rotated, new_leaf, constant=True)
    if folded is not None:
        return folded
    rotations = rotated.rotations.whole()

    def back(gradients: Sequence[Tensor]) -> TaskGradients:
        return DenseTaskGradients(rotated.turned(gradients, rotations.R.mT).unbind(), rotations)

    with torch.no_grad():
        views = rotated.views(features, rotations.R)
    return _views(heads, views, new_leaf, batched, back)


def evaluated_heads(
    heads: nn.ModuleList, features: Tensor, rotated: RotatedFeatures | None
) -> Leaves:
    """Return what the heads see in a pass that is an ordinary differentiable function.

    Args:
        heads: The K heads.
        features: Output of the backbone.
        rotated: How they are rotated; None where they are not.

    Returns:
        The heads' inputs.
    """
    fast = not torch.is_grad_enabled() and not is_traced()
    batched = BatchedHeads.of(heads, features) if fast else None
    if rotated is None:
        return PlainLeaves(heads, [features], batched)
    if is_traced():
        R = rotated.rotations.matrices.detach()
    else:
        folded = _folded(heads, features, rotated, _as_it_is, constant=fast)
        if folded is not None:
            return folded
        R = rotated.rotations.whole().R
    return _views(heads, rotated.views(features, R), _as_it_is, batched)


def _views(
    heads: nn.ModuleList,
    views: Tensor,
    leaf: Leaf,
    batched: BatchedHeads | None = None,
    back: Callable[[Sequence[Tensor]], TaskGradients] = DenseTaskGradients,
) -> Leaves:
    """Return what every head sees, from one tensor with the tasks on the first axis."""
    stacked = batched is not None
    tensors = [leaf(view) for view in ([views] if stacked else views.unbind())]
    return PlainLeaves(heads, tensors, batched, stacked=stacked, back=back)


def _folded(
    heads: nn.ModuleList, features: Tensor, rotated: RotatedFeatures, leaf: Leaf, *, constant: bool
) -> Leaves | None:
    """Fold the rotations into the heads, where that is asked for or pays."""
    if rotated.path == "general":
        return None
    axes = rotated.axes
    if begin_with_convolutions(heads, features, axes):
        return FoldedConvLeaves(heads, features, leaf, rotated)
    split = split_heads(heads, features, axes)
    if split is not None and (rotated.path == "folded" or folding_pays(split, axes.size)):
        # folded linear layers are constants: an evaluation with gradients takes the general form
        return FoldedLinearLeaves(split, features, leaf, rotated) if constant else None
    if rotated.path == "folded":
        raise ConfigError(
            "`rotation_path=folded` needs heads that begin with nn.Linear or nn.Conv2d, "
            "without hooks, on exactly the rotated features, got features of shape "
            f"{list(features.shape[1:])}; use auto."
        )
    return None


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
