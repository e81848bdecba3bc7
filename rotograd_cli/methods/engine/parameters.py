"""Task gradients over the backbone's parameters, for rules that need them."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rotograd_cli.errors import BackwardError
from rotograd_cli.methods.engine.passes import first_through_backbone
from rotograd_cli.methods.engine.step import Step
from rotograd_cli.methods.rule import Losses
from rotograd_cli.ranks.base import Ranks


class ParameterGradients:
    r"""The K task gradients over the P parameters, added up over one optimiser step.

    The gradients of micro-batches and ranks add up over the parameters, so norms and inner products
    are known only after the last micro-batch. Until then one matrix ``[K, P]`` is kept.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._rows: Tensor | None = None
        self._losses: list[Tensor] = []  # of every micro-batch, [K]
        self._present: list[Tensor] = []

    def add(
        self,
        features: Tensor,
        gradients: Sequence[Tensor],
        losses: Sequence[Tensor | None],
        parameters: Sequence[nn.Parameter],
        step: Step,
        *,
        keep: bool,
    ) -> None:
        """Carry the task gradients of a micro-batch through the backbone: a pass for each task.

        Args:
            features: Output of the backbone, with its graph.
            gradients: Of every task at the features, as autograd made them, loss scale included.
            losses: Of every task; None for an absent one, which needs no pass.
            parameters: Those that are trained; unused ones get zeros.
            step: Its losses.
            keep: Keep the graph.

        Raises:
            BackwardError: If nothing in the backbone is trained, or another pass went through it
                before.
        """
        if not features.requires_grad or not parameters:
            raise BackwardError(
                "`gradients` must be features where no parameter of the backbone is trained, got "
                "parameters; leave it out, or train part of the backbone."
            )
        if self._rows is None:
            self._rows = _zeros(len(gradients), parameters)
        self._losses.append(step.values)
        self._present.append(step.losses.present)
        present = [k for k, loss in enumerate(losses) if loss is not None]
        for k in present:
            with first_through_backbone():
                parts = torch.autograd.grad(
                    features,
                    parameters,
                    gradients[k],
                    retain_graph=keep or k != present[-1],
                    allow_unused=True,
                )
            _add(self._rows[k], parts, parameters)

    def take(self, step: Step, ranks: Ranks) -> tuple[Tensor, Losses]:
        """Return what was added since the last call, summed over the ranks.

        Args:
            step: The last micro-batch.
            ranks: The processes.

        Returns:
            The gradients, loss scale included, shape ``[K, P]``; the losses of the whole step.

        Raises:
            BackwardError: If there were more or fewer micro-batches than the step has.
        """
        assert self._rows is not None
        rows = ranks.sum(self._rows)
        num = len(self._losses)
        values = step.whole(torch.stack(self._losses).sum(0)) / step.num_micro_batches
        present = torch.stack(self._present).any(0)
        self._forget()
        if num != step.num_micro_batches:
            raise BackwardError(
                "`num_micro_batches` must be the number of backward passes of an optimiser step, "
                f"got {step.num_micro_batches} after {num}; pass the same number to all of them, "
                "and accumulating=True to all but the last."
            )
        return rows, Losses(values, present)


def in_parts(
    gradient: Tensor, parameters: Sequence[nn.Parameter]
) -> list[tuple[nn.Parameter, Tensor]]:
    """Return the parameters with their parts of a gradient ``[P]``."""
    parts = torch.split(gradient, [p.numel() for p in parameters])
    return [(p, part.view_as(p)) for p, part in zip(parameters, parts, strict=True)]


def _zeros(num_tasks: int, parameters: Sequence[nn.Parameter]) -> Tensor:
    dtype = functools.reduce(torch.promote_types, (p.dtype for p in parameters), torch.float32)
    return parameters[0].new_zeros(num_tasks, sum(p.numel() for p in parameters), dtype=dtype)


def _add(
    row: Tensor, gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]
) -> None:
    """Add gradients by parameter to a row, in place."""
    for (_, part), gradient in zip(in_parts(row, parameters), gradients, strict=True):
        if gradient is not None:
            part += gradient
