"""RotateOnly: rotations that align the task gradients, magnitudes left alone."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.linalg.gradients import divide_or_zero, norms_of, stacked
from rotograd_cli.methods.backward import multiply_losses
from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod
from rotograd_cli.methods.batched_heads import rows, separate
from rotograd_cli.methods.conv_heads import ConvHeads
from rotograd_cli.methods.features import RotatedAxes
from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.linear_heads import LinearHeads
from rotograd_cli.methods.rotations import RotationInit, Rotations
from rotograd_cli.methods.rows import taking_part
from rotograd_cli.methods.task_gradients import DenseTaskGradients, TaskGradients, rotate
from rotograd_cli.methods.trivialisations import RotationMap
from rotograd_cli.ranks.base import Ranks

RotationReduction = Literal["reference", "per_example"]
RotationPath = Literal["auto", "general", "folded"]


class RotateOnly(MultiTaskMethod):
    r"""Task k sees the features rotated by its own :math:`R_k`, so that task gradients align.

    With z the features, :math:`\tilde g_k = \partial L_k/\partial (R_k z)` and
    :math:`g_k = R_k^\top \tilde g_k`, every rotation descends

    .. math:: \sum_n \lVert R_k v'_n - \tilde g_{n,k} \rVert^2, \qquad
        v' = \frac{1}{K}\sum_k \frac{\lVert \bar g\rVert}{\lVert g_k\rVert}\, g_k, \qquad
        \bar g = \frac{1}{K}\sum_k g_k,

    with :math:`\tilde g_k` and :math:`v'` constant: the mean of the unit gradients (V of Algorithm
    1) at the length of the mean gradient, as the authors' code has it. Only the skew part
    :math:`W_k - W_k^\top` of :math:`W_k = -2\sum_n g_{n,k} v_n'^\top` moves a rotation, so the
    residual is never formed. The backbone receives :math:`\sum_k g_k`. Tasks without a loss or
    with a gradient of zero take no part in the means. The rotations' gradient is quadratic in those
    of the tasks: float32 holds it where these are between 1e-19 and 1e19 (beyond, it is 0 or
    infinite; the backbone's is right).

    Features have the shape ``[batch..., *rotated, *post_shape]``, where ``rotated`` has as many
    axes as ``rotation_shape``. These axes are flattened and the first m = prod(rotation_shape)
    entries are rotated, the others pass unchanged; ``post_shape`` axes (height and width, say) are
    carried along.

    Args:
        backbone: Shared network.
        heads: One network per task.
        rotation_shape: Size m, or the shape whose product is m. None rotates all features of
            ``feature_shape``.
        post_shape: Trailing axes of the features that are not rotated; -1 accepts any size.
        normalize_losses: Back-propagate :math:`L_k/|L_k^0|` instead of :math:`L_k` (heads
            included), and the backbone loss over its own start value. Losses of zero are no start
            values: until another one comes, the loss stays as it is.
        burn_in_period: Step (from 0) whose losses and norms replace those of step 0 as start
            values.
        rotation_map: Map from skew matrices to rotations: ``expm`` (the authors' code) or
            ``cayley`` (another algorithm).
        rebase_every: Optimiser steps after which the rotations become their own base point
            (another algorithm); None never does.
        rotation_path: How the rotations are computed, with the same numbers: ``folded`` into the
            linear layers or convolutions that all heads begin with, ``general`` for any head, or
            ``auto``: folded where it can be done and pays.
        init: Start of the rotations: ``haar`` (the authors' code) or ``identity`` (another
            algorithm).
        rotation_reduction: ``reference`` sums the squares as the authors' code does: over the batch
            for plain vectors, averaged over the batch with a ``post_shape`` (with several batch
            axes: averaged over all but the last). Duplicating every example of a batch then
            changes the rotation step. ``per_example`` multiplies the sum by the batch size: the
            mean over examples of the squares of their own gradients for losses that average over
            the batch, and invariant to such duplication.
        feature_shape: Shape of the features of one example, checked at construction.

    Raises:
        ConfigError: If an option is out of range.
        ShapeError: If the rotation does not fit the features.

    References:
        Javaloy and Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022,
        section 4.2 and Algorithm 1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        rotation_shape: int | Sequence[int] | None,
        *,
        post_shape: Sequence[int] = (),
        normalize_losses: bool = False,
        burn_in_period: int = 20,
        init: RotationInit = "haar",
        rotation_map: RotationMap = "expm",
        rebase_every: int | None = None,
        rotation_reduction: RotationReduction = "reference",
        rotation_path: RotationPath = "auto",
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(backbone, heads, feature_shape=feature_shape)
        _check_choice("rotation_reduction", rotation_reduction, get_args(RotationReduction))
        _check_choice("rotation_path", rotation_path, get_args(RotationPath))
        self.axes = RotatedAxes(rotation_shape, post_shape, self.feature_shape)
        self.normalize_losses = normalize_losses
        self.burn_in_period = burn_in_period
        self.rotation_reduction = rotation_reduction
        self.rotation_path = rotation_path
        self.rotations = Rotations(
            self.num_tasks, self.axes.size, init=init, map=rotation_map, rebase_every=rebase_every
        )
        self.initial_losses = InitialValues(self.num_tasks, burn_in_period)
        self.initial_backbone_loss = InitialValues(1, burn_in_period)
        self.linear_heads = LinearHeads(self.heads, self.rotations, self.axes)
        self.conv_heads = ConvHeads(self.heads, self.axes)
        self._path: Literal["general", "linear", "conv"] = "general"  # of the last forward pass

    @property
    def rotation_shape(self) -> torch.Size:
        """Shape of what is rotated."""
        return self.axes.rotation_shape

    @property
    def rotation_size(self) -> int:
        """Size m of the rotations."""
        return self.axes.size

    @property
    def post_shape(self) -> torch.Size:
        """Trailing axes of the features that are not rotated."""
        return self.axes.post_shape

    @property
    def rotation(self) -> Tensor:
        """Rotation matrices, shape ``[K, m, m]``, differentiable; assign rotations to set them."""
        return self.rotations.matrices

    @rotation.setter
    def rotation(self, rotations: Tensor | Sequence[Tensor]) -> None:
        self.rotations.assign(rotations)

    def check_features(self, features: Tensor) -> None:
        """Refuses features whose trailing axes do not fit ``rotation_shape`` and ``post_shape``."""
        self.axes.check(features.shape)

    def stacked_features(self, features: Tensor) -> Tensor:
        r"""Rotated features :math:`R_k z`, rotations constant, shape ``[K, *features.shape]``."""
        return self._rotated(features, self.rotations.current())

    def task_features(self, features: Tensor, task: int) -> Tensor:
        """One task's rotated features, shape ``features.shape``."""
        return self._rotated(features, self.rotations.current()[task : task + 1])[0]

    def join(self, ranks: Ranks) -> None:
        """As in the base class; the processes share the work of whole rotations."""
        super().join(ranks)
        self.rotations.ranks = ranks

    def changing_state(self) -> dict[str, Any]:
        """As in the base class; bases, which may be large, stay where nothing re-bases them."""
        state, base = super().changing_state(), "rotations.manifold.base"
        if self.rotations.rebase_every is None:
            del state[base]
        else:
            state["rotations.free_parameters"] = self.rotations.free_parameters
        return state

    def refresh(self) -> None:
        """Reads the norms that the rotations' series are planned by."""
        self.linear_heads.clear_cache()
        self.rotations.refresh()

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """Records the start values and, with ``normalize_losses``, divides by them."""
        self.initial_losses.update(step.losses, step.present, accumulating=step.accumulating)
        if not self.normalize_losses:
            return losses
        return multiply_losses(losses, 1 / self.initial_losses.denominators)

    def weigh_backbone_loss(self, loss: Tensor | None, step: BackwardStep) -> Tensor | None:
        """With ``normalize_losses``, divides the backbone loss by its own start value."""
        if loss is None or not self.normalize_losses:
            return loss
        value = self.ranks.sum(step.whole(loss).reshape(1))
        present = torch.ones_like(value, dtype=torch.bool)
        self.initial_backbone_loss.update(value, present, accumulating=step.accumulating)
        return loss / self.initial_backbone_loss.denominators[0]

    def combine_gradients(self, gradients: Sequence[Tensor], step: BackwardStep) -> Tensor:
        """Sets the rotations' gradients and combines the task gradients.

        A task whose gradient is zero takes no part. One whose gradient is infinite or NaN is left
        out of the step and counted in ``num_nonfinite``.

        Args:
            gradients: Gradients at what the K heads saw: rotated features; where these are folded
                into the heads, those at the outputs of their first layers.
            step: The losses and which of them are there.

        Returns:
            The gradient with respect to the features.
        """
        features = self._rep
        assert features is not None
        G: TaskGradients
        if self._path == "linear":
            delta = stacked(gradients)
            G = folded = self.linear_heads.gradients(delta, features.detach())
        else:
            rotated, folded = self._path == "general", None
            G = DenseTaskGradients(self.rotations, self.axes, gradients, rotated=rotated)
        norms = self.ranks.norms(G.norms())
        present = taking_part(norms, step, self.num_nonfinite)
        if not (self.rotations.reads_are_free and bool(present.all())):
            G.drop(~present)
            norms = torch.where(present, norms, 0)
        weights = self.task_weights(G, norms, present, step)
        shared = self.turn(G, norms, weights, present, step)
        if folded is not None:
            for parameter, gradient in self.linear_heads.parameter_gradients(folded, self._reached):
                self.back_propagate(parameter, gradient)
        if not step.accumulating:
            self.rotations.count_step()
            self.linear_heads.clear_cache()
        result: Tensor = shared.reshape(features.shape)
        return result

    def task_weights(
        self, G: TaskGradients, norms: Tensor, present: Tensor, step: BackwardStep
    ) -> Tensor:
        """As :meth:`combination_weights`, for methods that need more than norms.

        Args:
            G: The task gradients, zero for tasks that take no part.
            norms: See :meth:`combination_weights`.
            present: See :meth:`combination_weights`.
            step: The losses.

        Returns:
            The weights, shape ``[K]``.
        """
        return self.combination_weights(norms, present, step)

    def turn(
        self,
        G: TaskGradients,
        norms: Tensor,
        weights: Tensor,
        present: Tensor,
        step: BackwardStep,
    ) -> Tensor:
        """Sets the rotations' gradients (and whatever else is learned) and combines the tasks'.

        Args:
            G: The task gradients, zero for tasks that take no part.
            norms: Their norms, shape ``[K]``.
            weights: What :meth:`task_weights` returned, shape ``[K]``.
            present: Tasks that take part, boolean, shape ``[K]``.
            step: The losses.

        Returns:
            The combination, shape ``[N, d, S]``.
        """
        features = self._rep
        assert features is not None
        num_present = present.sum().clamp_min(1)
        ones = torch.ones_like(norms)
        units = divide_or_zero(ones, norms)  # of g_k / ‖g_k‖
        direction, shared = G.combine(torch.stack((units, weights))).unbind()
        both = torch.cat((norms_of([G.combine(ones.unsqueeze(0))]), norms_of([shared])))
        mean_norm, combined_norm = (self.ranks.norms(both) / num_present).unbind()
        length = mean_norm / num_present  # v' = length * direction
        factor = -2.0 * self._reduction(features.shape, step.num_micro_batches) * length
        self.add_gradient(self.rotations.free_parameters, G.rotation_gradient(direction, factor))
        self.learn(weights, norms, combined_norm, present, step)
        return shared

    def combination_weights(self, norms: Tensor, present: Tensor, step: BackwardStep) -> Tensor:
        r"""Weights :math:`c_k` of the backbone's gradient :math:`\sum_k c_k g_k`: all one.

        Args:
            norms: Norms of the task gradients, 0 for tasks that take no part, shape ``[K]``.
            present: Tasks that take part, boolean, shape ``[K]``.
            step: The losses.

        Returns:
            The weights, shape ``[K]``.
        """
        return torch.ones_like(norms)

    def learn(
        self,
        weights: Tensor,
        norms: Tensor,
        mean_norm: Tensor,
        present: Tensor,
        step: BackwardStep,
    ) -> None:
        r"""Sets the gradients of whatever else the method learns: nothing here.

        Args:
            weights: What :meth:`combination_weights` returned, shape ``[K]``.
            norms: Norms of the task gradients, shape ``[K]``.
            mean_norm: Norm of the combination over the number of tasks that take part, scalar.
            present: Tasks that take part, boolean, shape ``[K]``.
            step: The losses.
        """

    def train(self, mode: bool = True) -> "RotateOnly":
        """Switches the mode; computed rotations are forgotten."""
        self.linear_heads.clear_cache()
        return super().train(mode)

    def make_leaves(self, features: Tensor) -> list[Tensor]:
        """As in the base class, unless the rotations are folded into the heads.

        Folded into linear layers, the leaf is these layers' outputs. Folded into convolutions,
        the leaves are the features themselves, their gradients in one piece.
        """
        self.rotations.advance()
        self._path = self._choose_path(features)
        self._tasks_share_leaf = self._path == "linear"
        if self._path == "linear":
            return [self.linear_heads.outputs(features).requires_grad_()]
        if self._path == "general":
            return super().make_leaves(features)
        leaves = [features.detach().requires_grad_() for _ in self.heads]
        if features.is_contiguous():  # autograd warns of gradients laid out in another way
            gradients = features.new_zeros(self.num_tasks, *features.shape)
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = gradient  # autograd adds to it
        return leaves

    def _outputs_from(self, leaves: Sequence[Tensor]) -> list[Any]:
        if self._path == "linear":
            return self._finished(rows(leaves[0], self._reached))
        if self._path == "conv":
            return self._convolved(leaves)
        return super()._outputs_from(leaves)

    def _outputs(self, features: Tensor) -> list[Any]:
        path = self._choose_path(features)
        if path == "linear" and not torch.is_grad_enabled():
            return self._finished(separate(self.linear_heads.outputs(features)))
        if path == "conv":
            return self._convolved([features] * self.num_tasks)
        return super()._outputs(features)

    def _finished(self, outputs: Sequence[Tensor]) -> list[Any]:
        return [self.linear_heads.finish(k, y) for k, y in enumerate(outputs)]

    def _convolved(self, views: Sequence[Tensor]) -> list[Any]:
        R = self.rotations.current()
        return [self.conv_heads.output(k, z, R[k]) for k, z in enumerate(views)]

    def _choose_path(self, features: Tensor) -> Literal["general", "linear", "conv"]:
        if self.rotation_path == "general":
            return "general"
        self.conv_heads.heads = self.linear_heads.heads = self.heads  # may be replaced
        if self.conv_heads.fits(features):
            return "conv"
        folds = self.linear_heads.fits(features)
        if folds and (self.rotation_path == "folded" or self.linear_heads.pays):
            return "linear"
        if self.rotation_path == "folded":
            raise ConfigError(
                "`rotation_path=folded` needs heads that begin with nn.Linear or nn.Conv2d, "
                "without hooks, on exactly the rotated features, got features of shape "
                f"{list(features.shape[1:])}; use auto."
            )
        return "general"

    def _rotated(self, features: Tensor, R: Tensor) -> Tensor:
        """Features seen through rotations R ``[k, m, m]``, shape ``[k, *features.shape]``."""
        z, m = self.axes.to_blocks(features), self.axes.size  # [N, d, S]
        R = R.to(z.dtype)
        if z.requires_grad and torch.is_grad_enabled():
            rest = z[:, m:].expand(len(R), -1, -1, -1)
            rotated = torch.cat((R.unsqueeze(1) @ z[:, :m], rest), dim=2)
        else:
            with torch.autocast(z.device.type, enabled=False):
                rotated = rotate(R, [z] * len(R))
        return rotated.view(len(R), *features.shape)

    def _reduction(self, shape: torch.Size, num_micro_batches: int) -> float:
        """Factor of the sum of squares over everything, for features of the given shape."""
        batch = list(self.axes.batch_shape(shape))
        if batch:
            # examples of the whole optimiser step
            batch[0] = self.ranks.num_rows(batch[0]) * num_micro_batches
        if self.rotation_reduction == "per_example":
            return float(batch[0]) if batch else 1.0
        averaged = batch if self.axes.post_shape else batch[:-1]
        return 1.0 / max(1, math.prod(averaged))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"`{name}` must be {' or '.join(choices)}, got {value!r}.")
