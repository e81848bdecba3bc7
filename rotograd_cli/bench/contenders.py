"""Who takes part: plain autograd, our methods and the authors' package on identical networks."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rotograd_cli.bench import reference
from rotograd_cli.bench.rotations import RotationState
from rotograd_cli.config.components import Constructors
from rotograd_cli.config.compose import component_names, component_node
from rotograd_cli.config.schema import BenchConfig
from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.runs.building import Networks, build_networks, join
from rotograd_cli.training.diagnostics import measured_record, measurement_for
from rotograd_cli.training.freezing import freeze
from rotograd_cli.training.objective import predict, task_losses
from rotograd_cli.training.precision import compile_networks
from rotograd_cli.trees import call

IDEAL = "ideal"
REFERENCE = "reference"
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
    """Configuration of its method; None for the ideal and the reference."""
    model: Any
    """Its module, with the attributes ``backbone`` and ``heads``."""
    gradients: Callable[[Batch], None]
    """The step up to and including the backward pass; gradients are left in place."""
    parameters: Sequence[nn.Parameter]
    """All that is trained."""
    optimizers: Sequence[Optimizer]
    """Optimisers that are part of the step; none unless ``bench.optimizers``."""
    reset: Callable[[], None]
    """Gives the rotations their prepared values where a step moves them."""

    def step(self, batch: Batch) -> None:
        """Do a whole step; gradients are cleared at its end."""
        self.gradients(batch)
        for optimizer in self.optimizers:
            optimizer.step()
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
    choices = [IDEAL, REFERENCE, *component_names("method")]
    nodes: dict[str, Mapping[str, Any]] = {}
    for name in config.bench.contenders:
        if name not in choices:
            raise ConfigError(
                f"`bench.contenders` must hold ideal, reference and names of methods, got "
                f"{name!r}; {suggest(name, choices)}"
            )
        if name not in (IDEAL, REFERENCE):
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
        self._rotations = RotationState(config.bench.rotation_norm, config.seed)
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
        if name == IDEAL:
            return self._ideal()
        if name == REFERENCE:
            return self._reference()
        return self._method(name)

    def _ideal(self) -> Contender:
        networks = self._copy()
        model = self._placed(_Plain(networks.backbone, networks.heads), networks)

        def gradients(batch: Batch) -> None:
            with self._autocast():
                losses = task_losses(networks.dataset.tasks, call(model, batch.inputs), batch)
                total = torch.stack([loss for loss in losses if loss is not None]).sum()
            torch.autograd.backward(total)

        return self._contender(IDEAL, "autograd on the summed losses", model, gradients)

    def _method(self, name: str) -> Contender:
        networks = self._copy()
        constructors = Constructors(replace(self._config, method=self._nodes[name]))
        model = self._placed(join(networks, constructors), networks)
        measurements = self._measurements()
        names = [task.name for task in networks.dataset.tasks]

        def gradients(batch: Batch) -> None:
            measurement = next(measurements)
            with self._autocast():
                losses = task_losses(networks.dataset.tasks, predict(model, batch), batch)
            model.backward(losses, one_head_per_loss=True, measurement=measurement)
            if measurement is not None:
                measured_record(measurement, names)

        reset = partial(self._rotations.give, model)
        return self._contender(name, model.method_name, model, gradients, reset)

    def _measurements(self) -> Iterator[Measurement | None]:
        """Yield, step by step, what takes the numbers that a run records every so many steps."""
        for step in itertools.count(1):
            is_recorded = step % self._config.train.log_every_steps == 0
            yield measurement_for(self._config.diagnostics) if is_recorded else None

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
        return self._contender(REFERENCE, label, model, gradients, reset)

    def _contender(
        self,
        name: str,
        label: str,
        model: Any,
        gradients: Callable[[Batch], None],
        give_rotations: Callable[[], None] = _nothing,
    ) -> Contender:
        """Return a contender with its rotations prepared."""
        give_rotations()
        groups = {"model": list(model.model_parameters()), "method": list(model.mtl_parameters())}
        optimizers = []
        if self._config.bench.optimizers:
            make = self._constructors.optimizers
            trained = {k: [p for p in params if p.requires_grad] for k, params in groups.items()}
            optimizers = [make[group](params) for group, params in trained.items() if params]
        parameters = [*groups["model"], *groups["method"]]
        reset = give_rotations if optimizers else _nothing
        options = self._nodes.get(name)
        return Contender(name, label, options, model, gradients, parameters, optimizers, reset)

    def _copy(self) -> Networks:
        backbone = copy.deepcopy(self.networks.backbone)
        return replace(self.networks, backbone=backbone, heads=copy.deepcopy(self.networks.heads))

    def _placed(self, model: Any, networks: Networks) -> Any:
        """On the device, in the type and mode of the benchmark, its networks compiled if asked."""
        model = model.to(device=networks.device, dtype=DTYPES[self._config.bench.dtype])
        model.train()
        for module in freeze(_Plain(networks.backbone, networks.heads), self._config.freeze):
            module.eval()
        if self._config.compile:
            compile_networks((networks.backbone, *networks.heads))
        return model

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self._config.bench.dtype == "bfloat16"
        return torch.autocast(self.networks.device.type, dtype=torch.bfloat16, enabled=enabled)


class _Plain(nn.Module):
    """Backbone and heads, differentiated end to end: the least that any method can cost."""

    def __init__(self, backbone: nn.Module, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)
        # a head that writes into its input gets a copy of the features
        self._in_place = [any(getattr(m, "inplace", False) for m in h.modules()) for h in heads]

    def forward(self, *inputs: Any, **named: Any) -> list[Tensor]:
        """Predictions of all tasks."""
        z = _first(self.backbone(*inputs, **named))
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
