"""Methods that weigh losses or gradients, against autograd, naive loops and torchjd."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchjd import scalarization

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods import RotoGrad, VanillaMTL
from rotograd_cli.methods.base import BackwardStep, MultiTaskMethod
from rotograd_cli.methods.dwa import DynamicWeightAverage
from rotograd_cli.methods.famo import FAMO
from rotograd_cli.methods.gradnorm import GradNorm
from rotograd_cli.methods.rlw import RandomLossWeighting
from rotograd_cli.methods.rule import Rule, Statistics
from rotograd_cli.methods.ruled import Ruled
from rotograd_cli.methods.scaleonly import ScaleOnly
from rotograd_cli.methods.single import SingleTask
from rotograd_cli.methods.uncertainty import UncertaintyWeighting

K, N, D, LR = 3, 8, 5, 0.05
Losses = list[Tensor | None]
METHODS: dict[str, tuple[type[Rule], dict[str, Any]]] = {
    "gradnorm": (GradNorm, {"alpha": 0.7, "burn_in_period": 2}),
    "scaleonly": (ScaleOnly, {"burn_in_period": 2}),
    "rlw": (RandomLossWeighting, {}),
    "uncertainty": (UncertaintyWeighting, {}),
    "dwa": (DynamicWeightAverage, {"temperature": 2.0}),
    "famo": (FAMO, {"gamma": 1e-3}),
}
every_method = pytest.mark.parametrize("method", METHODS)


def networks(num_tasks: int = K) -> tuple[nn.Module, list[nn.Module]]:
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Linear(4, D), nn.Tanh())
    return backbone, [nn.Linear(D, 1) for _ in range(num_tasks)]


def build(method: str, **changes: Any) -> Any:
    kind, options = METHODS[method]
    of_tasks = {} if method == "rlw" else {"num_tasks": K}
    return Ruled(*networks(), kind(**{**options, **of_tasks, **changes})).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    scales = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    return x, torch.randn(N, K, generator=generator, dtype=torch.float64) * scales


def losses_of(predictions: Sequence[Tensor], y: Tensor, without: Sequence[int] = ()) -> Losses:
    pairs = enumerate(zip(predictions, y.unbind(1), strict=False))
    return [None if k in without else (p[:, 0] - t).square().mean() for k, (p, t) in pairs]


def plain(model: MultiTaskMethod, x: Tensor, y: Tensor, without: Sequence[int] = ()) -> Any:
    """Features and losses by an ordinary forward pass."""
    z = model.backbone(x)
    return z, losses_of([head(z) for head in model.heads], y, without)


def descend(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    with torch.no_grad():
        for p, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                p -= LR * gradient


def sgd_step(model: MultiTaskMethod, x: Tensor, y: Tensor, without: Sequence[int] = ()) -> None:
    """One step of plain descent of everything, as the loop does it."""
    model.zero_grad()
    model.backward(losses_of(model(x), y, without))
    own, network = list(model.mtl_parameters()), list(model.model_parameters())
    descend(network, [p.grad for p in network])
    descend(own, [p.grad for p in own])


def assert_same(model: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    tolerance = tolerance or {"rtol": 1e-10, "atol": 1e-12}
    pairs = zip(model.parameters(), expected.parameters(), strict=True)
    for p, q in pairs:
        torch.testing.assert_close(p, q, **tolerance)


def naive_step(
    model: MultiTaskMethod, total: Callable[[list[Tensor]], Tensor], x: Tensor, y: Tensor
) -> None:
    """One step of plain descent of a function of the losses."""
    _, losses = plain(model, x, y)
    network = list(model.model_parameters())
    descend(network, torch.autograd.grad(total(losses), network))


# ---- single


def test_single_task_training_is_vanilla_with_that_task_bit_for_bit() -> None:
    x, y = (t.float() for t in data())
    models = [kind(*networks(1)) for kind in (SingleTask, VanillaMTL)]
    for model in models:
        optimizer = torch.optim.Adam(model.model_parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            model.backward(losses_of(model(x), y))
            optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(models[0].heads[0].weight, networks(1)[1][0].weight)


def test_single_task_training_refuses_several_tasks_and_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"for 1 task, got 3 tasks; choose one with tasks=\[NAME"):
        SingleTask(*networks(3))


# ---- gradnorm


def start_value(seen: Sequence[float], burn_in_period: int) -> float:
    return seen[burn_in_period] if len(seen) > burn_in_period else seen[0]


def gradnorm_loss(
    w: dict[int, Tensor], norms: dict[int, float], ratios: dict[int, float], alpha: float
) -> Tensor:
    """The paper's loss of the weights, targets constant; dictionaries hold the tasks there are."""
    num = len(w)
    mean_norm = sum(float(w[k].detach()) * norms[k] for k in w) / num
    mean_ratio = sum(ratios.values()) / num
    targets = {k: mean_norm * (ratios[k] / mean_ratio) ** alpha for k in w}
    return torch.stack([(w[k] * norms[k] - targets[k]).abs() for k in w]).sum()


def gradients_of(z: Tensor, losses: Losses) -> dict[int, Tensor]:
    there = {k: loss for k, loss in enumerate(losses) if loss is not None}
    return {k: torch.autograd.grad(loss, z, retain_graph=True)[0] for k, loss in there.items()}


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.5])
def test_gradnorm_equals_a_naive_loop_with_autograd(alpha: float) -> None:
    x, y = data()
    burn_in = 2
    model = build("gradnorm", alpha=alpha, burn_in_period=burn_in)
    naive = copy.deepcopy(model)
    omega = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    seen: list[list[float]] = [[] for _ in range(K)]
    for t in range(7):
        without = [1] if t in (1, 5) else []  # the clock of task 1 stands still
        z, losses = plain(naive, x, y, without)
        norms = {k: float(g.norm()) for k, g in gradients_of(z, losses).items()}
        for k in norms:
            seen[k].append(float(losses[k].detach()))
        ratios = {k: seen[k][-1] / start_value(seen[k], burn_in) for k in norms}
        weights = K * omega.softmax(0)
        w = {k: weights[k] for k in norms}
        (slope,) = torch.autograd.grad(gradnorm_loss(w, norms, ratios, alpha), omega)
        joint = torch.stack([w[k].detach() * losses[k] for k in w]).sum()
        network = list(naive.model_parameters())
        descend(network, torch.autograd.grad(joint, network, allow_unused=True))
        descend([omega], [slope])

        sgd_step(model, x, y, without)
        torch.testing.assert_close(model.rule.log_weight, omega, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(model.rule.weight, K * omega.softmax(0))
        for p, q in zip(model.model_parameters(), network, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
    assert model.rule.weight.detach().sub(1).abs().max() > 0.01


def test_gradnorms_weights_descend_the_papers_loss_from_any_state() -> None:
    """The slope knows the targets by their side of the norms alone, hence many states."""
    x, y = data()
    model = build("gradnorm", burn_in_period=0)
    model.backward(losses_of(model(x), y))  # so that start values are there
    z, losses = plain(model, x, y)
    norms = {k: float(g.norm()) for k, g in gradients_of(z, losses).items()}
    generator = torch.Generator().manual_seed(0)
    for alpha in (0.0, 0.5, 2.0):
        for i in range(60):
            without = [i % 4] if i % 4 < K else []
            noise = torch.randn(2, K, generator=generator, dtype=torch.float64).exp()
            values = torch.tensor([float(loss.detach()) for loss in losses]) * noise[0]
            even = torch.tensor([norms[0] / norms[k] for k in range(K)])  # where signs change
            omega = (even * noise[1] ** 0.5).log().requires_grad_()
            model.rule.alpha, model.rule.initial_losses.values[:] = alpha, values
            model.rule.log_weight.data = omega.detach().clone()
            model.zero_grad()
            model.backward(losses_of(model(x), y, without))
            weights = K * omega.softmax(0)
            w = {k: weights[k] for k in range(K) if k not in without}
            ratios = {k: float(losses[k].detach() / values[k]) for k in w}
            (slope,) = torch.autograd.grad(gradnorm_loss(w, norms, ratios, alpha), omega)
            torch.testing.assert_close(model.rule.log_weight.grad, slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("start", [0.0, -0.01])
def test_a_task_that_has_no_rate_of_progress_counts_as_one_at_the_mean(start: float) -> None:
    model = build("gradnorm", burn_in_period=0)
    present = torch.ones(K, dtype=torch.bool)
    model.rule.initial_losses.update(torch.tensor([1.0, start, 4.0]), present)
    for value in (0.0, -3.0, 5.0):
        losses = torch.tensor([0.5, value, 1.0], dtype=torch.float64)
        s = Statistics.of(torch.ones(K, 2), losses)
        rates = model.rule.inverse_training_rates(s)
        expected = torch.tensor([0.5, 0.375, 0.25], dtype=torch.float64) / 0.375
        torch.testing.assert_close(rates, expected)


# ---- scaleonly


def test_scaleonly_equals_a_naive_loop() -> None:
    x, y = data()
    model = build("scaleonly", burn_in_period=2)
    naive = copy.deepcopy(model)
    seen: list[list[float]] = [[] for _ in range(K)]
    for t in range(6):
        without = [2] if t == 1 else []
        there = [k for k in range(K) if k not in without]
        z, losses = plain(naive, x, y, without)
        g = {k: torch.autograd.grad(losses[k], z, retain_graph=True)[0] for k in there}
        norms = {k: float(g[k].norm()) for k in there}
        for k in there:
            seen[k].append(norms[k])
        alphas = {k: norms[k] / start_value(seen[k], 2) for k in there}
        C = sum(alphas[k] * norms[k] for k in there) / sum(alphas.values())
        shared = torch.stack([C * g[k] / norms[k] for k in there]).sum(0)
        backbone, heads = list(naive.backbone.parameters()), list(naive.heads.parameters())
        joint = torch.stack([losses[k] for k in there]).sum()
        of_heads = torch.autograd.grad(joint, heads, retain_graph=True, allow_unused=True)
        descend(backbone, torch.autograd.grad(z, backbone, shared))
        descend(heads, of_heads)
        sgd_step(model, x, y, without)
        assert_same(model, naive)


def test_scaleonly_is_rotograd_whose_rotations_stay_at_the_identity() -> None:
    x, y = data()
    model = build("scaleonly", burn_in_period=3)
    rotograd = RotoGrad(*networks(), [D], burn_in_period=3, init="identity").double()
    for _ in range(6):
        sgd_step(model, x, y)
        rotograd.zero_grad()
        rotograd.backward(losses_of(rotograd(x), y))
        network = list(rotograd.model_parameters())
        descend(network, [p.grad for p in network])
        for p, q in zip(model.model_parameters(), network, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        model.rule.initial_norms.values, rotograd.initial_norms.values, rtol=1e-10, atol=0
    )


# ---- uncertainty


def test_uncertainty_weighting_is_torchjds_trained_jointly() -> None:
    x, y = data()
    model = build("uncertainty")
    naive, oracle = copy.deepcopy(model), scalarization.UW(K).double()
    for _ in range(6):
        sgd_step(model, x, y)
        _, losses = plain(naive, x, y)
        everything = [*naive.model_parameters(), oracle.log_var]
        descend(everything, torch.autograd.grad(oracle(torch.stack(losses)), everything))
        torch.testing.assert_close(model.rule.log_variance, oracle.log_var, rtol=1e-11, atol=1e-13)
        for p, q in zip(model.model_parameters(), naive.model_parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_log_variances_of_constant_losses_settle_at_the_logarithms_of_the_losses() -> None:
    model = build("uncertainty")
    optimizer = torch.optim.SGD(model.mtl_parameters(), lr=1.0)
    values = torch.tensor([0.2, 1.0, 30.0], dtype=torch.float64)
    for _ in range(200):
        optimizer.zero_grad()
        predictions = model(data()[0])
        model.backward([p.sum() * 0 + v for p, v in zip(predictions, values, strict=True)])
        optimizer.step()
    torch.testing.assert_close(model.rule.log_variance.detach(), values.log(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [0.0, -2.0, float("inf")])
def test_a_loss_without_an_optimum_leaves_its_log_variance_alone(value: float) -> None:
    model = build("uncertainty")
    predictions = model(data()[0])
    values = (0.2, value, 30.0)
    model.backward([p.sum() * 0 + v for p, v in zip(predictions, values, strict=True)])
    slopes = torch.tensor([0.5 - 0.5 * 0.2, 0, 0.5 - 0.5 * 30], dtype=torch.float64)
    torch.testing.assert_close(model.rule.log_variance.grad, slopes)


# ---- rlw


def test_random_weighting_is_torchjds_with_the_same_random_numbers() -> None:
    x, y = data()
    model = build("rlw")
    naive, oracle = copy.deepcopy(model), scalarization.Random()
    torch.manual_seed(5)
    for _ in range(4):
        sgd_step(model, x, y)
    torch.manual_seed(5)
    for _ in range(4):
        naive_step(naive, lambda losses: oracle(torch.stack(losses)), x, y)
    assert_same(model, naive)


def test_random_weights_have_sum_one_over_the_tasks_that_are_there() -> None:
    model = build("rlw")
    values = torch.tensor([1.0, 0.0, -1.0])
    losses = [torch.tensor(1.0), None, torch.tensor(1.0)]
    present = torch.tensor([True, False, True])
    weighed = model.weigh_losses(losses, BackwardStep(values, present, accumulating=False))
    assert weighed[1] is None
    assert float(weighed[0] + weighed[2]) == pytest.approx(1)


# ---- dwa


def test_dynamic_weight_average_is_torchjds_over_epochs() -> None:
    x, y = data()
    model = build("dwa", temperature=0.5)
    naive, oracle = copy.deepcopy(model), scalarization.DWA(0.5)
    weights = []
    for _ in range(5):
        for i in range(3):
            part = slice(2 * i, 2 * i + 3)
            sgd_step(model, x[part], y[part])
            naive_step(naive, lambda losses: oracle(torch.stack(losses)), x[part], y[part])
        model.end_epoch()
        oracle.step()
        weights.append(model.rule.weight)
        assert_same(model, naive)
    assert torch.equal(weights[0], torch.ones(K, dtype=torch.float64))  # of the second epoch
    assert (weights[-1] - 1).abs().max() > 0.01
    assert float(weights[-1].sum()) == pytest.approx(K)


def test_an_epoch_without_a_task_gives_it_a_ratio_of_one() -> None:
    x, y = data()
    model = build("dwa", temperature=1.0)
    losses = []
    for without in ([], [0]):
        losses.append(torch.stack(plain(model, x, y)[1]).detach())
        sgd_step(model, x, y, without)
        model.end_epoch()
    rates = losses[1] / losses[0]
    rates[0] = 1
    torch.testing.assert_close(model.rule.weight, K * rates.softmax(0))


def test_the_mean_of_an_epoch_is_over_the_steps_in_which_the_task_had_a_loss() -> None:
    x, y = data()
    model = build("dwa", temperature=1.0)
    sgd_step(model, x, y)
    model.end_epoch()
    means = []
    for without in ([], [1], [1]):
        means.append(torch.stack(plain(model, x, y)[1]).detach())
        sgd_step(model, x, y, without)
    model.end_epoch()
    mean = torch.stack(means).mean(0)
    mean[1] = means[0][1]
    torch.testing.assert_close(model.rule.means[1], mean)


@pytest.mark.parametrize("last", [float("inf"), -1e-9, -5.0, -2.0])
def test_a_loss_that_has_no_ratio_counts_as_one(last: float) -> None:
    x, y = data()
    model = build("dwa", temperature=1.0)
    for bad in (0.0, last):
        predictions = model(x)
        model.backward([predictions[0].sum() * 0 + 2 + bad, *losses_of(predictions, y)[1:]])
        model.end_epoch()
    torch.testing.assert_close(model.rule.weight, torch.ones(K, dtype=torch.float64))


def test_a_run_resumed_inside_an_epoch_has_the_same_weights() -> None:
    x, y = data()
    model = build("dwa")
    for t in range(5):
        sgd_step(model, x, y)
        if t in (1, 3):
            model.end_epoch()
    other = build("dwa")
    other.load_state_dict(model.state_dict())
    for each in (model, other):
        sgd_step(each, x, y)
        each.end_epoch()
    assert torch.equal(model.rule.weight, other.rule.weight)
    assert_same(model, other, rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="`temperature` must be more than 0, got"):
        build("dwa", temperature=temperature)


# ---- famo


def test_famo_is_torchjds_with_adam() -> None:
    x, y = data()
    model = build("famo", gamma=1e-3)
    naive, oracle = copy.deepcopy(model), scalarization.FAMO(K, weight_decay=1e-3).double()
    adam = torch.optim.Adam(model.mtl_parameters(), lr=0.025)
    for _ in range(10):
        network = list(model.model_parameters())
        model.zero_grad()
        losses = losses_of(model(x), y)
        model.backward(losses)
        descend(network, [p.grad for p in network])
        before = torch.stack([loss.detach() for loss in losses if loss is not None])
        after = torch.stack(plain(model, x, y)[1]).detach()
        adam.zero_grad()
        model.observe_update(before, after, torch.ones(K, dtype=torch.bool))
        adam.step()
        naive_step(naive, lambda losses: oracle(torch.stack(losses)), x, y)
        oracle.update(torch.stack(plain(naive, x, y)[1]))
        # torchjd adds 1e-8 to losses, which are 0.1 to 20 here
        torch.testing.assert_close(model.rule.logits, oracle._w, rtol=1e-5, atol=1e-7)
        for p, q in zip(model.model_parameters(), naive.model_parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-8)
    assert model.rule.logits.detach().abs().max() > 0.05


def test_famo_leaves_an_absent_task_out_and_gives_the_others_factors_with_sum_one() -> None:
    x, y = data()
    model = build("famo", gamma=0.0)
    naive = copy.deepcopy(model)
    model.zero_grad()
    model.backward(losses_of(model(x), y, [1]))
    _, losses = plain(naive, x, y, [1])
    factors = torch.stack([1 / losses[0], 1 / losses[2]]).detach()
    factors = factors / factors.sum()
    joint = factors[0] * losses[0] + factors[1] * losses[2]
    backbone = list(naive.backbone.parameters())
    gradients = torch.autograd.grad(joint, backbone)
    for p, gradient in zip(model.backbone.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    present = torch.tensor([True, False, True])
    before, after = torch.tensor([2.0, 0.0, 3.0]).double(), torch.tensor([1.0, 0.0, 3.0]).double()
    model.observe_update(before, after, present)
    slope = 0.5 * (1 - 0.5) * torch.tensor(2.0).log().double()  # of a softmax of two
    torch.testing.assert_close(model.rule.logits.grad, slope * torch.tensor([1, 0, -1]).double())


@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 0.0, -1.0, 1e-20])
def test_a_loss_without_a_logarithm_after_the_update_leaves_its_logit_alone(bad: float) -> None:
    present = torch.ones(K, dtype=torch.bool)
    slope = 0.5 * (1 - 0.5) * torch.tensor(2.0).log().double()
    for before, after in ((1.0, bad), (bad, 1.0)):
        model = build("famo", gamma=0.1)
        losses = torch.tensor([1.0, before, 1.0]), torch.tensor([1.0, after, 0.5])
        model.observe_update(*losses, present)
        torch.testing.assert_close(
            model.rule.logits.grad, slope * torch.tensor([-1, 0, 1]).double()
        )


def famo_factors(model: Any, *values: float) -> list[float]:
    """The factors of losses with these values."""
    losses = [torch.tensor(value, requires_grad=True) for value in values]
    present = torch.ones(len(values), dtype=torch.bool)
    step = BackwardStep(torch.tensor(values), present, accumulating=False)
    weighed = model.weigh_losses(losses, step)
    return [float(g) for g in torch.autograd.grad(sum(weighed), losses)]


@pytest.mark.parametrize("value", [0.0, 1e-12, -1e-12, -3.0])
def test_famo_trains_a_loss_without_a_logarithm_plainly_and_beside_the_others(value: float) -> None:
    model = build("famo")
    assert famo_factors(model, 1.0, 2.0, 4.0) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert famo_factors(model, 1.0, value, 4.0) == pytest.approx([4 / 5, 1 / 3, 1 / 5])
    assert famo_factors(model, value, value, value) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("unit", [1e-30, 1e25])
def test_famo_does_not_depend_on_the_unit_of_a_loss(unit: float) -> None:
    model = build("famo")
    for value in (3.0, 1e-3):
        first, second, third = famo_factors(model, 1.0, value * unit, 1.0)
        assert first == pytest.approx(third, rel=1e-5, abs=0)
        assert second * value * unit == pytest.approx(first, rel=1e-5, abs=0)


def test_famo_says_once_that_a_loss_became_negative(caplog: pytest.LogCaptureFixture) -> None:
    model = build("famo")
    for value in (1.0, 0.0, -1.0, -2.0):
        famo_factors(model, 1.0, value, 1.0)
        model.refresh()
    (record,) = caplog.records
    assert "`losses[1]` became negative" in record.message


@pytest.mark.parametrize("gamma", [-1e-3, float("nan")])
def test_a_negative_decay_is_refused(gamma: float) -> None:
    with pytest.raises(ConfigError, match="`gamma` must be at least 0, got"):
        build("famo", gamma=gamma)


# ---- all of them


@every_method
def test_a_loss_scale_scales_every_gradient(method: str) -> None:
    x, y = data()
    first, second = build(method), build(method)
    for scale, model in ((None, first), (1024.0, second)):
        for t in range(2):
            model.zero_grad()
            torch.manual_seed(t)
            losses = losses_of(model(x), y, [t])
            scaled = [loss if loss is None else loss * (scale or 1) for loss in losses]
            model.backward(scaled, loss_scale=scale)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        if p.grad is None:
            assert q.grad is None
        else:
            torch.testing.assert_close(q.grad, 1024.0 * p.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["gradnorm", "uncertainty", "dwa"])  # the same weights all along
def test_micro_batches_give_the_networks_the_gradient_of_the_whole_batch(method: str) -> None:
    x, y = data()
    whole, split = build(method), build(method)
    for model in (whole, split):
        for p in model.mtl_parameters():
            p.data = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)
    whole.backward(losses_of(whole(x), y))
    for index in range(2):
        half = slice(4 * index, 4 * index + 4)
        parts = losses_of(split(x[half]), y[half])
        halves = [None if part is None else part / 2 for part in parts]
        split.backward(halves, num_micro_batches=2, accumulating=index == 0)
    for p, q in zip(whole.model_parameters(), split.model_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    if method == "uncertainty":  # linear in the losses
        torch.testing.assert_close(whole.rule.log_variance.grad, split.rule.log_variance.grad)
    if method == "gradnorm":
        means = whole.rule.initial_losses.values
        torch.testing.assert_close(split.rule.initial_losses.values, means)


@pytest.mark.parametrize("method", ["gradnorm", "uncertainty"])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_loss_that_is_not_finite_leaves_the_learned_weights_finite(
    method: str, bad: float
) -> None:
    x, y = data()
    model = build(method)
    losses = losses_of(model(x), y)
    assert losses[1] is not None
    model.backward([losses[0], losses[1] + bad, losses[2]])
    (own,) = model.mtl_parameters()
    assert own.grad.isfinite().all()
    assert own.grad.any()
    if method == "uncertainty":
        assert own.grad[1] == 0
    else:
        assert model.num_nonfinite.tolist() == [0, 1, 0]


@pytest.mark.parametrize("method", ["gradnorm", "uncertainty", "dwa", "famo"])
def test_weights_are_recorded(method: str) -> None:
    model = build(method)
    (weight,) = model.diagnostics().values()
    assert list(model.diagnostics()) == ["weight"]
    expected = {"gradnorm": 1.0, "uncertainty": 0.5, "dwa": 1.0, "famo": 1 / K}[method]
    torch.testing.assert_close(weight, torch.full((K,), expected, dtype=weight.dtype))
    assert not weight.requires_grad


@pytest.mark.parametrize("method", ["gradnorm", "scaleonly"])
def test_a_negative_burn_in_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match="`burn_in_period` must be at least 0, got -1"):
        build(method, burn_in_period=-1)
