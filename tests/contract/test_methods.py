"""What every method keeps, for every file in conf/method and every kind of task gradients."""

import copy
import os
import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from rotograd_cli.config.components import method_constructor
from rotograd_cli.config.compose import component_node, composing
from rotograd_cli.linalg import devices
from rotograd_cli.linalg.rotations import haar_rotations
from rotograd_cli.methods import (
    RotateOnly,
    RotoGrad,
    RotoGradNorm,
    VanillaMTL,
    cagrad,
    rule,
)
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rule import Rule
from tests.counting import CountOperations, is_read
from tests.samplers import BATCH, SAMPLERS, SIZE

CONF = Path(__file__).parents[2] / "conf"
# a user's folder of YAML files, as --config-dir takes it: its methods are tried too
OWN = Path(os.environ.get("ROTOGRAD_TEST_CONFIG_DIR", CONF))
FILES = sorted({file.stem for folder in (CONF, OWN) for file in (folder / "method").glob("*.yaml")})
OVER_PARAMETERS = ("excessmtl",)  # the identity, the backbone here, has none
METHODS = [method for method in FILES if method not in OVER_PARAMETERS]
every_method = pytest.mark.parametrize("method", METHODS)


@cache
def _composed(method: str) -> dict[str, Any]:
    if not (CONF / "method" / f"{method}.yaml").exists():
        own: dict[str, Any] = yaml.safe_load((OWN / "method" / f"{method}.yaml").read_text())
        return own
    with composing():
        return component_node("method", method)


def node_of(method: str) -> dict[str, Any]:
    """Content of a method's file; `rotate + RULE` has that rule, `RULE@x` such gradients."""
    name, _, rule = method.partition(" + ")
    name, _, gradients = name.partition("@")
    others = ({"rule": _composed(rule)} if rule else {}) | (
        {"gradients": gradients} if gradients else {}
    )
    return {**_composed(name), **others}


def build(
    method: str, heads: Sequence[nn.Module], backbone: nn.Module | None = None, **options: Any
) -> Any:
    """The method as the runner builds it, from its file and the options given here."""
    torch.manual_seed(0)
    shape = options.pop("feature_shape", (SIZE,))
    make = method_constructor({**node_of(method), **options})
    return make(backbone or nn.Identity(), heads, feature_shape=shape)


def class_of(method: str) -> Any:
    """The method's class, or its rule's."""
    return pkgutil.resolve_name(node_of(method)["_target_"])


def claims(method: str, name: str) -> bool:
    """Whether the method's rule makes a claim; those without a rule make them all."""
    rule = node_of(method).get("rule") or node_of(method)
    claim: bool = getattr(pkgutil.resolve_name(rule["_target_"]), name, True)
    return claim


def methods_of(kind: type[MultiTaskMethod]) -> list[str]:
    """Methods of exactly this class, for the claims that hold for it alone."""
    return [method for method in METHODS if class_of(method) is kind]


def max_num_tasks(method: str) -> int | None:
    """Largest number of tasks that the method takes; None for any."""
    return getattr(class_of(method), "max_num_tasks", None)


# with rotations, every rule; RotoGrad is rotate + scaleonly, the default
RULES = [method for method in METHODS if issubclass(class_of(method), Rule)]
ROTATED = [f"rotate + {rule}" for rule in RULES]


def kinds_for(method: str) -> Sequence[str]:
    """Kinds of gradients that a method is tried on: all, or some for a rule on rotated features."""
    some = ("generic", "conflicting", "zero_row", "all_zero")
    return some if method in ROTATED else tuple(SAMPLERS)


with_and_without_rotations = pytest.mark.parametrize("method", METHODS + ROTATED)


def bare(
    method: str, kind: str, dtype: torch.dtype = torch.float64, **options: Any
) -> tuple[Any, Tensor]:
    """A method without networks, and gradients with respect to its features: ``[K, N, d]``."""
    G = SAMPLERS[kind]().to(dtype).view(-1, BATCH, SIZE)
    G = G[: max_num_tasks(method)]
    model = build(method, [nn.Identity() for _ in G], **options).to(dtype)
    if hasattr(model, "rotation"):  # drawn in float32, they are orthogonal to 1e-7 only
        model.rotation = haar_rotations(len(G), SIZE)
    return model, G


def shared_gradient(model: Any, G: Tensor, values: Sequence[float | None] | None = None) -> Tensor:
    """One pass in which task k has the gradient G[k] at the features, and the loss k + 1."""
    values = [float(k + 1) for k in range(len(G))] if values is None else values
    z = torch.linspace(-1, 1, BATCH * SIZE, dtype=G.dtype).view(BATCH, SIZE).requires_grad_()
    given = z.detach().clone(), G.clone()
    R = torch.eye(SIZE).to(G).expand(len(G), -1, -1)
    R = model.rotation.detach() if hasattr(model, "rotation") else R
    linear = [((p @ R_k) * G_k).sum() for p, R_k, G_k in zip(model(z), R, G, strict=True)]
    losses = [
        None if value is None else x - x.detach().nan_to_num() + value
        for x, value in zip(linear, values, strict=True)
    ]
    model.backward(losses)
    assert torch.equal(z, given[0])
    torch.testing.assert_close(G, given[1], rtol=0, atol=0, equal_nan=True)
    assert z.grad is not None
    return z.grad


def step(
    model: Any,
    G: Tensor,
    optimizer: torch.optim.Optimizer | None,
    values: Sequence[float] | None = None,
) -> Tensor:
    model.zero_grad()
    gradient = shared_gradient(model, G, values)
    if model.needs_losses_after_update:
        before = torch.tensor(values or range(1, len(G) + 1), dtype=G.dtype)
        model.observe_update(before, before.sqrt(), torch.ones(len(G), dtype=torch.bool))
    if optimizer is not None:
        optimizer.step()
    return gradient


def make_optimizer(model: Any, lr: float = 0.05) -> torch.optim.Optimizer | None:
    own = list(model.mtl_parameters())
    return torch.optim.Adam(own, lr=lr) if own else None


def assert_close(result: Tensor, expected: Tensor, G: Tensor) -> None:
    """Equal up to rounding, measured by the longest task gradient."""
    scale = float(G.flatten(1).norm(dim=1).max()) + 1e-300
    torch.testing.assert_close(result / scale, expected / scale, rtol=0, atol=1e-10)


# ---- every method


def test_the_directory_is_the_registry() -> None:
    assert {"vanilla", "rotateonly", "rotograd", "rotogradnorm"} <= set(METHODS)


@with_and_without_rotations
def test_gradients_are_finite_and_shaped_like_what_they_belong_to(method: str) -> None:
    for kind in kinds_for(method):
        model, G = bare(method, kind, torch.float32)
        optimizer = make_optimizer(model)
        for _ in range(3):
            gradient = step(model, G, optimizer)
            assert gradient.shape == (BATCH, SIZE)
            assert gradient.isfinite().all(), kind
            for p in model.mtl_parameters():
                assert p.grad is not None, kind
                assert p.grad.shape == p.shape
                assert p.grad.isfinite().all(), kind
                assert p.isfinite().all(), kind


@with_and_without_rotations
def test_a_model_restored_from_its_state_goes_on_as_before(method: str) -> None:
    for kind in kinds_for(method):
        model, G = bare(method, kind)
        optimizer = make_optimizer(model)
        for _ in range(2):
            step(model, G, optimizer)
        other = build(method, [nn.Identity() for _ in G]).double()
        other.load_state_dict(copy.deepcopy(model.state_dict()))
        numbers = torch.get_rng_state()  # checkpoints hold it
        result = step(other, G, None)
        torch.set_rng_state(numbers)
        assert torch.equal(result, step(model, G, None)), kind
        for p, q in zip(other.mtl_parameters(), model.mtl_parameters(), strict=True):
            assert torch.equal(p.grad, q.grad), kind


EQUIVARIANT = [m for m in METHODS + ROTATED if claims(m, "permutation_equivariant")]


@pytest.mark.parametrize("method", EQUIVARIANT)
def test_the_order_of_the_tasks_does_not_matter(method: str) -> None:
    for kind in kinds_for(method):
        assert_order_does_not_matter(method, kind)


def assert_order_does_not_matter(method: str, kind: str) -> None:
    model, G = bare(method, kind)
    step(model, G, make_optimizer(model))  # so that there is state to take along
    order = torch.arange(len(G)).roll(1)
    other = build(method, [nn.Identity() for _ in G]).double()
    state = model.state_dict()  # what belongs to tasks has them on the first axis
    moved = {name: t[order] if t.dim() and len(t) == len(G) else t for name, t in state.items()}
    other.load_state_dict(moved)
    numbers = torch.get_rng_state()
    result = step(other, G[order], None, [float(k + 1) for k in order])
    torch.set_rng_state(numbers)
    assert_close(result, step(model, G, None), G)
    for p, q in zip(other.mtl_parameters(), model.mtl_parameters(), strict=True):
        # a rotation's gradient is a product of two gradients, a weight's is linear in them
        scale = float(G.flatten(1).norm(dim=1).max()) ** (2 if p.dim() > 1 else 1)
        scale = max(scale, float(p.grad.abs().max())) + 1e-300  # others do not depend on it
        torch.testing.assert_close(
            p.grad / scale, q.grad[order] / scale, rtol=0, atol=1e-11, msg=kind
        )


PLAIN = [method for method in METHODS + ROTATED if claims(method, "plain_for_one_task")]


@pytest.mark.parametrize("method", PLAIN)
def test_one_task_gives_the_backbone_its_plain_gradient(method: str) -> None:
    model, G = bare(method, "single_task")
    optimizer = make_optimizer(model)
    for _ in range(3):
        assert_close(step(model, G, optimizer), G[0], G)


@with_and_without_rotations
def test_a_nan_in_one_task_leaves_the_others_as_without_it(method: str) -> None:
    model, G = bare(method, "generic")
    other, _ = bare(method, "generic")
    if not model.per_task_gradients or len(G) == 1:
        pytest.skip("the gradients are summed unseen: the run stops as a plain one does")
    if method == "rotate + rlw":
        pytest.skip("its weights know no losses")
    spoilt = G.clone()
    spoilt[1, 0, 0] = torch.nan
    losses: list[float | None] = [1.0, None, 3.0, 4.0]
    torch.manual_seed(0)
    expected = shared_gradient(other, G, losses)
    torch.manual_seed(0)
    assert_close(shared_gradient(model, spoilt), expected, G)
    assert model.num_nonfinite.tolist() == [0, 1, 0, 0]
    for p, q in zip(model.mtl_parameters(), other.mtl_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-10)


@with_and_without_rotations
def test_a_step_waits_for_the_device_as_often_as_the_method_says(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "reads_are_free", lambda device: False)  # an accelerator's way
    model, G = bare(method, "generic")
    waits, values, present = [], torch.ones(len(G)), torch.ones(len(G), dtype=torch.bool)
    exact_to_host, exact_weights = devices.to_host, rule.weights_from_gramian
    is_on_host = False

    def to_host(tensor: Tensor) -> Tensor:
        nonlocal is_on_host
        waits.append(tensor.shape)
        is_on_host = True
        return exact_to_host(tensor)

    def weights_from_gramian(*arguments: Any) -> Tensor:
        nonlocal is_on_host
        weights = exact_weights(*arguments)
        is_on_host = False  # the weights are back on the device
        return weights

    monkeypatch.setattr(devices, "to_host", to_host)
    for module in (rule, cagrad):
        monkeypatch.setattr(module, "weights_from_gramian", weights_from_gramian)
    for measurement in (None, None, Measurement("basic")):
        waits.clear()
        z = torch.ones(BATCH, SIZE, dtype=G.dtype, requires_grad=True)
        losses = [(p * g).sum() for p, g in zip(model(z), G, strict=True)]
        with CountOperations(lambda *call: not is_on_host and is_read(*call)) as reads:
            model.backward(losses, one_head_per_loss=True, measurement=measurement)
            model.observe_update(values, values / 2, present)
            model.end_epoch()
            model.diagnostics()
        assert len(waits) == model.rule.num_device_waits
        assert reads.num == 0


# ---- indexing


@every_method
@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_a_sequence_of_end_to_end_networks(method: str, training: bool) -> None:
    heads = [nn.Linear(SIZE, k + 1) for k in range(3)][: max_num_tasks(method)]
    model = build(method, heads, nn.Linear(2, SIZE)).train(training)
    x = torch.randn(BATCH, 2)
    predictions = model(x)
    K = len(heads)
    assert len(model) == len(predictions) == K
    for k, network in enumerate(model):
        for same in (network, model[k], model[k - K]):
            # one head at a time or all: the products may be blocked differently
            torch.testing.assert_close(same(x), predictions[k])
    for k in (K, -K - 1):
        with pytest.raises(IndexError):
            model[k]
    assert all(head is mine for head, mine in zip(heads, model.heads, strict=True))


# ---- claims of single methods


@pytest.mark.parametrize("method", methods_of(VanillaMTL) + methods_of(RotateOnly))
def test_the_backbone_gets_the_sum_of_the_task_gradients(method: str) -> None:
    for kind in SAMPLERS:
        model, G = bare(method, kind)
        assert_close(shared_gradient(model, G), G.sum(0), G)


@pytest.mark.parametrize("method", methods_of(VanillaMTL))
def test_vanilla_is_plain_autograd_on_the_summed_loss(method: str) -> None:
    backbone = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, SIZE))
    model = build(method, [nn.Linear(SIZE, 1) for _ in range(3)], backbone).double()
    x = torch.randn(BATCH, 3, dtype=torch.float64)

    def losses(predictions: Sequence[Tensor]) -> list[Tensor]:
        return [(k + 1) * (p - 1).square().mean() for k, p in enumerate(predictions)]

    model.backward(losses(model(x)))
    joint = torch.stack(losses([head(backbone(x)) for head in model.heads])).sum()
    for p, gradient in zip(
        model.parameters(), torch.autograd.grad(joint, list(model.parameters())), strict=True
    ):
        torch.testing.assert_close(p.grad, gradient)


INDEPENDENT = ("generic", "zero_row", "single_task", "scale_1e-10", "scale_1e10", "mixed_scales")


@pytest.mark.parametrize("method", [*methods_of(RotoGrad), "scaleonly"])
def test_every_task_contributes_with_the_same_norm(method: str) -> None:
    for kind in INDEPENDENT:
        model, G = bare(method, kind)
        for factor in (1.0, 0.5):
            factors = factor ** torch.arange(len(G), dtype=G.dtype)
            now = G * factors.view(-1, 1, 1)
            norms = now.flatten(1).norm(dim=1)
            units = now.flatten(1) / norms.clamp_min(1e-300).unsqueeze(1)
            # pinv, not lstsq: a zero row has no direction, and its weight must come out as 0
            weights = torch.linalg.pinv(units.mT) @ shared_gradient(model, now).flatten()
            progress = factors * (norms > 0)
            C = (
                progress / progress.sum() * norms
            ).sum()  # alpha_k is the norm's ratio to its start
            expected = (norms > 0).to(G.dtype)
            torch.testing.assert_close(weights / C, expected, rtol=0, atol=1e-9, msg=kind)


@pytest.mark.parametrize("method", methods_of(RotoGradNorm))
def test_task_weights_stay_positive_and_sum_to_the_number_of_tasks(method: str) -> None:
    for kind in SAMPLERS:
        model, G = bare(method, kind)
        optimizer = make_optimizer(model, lr=1.0)
        for _ in range(10):
            w = model.weight.detach()
            assert_close(step(model, G, optimizer), torch.einsum("k,knd->nd", w, G), G)
            assert (model.weight > 0).all()
            torch.testing.assert_close(float(model.weight.detach().sum()), float(len(G)))


NAMED: dict[str, dict[str, Any]] = {
    "rotateonly": {"rule": None},
    "rotograd": {},
    "imtlg_rotations": {"rule": node_of("imtlg"), "objective": "task_loss"},
}


def test_rotated_features_with_the_papers_rules_are_the_papers_methods_bit_for_bit() -> None:
    for method, options in NAMED.items():
        results = []
        for model, G in (bare(method, "generic"), bare("rotate", "generic", **options)):
            optimizer = make_optimizer(model)
            results.append(torch.stack([step(model, G, optimizer) for _ in range(4)]))
        assert torch.equal(*results), method


ROTATING = methods_of(RotateOnly) + methods_of(RotoGrad) + methods_of(RotoGradNorm)


@pytest.mark.parametrize("method", ROTATING)
def test_rotations_align_fixed_gradients_of_the_heads(method: str) -> None:
    """With the gradients at the heads' inputs held fixed, those at the features come to agree."""
    model, G = bare(method, "generic")
    optimizer = make_optimizer(model, lr=0.02)

    def agreement() -> float:
        back = torch.stack([g @ R for g, R in zip(G, model.rotation.detach(), strict=True)])
        units = back / back.flatten(1).norm(dim=1).view(-1, 1, 1)
        return float(units.mean(0).norm())

    before = agreement()
    for _ in range(60):
        model.zero_grad()
        z = torch.ones(BATCH, SIZE, dtype=G.dtype, requires_grad=True)
        model.backward([(p * g).sum() for p, g in zip(model(z), G, strict=True)])
        assert optimizer is not None
        optimizer.step()
    assert agreement() > before + 0.1
