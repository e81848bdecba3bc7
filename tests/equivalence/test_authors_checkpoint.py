"""Checkpoints of the authors' package continue in ours."""

import copy
import io
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli import methods
from rotograd_cli.errors import CheckpointError
from rotograd_cli.linalg.rotations import haar_rotations
from rotograd_cli.methods.authors import load_authors_state_dict
from tests.oracle import load_reference, use_exact_exponential

reference = load_reference()
METHODS = ("VanillaMTL", "RotateOnly", "RotoGrad", "RotoGradNorm")
NUM_TASKS, NUM_INPUTS, SIZE, FEATURES = 3, 5, 4, 6


def network() -> tuple[nn.Module, nn.ModuleList]:
    backbone = nn.Sequential(nn.Linear(NUM_INPUTS, FEATURES), nn.Tanh())
    heads = nn.ModuleList(
        nn.Sequential(nn.Linear(FEATURES, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 1))
        for _ in range(NUM_TASKS)
    )
    return backbone.double(), heads.double()


def build(package: ModuleType, method: str, size: int = SIZE) -> Any:
    backbone, heads = network()
    options: dict[str, Any] = {} if method == "VanillaMTL" else {"rotation_shape": size}
    if method == "RotoGradNorm":
        options["alpha"] = 0.5
    model = getattr(package, method)(backbone, heads, **options).double()
    if package is reference and method != "VanillaMTL":
        use_exact_exponential(model)
        for k, R in enumerate(haar_rotations(NUM_TASKS, size)):  # theirs: orthogonal to 1e-7 only
            model.parametrizations[f"rotation_{k}"][0].base.copy_(R)
    return model


def train(model: Any, num_steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    network_parameters = list(model.model_parameters())
    ids = {id(p) for p in network_parameters}
    # with an nn.ModuleList the authors' mtl_parameters() holds the heads as well
    own = [p for p in model.mtl_parameters() if id(p) not in ids]
    optimizers = [torch.optim.SGD(group, lr=0.05) for group in (network_parameters, own) if group]
    for _ in range(num_steps):
        x = torch.randn(8, NUM_INPUTS, generator=generator, dtype=torch.float64)
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses = [(k + 1) * (p - x[:, :1]).square().mean() for k, p in enumerate(model(x))]
        model.backward(losses)
        for optimizer in optimizers:
            optimizer.step()


def saved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Tensor] = torch.load(file, weights_only=True)
    return loaded


def assert_same_predictions(model: Any, other: Any) -> None:
    x = torch.linspace(-1, 1, 4 * NUM_INPUTS, dtype=torch.float64).view(4, NUM_INPUTS)
    model.eval()
    other.eval()
    for p, q in zip(model(x), other(x), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)  # float64 of order 1
    model.train()
    other.train()


@pytest.mark.parametrize("method", METHODS)
def test_the_authors_model_continues_in_ours(method: str) -> None:
    torch.manual_seed(0)
    trained = build(reference, method)
    train(trained, 8)
    state = saved(trained.state_dict())
    theirs, ours = build(reference, method), build(methods, method)
    theirs.load_state_dict(state)  # a fresh model of theirs: it has lost its start values, too
    load_authors_state_dict(ours, state)
    for model in (theirs, ours):
        model.backbone.load_state_dict(trained.backbone.state_dict())
    assert_same_predictions(trained, ours)
    for model in (theirs, ours):
        train(model, 3, seed=1)
    assert_same_predictions(theirs, ours)
    if method != "VanillaMTL":
        R = torch.stack(list(theirs.rotation))
        torch.testing.assert_close(ours.rotation, R, rtol=0, atol=1e-12)


def test_loading_changes_what_has_been_computed_before() -> None:
    theirs, ours = build(reference, "RotoGrad"), build(methods, "RotoGrad").eval()
    ours(torch.zeros(2, NUM_INPUTS, dtype=torch.float64))  # fills the cache of rotations
    load_authors_state_dict(ours, theirs.state_dict())
    torch.testing.assert_close(ours.rotations.whole().R, torch.stack(list(theirs.rotation)))


def test_heads_from_a_python_list_are_left_to_the_caller() -> None:
    backbone, heads = network()
    theirs = reference.RotoGrad(backbone, list(heads), SIZE)
    ours = build(methods, "RotoGrad")
    before = copy.deepcopy(ours.heads.state_dict())
    load_authors_state_dict(ours, theirs.state_dict())
    assert all(torch.equal(before[name], t) for name, t in ours.heads.state_dict().items())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("RotoGradNorm", r"authors' RotoGradNorm .* lacks `weight_\.0` \(3 in all\); build"),
        ("VanillaMTL", r"has the unknown `parametrizations\.rotation_0\.original`|lacks `heads"),
    ],
)
def test_a_checkpoint_of_another_method_is_refused(method: str, message: str) -> None:
    state = build(reference, "RotoGrad").state_dict()
    model = build(methods, method)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_authors_state_dict(model, state)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    load_authors_state_dict(model, state, strict=False)


def test_missing_tasks_and_wrong_sizes_are_refused() -> None:
    state = build(reference, "RotoGrad").state_dict()
    fewer = {name: t for name, t in state.items() if "heads.2" not in name}
    with pytest.raises(CheckpointError, match=r"lacks `heads\.2\.1\.0\.weight`"):
        load_authors_state_dict(build(methods, "RotoGrad"), fewer)
    for strict in (True, False):
        with pytest.raises(CheckpointError, match=r"must have shape \[5, 5\], got \[4, 4\]; build"):
            load_authors_state_dict(build(methods, "RotoGrad", 5), state, strict=strict)
