"""A rule on the shared features of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.linalg.gradients import divide_or_zero, norms_of
from rotograd_cli.methods.backward import multiply_losses
from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod
from rotograd_cli.methods.rows import usable_rows
from rotograd_cli.methods.rule import Losses, LossWeighting, Rule, Statistics, Weighting


class Ruled(MultiTaskMethod):
    """A network whose backbone receives what a rule makes of the task gradients.

    Args:
        backbone: Shared network.
        heads: One network per task.
        rule: The rule; its parameters are trained by the second optimiser.
        feature_shape: Shape of the features of one example.
    """

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        rule: Rule,
        *,
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(backbone, heads, feature_shape=feature_shape)
        self.rule = rule
        self.num_device_waits = rule.num_device_waits  # type: ignore[misc]
        if isinstance(rule, LossWeighting):
            self.per_task_gradients = rule.sees_gradients  # type: ignore[misc]
            self.needs_losses_after_update = rule.needs_losses_after_update  # type: ignore[misc]
        self.register_load_state_dict_pre_hook(take_state_without_prefix)  # type: ignore[no-untyped-call]

    @property
    def method_name(self) -> str:
        """The rule's."""
        return type(self.rule).__name__

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """Multiply the losses by the rule's factors, if it has any."""
        if not isinstance(self.rule, LossWeighting):
            return losses
        self._factors = self.rule.factors(_losses(step))
        return multiply_losses(losses, self._factors)

    def shared_gradient(self, task_gradients: Tensor, step: BackwardStep) -> Tensor:
        """Apply the rule; set the gradients of its parameters."""
        rule = self.rule
        if isinstance(rule, LossWeighting):
            for parameter, gradient in rule.learn(_losses(step)).items():
                self._set(parameter, gradient / step.num_micro_batches)
        if not self.per_task_gradients:
            return task_gradients
        rows, s = self._measured(task_gradients, step)
        if isinstance(rule, Weighting):
            shared = self._weighted(rule, rows, s)
        elif isinstance(rule, LossWeighting):
            shared = rows.sum(0)
            s = replace(s, norms=divide_or_zero(s.norms, self._factors.to(s.norms.dtype)))
            self._set_all(rule.learn_from_gradients(s, self._factors))
        else:
            shared = rule.combine(rows, s)
        return shared.view(task_gradients.shape[1:])

    def _weighted(self, rule: Weighting, rows: Tensor, s: Statistics) -> Tensor:
        weights = rule.weights(s)
        shared = weights @ rows
        if any(True for _ in rule.parameters()):
            norm = self.ranks.norms(norms_of([shared]))[0]
            self._set_all(rule.learn(s, weights, norm / s.present.sum().clamp_min(1)))
        return shared

    def _measured(self, gradients: Tensor, step: BackwardStep) -> tuple[Tensor, Statistics]:
        """Rows that are zero where a task takes no part, and their statistics."""
        rows, norms, present = usable_rows(gradients, step, self.num_nonfinite, self.ranks)

        def cosines() -> tuple[Tensor, Tensor, Tensor]:
            units = divide_or_zero(rows, norms.unsqueeze(1))  # no product over- or underflows
            products = self.ranks.sum(units @ units.mT)
            numbers = torch.stack((*products, norms, present.to(norms.dtype)))
            *host, length, part = self.to_host(numbers)
            return torch.stack(host), length, part > 0

        def uniform(like: Tensor) -> Tensor:
            return self.ranks.draw(Tensor.uniform_, like.view(gradients.shape[1:])).flatten()

        s = Statistics(
            losses=_losses(step),
            present=present,
            norms=norms,
            cosines=cosines,
            norms_of=lambda weights: self.ranks.norms(norms_of((weights @ rows).unbind())),
            uniform=uniform,
        )
        return rows, s

    def _set(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        self.add_gradient(parameter, gradient, of_all_ranks=True)

    def _set_all(self, gradients: Mapping[nn.Parameter, Tensor]) -> None:
        for parameter, gradient in gradients.items():
            self._set(parameter, gradient)

    def observe_update(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """Set the gradients that the rule finds between the updates."""
        if isinstance(self.rule, LossWeighting):
            for parameter, gradient in self.rule.after_update(before, after, present).items():
                self.add_gradient(parameter, gradient)

    def diagnostics(self) -> dict[str, Tensor]:
        """The rule's."""
        return dict(self.rule.diagnostics())

    def refresh(self) -> None:
        """The rule's."""
        self.rule.refresh()

    def end_epoch(self) -> None:
        """The rule's."""
        self.rule.end_epoch()


def _losses(step: BackwardStep) -> Losses:
    values = step.losses.to(torch.promote_types(step.losses.dtype, torch.float32))
    return Losses(values, step.present, step.accumulating)


def take_state_without_prefix(
    module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any
) -> None:
    """Rename what runs saved when a method was its own rule: ``logits`` became ``rule.logits``.

    Args:
        module: Has a ``rule``.
        state: Its ``state_dict``; changed.
        prefix: The module's own.
        *unused: Further arguments of a hook of ``load_state_dict``.
    """
    rule = module.rule
    assert isinstance(rule, Rule)
    for name in rule.state_dict():
        before = f"{prefix}{name}"
        now = f"{prefix}rule.{name}"
        if now not in state and before in state:
            state[now] = state.pop(before)
