"""What a rule makes of task gradients, what it learns, and what training tells it."""

from typing import Any

import torch
from torch import Tensor

from rotograd_cli.errors import ShapeError
from rotograd_cli.methods.engine.network import MultiTaskNetwork
from rotograd_cli.methods.engine.step import Step
from rotograd_cli.methods.rotation.task_gradients import TaskGradients
from rotograd_cli.methods.rule import Evaluation, Learned, Rule, Weighting, check_returned
from rotograd_cli.methods.statistics import Statistics
from rotograd_cli.ranks.base import Ranks


class LearningNetwork(MultiTaskNetwork):
    """The part of a :class:`~rotograd_cli.methods.engine.method.MultiTaskMethod` around its rule.

    The arguments are those of the method.
    """

    @property
    def needs_losses_after_update(self) -> bool:
        """Whether :meth:`observe_update` is to be called, which costs one more forward pass."""
        return self.rule.needs_losses_after_update

    def join(self, ranks: Ranks) -> None:
        """Take steps together with other processes, which call this as well.

        Args:
            ranks: The processes.
        """
        self.ranks = ranks
        if self.rotated is not None:
            self.rotations.ranks = ranks

    def changing_state(self) -> dict[str, Any]:
        """Return the part of the ``state_dict`` that passes change: all but what optimisers do.

        Bases, which may be large, stay where nothing re-bases them.

        Returns:
            Entries by name, no copies.
        """
        unchanged = {id(tensor) for tensor in (*self.parameters(), *self.constant_state().values())}
        if self.rotated is not None and self.rotations.rebase_every is not None:
            unchanged.remove(id(self.rotations.free_parameters))
        state: dict[str, Any] = self.state_dict(keep_vars=True)
        return {name: value for name, value in state.items() if id(value) not in unchanged}

    def constant_state(self) -> dict[str, Tensor]:
        """Return the part of the ``state_dict`` that nothing changes: bases without re-basing."""
        if self.rotated is None or self.rotations.rebase_every is not None:
            return {}
        state: dict[str, Any] = self.state_dict(keep_vars=True)
        return {name: value for name, value in state.items() if value is self.rotations.base}

    def refresh(self) -> None:
        """Read what waits for the device; called once per logging step."""
        self.rule.refresh()
        if self.rotated is not None:
            self.rotations.refresh()

    def diagnostics(self) -> dict[str, Tensor]:
        """Return numbers of each task worth recording, by name, each of shape ``[K]``."""
        return dict(self.rule.diagnostics())

    def end_epoch(self) -> None:
        """Tell the rule that an epoch has ended."""
        self.rule.end_epoch()

    def observe_evaluation(self, evaluation: Evaluation) -> None:
        """Tell the rule what an evaluation of the validation split has measured.

        Args:
            evaluation: For every task in order, its ``loss`` and its metrics by name.
        """
        self.rule.observe_evaluation(evaluation)

    def observe_update(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """Learn from the losses after the network's update, before the method's own.

        Args:
            before: Task losses, shape ``[K]``; 0 for an absent task: what
                :meth:`backward` returned.
            after: The same of the same batch after the network's update, computed without a
                gradient. After ``distribute``, those of this process's rows.
            present: Tasks with a loss, boolean, shape ``[K]``.
        """
        before = self.ranks.whole(before)
        after = self.ranks.whole(after)
        self._add_gradients(self.rule.learn_from_update(before, after, present), None)

    def _learn_from_losses(self, step: Step, scale: float | Tensor | None) -> None:
        learned = self.rule.learn_from_losses(step.losses)
        parts = {p: gradient / step.num_micro_batches for p, gradient in learned.items()}
        self._add_gradients(parts, scale, of_all_ranks=True)

    def _apply_rule(
        self,
        G: TaskGradients,
        s: Statistics,
        factors: Tensor | None,
        scale: float | Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the combined gradient, and its weights if it has any; let the rule learn."""
        self.num_nonfinite += s.losses.present & ~s.finite
        shared, weights, learned = _apply(self.rule, G, s, factors)
        self._add_gradients(learned, scale, of_all_ranks=True)
        return shared, weights

    def _add_gradients(
        self, learned: Learned, scale: float | Tensor | None, *, of_all_ranks: bool = False
    ) -> None:
        """Add to the gradients of the method's own parameters, with the loss scale applied.

        Args:
            learned: Gradient by parameter.
            scale: The loss scale.
            of_all_ranks: Whether the gradients cover the examples of all ranks already, rather than
                being this rank's part of a sum.
        """
        for parameter, gradient in learned.items():
            if gradient.shape != parameter.shape:
                raise ShapeError(
                    f"{type(self.rule).__name__} must learn by gradients of the shape of their "
                    f"parameters, got {list(gradient.shape)} for one of shape "
                    f"{list(parameter.shape)}."
                )
            self._watch.saw_gradient = True
            if not parameter.requires_grad:
                continue
            part = scaled(gradient, scale).to(parameter.dtype)
            if of_all_ranks and not self.ranks.is_first:
                part = torch.zeros_like(part)  # the sum over ranks counts it once
            parameter.grad = part if parameter.grad is None else parameter.grad + part


def _apply(
    rule: Rule, G: TaskGradients, s: Statistics, factors: Tensor | None
) -> tuple[Tensor, Tensor | None, Learned]:
    """Return the combined gradient, its weights if it has any, and what the rule learns from it."""
    if isinstance(rule, Weighting):
        before = s if factors is None else s.without_factors(factors)
        if rule.needs_parameters:
            unknown = torch.full_like(s.norms, torch.nan)
            return rule.combine_scaled(G.matrix(), s), unknown, rule.learn(before, unknown)
        weights = rule.weights(s)
        check_returned(rule.weights, weights, len(s.norms))
        return G.combine(weights), weights, rule.learn(before, weights)
    if factors is not None:
        total = G.combine(torch.ones_like(s.norms))  # of losses that had their factors
        return total, None, rule.learn(s.without_factors(factors), factors)
    matrix = G.matrix()
    combined = rule.combine(matrix, s)
    check_returned(rule.combine, combined, matrix.shape[1])
    return combined, None, rule.learn(s, torch.ones_like(s.norms))


def scaled(gradient: Tensor, scale: float | Tensor | None) -> Tensor:
    """Return a gradient with the loss scale applied, if there is one."""
    return gradient if scale is None else gradient * scale
