"""Backbone and heads of K tasks, all state of a method, and the forward pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.attribution import Attribution
from rotograd_cli.methods.engine.misuse import Watch
from rotograd_cli.methods.engine.parameters import ParameterGradients
from rotograd_cli.methods.engine.passes import ExtraOutputs, ForwardPass, features_of, split_output
from rotograd_cli.methods.heads.choose import evaluated_heads, training_leaves
from rotograd_cli.methods.heads.leaves import head_output
from rotograd_cli.methods.initial_values import InitialValues
from rotograd_cli.methods.parts import (
    GradientsOf,
    check_gradients,
    check_input,
    check_parameters,
    check_rule,
    num_heads,
)
from rotograd_cli.methods.rotation.features import RotatedFeatures
from rotograd_cli.methods.rotation.holding import cached, is_holding
from rotograd_cli.methods.rule import Rule, Sum
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.trees import NOTHING, positional


class MultiTaskNetwork(nn.Module):
    """The forward half of a :class:`~rotograd_cli.methods.engine.method.MultiTaskMethod`.

    The arguments are those of the method.

    Raises:
        ConfigError: If the heads are no list, the rule is none or has parameters that nothing would
            train, or its gradients cannot be those of the parameters.
        ShapeError: If there is no head, or the rule was built for another number of tasks.
    """

    num_nonfinite: Tensor
    """Backward passes that left a task out because its gradient was not finite, int64, ``[K]``."""

    def __init__(
        self,
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        rule: Rule | None = None,
        *,
        rotation: RotatedFeatures | None = None,
        gradients: GradientsOf = "features",
        feature_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        del feature_shape  # rotations alone need it
        K = num_heads(heads)
        rule = Sum() if rule is None else rule
        check_rule(rule, K)
        check_gradients(gradients, rule, rotates=rotation is not None)
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        self.rule = rule
        self.register_buffer("num_nonfinite", torch.zeros(K, dtype=torch.int64))
        self.over_parameters = ParameterGradients() if gradients == "parameters" else None
        """Task gradients over the backbone's parameters; None where the rule sees those at the
        features."""
        self.rotated = rotation
        self.normalizes_losses = rotation is not None and rotation.normalize_losses
        if rotation is not None:
            self.rotations = rotation.rotations
            self.initial_losses = InitialValues(K, rotation.burn_in_period)
            self.initial_backbone_loss = InitialValues(1, rotation.burn_in_period)
        check_parameters(self.rule, per_task_gradients=self.per_task_gradients)
        self.autocast_dtype: torch.dtype | None = None
        """Type that backbone and heads compute in where autocast lowers it; None leaves it."""
        self.ranks: Ranks = ONE
        self.held: list[nn.Module] = []
        """Modules that training mode leaves in evaluation mode: those whose statistics stay."""
        self._features: Tensor | None = None
        self._pass: ForwardPass | None = None
        self._attribution = Attribution()
        self._watch = Watch()
        self.register_load_state_dict_pre_hook(_rename_entries)  # type: ignore[no-untyped-call]

    @property
    def per_task_gradients(self) -> bool:
        """Whether the gradient of every task is needed, rather than the sum that autograd forms."""
        return self.rotated is not None or self.rule.sees_gradients

    @property
    def num_tasks(self) -> int:
        """K."""
        return len(self.heads)

    @property
    def rep(self) -> Tensor | None:
        """Output of the backbone in the last forward pass in training mode; None before it."""
        return self._features

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, task: int) -> nn.Module:
        """Return the network of one task, from input to prediction; it shares all parameters.

        Raises:
            IndexError: If there is no such task.
        """
        index = range(self.num_tasks)[task]
        return TaskNetwork(self, index)

    def mtl_parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the method's own parameters (rotations, task weights): the second optimiser's."""
        network = set(self.model_parameters())
        return (p for p in self.parameters(recurse) if p not in network)

    def model_parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return backbone and head parameters, each once, for the first optimiser."""
        modules = (self.backbone, *self.heads)
        return iter(dict.fromkeys(p for m in modules for p in m.parameters(recurse)))

    @property
    def leaves(self) -> Sequence[Tensor]:
        """What the heads are differentiated at, between a forward pass and its backward pass."""
        return () if self._pass is None else self._pass.leaves.tensors

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; modules that are :attr:`held` stay in the latter."""
        super().train(mode)
        for module in self.held:
            module.eval()
        return self

    def forget(self) -> None:
        """Drop what a forward pass kept for its backward pass."""
        self._features = None
        self._pass = None

    # ---- forward

    def forward(
        self, x: Any = NOTHING, *more: Any, **named: Any
    ) -> list[Any] | tuple[list[Any], ExtraOutputs]:
        """Return the predictions of all tasks.

        In training mode with gradients enabled, the heads get detached features and
        :meth:`backward` is the way to differentiate; otherwise the result is an ordinary
        differentiable function.

        Args:
            x: Whatever the backbone takes.
            *more: Further arguments that it takes by position.
            **named: Those that it takes by keyword.

        Returns:
            The K predictions. Where the backbone or a head returns a tuple, a pair of the
            predictions and :class:`ExtraOutputs`.

        Raises:
            ConfigError: If ``torch.export`` traces it in training mode.
            ShapeError: If the features do not have the shape that the method was built for.
        """
        if self.training and torch.is_grad_enabled() and torch.compiler.is_exporting():
            raise ConfigError(
                f"{type(self).__name__} must be in evaluation mode to be exported, got training "
                "mode, whose backward pass is no part of a graph; call model.eval() first."
            )
        if self.training and torch.compiler.is_dynamo_compiling():
            # leaves are no part of a graph; backbone and heads can be compiled one by one
            eagerly: Any = torch.compiler.disable(self._in_autocast)  # type: ignore[no-untyped-call]
            result: list[Any] = eagerly(*positional(x, more), **named)
            return result
        return self._in_autocast(*positional(x, more), **named)

    def _in_autocast(
        self, *inputs: Any, **named: Any
    ) -> list[Any] | tuple[list[Any], ExtraOutputs]:
        if self.autocast_dtype is None:
            return self._forward(*inputs, **named)
        device = next(self.parameters()).device.type
        with torch.autocast(device, dtype=self.autocast_dtype):
            return self._forward(*inputs, **named)

    def _forward(self, *inputs: Any, **named: Any) -> list[Any] | tuple[list[Any], ExtraOutputs]:
        differentiates = self.training and torch.is_grad_enabled()
        if differentiates and self.over_parameters is not None:
            check_input((inputs, named))
        if differentiates:
            output = self.ranks.run(self.backbone, *inputs, **named)
        else:
            output = self.backbone(*inputs, **named)
        features, backbone_extras = features_of(output)
        if self.rotated is not None:
            self.rotated.axes.check(features.shape)
        if differentiates:
            results = self._training_outputs(features, backbone_extras)
        else:
            if self.training:
                self.forget()
                self._features = features
            results = evaluated_heads(self.heads, features, self.rotated).outputs()
        outputs = [split_output(result) for result in results]
        predictions = [prediction for prediction, _ in outputs]
        head_extras = [extras for _, extras in outputs]
        if backbone_extras or any(head_extras):
            return predictions, ExtraOutputs(backbone_extras, head_extras)
        return predictions

    def _training_outputs(self, features: Tensor, extras: tuple[Any, ...]) -> Sequence[Any]:
        """Return outputs of the heads on leaves, which the pass keeps for :meth:`backward`."""
        if self._pass is not None and self._pass.was_differentiated() and features.requires_grad:
            self._watch.warn_of_plain_backward()
        self.forget()  # its memory is free for this one
        self._features = features
        if self.rotated is not None:
            self.rotated.rotations.advance()
        leaves = training_leaves(
            self.heads, features.detach(), self.rotated, per_task=self.per_task_gradients
        )
        run = ForwardPass(features, leaves, extras)
        outputs = run.outputs()
        self._pass = run
        return outputs

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode inside; rotations and folded layers are computed once.

        Parameters must stay as they are meanwhile.

        Raises:
            CheckpointError: If the bases of the rotations are not orthogonal.
        """
        was_training = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with cached():
                if self.rotated is not None:
                    self.rotated.rotations.check_bases()
                yield
        finally:
            self.train(was_training[self])
            for module, mode in was_training.items():  # frozen layers stay frozen
                module.training = mode

    def __getstate__(self) -> dict[str, Any]:
        # tensors with a graph can neither be pickled nor copied, and belong to one pass
        return {**self.__dict__, "_features": None, "_pass": None, "ranks": ONE, "_watch": Watch()}


class TaskNetwork(nn.Module):
    """Backbone, rotation and head of one task; shares all parameters.

    Made inside :meth:`MultiTaskMethod.evaluating`, it keeps the rotation as a constant, so that an
    export holds plain products alone.

    Args:
        method: The method.
        task: Index of the task.
    """

    constant_rotation: Tensor | None

    def __init__(self, method: MultiTaskNetwork, task: int) -> None:
        super().__init__()
        self.method = method
        self.rotated = method.rotated
        self.task = task
        R = None
        if self.rotated is not None and is_holding():
            R = self.rotated.rotations.of_task(task)
        self.register_buffer("constant_rotation", R, persistent=False)

    def forward(self, x: Any = NOTHING, *more: Any, **named: Any) -> Any:
        """Return the output of the task's head, differentiable in all but the rotation."""
        features, _ = features_of(self.method.backbone(*positional(x, more), **named))
        if self.rotated is not None:
            self.rotated.axes.check(features.shape)
            R = self.constant_rotation
            if R is None:
                R = self.rotated.rotations.of_task(self.task)
            features = self.rotated.views(features, R)[0]
        return head_output(self.method.heads[self.task], features)


def _rename_entries(method: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """Read what runs saved when a method was its own rule: ``logits`` became ``rule.logits``.

    An entry that the method still has under the old name too (``initial_losses``) goes to both.
    """
    del unused  # further arguments of a hook of load_state_dict
    expected = method.state_dict()
    for name in expected:
        old_name = name.removeprefix("rule.")
        if old_name == name or prefix + name in state or prefix + old_name not in state:
            continue
        state[prefix + name] = state[prefix + old_name]
        if old_name not in expected:
            del state[prefix + old_name]
