"""The method contract: a network for K tasks that knows how to back-propagate K losses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from rotograd_cli.errors import BackwardError, ConfigError, ShapeError
from rotograd_cli.linalg.gradients import norms_of, stacked
from rotograd_cli.methods.attribution import HeadOutputs, gradients_of_each
from rotograd_cli.methods.backward import GradientCarrier, summed, take_gradients
from rotograd_cli.methods.batched_heads import BatchedHeads
from rotograd_cli.methods.misuse import Watch, warn_of_plain_backward
from rotograd_cli.ranks.base import ONE, Ranks


class ExtraOutputs(NamedTuple):
    """What backbone and heads returned beyond features and predictions."""

    backbone: tuple[Any, ...]
    """Everything after the first item of the backbone's tuple."""
    heads: list[tuple[Any, ...]]
    """For every task, everything after the first item of its head's tuple."""


@dataclass(frozen=True)
class BackwardStep:
    """What a method knows of one backward pass besides the gradients."""

    losses: Tensor
    """Task losses of the whole optimiser step as far as this pass tells (:meth:`whole`), of the
    examples of all ranks, detached, shape ``[K]``; 0 for an absent task."""
    present: Tensor
    """Tasks with a loss in this pass, boolean, shape ``[K]``."""
    accumulating: bool
    """True for every micro-batch of an optimiser step but the last."""
    loss_scale: float | Tensor | None = None
    """Factor that the losses came with; the gradients and ``losses`` a method sees are without."""
    num_micro_batches: int = 1
    """Micro-batches of the optimiser step; each brings that part of the step's losses."""

    def whole(self, loss: Tensor) -> Tensor:
        """Value of a loss without its scale, and of the whole step instead of a micro-batch."""
        return _whole(loss, self.loss_scale, self.num_micro_batches)


class MultiTaskMethod(nn.Module):
    r"""Backbone, K heads, and the rule that turns K task gradients into one for the backbone.

    A method is an ordinary module: backbone, heads and all of its own state are registered, so that
    ``state_dict``, ``to``, ``double``, ``deepcopy`` and ``pickle`` reach everything. The features
    are detached before the heads: one backward pass fills the task gradients and the heads'
    gradients, :meth:`shared_gradient` combines them, and one more pass carries the result through
    the backbone.

    Where several processes train one model (:attr:`ranks`), each has its own examples, and what is
    summed over the batch is summed over the ranks.

    A new method overrides :meth:`shared_gradient`, and :meth:`weigh_losses` where it changes the
    losses. Parameters that it registers itself are trained by the second optimiser
    (:meth:`mtl_parameters`); their gradients are set in :meth:`shared_gradient` through
    :meth:`add_gradient`.

    Args:
        backbone: Shared network; returns features z, or a tuple that begins with them.
        heads: One network per task; each returns a prediction, or a tuple that begins with it. The
            sequence is not modified.
        feature_shape: Shape of the features of one example, for checks at construction; None skips
            them.

    Raises:
        ShapeError: If there is no head.
        ConfigError: If there are more heads than the method takes.
    """

    per_task_gradients: ClassVar[bool] = True
    """False for methods that need only the sum of the task gradients, which autograd forms."""

    max_num_tasks: ClassVar[int | None] = None
    """Largest K; None for any."""

    num_device_waits: ClassVar[int] = 0
    """Transfers to the host (:meth:`to_host`) in one backward pass; each waits for the device."""

    plain_for_one_task: ClassVar[bool] = True
    """Whether one task alone is trained as without the method."""

    needs_losses_after_update: ClassVar[bool] = False
    """Whether :meth:`observe_update` is to be called, which costs one more forward pass a step."""

    permutation_equivariant: ClassVar[bool] = True
    """Whether the order of the tasks does not matter, from the same random numbers."""

    num_nonfinite: Tensor
    """Steps in which a task's gradient was not finite and was left out, int64, shape ``[K]``."""

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        *,
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if len(heads) == 0:
            raise ShapeError("`heads` must hold one module per task, got none; pass at least one.")
        if self.max_num_tasks is not None and len(heads) > self.max_num_tasks:
            raise ConfigError(
                f"{type(self).__name__} trains one network for {self.max_num_tasks} task, got "
                f"{len(heads)} tasks; choose one with tasks=[NAME], or run each with "
                "-m 'tasks=[NAME],[OTHER]'."
            )
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.feature_shape = None if feature_shape is None else tuple(feature_shape)
        self.register_buffer("num_nonfinite", torch.zeros(len(heads), dtype=torch.int64))
        self._copies_input = [_modifies_input(head) for head in self.heads]
        self._rep: Tensor | None = None
        self._leaves: list[Tensor] = []
        self._reached: list[bool] = [True] * len(heads)  # heads, by the last backward pass
        self.batched_heads = BatchedHeads()
        self._head_outputs = HeadOutputs()
        self._watch = Watch()
        self.ranks: Ranks = ONE
        self.autocast_dtype: torch.dtype | None = None
        """Type that backbone and heads compute in where autocast lowers it; None leaves it."""
        self._batched = False  # heads, in the last forward pass
        self._tasks_share_leaf = False  # one leaf with the tasks on its first axis
        self._loss_scale: float | Tensor | None = None
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._backbone_has_extras = False

    # ---- what users of the authors' package know

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.heads)

    @property
    def method_name(self) -> str:
        """Name in records and messages."""
        return type(self).__name__

    @property
    def rep(self) -> Tensor | None:
        """Output of the backbone in the last forward pass in training mode; None before it."""
        return self._rep

    @property
    def leaves(self) -> Sequence[Tensor]:
        """What the heads are differentiated at, between a forward pass and its backward pass."""
        return self._leaves

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, task: int) -> nn.Module:
        """End-to-end network of one task, from input to prediction; shares all parameters.

        Raises:
            IndexError: If there is no such task.
        """
        index = range(self.num_tasks)[task]
        return _TaskNetwork(self, index)

    def mtl_parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The method's own parameters (rotations, task weights), for the second optimiser."""
        network = {id(p) for p in self.model_parameters()}
        return (p for p in self.parameters(recurse) if id(p) not in network)

    def model_parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Backbone and head parameters, each once, for the first optimiser."""
        seen: set[int] = set()
        for module in (self.backbone, *self.heads):
            for parameter in module.parameters(recurse):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter

    def forward(self, x: Any) -> list[Any] | tuple[list[Any], ExtraOutputs]:
        """Predictions of all tasks.

        In training mode with gradients enabled, the heads get detached features and
        :meth:`backward` is the way to differentiate; otherwise the result is an ordinary
        differentiable function.

        Args:
            x: Whatever the backbone takes.

        Returns:
            The K predictions. Where the backbone or a head returns a tuple, a pair of the
            predictions and :class:`ExtraOutputs`.

        Raises:
            ShapeError: If the features do not have the shape that the method was built for.
        """
        if self.autocast_dtype is None:
            return self._forward(x)
        device = next(self.parameters()).device.type
        with torch.autocast(device, dtype=self.autocast_dtype):
            return self._forward(x)

    def _forward(self, x: Any) -> list[Any] | tuple[list[Any], ExtraOutputs]:
        differentiates = self.training and torch.is_grad_enabled()
        output = self.ranks.run(self.backbone, x) if differentiates else self.backbone(x)
        features, backbone_extras = _features_of(output)
        self.check_features(features)
        if differentiates and self._has_leaf_gradients() and features.requires_grad:
            warn_of_plain_backward(self._watch)
        if self.training:
            self.forget()
            self._rep = features
            self._backbone_has_extras = len(backbone_extras) > 0
        if differentiates and self.per_task_gradients:
            self._head_outputs.begin(features, backbone_extras)
        make_outputs = self._training_outputs if differentiates else self._outputs
        outputs = [_split(output) for output in make_outputs(features)]
        predictions = [prediction for prediction, _ in outputs]
        head_extras = [extras for _, extras in outputs]
        if backbone_extras or any(head_extras):
            return predictions, ExtraOutputs(backbone_extras, head_extras)
        return predictions

    def backward(
        self,
        losses: Sequence[Tensor | None],
        backbone_loss: Tensor | None = None,
        *,
        retain_graph: bool = False,
        loss_scale: float | Tensor | None = None,
        num_micro_batches: int = 1,
        accumulating: bool = False,
        one_head_per_loss: bool = False,
    ) -> Tensor:
        """Whole backward pass: gradients of heads, method parameters and backbone.

        Gradients are added to ``.grad``, as ``Tensor.backward`` does. With many ranks, they are
        those of the whole batch after the last micro-batch of an optimiser step.

        Args:
            losses: K scalar task losses; None for a task without a loss in this batch, which then
                takes no part in any mean and keeps its start values and its clock. With many ranks,
                this rank's parts, which add up to the batch's losses; None on all ranks or none.
            backbone_loss: Scalar loss of the backbone alone (a regulariser, say), added as it is.
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
                of its own, so that its task's gradient is its own (see :meth:`stacked_features`).

        Returns:
            The losses, detached, summed over the ranks, shape ``[K]``; 0 for an absent task.

        Raises:
            BackwardError: If no forward pass in training mode with gradients enabled came before;
                if a loss uses the backbone's output itself; if one uses several heads that do not
                see the same features.
            ShapeError: If the number or shape of the losses is wrong.
        """
        losses = list(losses)
        leaves = self._take_leaves(retain_graph)
        values, step = self._describe(losses, loss_scale, num_micro_batches, accumulating)
        self._watch.begin_backward(self, losses, loss_scale)
        crosses = not one_head_per_loss and self._losses_cross(losses, leaves)
        if not retain_graph:
            self._head_outputs.clear()
        weighed = self.weigh_losses(losses, step)
        if crosses:
            rule, gradients = self.combine_gradients, gradients_of_each(losses, weighed, leaves)
        else:
            keep = retain_graph or self._backbone_has_extras
            rule, gradients = self.combine_leaf_gradients, self._joint_pass(weighed, leaves, keep)
        del leaves
        with torch.no_grad(), torch.autocast(gradients[0].device.type, enabled=False):
            shared = self._unscaled(rule, gradients, step)
        self._backward_backbone(shared, self.weigh_backbone_loss(backbone_loss, step), retain_graph)
        if not accumulating:
            self.ranks.sum_gradients(self._parameters_beside_backbone())
        return values

    # ---- what a method overrides

    def check_features(self, features: Tensor) -> None:
        """Refuses features that do not fit the method; the default accepts all.

        Args:
            features: Output of the backbone, shape ``[batch..., *feature_shape]``.

        Raises:
            ShapeError: If they do not fit.
        """

    def stacked_features(self, features: Tensor) -> Tensor:
        """What each head sees: the features as they are, unless the method transforms them.

        Args:
            features: Shape ``[batch..., *feature_shape]``.

        Returns:
            The K views, stacked on the first axis, shape ``[K, *features.shape]``.
        """
        return features.expand(self.num_tasks, *features.shape)

    def weigh_losses(
        self, losses: Sequence[Tensor | None], step: BackwardStep
    ) -> Sequence[Tensor | None]:
        """Losses that are back-propagated into the heads; the default leaves them as they are."""
        return losses

    def weigh_backbone_loss(self, loss: Tensor | None, step: BackwardStep) -> Tensor | None:
        """Backbone loss that is back-propagated; the default leaves it as it is."""
        return loss

    def make_leaves(self, features: Tensor) -> list[Tensor]:
        """Tensors that the heads are differentiated at: what each of the K heads sees.

        Args:
            features: Detached output of the backbone, shape ``[batch..., *feature_shape]``.

        Returns:
            One leaf per task, so that no gradient is copied, or one with the tasks on its first
            axis; without ``per_task_gradients``, the features alone, at which autograd sums the
            gradients.
        """
        self._batched = self._tasks_share_leaf = self.batched_heads.fits(self.heads, features)
        if not self.per_task_gradients:
            return [features.requires_grad_()]
        views = self.stacked_features(features).detach()
        if self._batched:
            return [views.requires_grad_()]
        return [view.detach().requires_grad_() for view in views.unbind(0)]

    def combine_gradients(self, gradients: Sequence[Tensor], step: BackwardStep) -> Tensor:
        """As :meth:`shared_gradient`, from gradients that are not stacked yet.

        Args:
            gradients: One gradient per task, of the shape of its leaf, zero for absent tasks;
                without ``per_task_gradients``, their sum alone.
            step: The losses and which of them are there.

        Returns:
            The gradient with respect to the features, shape ``features.shape``.
        """
        gradient = stacked(gradients) if self.per_task_gradients else gradients[0]
        return self.shared_gradient(gradient, step)

    def shared_gradient(self, task_gradients: Tensor, step: BackwardStep) -> Tensor:
        """Gradient that the backbone receives.

        Args:
            task_gradients: Gradients with respect to what each head saw, shape ``[K,
                *features.shape]``; zero for absent tasks. Without ``per_task_gradients``: their
                sum, shape ``features.shape``.
            step: The losses and which of them are there.

        Returns:
            The gradient with respect to the features, shape ``features.shape``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define shared_gradient")

    def task_features(self, features: Tensor, task: int) -> Tensor:
        """What one head sees: entry ``task`` of :meth:`stacked_features`."""
        return self.stacked_features(features)[task]

    def join(self, ranks: Ranks) -> None:
        """Has the steps taken together with other processes, which call this as well.

        Args:
            ranks: The processes.
        """
        self.ranks = ranks

    def changing_state(self) -> dict[str, Any]:
        """The part of the ``state_dict`` that passes change: all but what optimisers do.

        Returns:
            Entries by name, no copies.
        """
        parameters = {id(parameter) for parameter in self.parameters()}
        state: dict[str, Any] = self.state_dict(keep_vars=True)
        return {name: value for name, value in state.items() if id(value) not in parameters}

    def refresh(self) -> None:
        """Called where waiting for the device is allowed, once per logging step; does nothing."""

    def diagnostics(self) -> dict[str, Tensor]:
        """Numbers of each task worth recording, by name, each of shape ``[K]``; none by default."""
        return {}

    def end_epoch(self) -> None:
        """Called after the last step of an epoch; does nothing."""

    def observe_update(self, before: Tensor, after: Tensor, present: Tensor) -> None:
        """Called between the network's update and the method's, where the class asks for it.

        Args:
            before: Task losses of the whole batch, shape ``[K]``; 0 for an absent task.
            after: The same of the same batch after the network's update.
            present: Tasks with a loss, boolean, shape ``[K]``.
        """

    def add_gradient(
        self, parameter: nn.Parameter, gradient: Tensor, *, of_all_ranks: bool = False
    ) -> None:
        """Adds to the gradient of a parameter of the method, with the loss scale applied.

        Args:
            parameter: Registered by the method itself.
            gradient: Its gradient.
            of_all_ranks: Whether the gradient covers the examples of all ranks already, rather than
                being this rank's part of a sum.
        """
        self._watch.saw_gradient = True
        if not parameter.requires_grad:
            return
        if of_all_ranks and not self.ranks.is_first:
            gradient = torch.zeros_like(gradient)  # the sum over ranks counts it once
        gradient = self._scaled(gradient, parameter)
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def back_propagate(self, tensor: Tensor, gradient: Tensor) -> None:
        """Hands a gradient to autograd, together with that of the backbone.

        For parameters of the network that :meth:`shared_gradient` finds the gradients of: their
        hooks are called as in any backward pass.
        """
        self._pending.append((tensor, self._scaled(gradient, tensor)))

    def forget(self) -> None:
        """Drops what a forward pass kept for its backward pass, and gradients not handed on yet."""
        self._leaves = []
        self._head_outputs.clear()
        self._pending.clear()

    @staticmethod
    def to_host(tensor: Tensor) -> Tensor:
        """Moves a small tensor to the CPU in float64: the only way a step may wait for the device.

        Args:
            tensor: Any tensor; every call counts in :attr:`num_device_waits`.

        Returns:
            The same numbers.
        """
        return tensor.double().cpu()

    # ---- plumbing

    def _scaled(self, gradient: Tensor, like: Tensor) -> Tensor:
        if self._loss_scale is not None:
            gradient = gradient * self._loss_scale
        return gradient.to(like.dtype)

    def _outputs(self, features: Tensor) -> list[Any]:
        if not torch.is_grad_enabled() and self.batched_heads.fits(self.heads, features):
            seen = self.stacked_features(features) if self.per_task_gradients else features
            return list(self.batched_heads.outputs(seen, int(self.per_task_gradients)))
        views = self.stacked_features(features).unbind(0)
        return [self._head_output(k, z) for k, z in enumerate(views)]

    def _head_output(self, task: int, features: Tensor) -> Any:
        return self.heads[task](features.clone() if self._copies_input[task] else features)

    def _training_outputs(self, features: Tensor) -> list[Any]:
        """Outputs of the heads on detached features, which become the leaves."""
        self._leaves = self.make_leaves(features.detach())
        outputs = self._outputs_from(self._leaves)
        if self.per_task_gradients:
            for k, output in enumerate(outputs):
                self._head_outputs.record(k, output)
        return outputs

    def _outputs_from(self, leaves: Sequence[Tensor]) -> list[Any]:
        if self._batched:
            return list(self.batched_heads.outputs(leaves[0], int(self.per_task_gradients)))
        views = leaves if self.per_task_gradients else [leaves[0]] * self.num_tasks
        return [self._head_output(k, z) for k, z in enumerate(views)]

    def combine_leaf_gradients(self, gradients: Sequence[Tensor], step: BackwardStep) -> Tensor:
        """As :meth:`combine_gradients`, from the gradients of what :meth:`make_leaves` returned."""
        one_leaf = self._tasks_share_leaf and self.per_task_gradients
        return self.combine_gradients(gradients[0].unbind(0) if one_leaf else gradients, step)

    def _has_leaf_gradients(self) -> bool:
        """Whether losses of the last forward pass were differentiated, but not by ``backward``."""
        return any(leaf.grad is not None for leaf in self._leaves)

    def _take_leaves(self, keep: bool) -> list[Tensor]:
        leaves = self._leaves
        if not leaves:
            raise BackwardError(
                "`backward` needs a forward pass in training mode with gradients enabled before "
                "each call; call model.train() and model(x) outside torch.no_grad() first."
            )
        if not keep:
            self._leaves = []
        return leaves

    def _losses_cross(self, losses: Sequence[Tensor | None], leaves: Sequence[Tensor]) -> bool:
        """Whether a loss depends on another task's head."""
        if not self.per_task_gradients:
            return False  # autograd adds up, whatever goes where
        crossing = self._head_outputs.crossing(losses, () if self._tasks_share_leaf else leaves)
        if crossing is None:
            return False
        own = type(self)
        if own.stacked_features is not MultiTaskMethod.stacked_features:
            raise BackwardError(
                f"`losses[{crossing.loss}]` must depend on head {crossing.loss} alone, since "
                f"{own.__name__} turns the features of every head in its own way, but depends on "
                f"head {crossing.head} too; detach that head's outputs in it "
                f"(predictions[{crossing.head}].detach()), or take a method without rotations."
            )
        return True

    def _joint_pass(
        self, losses: Sequence[Tensor | None], leaves: Sequence[Tensor], retain_graph: bool
    ) -> list[Tensor]:
        """Gradients of the leaves by one pass from all losses."""
        roots = summed([loss for loss in losses if loss is not None])
        torch.autograd.backward(roots, retain_graph=retain_graph)
        if not self._tasks_share_leaf:
            self._reached[:] = [leaf.grad is not None for leaf in leaves]
        return take_gradients(leaves)

    def _describe(
        self,
        losses: Sequence[Tensor | None],
        loss_scale: float | Tensor | None,
        num_micro_batches: int,
        accumulating: bool,
    ) -> tuple[Tensor, BackwardStep]:
        if len(losses) != self.num_tasks:
            raise ShapeError(
                f"`losses` must hold one entry per task ({self.num_tasks}), got {len(losses)}; "
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
        known = [loss.detach().reshape(()) for loss in losses if loss is not None]
        if not known:
            raise BackwardError("`losses` must hold at least one loss, got None for every task.")
        zero = torch.zeros_like(known[0])
        values = torch.stack([zero if x is None else x.detach().reshape(()) for x in losses])
        values = self.ranks.sum(values)
        present = torch.ones_like(values, dtype=torch.bool)
        for k, loss in enumerate(losses):
            if loss is None:
                present[k] = False
        whole = _whole(values, loss_scale, num_micro_batches)
        step = BackwardStep(whole, present, accumulating, loss_scale, num_micro_batches)
        return values, step

    def _parameters_beside_backbone(self) -> Iterator[nn.Parameter]:
        of_backbone = {id(p) for p in self.backbone.parameters()}
        return (p for p in self.parameters() if id(p) not in of_backbone)

    def _unscaled(
        self,
        rule: Callable[[Sequence[Tensor], BackwardStep], Tensor],
        gradients: Sequence[Tensor],
        step: BackwardStep,
    ) -> Tensor:
        """Applies ``rule`` to gradients without the loss scale, and scales its result."""
        if step.loss_scale is None:
            return rule(gradients, step)
        dtype = torch.promote_types(gradients[0].dtype, torch.float32)
        unscaled = [gradient.to(dtype) / step.loss_scale for gradient in gradients]
        norms = norms_of(unscaled)
        self._loss_scale = step.loss_scale + 0 * norms.sum()  # NaN if a task gradient overflowed
        try:
            return rule(unscaled, step) * self._loss_scale
        finally:
            self._loss_scale = None

    def _backward_backbone(
        self, shared: Tensor, backbone_loss: Tensor | None, retain_graph: bool
    ) -> None:
        features = self._rep
        assert features is not None
        roots: list[Tensor] = []
        gradients: list[Tensor | None] = []
        if self._pending:
            tensors, given = zip(*self._pending, strict=True)
            self._pending.clear()
            box = list(given)
            del given
            roots.append(GradientCarrier.apply(box, *tensors))
            gradients.append(None)
        if features.requires_grad:  # False for a frozen backbone: heads and rotations train alone
            roots.append(features)
            gradients.append(shared.to(features.dtype))
        if backbone_loss is not None and backbone_loss.requires_grad:
            roots.append(backbone_loss)
            gradients.append(None)
        if not roots:
            return
        try:
            torch.autograd.backward(roots, gradients, retain_graph=retain_graph)
        except RuntimeError as error:
            if "a second time" not in str(error):
                raise
            raise BackwardError(
                "`backward` must be the first to go back through the backbone, but a task loss, or "
                "a backward pass of your own, did so before: it uses the backbone's output itself "
                "(model.rep); pass that term as model.backward(losses, backbone_loss=TERM)."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        # tensors with a graph can neither be pickled nor copied, and belong to one step
        of_one_pass: dict[str, Any] = {
            "_rep": None,
            "_leaves": [],
            "_pending": [],
            "_head_outputs": HeadOutputs(),
        }
        return {**self.__dict__, **of_one_pass, "ranks": ONE, "_watch": Watch()}


class _TaskNetwork(nn.Module):
    """Backbone, the method's view of the features, and one head, without a copy of any of them."""

    def __init__(self, method: MultiTaskMethod, task: int) -> None:
        super().__init__()
        self.method = method
        self.task = task

    def forward(self, x: Any) -> Any:
        features, _ = _features_of(self.method.backbone(x))
        self.method.check_features(features)
        return self.method._head_output(self.task, self.method.task_features(features, self.task))


def _features_of(output: Any) -> tuple[Tensor, tuple[Any, ...]]:
    features, extras = _split(output)
    if not isinstance(features, Tensor):
        raise ShapeError(
            "`backbone` must return the features as one tensor, or a tuple that begins with it, "
            f"got {_described(output)}; wrap it in a module that returns that tensor."
        )
    return features, extras


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with keys {', '.join(map(repr, output))}"
    if isinstance(output, (list, tuple)) and output:
        return f"{type(output).__name__} that begins with {type(output[0]).__name__}"
    return f"{type(output).__name__}"


def _split(output: Any) -> tuple[Any, tuple[Any, ...]]:
    if isinstance(output, (list, tuple)) and output:
        return output[0], tuple(output[1:])
    return output, ()


def _whole(loss: Tensor, scale: float | Tensor | None, num_micro_batches: int) -> Tensor:
    unscaled = loss.detach() if scale is None else loss.detach() / scale
    return unscaled * num_micro_batches


def _modifies_input(head: nn.Module) -> bool:
    """Whether a head may write into its input, which all heads share."""
    return any(getattr(module, "inplace", False) for module in head.modules())
