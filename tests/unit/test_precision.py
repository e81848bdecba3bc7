"""Arithmetic in 16 bits: the loss scale, and what must not depend on it."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import NonFiniteError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.training.precision import AUTOCAST, LossScale
from rotograd_cli.training.seeding import rng_state, set_rng_state
from rotograd_cli.training.stepper import train_step
from tests.cli.test_resume import same
from tests.contract.test_methods import FILES as ALL_METHODS
from tests.contract.test_methods import build, max_num_tasks
from tests.toy import NUM_INPUTS, TASKS, ToyDataset

ROTATING = ("rotateonly", "rotograd", "rotogradnorm", "imtlg_rotations")
SCALES = tuple(2.0**k for k in range(8, 25, 4))
TOO_LARGE = 2.0**24  # gradients overflow float16, whose largest number is 65504


def batch() -> Batch:
    return ToyDataset(sizes=(64, 1, 1)).batch("train", torch.arange(64))


def network(method: str, hidden: tuple[int, ...], precision: str) -> MultiTaskMethod:
    """The method in training; ``hidden=()`` takes the folded path, which forms no rotation."""
    torch.manual_seed(0)
    layers = (nn.Linear(NUM_INPUTS, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2))
    heads = [
        nn.Sequential(
            *[layer for size in hidden for layer in (nn.Linear(6, size), nn.Tanh())],
            nn.Linear(hidden[-1] if hidden else 6, task.num_outputs),
        )
        for task in TASKS[: max_num_tasks(method) or 3]
    ]
    model: MultiTaskMethod = build(method, heads, nn.Sequential(*layers))
    model.autocast_dtype = AUTOCAST[precision]
    return model.train()


def optimizers_of(model: MultiTaskMethod) -> list[torch.optim.Optimizer]:
    groups = (list(model.model_parameters()), list(model.mtl_parameters()))
    return [torch.optim.SGD(group, lr=0.1, momentum=0.9) for group in groups if group]


class Run:
    """A model with its optimisers, stepped on one batch."""

    def __init__(self, model: MultiTaskMethod) -> None:
        self.model, self.optimizers = model, optimizers_of(model)
        self.tasks = TASKS[: len(model)]
        torch.manual_seed(7)

    def step(self, loss_scale: float | None = None) -> Tensor:
        return train_step(
            self.model,
            self.tasks,
            [batch()],
            self.optimizers,
            check_finite=True,
            loss_scale=loss_scale,
        )

    def state(self) -> dict[str, Any]:
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"model": self.model.state_dict(), "optimizers": optimizers, "rng": rng_state()}


def rotations_after(method: str, hidden: tuple[int, ...], scale: float | None) -> Tensor:
    """Free parameters after three steps; in float32 without a scale."""
    run = Run(network(method, hidden, "fp32" if scale is None else "fp16"))
    loss_scale = LossScale(scale or 1.0)
    for _ in range(3):
        if scale is None:
            run.step()
        else:
            loss_scale.take(run.model, run.step)
    return run.model.get_parameter("rotations.free_parameters").detach()


@pytest.mark.parametrize("hidden", [(), (6,)])
@pytest.mark.parametrize("method", ROTATING)
def test_the_rotation_step_is_the_same_whatever_the_loss_scale(
    method: str, hidden: tuple[int, ...]
) -> None:
    """Bit for bit, scales that overflow at first included; float32's up to float16's 11 bits."""
    first, *others = [rotations_after(method, hidden, scale) for scale in SCALES]
    assert all(torch.equal(first, other) for other in others)
    plain = rotations_after(method, hidden, None)
    assert (first - plain).norm() < 0.02 * plain.norm()
    small = rotations_after(method, hidden, 1.0)  # some gradients are subnormal in float16
    assert (small - plain).norm() < 0.02 * plain.norm()


@pytest.mark.parametrize(
    ("method", "rebase_every"), [*((name, None) for name in ALL_METHODS), ("rotograd", 1)]
)
def test_a_step_that_overflowed_leaves_no_trace(method: str, rebase_every: int | None) -> None:
    """Oracle: the step with the scale that did not, from the same numbers."""
    tried, direct = (Run(network(method, (6,), "fp16")) for _ in range(2))
    for run in (tried, direct) if rebase_every else ():
        run.model.get_submodule("rotations").rebase_every = rebase_every
        torch.manual_seed(7)
        run.step(1.0)  # the next one re-bases first
    loss_scale = LossScale(TOO_LARGE)
    torch.manual_seed(7)
    losses = loss_scale.take(tried.model, tried.step)
    found = copy.deepcopy(tried.state())
    assert 1 <= loss_scale.value < TOO_LARGE
    torch.manual_seed(7)
    wanted = direct.step(loss_scale.value)
    assert torch.equal(losses, wanted)
    assert same(found, direct.state())
    assert all(parameter.grad is None for parameter in tried.model.parameters())


@pytest.mark.parametrize("method", ROTATING)
def test_no_rotation_is_copied_in_case_a_step_overflows(method: str) -> None:
    model = network(method, (6,), "fp16")
    stack = model.get_buffer("rotations.manifold.base")
    kept = [x for x in model.changing_state().values() if isinstance(x, Tensor)]
    assert sum(x.numel() for x in kept) < stack.numel() / 2


def test_a_loss_that_is_not_finite_is_no_matter_of_scale() -> None:
    run, loss_scale = Run(network("rotograd", (6,), "fp16")), LossScale(2.0**10)
    tries = []

    def step(scale: float) -> Tensor:
        tries.append(scale)
        bad = batch()
        bad.targets["value"][3] = math.inf  # type: ignore[index]
        return train_step(
            run.model, TASKS, [bad], run.optimizers, check_finite=True, loss_scale=scale
        )

    with pytest.raises(NonFiniteError, match="The loss of task 'value' became inf"):
        loss_scale.take(run.model, step)
    assert (tries, loss_scale.value) == ([2.0**10], 2.0**10)


def test_a_gradient_that_is_not_finite_without_a_scale_either_ends_the_halving() -> None:
    run, loss_scale = Run(network("rotograd", (6,), "fp16")), LossScale(8.0)
    run.model.backbone.get_parameter("0.weight").register_hook(lambda g: g * math.inf)
    state = copy.deepcopy(run.model.state_dict())
    parameters = dict(run.model.named_parameters())
    with pytest.raises(NonFiniteError, match=r"The gradient of backbone\.0\.weight became"):
        loss_scale.take(run.model, run.step)
    assert loss_scale.value == 1
    assert all(torch.equal(parameters[name], state[name]) for name in parameters)


def test_the_scale_grows_after_steps_without_an_overflow_up_to_a_limit() -> None:
    model = network("vanilla", (), "fp16")
    loss_scale = LossScale(2.0**22, growth_steps=2)
    seen = []

    def step(scale: float) -> Tensor:
        seen.append(scale)
        return torch.zeros(2, 3)

    for _ in range(8):
        loss_scale.take(model, step)
    assert seen == [2.0**22] * 2 + [2.0**23] * 2 + [2.0**24] * 4


def test_an_overflow_starts_the_count_anew_and_the_state_goes_with_the_checkpoint() -> None:
    model = network("vanilla", (), "fp16")
    loss_scale, scales = LossScale(2.0**10, growth_steps=3), []

    def step(scale: float) -> Tensor:
        scales.append(scale)
        if len(scales) == 3:
            raise NonFiniteError("The gradient overflowed", losses={"a": 1.0})
        return torch.zeros(2, 3)

    for _ in range(3):
        loss_scale.take(model, step)
    assert loss_scale.state_dict() == {"value": 2.0**9, "steps": 1}
    other = LossScale(growth_steps=3)
    other.load_state_dict(loss_scale.state_dict())
    for _ in range(2):
        other.take(model, step)
    assert other.state_dict() == {"value": 2.0**10, "steps": 0}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ALL_METHODS)
def test_networks_compute_in_16_bits_and_the_method_in_32(method: str, precision: str) -> None:
    model = network(method, (6,), precision)
    generators = rng_state()
    predictions: Any = model(batch().inputs)
    set_rng_state(generators)
    assert {prediction.dtype for prediction in predictions} == {AUTOCAST[precision]}
    run = Run(model)
    losses = run.step(256.0 if precision == "fp16" else None)
    assert losses.dtype == torch.float32
    floating = [v for v in (*model.parameters(), *model.buffers()) if v.is_floating_point()]
    assert {value.dtype for value in floating} <= {torch.float32, torch.float64}
    assert all(bool(value.isfinite().all()) for value in floating)
