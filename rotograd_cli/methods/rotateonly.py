"""RotateOnly: rotations that align the task gradients, magnitudes left alone."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.linalg.gradients import reference_weights, task_norms
from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod
from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.rotations import RotationInit, Rotations

RotationReduction = Literal["reference", "per_example"]


class RotateOnly(MultiTaskMethod):
    r"""Task k sees the features rotated by its own :math:`R_k`, so that task gradients align.

    With z the features, :math:`\tilde g_k = \partial L_k/\partial (R_k z)` and
    :math:`g_k = R_k^\top \tilde g_k`, every rotation descends

    .. math:: \sum_n \lVert R_k v'_n - \tilde g_{n,k} \rVert^2,

    with the constants :math:`\tilde g_k` and :math:`v'`
    (:func:`~rotograd_cli.linalg.gradients.reference_weights`). Only its skew part :math:`W_k -
    W_k^\top` with :math:`W_k = -2\sum_n g_{n,k} v_n'^\top` moves a rotation, so the residual is
    never formed. The backbone receives :math:`\sum_k g_k`.

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
            included), and the backbone loss over its own start value.
        burn_in_period: Step (from 0) whose losses and norms replace those of step 0 as start
            values.
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
        rotation_reduction: RotationReduction = "reference",
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(backbone, heads, feature_shape=feature_shape)
        if burn_in_period < 0:
            raise ConfigError(f"`burn_in_period` must be 0 or more steps, got {burn_in_period}.")
        if rotation_reduction not in get_args(RotationReduction):
            raise ConfigError(
                "`rotation_reduction` must be reference or per_example, "
                f"got {rotation_reduction!r}."
            )
        self.post_shape = torch.Size(post_shape)
        self.rotation_shape = _rotation_shape(rotation_shape, self.post_shape, self.feature_shape)
        self.rotation_size = math.prod(self.rotation_shape)
        self.normalize_losses = normalize_losses
        self.burn_in_period = burn_in_period
        self.rotation_reduction = rotation_reduction
        if self.feature_shape is not None:
            self._check_shape(self.feature_shape)
        self.rotations = Rotations(self.num_tasks, self.rotation_size, init=init)
        self.initial_losses = InitialValues(self.num_tasks, burn_in_period)
        self.initial_backbone_loss = InitialValues(1, burn_in_period)

    @property
    def rotation(self) -> Tensor:
        """Rotation matrices, shape ``[K, m, m]``, differentiable; assign rotations to set them."""
        return self.rotations.matrices

    @rotation.setter
    def rotation(self, rotations: Tensor | Sequence[Tensor]) -> None:
        self.rotations.assign(rotations)

    def check_features(self, features: Tensor) -> None:
        """Refuses features whose trailing axes do not fit ``rotation_shape`` and ``post_shape``."""
        self._check_shape(features.shape)

    def stacked_features(self, features: Tensor) -> Tensor:
        r"""Rotated features :math:`R_k z`, rotations constant, shape ``[K, *features.shape]``."""
        R = self.rotations.current().to(features.dtype)
        z = self._to_blocks(features)  # [N, d, S]
        top = z[:, : self.rotation_size]
        rotated = top[..., 0] @ R.mT if z.shape[2] == 1 else R.unsqueeze(1) @ top
        rotated = rotated.view(self.num_tasks, *top.shape)
        if z.shape[1] > self.rotation_size:
            rest = z[:, self.rotation_size :].expand(self.num_tasks, -1, -1, -1)
            rotated = torch.cat((rotated, rest), dim=2)
        return rotated.view(self.num_tasks, *features.shape)

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """Records the start values and, with ``normalize_losses``, divides by them."""
        self.initial_losses.update(step.losses, step.present, accumulating=step.accumulating)
        if not self.normalize_losses:
            return losses
        denominators = self.initial_losses.denominators.unbind()
        return [
            None if loss is None else loss / initial
            for loss, initial in zip(losses, denominators, strict=True)
        ]

    def weigh_backbone_loss(self, loss: Tensor | None, step: BackwardStep) -> Tensor | None:
        """With ``normalize_losses``, divides the backbone loss by its own start value."""
        if loss is None or not self.normalize_losses:
            return loss
        value = step.whole(loss).reshape(1)
        present = torch.ones_like(value, dtype=torch.bool)
        self.initial_backbone_loss.update(value, present, accumulating=step.accumulating)
        return loss / self.initial_backbone_loss.denominators[0]

    def shared_gradient(self, task_gradients: Tensor, step: BackwardStep) -> Tensor:
        """Sets the rotations' gradients and combines the task gradients.

        A task whose gradient is infinite or NaN is left out of the step and counted in
        ``num_nonfinite``.
        """
        G = self._rotate_back(task_gradients)  # [K, N, d, S]
        flat = G.view(self.num_tasks, -1)
        norms = task_norms(flat)
        finite = norms.isfinite() & step.losses.isfinite()
        self.num_nonfinite += step.present & ~finite
        flat.masked_fill_(~finite.unsqueeze(1), 0)
        norms = torch.where(finite, norms, 0)
        present = step.present & finite
        weights = reference_weights(flat, norms, present.sum())
        v = (weights.to(flat.dtype) @ flat).view(G.shape[1:])
        self._add_rotation_gradient(G, v, task_gradients.shape[1:], step)
        if not step.accumulating:  # an optimiser comes next, and fused ones hide their writes
            self.rotations.clear_cache()
        combination = self.combination(flat, norms, present, step)
        return (combination.to(flat.dtype) @ flat).view(task_gradients.shape[1:])

    def combination(
        self, task_gradients: Tensor, norms: Tensor, present: Tensor, step: BackwardStep
    ) -> Tensor:
        r"""Weights :math:`c_k` of the backbone's gradient :math:`\sum_k c_k g_k`: all one.

        Args:
            task_gradients: Gradients :math:`g_k` at the unrotated features, shape ``[K, D]``; zero
                rows for tasks that take no part.
            norms: Their norms, shape ``[K]``.
            present: Tasks that take part, boolean, shape ``[K]``.
            step: The losses.

        Returns:
            The weights, shape ``[K]``.
        """
        return torch.ones_like(norms)

    def _rotate_back(self, task_gradients: Tensor) -> Tensor:
        """Gradients at the unrotated features, shape ``[K, N, d, S]``, at least float32."""
        R = self.rotations.current()
        dtype = torch.promote_types(task_gradients.dtype, torch.float32)
        blocks = self._to_blocks(task_gradients[0])
        G = task_gradients.to(dtype).reshape(self.num_tasks, *blocks.shape)
        top, R = G[:, :, : self.rotation_size], R.to(dtype)
        back = (top[..., 0] @ R).unsqueeze(-1) if G.shape[3] == 1 else R.mT.unsqueeze(1) @ top
        if G.shape[2] == self.rotation_size:
            return back
        G[:, :, : self.rotation_size] = back
        return G

    def _add_rotation_gradient(
        self, G: Tensor, v: Tensor, shape: torch.Size, step: BackwardStep
    ) -> None:
        m = self.rotation_size
        if G.shape[3] == 1:
            W = G[:, :, :m, 0].mT @ v[:, :m, 0]
        else:
            W = torch.einsum("knis,njs->kij", G[:, :, :m], v[:, :m])
        X = self.rotations.free_parameters
        factor = self._reduction(shape, step.num_micro_batches)
        self.add_gradient(X, self.rotations.gradient(-2.0 * factor * W))

    def _reduction(self, shape: torch.Size, num_micro_batches: int) -> float:
        """Factor of the sum of squares over everything, for features of the given shape."""
        batch = list(shape[: len(shape) - len(self.rotation_shape) - len(self.post_shape)])
        if batch:
            batch[0] *= num_micro_batches  # examples of the whole optimiser step
        if self.rotation_reduction == "per_example":
            return float(batch[0]) if batch else 1.0
        averaged = batch if self.post_shape else batch[:-1]
        return 1.0 / max(1, math.prod(averaged))

    def _to_blocks(self, features: Tensor) -> Tensor:
        """Views features ``[batch..., *rotated, *post_shape]`` as ``[N, d, S]``."""
        num_batch_axes = features.dim() - len(self.rotation_shape) - len(self.post_shape)
        batch = features.shape[:num_batch_axes]
        post = features.shape[features.dim() - len(self.post_shape) :]
        rotated = features.shape[num_batch_axes : features.dim() - len(self.post_shape)]
        return features.reshape(math.prod(batch), math.prod(rotated), math.prod(post))

    def _check_shape(self, shape: Sequence[int]) -> None:
        num_axes = len(self.rotation_shape) + len(self.post_shape)
        if len(shape) < num_axes:
            raise ShapeError(
                f"Features must have at least {num_axes} axes, [batch..., *rotation_shape, "
                f"*post_shape] with rotation_shape {tuple(self.rotation_shape)} and post_shape "
                f"{tuple(self.post_shape)}, got {list(shape)}; set both to the trailing axes of "
                "the backbone's output."
            )
        end = len(shape) - len(self.post_shape)
        rotated = tuple(shape[end - len(self.rotation_shape) : end])
        post = tuple(shape[end:])
        if any(want not in (-1, got) for want, got in zip(self.post_shape, post, strict=True)):
            raise ShapeError(
                f"Features must end in post_shape {tuple(self.post_shape)}, got {post} in features "
                f"of shape {tuple(shape)}; set post_shape to the axes that are not rotated."
            )
        if math.prod(rotated) < self.rotation_size:
            raise ShapeError(
                f"`rotation_shape` {tuple(self.rotation_shape)} needs {self.rotation_size} "
                f"features, got {rotated} in features of shape {tuple(shape)}; choose a size of "
                f"at most {math.prod(rotated)}."
            )


def _rotation_shape(
    rotation_shape: int | Sequence[int] | None,
    post_shape: torch.Size,
    feature_shape: tuple[int, ...] | None,
) -> torch.Size:
    if rotation_shape is None:
        if feature_shape is None:
            raise ConfigError(
                "`rotation_shape` is needed where `feature_shape` is not given; pass an int."
            )
        rotation_shape = feature_shape[: len(feature_shape) - len(post_shape)]
    shape = torch.Size((rotation_shape,) if isinstance(rotation_shape, int) else rotation_shape)
    if len(shape) == 0 or min(shape) < 1:
        raise ShapeError(
            f"`rotation_shape` must be a positive size or a shape of them, got {rotation_shape!r}."
        )
    return shape
