"""Equal linear heads as one operation: the numbers of the heads one by one."""

import copy
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.heads.batched import BatchedHeads
from rotograd_cli.methods.rule import Statistics, Weighting
from rotograd_cli.methods.vanilla import VanillaMTL
from tests.toy import METHODS

K, N, D = 5, 7, 6


class Units(Weighting):
    """A rule that needs every task's gradient: the sum of the normalised ones."""

    def weights(self, s: Statistics) -> Tensor:
        return s.present / s.norms.clamp_min(1e-12)


def sum_of_units(backbone: nn.Module, heads: Sequence[nn.Module]) -> MultiTaskMethod:
    return MultiTaskMethod(backbone, heads, Units())


ALL: dict[str, Any] = {**METHODS, "sum_of_units": sum_of_units}


class Alone(nn.Module):
    """A linear layer that the method does not know to be one."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, z: Tensor) -> Any:
        return self.layer(z)


def heads(bias: bool = True, flatten: bool = False, num_outputs: int = 2) -> list[nn.Module]:
    layers = [nn.Linear(D, num_outputs, bias=bias).double() for _ in range(K)]
    return [nn.Sequential(nn.Flatten(), layer) for layer in layers] if flatten else list(layers)


def method(name: str, modules: Sequence[nn.Module]) -> MultiTaskMethod:
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Linear(4, D), nn.Tanh()).double()
    arguments = (D,) if name.startswith("roto") or name == "rotateonly" else ()
    options: dict[str, Any] = {"rotogradnorm": {"alpha": 0.5}}.get(name, {})
    if arguments:
        options["rotation_path"] = "general"
    model: MultiTaskMethod = ALL[name](backbone, modules, *arguments, **options)
    return model.double()


def losses_of(predictions: Sequence[Tensor], absent: int | None) -> list[Tensor | None]:
    return [
        None if k == absent else (k + 1) * (prediction - k).square().mean()
        for k, prediction in enumerate(predictions)
    ]


def parameters(model: MultiTaskMethod) -> dict[str, nn.Parameter]:
    return {name.replace("layer.", ""): p for name, p in model.named_parameters()}


@pytest.mark.parametrize("absent", [None, 2])
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ALL)
def test_outputs_and_gradients_are_those_of_the_heads_one_by_one(
    name: str, bias: bool, flatten: bool, absent: int | None
) -> None:
    torch.manual_seed(0)
    modules = heads(bias, flatten)
    together = method(name, modules)
    alone = method(name, [Alone(copy.deepcopy(module)) for module in modules])
    x = torch.randn(N, 4, dtype=torch.float64)
    for model in (together, alone):
        model.backward(losses_of(model(x), absent))
    assert BatchedHeads.of(together.heads, torch.zeros(N, D)) is not None
    assert BatchedHeads.of(alone.heads, torch.zeros(N, D)) is None
    found, expected = parameters(together), parameters(alone)
    assert found.keys() == expected.keys()
    for key, parameter in expected.items():
        if parameter.grad is None:  # the head of the absent task
            assert found[key].grad is None, key
        else:
            torch.testing.assert_close(found[key].grad, parameter.grad, rtol=1e-12, atol=1e-14)
    together.eval(), alone.eval()
    with torch.no_grad():
        for y, z in zip(together(x), alone(x), strict=True):
            torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_one_task_network_gives_the_batched_prediction(name: str) -> None:
    model = method(name, heads()).eval()
    x = torch.randn(N, 4, dtype=torch.float64)
    with torch.no_grad():
        batched = model(x)
    for k in range(K):
        torch.testing.assert_close(model[k](x), batched[k], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ALL)
def test_predictions_may_be_written_into(name: str) -> None:
    torch.manual_seed(0)
    model = method(name, heads())
    x = torch.randn(N, 4, dtype=torch.float64)
    copies = [prediction.detach().clone() for prediction in model(x)]
    predictions = model(x)
    predictions[0].mul_(2)
    model.backward(losses_of(predictions, None))
    gradient = model.heads[0].weight.grad
    for k in range(1, K):
        assert torch.equal(predictions[k], copies[k])
    model.zero_grad()
    plain = model(x)
    model.backward(losses_of([2 * plain[0], *plain[1:]], None))
    torch.testing.assert_close(model.heads[0].weight.grad, gradient, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        model.eval()(x)[0].zero_()  # in evaluation too


def test_gradients_under_autocast_are_those_of_the_heads_one_by_one() -> None:
    torch.manual_seed(0)
    modules = [head.float() for head in heads()]
    together = method("vanilla", modules).float()
    alone = method("vanilla", [Alone(copy.deepcopy(module)) for module in modules]).float()
    x = torch.randn(N, 4)
    for model in (together, alone):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predictions = model(x)
            assert predictions[0].dtype == torch.bfloat16
            losses = losses_of([prediction.float() for prediction in predictions], None)
        model.backward(losses)
    found, expected = parameters(together), parameters(alone)
    for key, parameter in expected.items():
        gradient = found[key].grad
        assert gradient is not None
        assert gradient.dtype == torch.float32
        assert parameter.grad is not None
        error = (gradient - parameter.grad).norm() / parameter.grad.norm()
        assert error < 0.02, key  # bfloat16 has 8 bits


def test_only_equal_plain_linear_layers_are_batched() -> None:
    z = torch.zeros(3, D)
    others = {
        "another width": nn.Linear(D, 3).double(),
        "another type": nn.Linear(D, 2),
        "no bias": nn.Linear(D, 2, bias=False).double(),
        "more layers": nn.Sequential(nn.Linear(D, 2).double(), nn.ReLU()),
    }
    assert BatchedHeads.of(heads(), z) is not None
    assert BatchedHeads.of(heads()[:1], z) is None  # nothing to gain
    for name, other in others.items():
        assert BatchedHeads.of([*heads(), other], z) is None, name
    assert BatchedHeads.of(heads(), torch.zeros(3, 4, D)) is None  # other axes
    hooked = heads()
    handle = hooked[1].register_forward_hook(lambda module, inputs, output: output + 1)
    assert BatchedHeads.of(hooked, z) is None
    handle.remove()
    assert BatchedHeads.of(hooked, z) is not None


def test_a_frozen_head_gets_no_gradient_and_a_frozen_backbone_none_at_all() -> None:
    modules = heads()
    modules[3].requires_grad_(False)
    model = method("vanilla", modules)
    model.backbone.requires_grad_(False)
    model.backward(losses_of(model(torch.randn(N, 4, dtype=torch.float64)), None))
    have = [head.weight.grad is not None for head in model.heads]
    assert have == [True, True, True, False, True]
    assert all(p.grad is None for p in model.backbone.parameters())


def test_copies_and_pickles_work_after_a_step() -> None:
    model = method("vanilla", heads())
    x = torch.randn(N, 4, dtype=torch.float64)
    model.backward(losses_of(model(x), None))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            for y, z in zip(other.eval()(x), model.eval()(x), strict=True):
                assert torch.equal(y, z)
        other.heads[0].weight.data.zero_()  # the copy reads its own heads
        with torch.no_grad():
            assert not torch.equal(other(x)[0], model(x)[0])


class _CountKernels(TorchDispatchMode):
    """Counts operations that compute: views and bookkeeping start no kernel."""

    FREE = (
        "view",
        "unbind",
        "detach",
        "select",
        "slice",
        "expand",
        "t",
        "transpose",
        "alias",
        "_unsafe_view",
        "new_empty",
        "set_",
        "unsqueeze",
        "squeeze",
        "empty",
        "reshape",
    )

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.num += func.overloadpacket.__name__ not in self.FREE
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", METHODS)
def test_number_of_operations_does_not_grow_with_the_number_of_heads(name: str) -> None:
    counts = []
    for num in (4, 40):
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Linear(4, D), nn.Tanh())
        arguments = () if name == "vanilla" else (D,)
        options: dict[str, Any] = {"rotogradnorm": {"alpha": 0.5}}.get(name, {})
        model = METHODS[name](
            backbone, [nn.Linear(D, 1) for _ in range(num)], *arguments, **options
        )
        counts.append(_kernels_of_a_step(model, num))
    assert counts[0] == counts[1]


def _kernels_of_a_step(model: MultiTaskMethod, num: int) -> int:
    from rotograd_cli.data.base import Batch
    from rotograd_cli.tasks import Task, losses, metrics
    from rotograd_cli.training.stepper import train_step

    tasks = [
        Task(f"t{k}", 1, losses.binary_cross_entropy, (metrics.f1(),), batchable=True)
        for k in range(num)
    ]
    targets = torch.randint(2, (num, N))
    batch = Batch(torch.randn(N, 4), {task.name: targets[k] for k, task in enumerate(tasks)})
    train_step(model, tasks, [batch], [])  # start values
    model.zero_grad()
    with _CountKernels() as counter:
        train_step(model, tasks, [batch], [])
    assert isinstance(model, VanillaMTL) or counter.num > 0
    return counter.num
