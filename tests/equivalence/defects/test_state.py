"""The state and the parts of a model: defects 1 to 3."""

import copy
import io
import pickle
from collections.abc import Callable, Sequence
from types import ModuleType

import pytest
import torch
from torch import nn

from rotograd_cli import methods
from tests.equivalence.defects.models import (
    BURN_IN,
    batch,
    build,
    every_method,
    every_rotating_method,
    make_backbone,
    make_heads,
    make_optimizers,
    pass_once,
    reference,
    step,
)

# ---- 1: state


def continues_exactly(package: ModuleType, method: str, num_steps: int) -> None:
    model = build(package, method).double()
    for module in (model.backbone, *model.heads):
        module.double()
    optimizers = make_optimizers(model)
    for seed in range(num_steps):
        step(model, optimizers, batch(seed))
    file = io.BytesIO()
    torch.save([model.state_dict(), *(opt.state_dict() for opt in optimizers)], file)
    file.seek(0)
    model_state, *optimizer_states = torch.load(file, weights_only=True)
    resumed = build(package, method).double()
    if package is reference:  # generous: what its state_dict lacks is carried over by hand
        for mine, theirs in zip(resumed.model_parameters(), model.model_parameters(), strict=True):
            mine.data = theirs.detach().clone()
    resumed.load_state_dict(model_state)
    resumed_optimizers = make_optimizers(resumed)
    for optimizer, state in zip(resumed_optimizers, optimizer_states, strict=True):
        optimizer.load_state_dict(state)
    for seed in range(num_steps, num_steps + 4):
        step(model, optimizers, batch(seed))
        step(resumed, resumed_optimizers, batch(seed))
    pairs = zip(model.model_parameters(), resumed.model_parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    for p, q in zip(model.mtl_parameters(), resumed.mtl_parameters(), strict=True):
        assert torch.equal(p, q)
    wanted = model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in resumed.state_dict().items())


@every_method
@pytest.mark.parametrize("num_steps", [BURN_IN - 1, BURN_IN + 2])
def test_a_resumed_run_continues_bit_for_bit(method: str, num_steps: int) -> None:
    continues_exactly(methods, method, num_steps)


def test_a_resumed_run_of_the_reference_does_not() -> None:
    with pytest.raises(AssertionError):
        continues_exactly(reference, "RotoGrad", BURN_IN + 2)


def state_holds_the_whole_network(package: ModuleType, method: str) -> None:
    model = build(package, method)
    names = set(model.state_dict())
    assert any(name.startswith("backbone.") for name in names)
    assert any(name.startswith("heads.2.") for name in names)


@every_method
def test_state_dict_holds_backbone_and_heads(method: str) -> None:
    state_holds_the_whole_network(methods, method)
    with pytest.raises(AssertionError):
        state_holds_the_whole_network(reference, method)


# ---- 2: the caller's heads


def heads_are_untouched(package: ModuleType, method: str) -> None:
    heads = make_heads()
    before = list(heads)
    build(package, method, heads=heads)
    assert heads == before


def wrapping_twice_nests_nothing(package: ModuleType) -> None:
    heads, backbone, x = make_heads(), make_backbone(), batch().float()
    first = build(package, backbone=backbone, heads=heads).eval()
    before = first(x)
    build(package, backbone=backbone, heads=heads)
    assert all(torch.equal(p, q) for p, q in zip(first(x), before, strict=True))


@every_rotating_method
def test_the_callers_list_of_heads_is_not_modified(method: str) -> None:
    heads_are_untouched(methods, method)
    with pytest.raises(AssertionError):
        heads_are_untouched(reference, method)


def test_wrapping_the_same_heads_twice_nests_no_rotations() -> None:
    wrapping_twice_nests_nothing(methods)
    with pytest.raises(AssertionError):
        wrapping_twice_nests_nothing(reference)


@pytest.mark.parametrize("container", [tuple, nn.ModuleList])
@every_method
def test_heads_may_be_any_sequence(
    method: str, container: Callable[[list[nn.Module]], Sequence[nn.Module]]
) -> None:
    model = build(methods, method, heads=container(make_heads())).double()
    pass_once(model, batch())
    assert all(p.grad is not None for p in model.parameters())


def test_the_reference_refuses_a_tuple_of_heads() -> None:
    with pytest.raises(TypeError):
        build(reference, heads=tuple(make_heads()))


# ---- 3: the whole network follows the module


def double_reaches_everything(package: ModuleType, method: str) -> None:
    model = build(package, method).double()
    assert {p.dtype for p in model.model_parameters()} == {torch.float64}


def zero_grad_reaches_everything(package: ModuleType, method: str) -> None:
    model = build(package, method)
    pass_once(model, batch().float())
    model.zero_grad()
    assert all(p.grad is None for p in (*model.model_parameters(), *model.mtl_parameters()))


def copies_after_a_step(package: ModuleType, method: str) -> None:
    model = build(package, method)
    step(model, make_optimizers(model), batch().float())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.eval()
        model.eval()
        x = batch(1).float()
        assert all(torch.equal(p, q) for p, q in zip(twin(x), model(x), strict=True))
        twin.train()
        pass_once(twin, x)
        model.train()


@every_method
@pytest.mark.parametrize(
    "claim", [double_reaches_everything, zero_grad_reaches_everything, copies_after_a_step]
)
def test_module_operations_reach_backbone_and_heads(
    claim: Callable[[ModuleType, str], None], method: str
) -> None:
    claim(methods, method)
    with pytest.raises((AssertionError, RuntimeError)):
        claim(reference, method)


@every_method
def test_half_precision_trains_finitely(method: str) -> None:
    model = build(methods, method).half()
    x = batch().half()
    for _ in range(2):
        model.backward([(p.float() - 1).square().mean() for p in model(x)])
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
