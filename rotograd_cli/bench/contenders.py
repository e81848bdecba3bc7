"""Who takes part: plain autograd, our methods and the authors' package on identical networks."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.bench import reference
from rotograd_cli.bench.rotations import RotationState
from rotograd_cli.config.components import Constructors
from rotograd_cli.config.compose import component_names, component_node
from rotograd_cli.config.schema import BenchConfig
from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.methods.heads.batched import BatchedHeads
from rotograd_cli.methods.heads.leaves import writes_into_input
from rotograd_cli.runs.building import Networks, build_networks, join
from rotograd_cli.runs.optimizers import optimizer_groups
from rotograd_cli.training.batches import num_steps
from rotograd_cli.training.diagnostics import measurement_for
from rotograd_cli.training.freezing import freeze
from rotograd_cli.training.objective import predict, task_losses
from rotograd_cli.training.precision import compile_networks
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.schedules import OptimizerGroup, RunLength
from rotograd_cli.training.stepper import Stepper
from rotograd_cli.trees import call

BARE = "bare"
IDEAL = "ideal"
REFERENCE = "reference"
PLAIN = {
    BARE: "a loop of plain PyTorch: heads and losses one by one",
    IDEAL: "autograd on the summed losses: equal heads and their losses at once",
}
"""Contenders without any method, and what they are."""
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Contender:
    """One way to compute a training step."""

    name: str
    label: str
    """Name with what it stands for."""
    options: Mapping[str, Any] | None
    """Configuration of its method; None for plain loops and the reference."""
    model: Any
    """Its module, with the attributes ``backbone`` and ``heads``."""
    take: Callable[[Batch], object]
    """The step. Gradients are left in place, except by optimisers that clear them."""
    parameters: Sequence[nn.Parameter]
    """All that is trained."""
    reset: Callable[[], None]
    """Gives the rotations their prepared values where a step moves them."""

    def step(self, batch: Batch) -> None:
        """Do a whole step; gradients are cleared at its end."""
        self.take(batch)
        for parameter in self.parameters:
            parameter.grad = None


def method_nodes(config: BenchConfig) -> dict[str, Mapping[str, Any]]:
    """Return the configuration of every contender that is a method of ours, by name.

    Args:
        config: Checked configuration; Hydra must be running.

    Returns:
        The content of ``method/NAME.yaml`` with the values of all keys that the configured method
        has too; the configured method as it is.

    Raises:
        ConfigError: If a contender is unknown.
    """
    others = [*PLAIN, REFERENCE]
    choices = [*others, *component_names("method")]
    nodes: dict[str, Mapping[str, Any]] = {}
    for name in config.bench.contenders:
        if name not in choices:
            raise ConfigError(
                f"`bench.contenders` must hold ideal, bare, reference and names of methods, got "
                f"{name!r}; {suggest(name, choices)}"
            )
        if name not in others:
            node = component_node("method", name, rotation=asdict(config.rotation))
            nodes[name] = adapted(node, config.method)
    return nodes


def adapted(node: Mapping[str, Any], configured: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a method's options with the configured method's values where it has them too.

    Args:
        node: Options of a method.
        configured: Options of the configured method, returned as they are if both have the same
            target.
    """
    if node.get("_target_") == configured.get("_target_"):
        return configured
    shared = {key for key in node if key in configured and not key.startswith("_")}
    return {**node, **{key: configured[key] for key in shared}}


class Builder:
    """Builds contenders on copies of the same networks, with the same rotations.

    Args:
        config: Checked configuration; Hydra must be running.

    Raises:
        RotogradError: If a contender is unknown, a component is refused, or two do not fit.
    """

    def __init__(self, config: BenchConfig) -> None:
        self._config = config
        self._nodes = method_nodes(config)
        self._constructors = Constructors(config)
        self.networks = build_networks(config, self._constructors)
        """Networks that every contender gets a copy of."""
        options = config.bench
        self._rotations = RotationState(
            options.rotation_norm, config.seed, gaussian=options.gaussian_rotations
        )
        self.configured = join(self._copy(), self._constructors)
        """The configured method on the CPU, whose sizes and options count."""

    def build(self, name: str) -> Contender:
        """Build one contender on the device, in training mode.

        Args:
            name: Its name.

        Raises:
            ReferenceUnavailableError: If it is the reference, and that cannot take part.
            RotogradError: If the method does not fit.
        """
        if name in PLAIN:
            return self._plain(name)
        if name == REFERENCE:
            return self._reference()
        return self._method(name)

    def _plain(self, name: str) -> Contender:
        networks = self._copy()
        at_once = name == IDEAL
        model = self._placed(_Plain(networks, at_once=at_once), networks)
        tasks = networks.dataset.tasks

        def gradients(batch: Batch) -> None:
            with self._autocast():
                losses = task_losses(tasks, call(model, batch.inputs), batch, one_graph=at_once)
                total = torch.stack([loss for loss in losses if loss is not None]).sum()
            torch.autograd.backward(total)

        return self._contender(name, PLAIN[name], model, self._updating(model, gradients))

    def _method(self, name: str) -> Contender:
        """Build a contender that takes the steps of ``rotograd train``."""
        networks = self._copy()
        constructors = Constructors(replace(self._config, method=self._nodes[name]))
        model = self._placed(join(networks, constructors), networks)
        if self._config.bench.dtype == "bfloat16":
            model.autocast_dtype = torch.bfloat16
        tasks = networks.dataset.tasks
        run = RunState(model, self._groups(model))
        stepper = Stepper(run, tasks, self._config.train)

        def take(batch: Batch) -> None:
            run.state.step += 1
            is_recorded = run.state.step % self._config.train.log_every_steps == 0
            measurement = measurement_for(self._config.diagnostics) if is_recorded else None
            stepper.take([batch], measurement)
            if measurement is not None:
                run.record(tasks, measurement)

        reset = partial(self._rotations.give, model)
        return self._contender(name, model.method_name, model, take, reset)

    def _reference(self) -> Contender:
        networks = self._copy()
        model = reference.build_reference(self.configured, networks.backbone, networks.heads)
        self._placed(model, networks)
        cached = reference.cached(model)

        def gradients(batch: Batch) -> None:
            # its backward pass fails outside autocast where the forward pass was inside
            with cached(), self._autocast():
                predictions = predict(model, batch)
                # it goes back from each loss on its own
                losses = task_losses(networks.dataset.tasks, predictions, batch, one_graph=False)
                model.backward(losses)

        bases, free_parameters = reference.rotations(model)
        reset = partial(self._rotations.give_to, bases, free_parameters) if bases else _nothing
        label = f"{type(self.configured).__name__} of {reference.PACKAGE} {reference.version()}"
        # it does not register its networks, whose parameters options may name
        named = [*_Plain(networks).named_parameters(), *model.named_parameters()]
        trained = SimpleNamespace(
            named_parameters=lambda: named,
            model_parameters=model.model_parameters,
            mtl_parameters=model.mtl_parameters,
        )
        take = self._updating(trained, gradients)
        return self._contender(REFERENCE, label, model, take, reset)

    def _contender(
        self,
        name: str,
        label: str,
        model: Any,
        take: Callable[[Batch], object],
        give_rotations: Callable[[], None] = _nothing,
    ) -> Contender:
        """Return a contender with its rotations prepared."""
        give_rotations()
        parameters = [*model.model_parameters(), *model.mtl_parameters()]
        reset = give_rotations if self._config.bench.optimizers else _nothing
        return Contender(name, label, self._nodes.get(name), model, take, parameters, reset)

    def _groups(self, model: Any) -> list[OptimizerGroup]:
        """Return the optimisers that are part of the step; none unless ``bench.optimizers``."""
        if not self._config.bench.optimizers:
            return []
        train = self._config.train
        length = RunLength(train.epochs, num_steps(self.networks.dataset, train))
        return optimizer_groups(self._config, self._constructors, length, model)

    def _updating(
        self, model: Any, gradients: Callable[[Batch], None]
    ) -> Callable[[Batch], object]:
        """Return a step that computes gradients and goes on with the plain steps of optimisers."""
        optimizers = [group.optimizer for group in self._groups(model)]

        def take(batch: Batch) -> None:
            gradients(batch)
            for optimizer in optimizers:
                optimizer.step()

        return take

    def _copy(self) -> Networks:
        backbone = copy.deepcopy(self.networks.backbone)
        return replace(self.networks, backbone=backbone, heads=copy.deepcopy(self.networks.heads))

    def _placed(self, model: Any, networks: Networks) -> Any:
        """On the device, in the type and mode of the benchmark, its networks compiled if asked."""
        model = model.to(device=networks.device, dtype=DTYPES[self._config.bench.dtype])
        model.train()
        for module in freeze(_Plain(networks), self._config.freeze):
            module.eval()
        if self._config.compile:
            compile_networks((networks.backbone, *networks.heads))
        return model

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self._config.bench.dtype == "bfloat16"
        return torch.autocast(self.networks.device.type, dtype=torch.bfloat16, enabled=enabled)


class _Plain(nn.Module):
    """Backbone and heads, differentiated end to end.

    Args:
        networks: The backbone and the heads.
        at_once: Whether equal linear heads are one product, as they are in our methods.
    """

    def __init__(self, networks: Networks, *, at_once: bool = False) -> None:
        super().__init__()
        self.backbone = networks.backbone
        self.heads = nn.ModuleList(networks.heads)
        self._in_place = [writes_into_input(head) for head in networks.heads]
        self._may_be_batched = at_once
        self._batched: BatchedHeads | None = None

    def forward(self, *inputs: Any, **named: Any) -> Sequence[Tensor]:
        """Predictions of all tasks."""
        z = _first(self.backbone(*inputs, **named))
        if self._may_be_batched:  # asked once
            self._may_be_batched = False
            self._batched = BatchedHeads.of(self.heads, z)
        if self._batched is not None:
            return self._batched.outputs(z, num_task_axes=0)
        heads = zip(self.heads, self._in_place, strict=True)
        return [_first(head(z.clone() if in_place else z)) for head, in_place in heads]

    def model_parameters(self) -> Iterable[nn.Parameter]:
        """All of them."""
        return self.parameters()

    def mtl_parameters(self) -> Iterable[nn.Parameter]:
        """None."""
        return ()


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, (list, tuple)) else output
