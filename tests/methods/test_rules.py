"""What every rule that combines gradients claims, on plain matrices."""

import copy
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rotate import Rotate
from rotograd_cli.methods.rule import (
    Combining,
    Losses,
    LossWeighting,
    Rule,
    Statistics,
    Sum,
    Weighting,
)
from rotograd_cli.training.seeding import rng_state, set_rng_state
from tests.methods.common import DIM, GRADIENT, GRAMIAN, RULES, close, gradients, nash, normal
from tests.methods.regression import D, data, losses_of, networks, on_network
from tests.samplers import SAMPLERS

# the solvers of these stop at a relative error of about 1e-8, the others are exact
TOLERANCE = {"nashmtl": 1e-6, "upgrad": 1e-6, "fairgrad": 1e-6, "pivrg": 1e-6}

every_gradient_rule = pytest.mark.parametrize("name", GRADIENT)
every_gramian_rule = pytest.mark.parametrize("name", GRAMIAN)


def combined(make: Callable[[int], Rule], G: Tensor) -> Tensor:
    """The combination of a new rule, from the same random numbers each time."""
    torch.manual_seed(0)
    result = make(len(G)).double()(G)
    assert isinstance(result, Tensor)
    return result


def test_a_rule_is_of_one_of_three_kinds() -> None:
    for make in RULES.values():
        assert sum(isinstance(make(3), kind) for kind in (Weighting, Combining, LossWeighting)) == 1


def test_a_rule_leaves_its_arguments_alone_and_gives_float32_or_wider() -> None:
    for name, make in RULES.items():
        G, losses = gradients(3, 0).float(), torch.tensor([1.0, 2.0, 3.0])
        given = G.clone(), losses.clone()
        for dtype, wide in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
            result = make(3)(G.to(dtype), losses)
            assert (result.dtype, result.shape) == (wide, (DIM,)), name
            assert result.isfinite().all()
        assert torch.equal(G, given[0])
        assert torch.equal(losses, given[1])


@every_gramian_rule
def test_turning_the_vectors_turns_the_result(name: str) -> None:
    """Only inner products count."""
    G = gradients(4, 0, 3.0)
    Q, _ = torch.linalg.qr(normal(DIM, DIM, seed=5))
    result, expected = combined(GRAMIAN[name], G @ Q), combined(GRAMIAN[name], G) @ Q
    close(result, expected, atol=TOLERANCE.get(name, 1e-9))


@every_gradient_rule
def test_the_step_scales_with_the_gradients(name: str) -> None:
    G = gradients(4, 0, 3.0)
    expected = combined(GRADIENT[name], G)
    for factor in (1e-8, 1e-3, 1e3, 1e8):
        result = combined(GRADIENT[name], factor * G) / factor
        close(result, expected, atol=TOLERANCE.get(name, 1e-9), message=factor)


@every_gramian_rule
def test_float32_gives_what_float64_gives_of_dependent_gradients_too(name: str) -> None:
    for kind, sample in SAMPLERS.items():
        if name in ("fairgrad", "pivrg") and kind in ("conflicting", "rank_deficient"):
            continue  # no solution: the solver stops anywhere
        G = sample()
        expected = combined(GRAMIAN[name], G.double())
        result = combined(GRAMIAN[name], G)
        scale = max(float(G.norm(dim=1).max()) + 1e-300, float(expected.norm()))
        close(result.double() / scale, expected / scale, atol=3e-5, message=kind)


@every_gradient_rule
def test_a_zero_row_leaves_the_combination_of_the_others(name: str) -> None:
    G = gradients(4, 1, 3.0)
    expected = combined(GRADIENT[name], G[[0, 1, 3]])
    G[2] = 0
    close(combined(GRADIENT[name], G), expected, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in GRADIENT if name != "scaleonly"])
def test_a_single_task_gets_its_plain_gradient_bit_for_bit(name: str) -> None:
    G = gradients(1, 0)
    for dtype in (torch.float32, torch.float64):
        alone = G.to(dtype)
        among_zeros = torch.cat((0 * alone, alone, 0 * alone))
        assert torch.equal(combined(GRADIENT[name], alone), alone[0])
        assert torch.equal(combined(GRADIENT[name], among_zeros), alone[0])


@every_gradient_rule
def test_no_gradient_is_no_step(name: str) -> None:
    assert not combined(GRADIENT[name], torch.zeros(3, 8, dtype=torch.float64)).any()


@every_gramian_rule
def test_forty_tasks_of_any_kind_are_combined(name: str) -> None:
    G = gradients(40, 0, 1e4)
    G[3] = 0
    G[5] = G[4]
    if name == "nashmtl":
        G = G[[0, 1, 3, 4, 5, *range(20, 27)]]  # its solver takes a quarter of a second for 40
    d = combined(GRAMIAN[name], G)
    assert d.isfinite().all()
    assert d.any()


def saved(rule: Rule) -> dict[str, Any]:
    """Rule and random state as a checkpoint holds them."""
    file = io.BytesIO()
    torch.save({"rule": rule.state_dict(), "rng": rng_state()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("name", ["pcgrad", "graddrop", "nashmtl", "scaleonly"])
def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(name: str) -> None:
    def make() -> Rule:
        return nash(4, update_every=3) if name == "nashmtl" else GRADIENT[name](4)

    sets = [gradients(4, seed, 3.0) for seed in range(8)]
    rule = make()
    for G in sets[:4]:
        rule(G)
    state, copied, loaded = saved(rule), copy.deepcopy(rule), make()
    loaded.load_state_dict(state["rule"])
    expected = [rule(G) for G in sets[4:]]
    for other in (copied, loaded):
        set_rng_state(state["rng"])
        for G, d in zip(sets[4:], expected, strict=True):
            assert torch.equal(other(G), d)


def test_statistics_of_a_matrix_are_its_own() -> None:
    G = torch.cat((gradients(3, 0, 10.0), torch.zeros(1, DIM, dtype=torch.float64)))
    s = Statistics.of(G)
    torch.testing.assert_close(s.norms, G.norm(dim=1))
    assert s.present.tolist() == [True, True, True, False]
    gramian, tasks = s.gramian()
    assert tasks.tolist() == [0, 1, 2]
    torch.testing.assert_close(gramian, (G @ G.mT)[:3, :3])  # the longest has length 1
    for row, combination in itertools.product(torch.eye(4).double(), range(2)):
        weights = torch.stack((row, row * combination))
        torch.testing.assert_close(s.norms_of(weights), (weights @ G).norm(dim=1))


def rotated(rule: Rule, path: str) -> Any:
    """As ``on_network``, on rotated features."""
    return Rotate(*networks(), D, rule=rule, rotation_path=path, init="identity").double()


@pytest.mark.parametrize("path", [None, "folded", "general"])
def test_a_rule_that_weighs_losses_measures_the_gradients_before_their_weights(
    path: str | None,
) -> None:
    class Measure(LossWeighting):
        sees_gradients = True
        at = torch.ones(3)

        def factors(self, losses: Losses) -> Tensor:
            return self.at

        def learn(self, s: Statistics, weights: Tensor) -> dict[nn.Parameter, Tensor]:
            pairs = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, -2.0]]).double()
            self.measured = [s.norms, s.norms_of(pairs), *s.gramian()]
            return {}

    results = []
    for factors in ([1.0, 1.0, 1.0], [10.0, -0.1, 2.0]):
        rule = Measure()
        rule.at = torch.tensor(factors)
        x, y = data()
        model = rotated(rule, path) if path else on_network(rule)
        model.backward(losses_of(model(x), y))
        results.append(rule.measured)
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected)


def test_statistics_leave_the_matrix_as_it_is() -> None:
    G = torch.full((3, 2), 1.0)
    G[1] = torch.nan
    G[2] = 1e-40  # a subnormal number, whose reciprocal overflows
    before = G.clone()
    s = Statistics.of(G)
    assert s.present.tolist() == [True, False, False]
    assert s.finite.tolist() == [True, False, True]
    torch.testing.assert_close(G, before, rtol=0, atol=0, equal_nan=True)
    assert s.norms_of(torch.ones(3)) == G[0].norm()


def test_a_network_without_a_rule_is_trained_by_the_sum() -> None:
    rule = MultiTaskMethod(nn.Identity(), [nn.Identity()]).rule
    G = gradients(4, 0, 1.0)
    assert isinstance(rule, Sum)
    torch.testing.assert_close(rule(G), G.sum(0))
