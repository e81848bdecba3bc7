"""Methods that combine task gradients, against closed forms, optimality conditions and torchjd."""

import copy
import io
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.alignedmtl import AlignedMTL
from rotograd_cli.methods.cagrad import CAGrad
from rotograd_cli.methods.fairgrad import FairGrad
from rotograd_cli.methods.graddrop import GradDrop
from rotograd_cli.methods.imtlg import IMTLG
from rotograd_cli.methods.mgda import MGDA
from rotograd_cli.methods.nashmtl import NashMTL
from rotograd_cli.methods.pcgrad import PCGrad
from rotograd_cli.methods.rule import Rule
from rotograd_cli.methods.ruled import Ruled
from rotograd_cli.methods.upgrad import UPGrad
from rotograd_cli.training.seeding import rng_state, set_rng_state
from tests.samplers import BATCH, SAMPLERS, SIZE

EXTRAS = {"nashmtl": "ecos", "upgrad": "quadprog"}
METHODS: dict[str, tuple[type[Rule], dict[str, Any]]] = {
    "pcgrad": (PCGrad, {}),
    "mgda": (MGDA, {}),
    "imtlg": (IMTLG, {}),
    "cagrad": (CAGrad, {"c": 0.4}),
    "alignedmtl": (AlignedMTL, {"scale_mode": "min"}),
    "nashmtl": (NashMTL, {"update_every": 1, "num_iterations": 20}),
    "upgrad": (UPGrad, {}),
    "fairgrad": (FairGrad, {"alpha": 2.0}),
    "graddrop": (GradDrop, {}),
}
every_method = pytest.mark.parametrize("method", METHODS)
GRAMIAN = [method for method in METHODS if method != "graddrop"]
gramian_methods = pytest.mark.parametrize("method", GRAMIAN)
# the solvers of these stop at a relative error of about 1e-8, the others are exact
TOLERANCE = {"nashmtl": 1e-6, "upgrad": 1e-6, "fairgrad": 1e-6}


def build(method: str, num_tasks: int, **changes: Any) -> Any:
    if method in EXTRAS:
        pytest.importorskip(EXTRAS[method])
    rule = make_rule(method, num_tasks, **changes)
    return Ruled(nn.Identity(), [nn.Identity()] * num_tasks, rule).double()


def make_rule(method: str, num_tasks: int, **changes: Any) -> Any:
    kind, options = METHODS[method]
    of_tasks = {"num_tasks": num_tasks} if method == "nashmtl" else {}
    return kind(**{**options, **of_tasks, **changes})


def combine(
    model: Any, G: Tensor, absent: Sequence[int] = (), values: dict[int, float] | None = None
) -> Tensor:
    """The backbone's gradient, shape ``[D]``, where task k's has the entries of row ``G[k]``."""
    z = torch.zeros(2, G.shape[1] // 2, dtype=G.dtype, requires_grad=True)  # two examples
    losses: list[Tensor | None] = []
    for k, (p, g) in enumerate(zip(model(z), G, strict=True)):
        value = (values or {}).get(k, 1.0)
        losses.append(None if k in absent else (p * g.view_as(p)).sum() + value)
    model.backward(losses)
    assert z.grad is not None
    return z.grad.flatten()


def combined(method: str, G: Tensor, **changes: Any) -> Tensor:
    return combine(build(method, len(G), **changes), G)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gradients(num_tasks: int, seed: int, ratio: float = 1.0) -> Tensor:
    """Gradients of which some conflict, with lengths from 1 to 1 / ratio."""
    G = normal(num_tasks, 60, seed=seed)
    lengths = torch.logspace(0, -float(np.log10(ratio)), num_tasks, dtype=torch.float64)
    return G / G.norm(dim=1, keepdim=True) * lengths.unsqueeze(1)


def opposed(num_tasks: int, seed: int, ratio: float = 1.0) -> Tensor:
    """Gradients that conflict with each other and the shorter ones with the mean."""
    G = gradients(num_tasks, seed)
    G = G - 0.95 * G.mean(0)
    lengths = torch.logspace(0, -float(np.log10(ratio)), num_tasks, dtype=torch.float64)
    return G / G.norm(dim=1, keepdim=True) * lengths.unsqueeze(1)


CASES = [(2, 0, 1.0), (2, 1, 1e3), (3, 2, 10.0), (5, 3, 1.0), (5, 4, 1e3), (12, 5, 30.0)]
on_cases = pytest.mark.parametrize(("num_tasks", "seed", "ratio"), CASES)


def weights_of(model: Any, G: Tensor) -> Tensor:
    """The method's weights, from gradients as long as they are here."""
    largest = G.norm(dim=1).amax()
    found = model.rule.weights_of((G @ G.mT) / largest**2, torch.arange(len(G)))
    assert isinstance(found, Tensor)
    return found


def conflict_free(G: Tensor) -> Tensor:
    """Gradients whose inner products are all positive."""
    return G.abs() + 0.1


# ---- pcgrad


def naive_pcgrad(G: Tensor) -> Tensor:
    total = torch.zeros_like(G[0])
    for i in range(len(G)):
        g = G[i].clone()
        for j in torch.randperm(len(G)).tolist():
            if j != i and (g @ G[j]) < 0:
                g -= (g @ G[j]) / (G[j] @ G[j]) * G[j]
        total += g
    return total


@on_cases
def test_pcgrad_equals_a_naive_loop_over_the_vectors(
    num_tasks: int, seed: int, ratio: float
) -> None:
    G = gradients(num_tasks, seed, ratio)
    model = build("pcgrad", num_tasks)
    for draw in range(3):
        torch.manual_seed(draw)
        expected = naive_pcgrad(G)
        torch.manual_seed(draw)
        torch.testing.assert_close(combine(model, G), expected, rtol=0, atol=1e-12)


def test_the_order_of_pcgrad_is_drawn_anew_in_every_step() -> None:
    G = opposed(5, 3)
    model = build("pcgrad", 5)
    torch.manual_seed(0)
    first, second = combine(model, G), combine(model, G)
    torch.manual_seed(0)
    assert torch.equal(first, combine(model, G))
    assert not torch.allclose(first, second)


def test_pcgrad_leaves_gradients_without_conflict_alone() -> None:
    G = conflict_free(gradients(4, 0))
    torch.testing.assert_close(combined("pcgrad", G), G.sum(0))


# ---- mgda


def shortest_by_faces(G: Tensor) -> Tensor:
    """Shortest point of the convex hull: the best of all faces' own shortest points."""
    best = G[0]
    for size in range(1, len(G) + 1):
        for face in itertools.combinations(range(len(G)), size):
            A = G[list(face)]
            w = torch.linalg.pinv(A @ A.mT) @ torch.ones(size, dtype=G.dtype)
            w = w / w.sum()
            point = w @ A
            if (w >= -1e-12).all() and point.norm() < best.norm():
                best = point
    return best


@pytest.mark.parametrize("num_tasks", [2, 3, 5])
@pytest.mark.parametrize("ratio", [1.0, 10.0, 1e3])
def test_mgda_is_the_shortest_of_all_faces_shortest_points(num_tasks: int, ratio: float) -> None:
    for seed in range(10):
        shift = normal(1, 60, seed=99) * 0.05 * (seed % 3)  # so that not all tasks take part
        G = gradients(num_tasks, seed, ratio) + shift
        expected = shortest_by_faces(G)
        found = combined("mgda", G)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.norm()))


@pytest.mark.parametrize(("num_tasks", "ratio"), [(2, 1e6), (5, 1e3), (12, 1.0), (40, 1e2)])
def test_mgda_meets_the_conditions_of_the_minimum(num_tasks: int, ratio: float) -> None:
    """With w on the simplex and d = Σ wₖgₖ: ⟨gₖ, d⟩ ≥ ‖d‖², with equality where wₖ > 0."""
    for seed in range(5):
        G = gradients(num_tasks, seed, ratio) + 0.02 * seed * normal(1, 60, seed=99)
        model = build("mgda", num_tasks)
        w, d = weights_of(model, G), combine(model, G)
        torch.testing.assert_close(w @ G, d, rtol=0, atol=1e-12)
        assert (w >= 0).all()
        assert float(w.sum()) == pytest.approx(1)
        products = (G @ d) / (d @ d)
        assert float(products.min()) >= 1 - 1e-8
        torch.testing.assert_close(products[w > 1e-9], torch.ones_like(products[w > 1e-9]))


def test_mgda_of_two_tasks_is_the_closed_form() -> None:
    for seed, factor in itertools.product(range(10), (0.01, 0.5, 1.0, 2.0, 100.0)):
        a, b = gradients(2, seed) * torch.tensor([[1.0], [factor]], dtype=torch.float64)
        share = ((b - a) @ b / (a - b).square().sum()).clamp(0, 1)
        expected = share * a + (1 - share) * b
        found = combined("mgda", torch.stack((a, b)))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected.norm()))


def test_no_improvement_without_harm_is_no_step_for_mgda() -> None:
    G = gradients(3, 0)
    inside = torch.cat((G, -0.3 * G.sum(0, keepdim=True)))
    assert combined("mgda", inside).norm() < 1e-12


# ---- imtlg


@on_cases
def test_imtlg_projects_equally_onto_all_directions_with_weights_of_sum_one(
    num_tasks: int, seed: int, ratio: float
) -> None:
    G = gradients(num_tasks, seed, ratio)
    model = build("imtlg", num_tasks)
    d = combine(model, G)
    projections = (G / G.norm(dim=1, keepdim=True)) @ d
    torch.testing.assert_close(projections, projections[0].expand(num_tasks), rtol=1e-9, atol=0)
    w = weights_of(model, G)
    assert float(w.sum()) == pytest.approx(1)
    torch.testing.assert_close(w @ G, d, rtol=0, atol=1e-12)


@on_cases
def test_imtlg_is_the_papers_formula(num_tasks: int, seed: int, ratio: float) -> None:
    G = gradients(num_tasks, seed, ratio)
    u = G / G.norm(dim=1, keepdim=True)
    D, U = G[0] - G[1:], u[0] - u[1:]
    others = torch.linalg.solve((D @ U.mT).mT, U @ G[0])  # equation 6
    w = torch.cat((1 - others.sum(0, keepdim=True), others))
    expected = w @ G
    torch.testing.assert_close(combined("imtlg", G), expected, rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_imtlg_of_aligned_gradients_is_their_harmonic_mean(dtype: torch.dtype) -> None:
    """All weights times lengths are equal, and the weights have sum one."""
    u = normal(60)
    lengths = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    G = lengths.unsqueeze(1) * u
    found = combined("imtlg", G.to(dtype))
    expected = (len(G) / (1 / lengths).sum() * u).to(dtype)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_imtlg_of_dependent_gradients_projects_as_equally_as_it_can() -> None:
    a, b = gradients(2, 3)
    b = b - (a @ b) * a
    for dtype in (torch.float32, torch.float64):
        opposite = torch.stack((a, -2 * a)).to(dtype)
        assert not combined("imtlg", opposite).any()
        found = combined("imtlg", torch.stack((a, -a, b)).to(dtype))
        torch.testing.assert_close(found, b.to(dtype), rtol=1e-5, atol=1e-6)
    G = normal(4, 2) @ normal(2, 60, seed=1)
    u = G / G.norm(dim=1, keepdim=True)
    d, _, _, _ = np.linalg.lstsq(u.numpy(), np.ones(4), rcond=1e-10)  # nearest to equal
    v = np.linalg.pinv(u.numpy() @ u.mT.numpy(), rcond=1e-10) @ np.ones(4)
    total = float((torch.from_numpy(v) / G.norm(dim=1)).sum())
    torch.testing.assert_close(combined("imtlg", G), torch.from_numpy(d) / total)


# ---- graddrop


def test_the_expected_entries_of_graddrop_weigh_the_signs_by_their_purity() -> None:
    G = normal(3, 40) * torch.tensor([[1.0], [3.0], [0.2]], dtype=torch.float64)
    model = build("graddrop", 3)
    torch.manual_seed(0)
    draws = torch.stack([combine(model, G) for _ in range(4000)])
    up, down = G.clamp_min(0).sum(0), G.clamp_max(0).sum(0)
    P = up / G.abs().sum(0)
    expected = P * up + (1 - P) * down
    error = ((P * (1 - P)).sqrt() * (up - down)) / 4000**0.5  # standard error of the mean
    assert ((draws.mean(0) - expected).abs() <= 5 * error + 1e-12).all()
    # every draw keeps all gradients of one sign, entry by entry
    assert ((draws - up).abs().minimum((draws - down).abs()) < 1e-12).all()
    mixed = (P > 0.3) & (P < 0.7)
    kept_up = ((draws - up).abs() < 1e-12)[:, mixed].double()
    assert mixed.sum() > 5
    assert torch.corrcoef(kept_up.mT).fill_diagonal_(0).abs().max() < 0.1  # draws of their own


def test_graddrop_keeps_entries_of_one_sign_and_zeros() -> None:
    G = torch.tensor([[1.0, -2.0, 0.0, 0.0], [3.0, -1.0, 0.0, 2.0]], dtype=torch.float64)
    expected = torch.tensor([4.0, -3.0, 0.0, 2.0], dtype=torch.float64)
    assert torch.equal(combined("graddrop", G), expected)


# ---- cagrad


def cagrad_bound(G: Tensor, c: float) -> float:
    """The dual of CAGrad's problem, minimised over the simplex by scipy's SLSQP."""
    g0 = G.mean(0)
    M, first, radius = (G @ G.mT).numpy(), (G @ g0).numpy(), c * float(g0.norm())

    def value(w: Any) -> float:
        return float(w @ first + radius * np.sqrt(max(w @ M @ w, 0)))

    K = len(G)
    starts = [np.full(K, 1 / K), *(0.9 * np.eye(K) + 0.1 / K)]
    sum_one = {"type": "eq", "fun": lambda w: w.sum() - 1}
    options = {"ftol": 1e-14, "maxiter": 500}
    found = [
        minimize(value, w, bounds=[(0, 1)] * K, constraints=[sum_one], options=options)
        for w in starts
    ]
    return min(float(x.fun) for x in found)


@pytest.mark.parametrize("c", [0.2, 0.9, 1.0, 1.5])
@pytest.mark.parametrize(("num_tasks", "ratio"), [(2, 1.0), (2, 10.0), (4, 3.0)])
def test_cagrad_is_best_for_the_worst_task_in_its_ball(
    num_tasks: int, ratio: float, c: float
) -> None:
    for seed in range(3):
        G = opposed(num_tasks, seed, ratio)
        d, g0 = combined("cagrad", G, c=c), G.mean(0)
        assert float((d - g0).norm()) <= c * float(g0.norm()) * (1 + 1e-9)
        bound = cagrad_bound(G, c)  # no direction in the ball is better
        gain = bound - float((G @ g0).min())  # over the mean gradient, for the worst task
        assert gain > 0.1 * c * float(g0.square().sum())
        assert float((G @ d).min()) == pytest.approx(bound, abs=1e-6 * gain)


def stationary_sets(dtype: torch.dtype) -> dict[str, Tensor]:
    """Gradients of which a convex combination is zero, or nearly."""
    a, b = gradients(2, 3).to(dtype)
    sets = {
        "opposite": torch.stack((a, -2 * a)),
        "opposite and one more": torch.stack((a, -a, b)),
        "dependent": torch.stack((a, b, -a - 0.5 * b)),
        "nearly opposite": torch.stack((a, -a + 1e-5 * b)),
        "equal": torch.stack((a, a, a)),
        "conflicting": SAMPLERS["conflicting"]().to(dtype),
    }
    for num_tasks in (3, 6):
        G = normal(num_tasks, 60, seed=num_tasks)
        G[-1] = -(torch.linspace(0.2, 1, num_tasks - 1).double() @ G[:-1])
        sets[f"{num_tasks} tasks"] = G.to(dtype)
    return sets


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9, 1.0, 1.5, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cagrad_stays_in_its_ball_where_gradients_are_stationary(
    c: float, dtype: torch.dtype
) -> None:
    rounding = 100 * torch.finfo(dtype).eps
    for name, G in stationary_sets(dtype).items():
        for scale in (1e-30, 1.0, 1e25) if dtype == torch.float32 else (1.0,):
            d, g0 = combine(build("cagrad", len(G), c=c).to(dtype), G * scale) / scale, G.mean(0)
            off = float((d - g0).norm())
            assert off <= c * float(g0.norm()) * (1 + rounding) + rounding, name
            if c < 1:  # zero lies outside of the ball
                assert float(d.norm()) >= (1 - c) * float(g0.norm()) - rounding, name
            worst = float((G @ d).min())
            bound = cagrad_bound(G.double(), c)
            assert worst >= bound - 1e-3 * float(G.norm() * g0.norm()) - rounding, name


def test_cagrad_helps_a_third_task_between_two_that_are_opposite() -> None:
    a, b = gradients(2, 3)
    d = combined("cagrad", torch.stack((a, -a, b)), c=1.5)
    torch.testing.assert_close(d, (b - (a @ b) * a) / 3, rtol=1e-6, atol=1e-9)


def test_cagrad_with_radius_zero_is_the_mean() -> None:
    G = gradients(4, 0, 3.0)
    torch.testing.assert_close(combined("cagrad", G, c=0.0), G.mean(0))


# ---- alignedmtl


@pytest.mark.parametrize("mode", ["min", "median", "rmse"])
@on_cases
def test_alignedmtl_is_the_mean_after_the_singular_values_became_one(
    num_tasks: int, seed: int, ratio: float, mode: str
) -> None:
    G = gradients(num_tasks, seed, ratio)
    U, S, V = torch.linalg.svd(G, full_matrices=False)
    sigma = {"min": S.min(), "median": S.square().median().sqrt(), "rmse": S.square().mean().sqrt()}
    aligned = sigma[mode] * U @ V
    found = combined("alignedmtl", G, scale_mode=mode)
    torch.testing.assert_close(found, aligned.mean(0), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alignedmtl_takes_the_singular_values_of_dependent_gradients_that_are_not_zero(
    dtype: torch.dtype,
) -> None:
    """In float32 too, where the others are rounding: their inverses would end all progress."""
    G = normal(4, 2) @ normal(2, 60, seed=1)
    U, S, V = torch.linalg.svd(G, full_matrices=False)
    aligned = S[1] * U[:, :2] @ V[:2]
    found = combined("alignedmtl", G.to(dtype))
    torch.testing.assert_close(found, aligned.mean(0).to(dtype), rtol=0, atol=1e-5)


# ---- nashmtl


@on_cases
def test_nash_mtls_weights_solve_the_bargaining_equation(
    num_tasks: int, seed: int, ratio: float
) -> None:
    G = gradients(num_tasks, seed, ratio)  # the longest has length 1
    model = build("nashmtl", num_tasks)
    w = weights_of(model, G)
    assert (w > 0).all()
    torch.testing.assert_close(w * (G @ G.mT @ w), torch.ones_like(w), rtol=0, atol=1e-6)
    d = combine(model, G)
    torch.testing.assert_close(d, w @ G, rtol=0, atol=1e-6)
    assert float(d.norm()) == pytest.approx(num_tasks**0.5, rel=1e-6)


def test_nash_mtl_does_not_depend_on_the_units_of_the_losses() -> None:
    G = gradients(4, 0)
    units = torch.tensor([[1.0], [1e-4], [30.0], [0.1]], dtype=torch.float64)
    one, other = combined("nashmtl", G), combined("nashmtl", G * units)
    torch.testing.assert_close(other / other.norm(), one / one.norm(), rtol=0, atol=1e-6)


def test_nash_mtl_is_fairgrad_with_alpha_one() -> None:
    for seed in range(3):
        G = gradients(5, seed, 10.0)
        expected = combined("fairgrad", G, alpha=1.0)
        torch.testing.assert_close(combined("nashmtl", G), expected, rtol=0, atol=1e-6)


def test_between_updates_nash_mtl_keeps_its_weights_in_units_of_the_lengths() -> None:
    first, second = gradients(3, 0, 3.0), gradients(3, 1, 10.0)
    model = build("nashmtl", 3, update_every=2)
    v = weights_of(build("nashmtl", 3), first) * first.norm(dim=1)
    combine(model, first)
    expected = (v / second.norm(dim=1)) @ second
    expected = expected * min(1, 3**0.5 / float(expected.norm()))
    torch.testing.assert_close(combine(model, second), expected, rtol=0, atol=1e-6)
    third = combined("nashmtl", second)
    torch.testing.assert_close(combine(model, second), third, rtol=0, atol=1e-6)


def test_opposite_gradients_have_no_bargain_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    g = gradients(2, 0)[:1]
    model = build("nashmtl", 2)
    with caplog.at_level(logging.WARNING):
        for factor in (-1.0, -0.5, -1.0):
            G = torch.cat((g, factor * g))
            assert float(combine(model, G).norm()) <= 2**0.5 + 1e-9
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "method=fairgrad method.alpha=1 solves the same equation" in caplog.text


# ---- upgrad


def projected(g: Tensor, G: Tensor) -> Tensor:
    """Nearest direction that harms no task: g plus the nearest point of the cone of G's rows."""
    lengths, _ = nnls(G.mT.numpy(), -g.numpy(), maxiter=1000)
    return g + torch.from_numpy(lengths) @ G


@on_cases
def test_upgrad_is_the_mean_of_the_projections_and_harms_no_task(
    num_tasks: int, seed: int, ratio: float
) -> None:
    G = opposed(num_tasks, seed, ratio)
    u = G / G.norm(dim=1, keepdim=True)
    assert ratio == 1 or (u @ G.mean(0)).min() < 0  # so that the test can fail
    d = combined("upgrad", G)
    expected = torch.stack([projected(g, u) for g in G]).mean(0)
    torch.testing.assert_close(d, expected, rtol=0, atol=1e-6)
    assert float((u @ d).min()) >= -1e-6 * float(d.norm())


def test_upgrad_of_gradients_without_conflict_is_their_mean() -> None:
    G = conflict_free(gradients(4, 0))
    torch.testing.assert_close(combined("upgrad", G), G.mean(0), rtol=1e-6, atol=1e-9)


# ---- fairgrad


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize(("num_tasks", "ratio"), [(2, 1.0), (5, 30.0), (5, 1e3), (40, 1e3)])
def test_fairgrads_weights_solve_the_papers_equation(
    num_tasks: int, ratio: float, alpha: float
) -> None:
    for seed in range(3):
        G = gradients(num_tasks, seed, ratio)
        model = build("fairgrad", num_tasks, alpha=alpha)
        w = weights_of(model, G)
        assert (w > 0).all()
        error = (G @ G.mT @ w) * w ** (1 / alpha) - 1
        assert float(error.abs().max()) < 1e-6
        torch.testing.assert_close(combine(model, G), w @ G, rtol=1e-9, atol=1e-9)


def test_fairgrad_is_torchjds_where_lengths_are_alike() -> None:
    from torchjd.aggregation import FairGradWeighting

    for seed, alpha in itertools.product(range(3), (0.5, 2.0)):
        G = gradients(4, seed, 2.0)
        expected = FairGradWeighting(alpha)(G @ G.mT) @ G
        torch.testing.assert_close(
            combined("fairgrad", G, alpha=alpha), expected, rtol=0, atol=1e-5
        )


def test_fairgrad_with_alpha_zero_is_the_mean() -> None:
    G = gradients(4, 0, 100.0)
    torch.testing.assert_close(combined("fairgrad", G, alpha=0.0), G.mean(0))


# ---- all of them


@gramian_methods
def test_turning_the_features_of_all_examples_turns_the_result(method: str) -> None:
    """Only inner products of whole gradients count: examples are not summed up first."""
    G = gradients(4, 0, 3.0)
    Q, _ = torch.linalg.qr(normal(60, 60, seed=5))
    torch.manual_seed(0)
    expected = combined(method, G) @ Q
    torch.manual_seed(0)
    found = combined(method, G @ Q)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE.get(method, 1e-9))


@every_method
@pytest.mark.parametrize("factor", [1e-8, 1e-3, 1e3, 1e8])
def test_the_step_scales_with_the_gradients(method: str, factor: float) -> None:
    G = gradients(4, 0, 3.0)
    torch.manual_seed(0)
    expected = combined(method, G)
    torch.manual_seed(0)
    found = combined(method, factor * G) / factor
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE.get(method, 1e-9))


@gramian_methods
@pytest.mark.parametrize("kind", SAMPLERS)
def test_float32_gives_what_float64_gives_of_dependent_gradients_too(
    method: str, kind: str
) -> None:
    if (method, kind) in (("fairgrad", "conflicting"), ("fairgrad", "rank_deficient")):
        pytest.skip("no solution: the solver stops anywhere")
    G = SAMPLERS[kind]().view(-1, BATCH * SIZE)
    largest = float(G.norm(dim=1).max()) + 1e-300
    torch.manual_seed(0)
    expected = combine(build(method, len(G)), G.double())
    torch.manual_seed(0)
    found = combine(build(method, len(G)), G)
    scale = max(largest, float(expected.norm()))
    torch.testing.assert_close(found.double() / scale, expected / scale, rtol=0, atol=3e-5)


@every_method
@pytest.mark.parametrize("why", ["absent", "zero gradient", "infinite gradient", "infinite loss"])
def test_a_task_left_out_leaves_the_method_of_the_others(method: str, why: str) -> None:
    G = gradients(4, 1, 3.0)
    rest = G[[0, 1, 3]]
    torch.manual_seed(0)
    expected = combine(build(method, 3), rest)
    model = build(method, 4)
    torch.manual_seed(0)
    if why == "absent":
        found = combine(model, G, absent=[2])
    elif why == "infinite loss":
        found = combine(model, G, values={2: float("nan")})
    elif why == "zero gradient":
        G[2] = 0
        found = combine(model, G)
    else:
        G[2, 7] = float("inf")
        found = combine(model, G)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert model.num_nonfinite.tolist() == [0, 0, int(why.startswith("infinite")), 0]


@every_method
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_one_task_left_gets_its_plain_gradient_bit_for_bit(method: str, kind: torch.dtype) -> None:
    G = gradients(3, 0).to(kind)
    assert torch.equal(combine(build(method, 3), G, absent=[0, 2]), G[1])
    assert torch.equal(combine(build(method, 1), G[:1]), G[0])


@every_method
def test_no_gradient_is_no_step(method: str) -> None:
    assert not combined(method, torch.zeros(3, 8, dtype=torch.float64)).any()


def losses_of(predictions: Sequence[Tensor]) -> list[Tensor]:
    return [(k + 1.0) * (p - k).square().mean() for k, p in enumerate(predictions)]


@every_method
def test_heads_descend_their_plain_losses_and_the_backbone_the_combination(method: str) -> None:
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Linear(3, 6), nn.Tanh()).double()
    heads = [nn.Linear(6, 2).double() for _ in range(3)]
    x, others = normal(4, 3), build(method, 3)
    model = Ruled(backbone, heads, make_rule(method, 3))
    torch.manual_seed(2)
    model.backward(losses_of(model(x)))
    z = backbone(x)
    losses = losses_of([head(z) for head in heads])
    for head, loss in zip(heads, losses, strict=True):
        own = list(head.parameters())
        for p, g in zip(own, torch.autograd.grad(loss, own, retain_graph=True), strict=True):
            torch.testing.assert_close(p.grad, g)
    G = [torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in losses]
    torch.manual_seed(2)
    shared = combine(others, torch.stack(G)).view_as(z)
    own = list(backbone.parameters())
    for p, g in zip(own, torch.autograd.grad(z, own, shared), strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-6, atol=1e-9)


def saved(model: nn.Module) -> dict[str, Any]:
    """Model and random state as a checkpoint holds them."""
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "rng": rng_state()}, file)
    file.seek(0)
    content = torch.load(file, weights_only=True)
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("method", ["pcgrad", "graddrop", "nashmtl"])
@pytest.mark.parametrize("way", ["checkpoint", "copy"])
def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(method: str, way: str) -> None:
    options = {"update_every": 3} if method == "nashmtl" else {}
    sets = [gradients(4, seed, 3.0) for seed in range(8)]
    model = build(method, 4, **options)
    for G in sets[:4]:
        combine(model, G)
    state, other = saved(model), copy.deepcopy(model)
    expected = [combine(model, G) for G in sets[4:]]
    if way == "checkpoint":
        other = build(method, 4, **options)
        other.load_state_dict(state["model"])
    set_rng_state(state["rng"])
    for G, d in zip(sets[4:], expected, strict=True):
        assert torch.equal(combine(other, G), d)


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("cagrad", {"c": -0.1}, "`c` must be at least 0, got -0.1"),
        ("cagrad", {"c": float("nan")}, "`c` must be at least 0, got nan"),
        ("fairgrad", {"alpha": -1.0}, "`alpha` must be at least 0, got -1.0"),
        ("nashmtl", {"update_every": 0}, "`update_every` must be at least 1, got 0"),
        ("nashmtl", {"num_iterations": 0}, "`num_iterations` must be at least 1, got 0"),
    ],
)
def test_an_option_out_of_range_is_refused(
    method: str, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        build(method, 2, **options)


@gramian_methods
def test_forty_tasks_of_any_kind_are_combined(method: str) -> None:
    G = gradients(40, 0, 1e4)
    G[3], G[5] = 0, G[4]
    if method == "nashmtl":
        G = G[[0, 1, 3, 4, 5, *range(20, 27)]]  # its solver takes a quarter of a second for 40
    d = combined(method, G)
    assert d.isfinite().all()
    assert d.any()
