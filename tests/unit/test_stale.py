"""Forward is a function of parameters and input: no write is missed, and every transform works."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ema_pytorch import EMA
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch_ema import ExponentialMovingAverage

from rotograd_cli.methods import RotoGrad, cached
from rotograd_cli.methods.famo import FAMO
from rotograd_cli.methods.rotate import Rotate

PATHS = ("folded", "general")
NAMES = ("rotations.free_parameters", "rotations.manifold.base", "heads.0.weight", "heads.2.bias")


def network(path: str, heads: Callable[[], nn.Module] = lambda: nn.Linear(12, 2)) -> Any:
    torch.manual_seed(0)
    return RotoGrad(nn.Linear(5, 12), [heads() for _ in range(3)], 12, rotation_path=path)


def moved(path: str) -> Any:
    """Away from A = 0."""
    model = network(path)
    model.rotations.free_parameters.detach().normal_(std=0.3)
    return model.eval()


def outputs(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack(model(x))


def fresh_outputs(model: Any, x: Tensor) -> Tensor:
    """Those of a new model with the same state."""
    fresh = network(model.rotated.path)
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    return outputs(fresh.train(model.training), x)


def other_value(name: str, value: Tensor) -> Tensor:
    """Another value of a parameter, or other rotations for the bases."""
    if "base" in name:
        return value[1:2].clone().expand_as(value)
    return 0.3 * torch.randn_like(value)


def tensors_of(model: Any) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def through_data(tensor: Tensor, value: Tensor) -> None:
    tensor.data.copy_(value)


def by_lerp(tensor: Tensor, value: Tensor) -> None:
    tensor.data.lerp_(value.to(tensor.dtype), 1.0)


def by_assignment(tensor: Tensor, value: Tensor) -> None:
    tensor.data = value.contiguous()


WRITES = (through_data, by_lerp, by_assignment)


def test_every_write_is_seen_at_once() -> None:
    x = torch.randn(4, 5)
    for path in PATHS:
        for name in NAMES:
            for write in WRITES:
                for training in (True, False):
                    model = network(path).train(training)
                    before = outputs(model, x)
                    write(tensors_of(model)[name], other_value(name, tensors_of(model)[name]))
                    after = outputs(model, x)
                    case = f"{path} {name} {write.__name__} {training}"
                    torch.testing.assert_close(after, fresh_outputs(model, x), msg=case)
                    assert not torch.equal(before, after), case


def step(model: Any, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model.backward([(y - 1).square().mean() for y in model(torch.randn(8, 5))])
    optimizer.step()


def test_averages_that_torch_ema_swaps_in_are_seen() -> None:
    x = torch.randn(4, 5)
    for path in PATHS:
        model = network(path)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        average = ExponentialMovingAverage(model.parameters(), decay=0.5)
        for _ in range(4):
            step(model, optimizer)
            average.update()
        trained = outputs(model.eval(), x)
        with average.average_parameters():
            averaged = outputs(model, x)
            torch.testing.assert_close(averaged, fresh_outputs(model, x), msg=path)
        assert not torch.allclose(averaged, trained, atol=1e-3), path
        torch.testing.assert_close(outputs(model, x), trained, msg=path)


def test_the_copy_that_ema_pytorch_keeps_is_no_step_behind() -> None:
    x = torch.randn(4, 5)
    for path in PATHS:
        model = network(path)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        average = EMA(model, beta=0.5, update_after_step=0, update_every=1)
        for _ in range(4):
            before = outputs(average.ema_model, x)
            step(model, optimizer)
            average.update()
            after = outputs(average.ema_model, x)
            torch.testing.assert_close(after, fresh_outputs(average.ema_model, x), msg=path)
            assert not torch.equal(before, after), path


def test_functional_calls_use_the_tensors_that_they_are_given() -> None:
    x = torch.randn(4, 5)
    for path in PATHS:
        model, other = moved(path), moved(path)
        for name, tensor in tensors_of(other).items():
            if tensor.is_floating_point():
                tensor.data.copy_(other_value(name, tensor))
        expected = outputs(other, x)
        for context in (torch.no_grad(), model.evaluating()):
            with context, torch.no_grad():
                outputs(model, x)
                result = torch.stack(functional_call(model, tensors_of(other), (x,)))
            torch.testing.assert_close(result, expected, msg=path)


def test_functional_gradients_are_those_of_autograd() -> None:
    """Rotations are constants of an evaluation."""
    x = torch.randn(4, 5)
    for path in PATHS:
        model = moved(path)
        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def loss(values: dict[str, Tensor], model: Any = model) -> Tensor:
            return torch.stack(functional_call(model, values, (x,))).square().sum()

        found = grad(loss)(parameters)
        loss(dict(model.named_parameters())).backward()
        for name, p in model.named_parameters():
            expected = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_stacked_states_are_evaluated_as_one() -> None:
    x = torch.randn(4, 5)
    for path in PATHS:
        models = [moved(path) for _ in range(3)]
        state = stack_module_state(models)  # type: ignore[arg-type]

        def call(parameters: Any, buffers: Any, model: Any = models[0]) -> Any:
            return torch.stack(functional_call(model, (parameters, buffers), (x,)))

        with torch.no_grad():
            together = vmap(call)(*state)
        for model, found in zip(models, together, strict=True):
            torch.testing.assert_close(found, outputs(model, x), rtol=1e-4, atol=1e-5, msg=path)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))


SHAPES = {"alias", "unsqueeze", "expand", "cat", "view", "reshape", "slice", "select", "to"}
ONNX = {"linear", "relu", "matmul", "_assert_tensor_metadata"} | SHAPES
"""Operations of a task's network that every exporter of ONNX knows."""


@pytest.mark.filterwarnings("default")  # torch's own
def test_the_network_of_a_task_can_be_exported() -> None:
    x = torch.randn(4, 5)
    for path in PATHS:
        model = network(path, mlp)
        model.rotations.free_parameters.detach().normal_(std=0.3)
        task = model.eval()[1].eval()
        exported = torch.export.export(task, (x,))
        torch.testing.assert_close(exported.module()(x), task(x), rtol=0, atol=1e-5)
        with model.evaluating():
            constant = torch.export.export(model[1].eval(), (x,))
        torch.testing.assert_close(constant.module()(x), task(x), rtol=0, atol=1e-5)
        names = [str(n.target) for n in constant.graph.nodes if n.op == "call_function"]
        assert not {name.split(".")[1] for name in names} - ONNX, names


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's own
def test_a_model_can_be_compiled_as_a_whole() -> None:
    for path in ("auto", "general"):
        torch.manual_seed(0)
        heads = [nn.Linear(12, 1), nn.Linear(12, 3)]
        model = RotoGrad(nn.Linear(5, 12), heads, 12, rotation_path=path)
        plain = copy.deepcopy(model)
        compiled = torch.compile(model, backend="eager")
        for forward, trained in ((compiled, model), (plain, plain)):
            torch.manual_seed(1)
            optimizer = torch.optim.Adam(trained.parameters(), lr=1e-2)
            for _ in range(8):  # the series of the rotations grows with them
                optimizer.zero_grad()
                trained.backward([y.square().mean() for y in forward(torch.randn(8, 5))])
                optimizer.step()
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
        x = torch.randn(8, 5)
        with torch.no_grad():
            for found, expected in zip(compiled.eval()(x), plain.eval()(x), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_rotations_of_the_losses_after_an_update_are_not_kept() -> None:
    torch.manual_seed(0)
    rule = FAMO(num_tasks=3, gamma=0.0)
    model: Any = Rotate(nn.Linear(5, 12), [nn.Linear(12, 2) for _ in range(3)], 12, rule=rule)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    x = torch.randn(4, 5)
    with cached():
        losses = [y.square().mean() for y in model(x)]
        before = model.backward(losses)
        with torch.no_grad():
            after = torch.stack([y.square().mean() for y in model(x)])
        model.observe_update(before, after, torch.ones(3, dtype=torch.bool))
        optimizer.step()
        kept = outputs(model, x)
    torch.testing.assert_close(kept, outputs(model, x))
