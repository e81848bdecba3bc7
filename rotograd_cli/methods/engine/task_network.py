"""The network of one task, cut out of a method without a copy."""

from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.methods.engine.passes import features_of
from rotograd_cli.methods.heads.leaves import head_output
from rotograd_cli.methods.rotation.features import RotatedFeatures
from rotograd_cli.methods.rotation.holding import is_holding, is_traced


class TaskNetwork(nn.Module):
    """Backbone, rotation and head of one task; shares all parameters.

    Made inside :meth:`MultiTaskMethod.evaluating`, it keeps the rotation as a constant, so that an
    export holds plain products alone.

    Args:
        method: The method.
        task: Index of the task.
    """

    constant_rotation: Tensor | None

    def __init__(self, method: Any, task: int) -> None:
        super().__init__()
        self.method = method
        self.rotated: RotatedFeatures | None = method.rotated
        self.task = task
        R = None
        if self.rotated is not None and is_holding():
            R = self.rotated.rotations.of_task(task)
        self.register_buffer("constant_rotation", R, persistent=False)

    def forward(self, x: Any) -> Any:
        """Return the output of the task's head, differentiable in all but the rotation."""
        features, _ = features_of(self.method.backbone(x))
        self.method.check_features(features)
        return head_output(self.method.heads[self.task], self.view(features))

    def view(self, features: Tensor) -> Tensor:
        """Return features as the head sees them."""
        if self.rotated is None:
            return features
        R = self.constant_rotation
        if R is None:
            R = self.rotated.rotations.of_task(self.task)
        if is_traced() or torch.is_grad_enabled():
            return self.rotated.views(features, R)[0]
        return self.rotated.constant_views(features, R)[0]
