"""What one backward pass is given: losses, their scale, and their place in the optimiser step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rotograd_cli.errors import BackwardError, ShapeError
from rotograd_cli.linalg.gradients import norms_of
from rotograd_cli.methods.rule import Losses
from rotograd_cli.ranks.base import Ranks


@dataclass(frozen=True)
class Step:
    """One backward pass."""

    values: Tensor
    """The losses as they were given, detached, summed over the ranks, shape ``[K]``; 0 for an
    absent task."""
    losses: Losses
    """The same without their scale, of the whole optimiser step."""
    scale: float | Tensor | None
    """Factor that the losses came with."""
    num_micro_batches: int
    """Micro-batches of the optimiser step; each brings that part of the step's losses."""

    @classmethod
    def read(
        cls,
        losses: Sequence[Tensor | None],
        stacked: Tensor,
        ranks: Ranks,
        scale: float | Tensor | None,
        num_micro_batches: int,
        accumulating: bool,
        labelled: Tensor | None = None,
    ) -> "Step":
        """Sum the losses over the ranks.

        Args:
            losses: This rank's part of K scalar losses, checked; None for an absent task.
            stacked: The same as one tensor.
            ranks: The processes.
            scale: Factor that the losses came with.
            num_micro_batches: Micro-batches of the optimiser step.
            accumulating: True for every micro-batch but the last.
            labelled: Tasks that have a label, boolean, shape ``[K]``; None for all with a loss.

        Returns:
            The step.
        """
        values = ranks.sum(stacked.detach())
        present = torch.ones_like(values, dtype=torch.bool)
        for k, loss in enumerate(losses):
            if loss is None:
                present[k] = False
        if labelled is not None:
            present &= labelled
        whole = _whole(values, scale, num_micro_batches)
        return cls(values, Losses(whole, present, accumulating), scale, num_micro_batches)

    def whole(self, loss: Tensor) -> Tensor:
        """Return a loss without its scale, of the whole step instead of a micro-batch."""
        return _whole(loss.detach(), self.scale, self.num_micro_batches)

    def unscale(self, gradients: list[Tensor]) -> float | Tensor | None:
        """Take the loss scale off gradients, and make them float32 or wider.

        Args:
            gradients: As autograd left them; replaced one by one.

        Returns:
            The scale to hand results on with: NaN if a gradient has overflowed, so that whoever
            looks at the results leaves the step out.
        """
        dtype = torch.promote_types(gradients[0].dtype, torch.float32)
        for k, gradient in enumerate(gradients):
            wide = gradient.to(dtype)
            gradients[k] = wide if self.scale is None else wide / self.scale
        return None if self.scale is None else self.scale + 0 * norms_of(gradients).sum()


def check_losses(losses: Sequence[Tensor | None], num_tasks: int) -> None:
    """Refuse losses that cannot be back-propagated.

    Args:
        losses: K scalars; None for an absent task.
        num_tasks: Number K of tasks.

    Raises:
        BackwardError: If a loss depends on nothing trainable, or if there is none.
        ShapeError: If the number or shape of the losses is wrong.
    """
    if len(losses) != num_tasks:
        raise ShapeError(
            f"`losses` must hold one entry per task ({num_tasks}), got {len(losses)}; "
            "pass None for a task without a loss."
        )
    for k, loss in enumerate(losses):
        if loss is not None and loss.numel() != 1:
            raise ShapeError(
                f"`losses[{k}]` must be a scalar, got shape {list(loss.shape)}; "
                "reduce it with mean()."
            )
        if loss is not None and not loss.requires_grad:
            raise BackwardError(
                f"`losses[{k}]` does not depend on any trainable tensor; "
                "pass None for a task without a loss."
            )
    if all(loss is None for loss in losses):
        raise BackwardError("`losses` must hold at least one loss, got None for every task.")


def stack_losses(losses: Sequence[Tensor | None]) -> Tensor:
    """Return K losses as one tensor with their graphs, shape ``[K]``; 0 for an absent task.

    Args:
        losses: Scalars, checked; None for an absent task.
    """
    first = next(loss for loss in losses if loss is not None)
    here = [first.new_zeros(()) if loss is None else loss for loss in losses]
    return torch.stack([loss.reshape(()) if loss.dim() else loss for loss in here])


def _whole(loss: Tensor, scale: float | Tensor | None, num_micro_batches: int) -> Tensor:
    wide = loss.to(torch.promote_types(loss.dtype, torch.float32))
    unscaled = wide if scale is None else wide / scale
    return unscaled if num_micro_batches == 1 else unscaled * num_micro_batches
