r"""Trained methods as plain networks for inference, with the rotations folded away.

A head that begins with a linear layer or a convolution computes :math:`W (R_k z) = (W R_k) z`, so
:math:`R_k` goes into its weight, once, and inference costs what it costs without rotations. What a
head begins with is decided as in training (:mod:`rotograd_cli.methods.heads.layers`).

========================================= ======================================================
the head begins with                      folded
========================================= ======================================================
``nn.Linear`` on the last axis            where that is the one rotated axis
``nn.Flatten``, ``nn.Linear``             always, ``post_shape`` axes included
``nn.Conv1d``, ``Conv2d``, ``Conv3d``     where the channels are the one rotated axis and the
                                          ``post_shape`` axes are those convolved; any kernel,
                                          stride, dilation and padding, but no groups
a layer with a hook, anything else        never: the rotation stays, as one constant matrix
========================================= ======================================================

Sequences within sequences count as one, and dropout is nothing, because the networks are for
evaluation.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.methods.engine.network import MultiTaskNetwork
from rotograd_cli.methods.engine.passes import features_of, split_output
from rotograd_cli.methods.heads.folded_conv import begin_with_convolutions
from rotograd_cli.methods.heads.layers import is_plain, sequence_of, split_head
from rotograd_cli.methods.heads.leaves import head_output
from rotograd_cli.methods.rotation.features import RotatedAxes
from rotograd_cli.trees import NOTHING, Inputs, call, positional

_IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
"""Layers that do nothing in evaluation mode, and so are left out."""


class FoldedTask(nn.Module):
    """Backbone and head of one task.

    Args:
        backbone: Returns features, or a tuple that begins with them.
        head: Returns a prediction, or a tuple that begins with it.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Any = NOTHING, *more: Any, **named: Any) -> Any:
        """Return the prediction."""
        features, _ = features_of(self.backbone(*positional(x, more), **named))
        return _prediction(self.head, features)


class FoldedTasks(nn.Module):
    """One backbone and the heads of several tasks.

    Args:
        backbone: Returns features, or a tuple that begins with them.
        heads: Each returns a prediction, or a tuple that begins with it.
    """

    def __init__(self, backbone: nn.Module, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)

    @property
    def is_folded(self) -> list[bool]:
        """Whether each head works without a rotation of its own."""
        return [
            not any(isinstance(module, ConstantRotation) for module in head.modules())
            for head in self.heads
        ]

    def forward(self, x: Any = NOTHING, *more: Any, **named: Any) -> tuple[Any, ...]:
        """Return the predictions in the order of the heads."""
        features, _ = features_of(self.backbone(*positional(x, more), **named))
        return tuple(_prediction(head, features) for head in self.heads)


class ConstantRotation(nn.Module):
    """Features through one constant rotation, for a head that it cannot be folded into.

    Args:
        R: Rotation, shape ``[m, m]``.
        axes: Layout of the features.
    """

    rotation: Tensor

    def __init__(self, R: Tensor, axes: RotatedAxes) -> None:
        super().__init__()
        self.axes = axes
        self.register_buffer("rotation", R)

    def forward(self, features: Tensor) -> Tensor:
        """Return the rotated features, of the same shape."""
        z = self.axes.to_blocks(features)
        m = len(self.rotation)
        rotated = self.rotation.to(z.dtype) @ z[:, :m]
        if m < z.shape[1]:
            rotated = torch.cat((rotated, z[:, m:]), dim=1)
        return rotated.view(features.shape)


def fold_task(method: MultiTaskNetwork, example: Inputs, task: int) -> FoldedTask:
    """Return one task of a method as a plain network.

    Args:
        method: A trained method; not changed.
        example: What the backbone takes (:func:`rotograd_cli.trees.call`); tells the shape of the
            features.
        task: Index of the task.

    Returns:
        A network in evaluation mode that shares nothing with the method. It computes in the type of
        its parameters, whatever ``autocast_dtype`` the method has.

    Raises:
        IndexError: If there is no such task.
        CheckpointError: If the bases of the rotations are not orthogonal.
    """
    network = fold_tasks(method, example, [task])
    return FoldedTask(network.backbone, network.heads[0]).eval()


def fold_tasks(
    method: MultiTaskNetwork, example: Inputs, tasks: Sequence[int] | None = None
) -> FoldedTasks:
    """Return tasks of a method as a plain network, as :func:`fold_task` does for one.

    Args:
        method: A trained method; not changed.
        example: What the backbone takes (:func:`rotograd_cli.trees.call`); tells the shape of the
            features.
        tasks: Indices of the tasks, in the order of the predictions; None takes all. Layers that
            heads have in common stay common.

    Raises:
        IndexError: If there is no such task.
        CheckpointError: If the bases of the rotations are not orthogonal.
    """
    every = range(method.num_tasks)
    indices = [every[task] for task in (every if tasks is None else tasks)]
    # at once, so that common layers are copied once
    backbone, heads = copy.deepcopy((method.backbone, [method.heads[k] for k in indices]))
    if method.rotated is not None:
        axes = copy.copy(method.rotated.axes)
        with torch.no_grad(), method.evaluating():
            features, _ = features_of(call(method.backbone, example))
            axes.check(features.shape)
            R = [method.rotated.rotations.of_task(k)[0].clone() for k in indices]
        pairs = zip(heads, R, strict=True)
        heads = [_without_rotation(head, matrix, axes, features) for head, matrix in pairs]
    return FoldedTasks(backbone, heads).eval()


def _prediction(head: nn.Module, features: Tensor) -> Any:
    prediction, _ = split_output(head_output(head, features))
    return prediction


def _without_rotation(head: nn.Module, R: Tensor, axes: RotatedAxes, features: Tensor) -> nn.Module:
    """Return a head for features before rotation. The layers of ``head`` are not changed."""
    layers = [layer for layer in _layers(head) if not _does_nothing(layer)]
    plain = nn.Sequential(*layers)
    if begin_with_convolutions([plain], features, axes):
        layers[0] = _times_rotation(layers[0], R, 1, features.shape[1])
        return _sequence(layers)
    split = split_head(plain)
    layout = None if split is None else _columns(features, axes, flattened=split.flattens)
    if split is None or layout is None:
        return nn.Sequential(ConstantRotation(R, axes), head)
    layers[int(split.flattens)] = _times_rotation(split.layer, R, *layout)
    return _sequence(layers)


def _layers(head: nn.Module) -> list[nn.Module]:
    """List the modules that a head applies in turn, sequences within sequences included."""
    members = sequence_of(head)
    if members in ([], [head]):  # a sequence with hooks counts as one module
        return [head]
    return [layer for member in members for layer in _layers(member)]


def _does_nothing(layer: nn.Module) -> bool:
    return isinstance(layer, _IDENTITIES) and is_plain(layer)


def _columns(features: Tensor, axes: RotatedAxes, *, flattened: bool) -> tuple[int, int] | None:
    """Return how often a linear layer's columns repeat the rotated axes, and the length of these.

    Returns:
        B and d of columns ``[B, d, S]``: batch axes but the first, rotated axes and ``post_shape``,
        flattened. None where the layer does not see the rotated axes alone.
    """
    if flattened:
        num_batches = math.prod(axes.batch_shape(features.shape)[1:])
        return num_batches, axes.to_blocks(features).shape[1]
    is_last_axis = len(axes.rotation_shape) == 1 and len(axes.post_shape) == 0
    return (1, features.shape[-1]) if is_last_axis else None


def _times_rotation(layer: nn.Module, R: Tensor, num_batches: int, size: int) -> nn.Module:
    """Return a copy of a layer whose weight acts on features before rotation.

    Args:
        layer: Has a weight of shape ``[o, ...]``.
        R: Rotation of the first m of the rotated axis, shape ``[m, m]``.
        num_batches: B of the weight as ``[o, B, d, S]``.
        size: d.
    """
    weight = layer.get_parameter("weight")
    exact = weight.detach().to(torch.float64, copy=True)
    folded = exact.reshape(len(weight), num_batches, size, -1)
    m = len(R)
    folded[:, :, :m] = R.double().mT @ folded[:, :, :m]
    copied = copy.deepcopy(layer)
    values = folded.reshape(weight.shape).to(weight.dtype)
    copied.weight = nn.Parameter(values, requires_grad=weight.requires_grad)
    return copied


def _sequence(modules: Sequence[nn.Module]) -> nn.Module:
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
