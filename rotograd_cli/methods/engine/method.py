"""A network for K tasks that knows how to back-propagate K losses."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.errors import BackwardError, ConfigError
from rotograd_cli.methods.engine.learning import LearningNetwork, scaled
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.methods.engine.parameters import ParameterGradients, in_parts
from rotograd_cli.methods.engine.passes import ForwardPass, carry
from rotograd_cli.methods.engine.step import Step, check_losses, stack_losses
from rotograd_cli.methods.rotation.task_gradients import DenseTaskGradients
from rotograd_cli.methods.rule import check_returned
from rotograd_cli.methods.statistics import Statistics


class MultiTaskMethod(LearningNetwork):
    r"""Backbone, K heads, and the rule that turns K task gradients into one for the backbone.

    A method is an ordinary module: backbone, heads and all of its own state are registered, so that
    ``state_dict``, ``to``, ``double``, ``deepcopy`` and ``pickle`` reach everything. The features
    are detached before the heads: one backward pass fills the task gradients and the heads'
    gradients, the rule combines them, and one more pass carries the result through the backbone.

    Where several processes train one model (:attr:`ranks`), each has its own examples, and what is
    summed over the batch is summed over the ranks.

    Args:
        backbone: Shared network; returns features z, or a tuple that begins with them.
        heads: One network per task; each returns a prediction, or a tuple that begins with it. The
            sequence is not modified.
        rule: What combines the task gradients, or weighs the losses; None adds the gradients up.
        rotation: How the features are rotated for every task; None leaves them.
        gradients: What the rule's task gradients are taken with respect to: the ``features``, of
            every example, or the ``parameters`` of the backbone, which takes a pass through it for
            every task and K times its memory.
        feature_shape: Shape of the features of one example; not needed here.

    Raises:
        ConfigError: If the heads are no list, the rule is none or has parameters that nothing would
            train, or its gradients cannot be those of the parameters.
        ShapeError: If there is no head, or the rule was built for another number of tasks.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for hook in ("shared_gradient", "combine_gradients", "weigh_losses"):
            if hook in vars(cls):
                raise ConfigError(
                    f"`{cls.__name__}.{hook}` would never be called; make {cls.__name__} a rule "
                    "(rotograd_cli.methods.rule.Weighting, LossWeighting or Combining)."
                )

    def backward(
        self,
        losses: Sequence[Tensor | None],
        backbone_loss: Tensor | None = None,
        *,
        labelled: Tensor | None = None,
        retain_graph: bool = False,
        loss_scale: float | Tensor | None = None,
        num_micro_batches: int = 1,
        accumulating: bool = False,
        one_head_per_loss: bool = False,
        measurement: Measurement | None = None,
    ) -> Tensor:
        """Run the whole backward pass: gradients of heads, method parameters and backbone.

        Gradients are added to ``.grad``, as ``Tensor.backward`` does. With many ranks, they are
        those of the whole batch after the last micro-batch of an optimiser step.

        Args:
            losses: K scalar task losses; None for a task without a loss in this batch, which then
                takes no part in any mean and keeps its start values and its clock. With many ranks,
                this rank's parts, which add up to the batch's losses; None on all ranks or none.
            backbone_loss: Scalar loss of the backbone alone (a regulariser, say), added as it is.
            labelled: Tasks that have a label in this batch, boolean, shape ``[K]``, on the losses'
                device; a loss of the others is zero, with zero gradients, and counts as None where
                it is not known in time that it should be. None for all that have a loss.
            retain_graph: Keep the graphs for a second call.
            loss_scale: Factor that the losses were multiplied by (``GradScaler.scale``). All
                gradients come out multiplied by it, those of rotations and task weights too, which
                are not linear in it. If a task gradient overflowed, they come out NaN, those of
                the heads alone excepted, so that whoever looks at them leaves the step out.
            num_micro_batches: Backward passes that make up one optimiser step, whose losses the
                caller has divided by this number. Start values are those of the whole step.
            accumulating: True for every micro-batch of an optimiser step but the last: burn-in
                clocks count optimiser steps.
            one_head_per_loss: Promises that ``losses[k]`` depends on the outputs of ``heads[k]``
                alone. Otherwise that is looked up, and a loss that uses several heads gets a pass
                of its own, so that its task's gradient is its own.
            measurement: Takes what is recorded of this pass; changes nothing else. Where autograd
                adds the task gradients up, it needs ``one_head_per_loss``.

        Returns:
            The losses, detached, summed over the ranks, shape ``[K]``; 0 for an absent task.

        Raises:
            BackwardError: If no forward pass in training mode with gradients enabled came before;
                if a loss uses the backbone's output itself; if one uses several heads that do not
                see the same features; if they cannot be measured.
            ShapeError: If the number or shape of the losses is wrong.
        """
        losses = list(losses)
        run = self._take_pass(keep=retain_graph)
        check_losses(losses, self.num_tasks)
        self._watch.begin_backward(self, losses, loss_scale)
        self.ranks.check_pass(losses, len(run.features), accumulating=accumulating)
        losses = [None if loss is None else self.ranks.share(loss) for loss in losses]
        backbone_loss = None if backbone_loss is None else self.ranks.share(backbone_loss)
        stacked = stack_losses(losses)
        step = Step.read(
            losses, stacked, self.ranks, loss_scale, num_micro_batches, accumulating, labelled
        )
        crosses = not one_head_per_loss and self._losses_cross(losses, run)
        weighed, factors = self._weigh(stacked, step)
        if measurement is not None and not self.per_task_gradients:
            self._check_measurable(one_head_per_loss)
            run.catch_gradients(losses)
        gradients = run.gradients(losses, weighed, separately=crosses, keep=retain_graph)
        features = run.features
        shared: Tensor | None = None
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            if self.over_parameters is None:
                shared, known = self.combine(run, gradients, factors, step, measurement)
            else:
                held = self.over_parameters
                keep = retain_graph or backbone_loss is not None
                parameters = self._trained_backbone()
                held.add(features, gradients, losses, parameters, step, keep=keep)
                known = self._combine_held(held, gradients, factors, step, measurement)
        del run, gradients  # their memory is free for the backbone's pass
        regulariser = self._weigh_backbone_loss(backbone_loss, step)
        carry(known, features, shared, regulariser, retain_graph=retain_graph)
        if not accumulating:
            self.ranks.sum_gradients(self._parameters_to_sum())
        return step.values

    def _take_pass(self, *, keep: bool) -> ForwardPass:
        """Return what the last forward pass kept, which is used up unless ``keep``."""
        run = self._pass
        if run is None:
            raise BackwardError(
                "`backward` needs a forward pass in training mode with gradients enabled before "
                "each call; call model.train() and model(x) outside torch.no_grad() first."
            )
        if not keep:
            self._pass = None
        return run

    def _check_measurable(self, one_head_per_loss: bool) -> None:
        if not one_head_per_loss:
            raise BackwardError(
                f"`measurement` needs one_head_per_loss=True with {self.method_name}, whose task "
                "gradients are told apart by the heads that they come from; pass it if losses[k] "
                "depends on head k alone, else leave the measurement out."
            )

    def _losses_cross(self, losses: Sequence[Tensor | None], run: ForwardPass) -> bool:
        """Whether a loss depends on another task's head."""
        if not self.per_task_gradients:
            return False  # autograd adds up, whatever goes where
        crossing = self._attribution.crossing(losses, run.head_outputs)
        if crossing is not None and self.rotated is not None:
            raise BackwardError(
                f"`losses[{crossing.loss}]` must depend on head {crossing.loss} alone, since "
                f"{self.method_name} turns the features of every head in its own way, but depends "
                f"on head {crossing.head} too; detach that head's outputs in it "
                f"(predictions[{crossing.head}].detach()), or take a method without rotations."
            )
        return crossing is not None

    def _weigh(self, losses: Tensor, step: Step) -> tuple[Tensor, Tensor | None]:
        """Return losses as they train the heads, and the rule's factors if it has any, ``[K]``."""
        if self.normalizes_losses:
            now = step.losses
            self.initial_losses.update(now.values, now.present, accumulating=now.accumulating)
            losses = losses * (1 / self.initial_losses.denominators)
        factors = self.rule.factors(step.losses)
        if factors is None:
            return losses, None
        check_returned(self.rule.factors, factors, self.num_tasks)
        return losses * factors, factors

    def _weigh_backbone_loss(self, loss: Tensor | None, step: Step) -> Tensor | None:
        """Divide the backbone loss by its own start value where the task losses are normalised."""
        if loss is None or not self.normalizes_losses:
            return loss
        value = self.ranks.sum(step.whole(loss).reshape(1))
        present = torch.ones_like(value, dtype=torch.bool)
        accumulating = step.losses.accumulating
        self.initial_backbone_loss.update(value, present, accumulating=accumulating)
        return loss / self.initial_backbone_loss.denominators[0]

    def combine(
        self,
        run: ForwardPass,
        gradients: list[Tensor],
        factors: Tensor | None,
        step: Step,
        measurement: Measurement | None = None,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Combine the task gradients, and set the gradients of what the method learns.

        Args:
            run: The forward pass.
            gradients: Those of its leaves; emptied, for they are in G then.
            factors: Of the losses, where the rule weighs them.
            step: The losses.
            measurement: See :meth:`backward`.

        Returns:
            The gradient at the features; parameters of heads with their gradients.
        """
        scale = step.unscale(gradients)
        self._learn_from_losses(step, scale)
        if not self.per_task_gradients:
            if measurement is not None:
                self._measure_caught(measurement, run, gradients[0], factors, step)
            return scaled(gradients[0], scale), []
        at_leaves = [] if measurement is None else gradients.copy()
        G = run.leaves.task_gradients(gradients)
        gradients.clear()
        s = Statistics(G, step.losses, self.ranks)
        shared, weights = self._apply_rule(G, s, factors, scale)
        if self.rotated is not None:
            gradient = self.rotated.gradient(G, s, run.features, step.num_micro_batches)
            self._add_gradients({self.rotations.free_parameters: gradient}, scale)
            if not step.losses.accumulating:
                self.rotations.count_step()
        if measurement is not None:
            measurement.add(s, shared, weights, factors)
            if self.rotated is not None:
                factor = self.rotated.factor(run.features.shape, step.num_micro_batches)
                at_inputs = run.leaves.gradients_at_inputs(at_leaves)
                measurement.add_rotated(self.rotated, s, at_inputs, factors, factor)
        of_heads = [(p, scaled(g, scale)) for p, g in run.leaves.parameter_gradients(G)]
        return scaled(shared.reshape(run.features.shape), scale), of_heads

    def _combine_held(
        self,
        held: ParameterGradients,
        gradients: list[Tensor],
        factors: Tensor | None,
        step: Step,
        measurement: Measurement | None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Combine the task gradients over the parameters, after the last micro-batch.

        Args:
            held: Those of the optimiser step so far.
            gradients: Those at the features.
            factors: Of the losses, where the rule weighs them.
            step: The losses.
            measurement: See :meth:`backward`.

        Returns:
            Parameters with their gradients, which the first rank has for all; none before.
        """
        scale = step.unscale(gradients)
        self._learn_from_losses(step, scale)
        if step.losses.accumulating:
            return []
        sums, losses = held.take(step, self.ranks)
        rows = list(sums.unbind())
        scale = step.unscale(rows)
        G = DenseTaskGradients(rows)
        s = Statistics(G, losses)  # one process's: the rows are of all ranks
        shared, weights = self._apply_rule(G, s, factors, scale)
        if measurement is not None:
            measurement.add(s, shared, weights, factors)
        if not self.ranks.is_first:
            shared = torch.zeros_like(shared)  # the sum over ranks counts it once
        return list(in_parts(scaled(shared, scale), self._trained_backbone()))

    def _measure_caught(
        self,
        measurement: Measurement,
        run: ForwardPass,
        shared: Tensor,
        factors: Tensor | None,
        step: Step,
    ) -> None:
        """Measure task gradients of which autograd made the sum ``shared``."""
        if run.caught is None:
            return
        caught = list(run.caught.gradients())
        step.unscale(caught)
        s = Statistics(run.caught.task_gradients(caught), step.losses, self.ranks)
        measurement.add(s, shared, torch.ones_like(s.norms), factors)

    def _trained_backbone(self) -> list[nn.Parameter]:
        return [p for p in self.backbone.parameters() if p.requires_grad]

    def _parameters_to_sum(self) -> Iterator[nn.Parameter]:
        """Yield parameters whose gradients no pass through the backbone has summed over ranks.

        Nothing is looked up where nobody asks: a single process does not.
        """
        summed = set() if self.over_parameters is not None else set(self.backbone.parameters())
        yield from (p for p in self.parameters() if p not in summed)

    @property
    def method_name(self) -> str:
        """Name in records and messages: that of the rule, unless the class has one of its own."""
        named = self.rule if type(self) is MultiTaskMethod else self
        return type(named).__name__
