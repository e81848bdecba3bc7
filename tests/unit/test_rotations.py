"""Exponential of skew matrices, its adjoint, random rotations, and the stack a method owns."""

import copy
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from geotorch.so import cayley_map
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rotograd_cli.errors import CheckpointError, ConfigError, ShapeError
from rotograd_cli.linalg.exponential import (
    exp_skew_adjoint,
    exponential_minus_one,
)
from rotograd_cli.linalg.rotations import (
    cayley,
    haar_rotations,
)
from rotograd_cli.linalg.triangle import packed
from rotograd_cli.methods import RotoGrad
from rotograd_cli.methods.rotation.holding import cached, is_holding
from rotograd_cli.methods.rotation.maps import CayleyMap, RotationMap
from rotograd_cli.methods.rotation.rotations import Rotations
from tests.skews import skew, unpacked
from tests.waiting import PATIENCE_S

NORMS = (1e-3, 0.04, 0.3, 1.0, 5.0, 20.0)
SIZES = (1, 2, 3, 7, 24)


def random_skew(size: int, norm: float, *, num: int = 3, seed: int = 0) -> Tensor:
    """Skew matrices of the given spectral norm, shape ``[num, size, size]``, float64."""
    generator = torch.Generator().manual_seed(seed)
    A = skew(torch.randn(num, size, size, generator=generator, dtype=torch.float64))
    largest = torch.linalg.matrix_norm(A, 2).clamp_min(1e-30)
    return A * (norm / largest).view(-1, 1, 1)


# ---- exponential


def exp_skew(A: Tensor) -> Tensor:
    return torch.eye(A.shape[-1], dtype=A.dtype) + exponential_minus_one(A)[0]


def spectral_bound(A: Tensor) -> float:
    return exponential_minus_one(A)[1]


def adjoint(A: Tensor, T: Tensor) -> Tensor:
    return exp_skew_adjoint(A, T, spectral_bound(A))


@pytest.mark.parametrize("size", SIZES)
def test_exponential_agrees_with_matrix_exp_in_float64(size: int) -> None:
    for norm in NORMS:
        A = random_skew(size, norm)
        error = (exp_skew(A) - torch.linalg.matrix_exp(A)).abs().max()
        assert error < 2e-14 * max(1.0, norm), norm  # each doubling doubles the rounding error


def test_float32_exponential_is_accurate_to_its_rounding() -> None:
    for norm in NORMS:
        A = random_skew(16, norm).float()
        expected = torch.linalg.matrix_exp(A.double())
        assert (exp_skew(A).double() - expected).abs().max() < 2e-6 * max(1.0, norm), norm


def test_nan_stays_nan() -> None:
    assert exp_skew(torch.full((1, 2, 2), torch.nan)).isnan().all()


def test_spectral_bound_is_an_upper_bound_and_sharp_up_to_size_three() -> None:
    for size in SIZES[1:]:
        bound = spectral_bound(random_skew(size, 2.5))
        assert bound > 2.5 * (1 - 1e-12)
        if size <= 3:
            assert bound == pytest.approx(2.5)


def test_a_planned_bound_gives_the_same_exponential() -> None:
    for norm in NORMS:
        A = random_skew(7, norm)
        wanted, found_bound = exponential_minus_one(A)
        assert found_bound == pytest.approx(spectral_bound(A), rel=1e-12)
        for factor in (1 + 1e-12, 1.5, 20.0):
            bound = found_bound * factor
            found, returned = exponential_minus_one(A, bound)
            assert returned == bound
            # every doubling more doubles the rounding error
            assert (found - wanted).abs().max() < 2e-14 * max(1.0, norm, 0.05 * bound), norm


def test_beyond_its_planned_bound_an_exponential_is_nan() -> None:
    A = random_skew(7, 3.0)
    _, bound = exponential_minus_one(A)
    for planned in (bound * (1 - 1e-12), 0.1, 0.0):
        found, _ = exponential_minus_one(A, planned)
        assert found.isnan().all()
    A[1] *= 2  # one of the stack is enough
    assert exponential_minus_one(A, bound)[0].isnan().all()


# ---- derivative


@pytest.mark.parametrize("size", SIZES)
def test_adjoint_agrees_with_the_gradient_of_matrix_exp(size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    for norm in NORMS[:-1]:
        A = random_skew(size, norm).requires_grad_()
        M = torch.randn(A.shape, generator=generator, dtype=torch.float64)
        E = torch.linalg.matrix_exp(A)
        (gradient,) = torch.autograd.grad((E * M).sum(), A)
        W = E.detach().mT @ M
        found = adjoint(A.detach(), (W - W.mT) / 2)
        wanted = (gradient - gradient.mT) / 2  # the part that a skew A can follow
        scale = max(1.0, norm) * max(1.0, float(wanted.abs().max()))
        assert (found - wanted).abs().max() < 1e-13 * scale, norm


def test_adjoint_is_the_integral_of_conjugations() -> None:
    A, T = random_skew(5, 4.0), random_skew(5, 1.0, seed=1)
    nodes = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    E = torch.linalg.matrix_exp(nodes.view(-1, 1, 1, 1) * A)
    quadrature = (E @ T @ E.mT).mean(0)
    # midpoint rule: ‖ad_A‖²/(24 n²) with ‖ad_A‖ ≤ 8 and n = 2000, below 1e-6
    torch.testing.assert_close(adjoint(A, T), quadrature, rtol=0, atol=1e-6)


def test_float32_adjoint_is_accurate_to_its_rounding() -> None:
    for norm in NORMS:
        A, T = random_skew(16, norm), random_skew(16, 1.0, seed=1)
        found = adjoint(A.float(), T.float()).double()
        wanted = adjoint(A.float().double(), T.float().double())
        assert (found - wanted).abs().max() < 1e-6 * max(1.0, norm), norm


def frobenius_error(found: Tensor, wanted: Tensor) -> float:
    """Largest relative error of the matrices of a stack."""
    difference = torch.linalg.matrix_norm(found.double() - wanted)
    return float((difference / torch.linalg.matrix_norm(wanted)).max())


UP_TO_A_TURN = (1e-3, 0.1, 1.0, math.pi, 2 * math.pi)


@pytest.mark.parametrize("norm", UP_TO_A_TURN)
@pytest.mark.parametrize("size", [24, 256])
def test_float32_skew_gradient_has_a_relative_error_below_a_millionth(
    size: int, norm: float
) -> None:
    A, T = (random_skew(size, x, seed=s, num=2).float() for s, x in ((0, norm), (1, 1.0)))
    wanted = adjoint(A.double(), T.double())
    assert frobenius_error(adjoint(A, T), wanted) < 1e-6


def moved(size: int, norm: float, **options: Any) -> Rotations:
    """Two rotations in float64, with free parameters of the given spectral norm."""
    rotations = Rotations(2, size, **options).double()
    rotations.assign(haar_rotations(2, size, generator=torch.Generator().manual_seed(8)))
    rotations.free_parameters.detach().copy_(packed(random_skew(size, norm, num=2)))
    return rotations


@pytest.mark.parametrize("norm", UP_TO_A_TURN)
@pytest.mark.parametrize("size", [24, 256])
def test_folded_float32_gradient_has_a_relative_error_of_some_roundings(
    size: int, norm: float
) -> None:
    """One of 6e-8 per term of the series, of which a whole turn takes forty."""
    in_float32 = moved(size, norm).float()
    exact = copy.deepcopy(in_float32).double()
    generator = torch.Generator().manual_seed(2)
    U, Q, P = torch.randn(3, 2, 3, size, generator=generator)
    folded = in_float32.fold(U)
    gradient, turned = folded.gradient(Q, P)
    R = exact.base @ torch.linalg.matrix_exp(skew(unpacked(exact.free_parameters.detach())))
    rows = U.double() @ R
    assert frobenius_error(folded.weight, rows) < 2.4e-6
    assert frobenius_error(turned, P.double() @ R.mT) < 2.4e-6
    W = rows.mT @ Q.double()
    wanted = adjoint(skew(unpacked(exact.free_parameters.detach())), W - W.mT)
    assert frobenius_error(skew(unpacked(gradient)), wanted) < 2.4e-6


# ---- Cayley transform


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 1, 1), (3, 7, 7)], ids=str)
def test_cayley_transform_is_geotorchs(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    A = skew(torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    M = torch.randn(shape, generator=generator, dtype=torch.float64)
    found, wanted = cayley(A), cayley_map(A)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14 * 10)
    if A.numel():
        (gradient,) = torch.autograd.grad((wanted * M).sum(), A, retain_graph=True)
        (by_autograd,) = torch.autograd.grad((found * M).sum(), A)
        torch.testing.assert_close(by_autograd, gradient, rtol=0, atol=1e-12)
        W = (wanted.mT @ M).detach()
        pulled = CayleyMap().pull_back(A.detach(), W - W.mT, 0.0)
        # adjoints are with respect to X, skew A twice: G - Gᵀ of the gradient with respect to A
        torch.testing.assert_close(pulled, gradient - gradient.mT, rtol=0, atol=1e-12)


# ---- random rotations


@pytest.mark.parametrize("size", [1, 2, 3, 50, 450])
def test_haar_rotations_are_rotations(size: int) -> None:
    R = haar_rotations(6, size, generator=torch.Generator().manual_seed(0))
    assert R.dtype == torch.float64
    assert (R.mT @ R - torch.eye(size, dtype=R.dtype)).abs().max() < 1e-13
    signs = [float(torch.linalg.slogdet(matrix).sign) for matrix in R]
    assert signs == [1.0] * 6  # at 450 a determinant in float32 underflows


@pytest.mark.parametrize("size", [2, 3, 5])
def test_haar_rotations_have_the_moments_of_the_uniform_measure(size: int) -> None:
    num = 20_000
    R = haar_rotations(num, size, generator=torch.Generator().manual_seed(0))
    trace = R.diagonal(dim1=-2, dim2=-1).sum(-1)
    # E R = 0, and E tr(R)² = 1 (2 on SO(2): the plane is reducible); five standard errors
    assert R.mean(0).abs().max() < 5 * (1 / size / num) ** 0.5
    squares = trace.square()
    assert (squares.mean() - (2 if size == 2 else 1)).abs() < 5 * squares.std() / num**0.5
    # left invariance: turned by a fixed rotation, the entries keep their distribution
    turned = (R[0] @ R)[1:, 0, 0].sort().values
    assert (turned - R[1:, 0, 0].sort().values).abs().max() < 0.1


def test_haar_rotations_follow_the_generator() -> None:
    first, again = (haar_rotations(2, 4, generator=torch.Generator().manual_seed(5)) for _ in "ab")
    assert torch.equal(first, again)


# ---- the stack that a method owns


def test_rotations_start_at_their_base_and_identity_at_the_identity() -> None:
    torch.manual_seed(0)
    haar, identity = Rotations(2, 5), Rotations(2, 5, init="identity")
    assert torch.equal(haar.whole().R, haar.base)
    assert not torch.equal(haar.base[0], haar.base[1])
    assert torch.equal(identity.whole().R, torch.eye(5).expand(2, 5, 5))
    assert not haar.free_parameters.any()
    with pytest.raises(ConfigError, match="`init` must be haar or identity, got 'orthogonal'"):
        Rotations(2, 5, init="orthogonal")  # type: ignore[arg-type]


def test_the_start_depends_on_nothing_but_the_seed() -> None:
    torch.manual_seed(3)
    first = Rotations(2, 4).base
    torch.manual_seed(3)
    wanted = haar_rotations(2, 4).float()
    assert torch.equal(first, wanted)


@pytest.mark.parametrize("rotation_map", ["expm", "cayley"])
def test_gradient_is_that_of_autograd_through_the_matrices(rotation_map: RotationMap) -> None:
    rotations = Rotations(3, 5, rotation_map=rotation_map).double()
    rotations.assign(haar_rotations(3, 5))
    M = torch.randn(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rotations.free_parameters.copy_(packed(M.mT))
    (rotations.matrices * M).sum().backward()
    found = rotations.whole().gradient(rotations.whole().R.mT @ M)
    torch.testing.assert_close(found, rotations.free_parameters.grad)
    psi = {"expm": torch.linalg.matrix_exp, "cayley": cayley_map}[rotation_map]
    wanted = rotations.base @ psi(skew(unpacked(rotations.free_parameters.detach())))
    for R in (rotations.whole().R, rotations.matrices):
        torch.testing.assert_close(R.detach(), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rotation_map", ["expm", "cayley"])
@pytest.mark.parametrize("norm", [0.0, 0.5, 7.0])
def test_folded_rotations_are_those_of_whole_matrices(
    norm: float, rotation_map: RotationMap
) -> None:
    rotations = moved(5, norm, rotation_map=rotation_map)
    generator = torch.Generator().manual_seed(2)
    U, Q, P = torch.randn(3, 2, 3, 5, generator=generator, dtype=torch.float64)
    folded = rotations.fold(U)
    gradient, turned = folded.gradient(Q, P)
    R = rotations.matrices.detach()
    torch.testing.assert_close(folded.weight, U @ R, rtol=0, atol=1e-13)
    torch.testing.assert_close(turned, P @ R.mT, rtol=0, atol=1e-13)
    wanted = rotations.whole().gradient((U @ R).mT @ Q)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-12)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="`rotation_map` must be expm or cayley, got 'svd'"):
        Rotations(2, 5, rotation_map="svd")  # type: ignore[arg-type]
    for wrong in (0, -3):
        message = f"`rebase_every` must be at least 1, got {wrong}"
        with pytest.raises(ConfigError, match=message):
            Rotations(2, 5, rebase_every=wrong)


def is_fresh(rotations: Rotations) -> bool:
    return torch.allclose(rotations.whole().R, rotations.matrices.detach(), rtol=0, atol=1e-5)


def test_inside_cached_rotations_are_computed_once_until_the_step_ends() -> None:
    rotations = Rotations(2, 4)
    rotations.free_parameters.detach().normal_()
    assert rotations.whole() is not rotations.whole()
    with cached():
        first = rotations.whole()
        with cached():
            assert rotations.whole() is first
        assert rotations.whole() is first
        rotations.count_step()
        rotations.free_parameters.data.add_(0.1)
        assert is_fresh(rotations)
        rotations.advance()
        second = rotations.whole()
        assert rotations.whole() is second
        rotations.free_parameters = nn.Parameter(rotations.free_parameters.detach() * 2)
        assert is_fresh(rotations)  # other tensors are noticed
    assert second is not first
    assert is_fresh(rotations)


def test_inside_cached_a_look_between_backward_and_step_leaves_nothing_behind() -> None:
    torch.manual_seed(0)
    for heads in ([nn.Linear(4, 1)], [nn.Tanh()]):  # folded, and whole rotations
        model = RotoGrad(nn.Linear(3, 4), heads, 4)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        x = torch.randn(8, 3)
        with cached():
            for _ in range(2):
                optimizer.zero_grad()
                model.backward([(model(x)[0] - 1).square().mean()])
                outputs(model, x)
                optimizer.step()
                inside = outputs(model, x)
        torch.testing.assert_close(inside, outputs(model, x), rtol=0, atol=1e-6)


@torch.no_grad()
def outputs(model: RotoGrad, x: Tensor) -> Tensor:
    return torch.stack(model(x))


def test_contexts_may_end_in_any_order_and_belong_to_their_thread() -> None:
    first, second = RotoGrad(nn.Identity(), [nn.Tanh()], 4), RotoGrad(nn.Identity(), [nn.Tanh()], 4)
    contexts = [first.evaluating(), second.evaluating()]
    for context in contexts:
        context.__enter__()
    with ThreadPoolExecutor(1) as other:
        assert not other.submit(is_holding).result()
    for context in contexts:
        assert is_holding()
        context.__exit__(None, None, None)
    assert not is_holding()


def test_a_pass_in_inference_mode_leaves_no_inference_tensor_behind() -> None:
    model = RotoGrad(nn.Linear(3, 4), [nn.Linear(4, 1)], 4).eval()
    x = torch.randn(2, 3, requires_grad=True)
    with torch.inference_mode():
        model(x.detach())
    model(x)[0].sum().backward()  # an ordinary tensor: autograd may keep it
    assert x.grad is not None


# ---- assignment


def test_assigned_rotations_are_kept() -> None:
    model = RotoGrad(nn.Linear(3, 4), [nn.Linear(4, 1), nn.Linear(4, 1)], 4).double()
    with torch.no_grad():
        model.rotations.free_parameters.normal_()
    R = haar_rotations(2, 4)
    model.rotation = R
    torch.testing.assert_close(model.rotation, R, rtol=0, atol=0)
    model.rotation = [R[1], R[0]]
    torch.testing.assert_close(model.rotations.whole().R, R.flip(0), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda R: R[:1], r"must have shape \[2, 4, 4\], got \[1, 4, 4\]"),
        (lambda R: R * 1.1, r"`rotation\[0\]` must be orthogonal .*orthogonalise it first"),
        (lambda R: R * torch.tensor([1.0, 1, 1, -1]), r"determinant sign -1; orthogonalise"),
        (lambda R: R * torch.nan, r"must be orthogonal"),
    ],
    ids=["shape", "stretched", "reflection", "nan"],
)
def test_what_is_no_rotation_is_refused(wrong: Callable[[Tensor], Tensor], message: str) -> None:
    rotations = Rotations(2, 4)
    before = rotations.whole().R.clone()
    with pytest.raises(ShapeError, match=message):
        rotations.assign(wrong(haar_rotations(2, 4)))
    assert torch.equal(rotations.whole().R, before)


# ---- re-basing


@pytest.mark.parametrize("rotation_map", ["expm", "cayley"])
@pytest.mark.parametrize("norm", [0.1, 3.0])
def test_rebasing_keeps_the_rotations_and_clears_the_free_parameters(
    norm: float, rotation_map: RotationMap
) -> None:
    rotations = moved(6, norm, rotation_map=rotation_map, rebase_every=2)
    before, base = rotations.matrices.detach(), rotations.base.clone()
    rotations.count_step()
    rotations.rebase()
    for R in (rotations.whole().R, rotations.matrices.detach(), rotations.base):
        torch.testing.assert_close(R, before, rtol=0, atol=1e-12)
    assert (rotations.base - base).abs().max() > 0.01
    assert not rotations.free_parameters.any()
    assert rotations.steps_since_rebase == 0
    eye = torch.eye(6, dtype=torch.float64)
    assert (rotations.base.mT @ rotations.base - eye).abs().max() < 1e-14


def test_rebasing_comes_before_the_first_pass_after_so_many_optimiser_steps() -> None:
    torch.manual_seed(0)
    heads = [nn.Linear(4, 1), nn.Linear(4, 1)]
    model = RotoGrad(nn.Linear(3, 4), heads, 4, rebase_every=3)
    optimizer = torch.optim.SGD(model.mtl_parameters(), lr=0.1)
    bases = []
    for _ in range(8):
        for accumulating in (True, False):
            losses = [(p - 1).square().mean() / 2 for p in model(torch.randn(5, 3))]
            bases.append(model.rotations.base.clone())
            model.backward(losses, num_micro_batches=2, accumulating=accumulating)
        optimizer.step()
        optimizer.zero_grad()
    changed = [not torch.equal(before, base) for before, base in itertools.pairwise(bases)]
    # passes 0 to 15, two a step: new bases are seen first in step 3 (pass 6) and step 6 (pass 12)
    assert [i + 1 for i, x in enumerate(changed) if x] == [6, 12]


def test_the_clock_of_rebasing_is_state_where_it_is_used() -> None:
    without, source = Rotations(2, 4), Rotations(2, 4, rebase_every=5)
    assert not [name for name in without.state_dict() if "steps" in name]
    for _ in range(3):
        source.count_step()
    state = source.state_dict()
    assert int(state["steps_since_rebase"]) == 3
    for prefix in ("", "inner."):
        target = Rotations(2, 4, rebase_every=5)
        module = nn.ModuleDict({"inner": target}) if prefix else target
        module.load_state_dict({prefix + name: t for name, t in state.items()})
        assert target.steps_since_rebase == 3
        assert torch.equal(target.base, source.base)
    assert "steps_since_rebase" in state  # loading takes nothing out of the caller's dictionary
    target.count_step()
    target.load_state_dict(without.state_dict())  # from a run without
    assert target.steps_since_rebase == 0


@pytest.mark.parametrize("rotation_map", ["expm", "cayley"])
def test_rebasing_in_every_step_is_riemannian_gradient_descent(rotation_map: RotationMap) -> None:
    lr, num_steps = 0.05, 40
    psi = {"expm": torch.linalg.matrix_exp, "cayley": cayley_map}[rotation_map]
    rotations = moved(5, 0.0, rotation_map=rotation_map, rebase_every=1)
    R, start = rotations.base.clone(), rotations.base.clone()
    optimizer = torch.optim.SGD(rotations.parameters(), lr=lr)
    target = haar_rotations(2, 5, generator=torch.Generator().manual_seed(9))
    for _ in range(num_steps):  # descends |R - target|²
        rotations.advance()
        W = rotations.whole().R.mT @ (2 * (rotations.whole().R - target))
        rotations.free_parameters.grad = rotations.whole().gradient(W)
        rotations.count_step()
        optimizer.step()
        W = R.mT @ (2 * (R - target))
        R = R @ psi(-lr * (W - W.mT))
        torch.testing.assert_close(rotations.whole().R, R, rtol=0, atol=1e-12)
    assert (R - start).abs().max() > 0.5


def test_rebasing_is_what_assigning_the_rotations_by_hand_is() -> None:
    """For the whole method, with an optimiser that has memory, on both paths."""
    torch.manual_seed(0)
    heads = [nn.Linear(6, 2), nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1))]
    for path in ("general", "folded"):
        model = RotoGrad(
            nn.Linear(3, 6), copy.deepcopy(heads), 6, rotation_path=path, rebase_every=4
        ).double()
        by_hand = RotoGrad(nn.Linear(3, 6), heads, 6, rotation_path=path).double()
        model.rotation = haar_rotations(2, 6)
        by_hand.load_state_dict(
            {k: v for k, v in model.state_dict().items() if "steps_since" not in k}
        )
        optimizers = [torch.optim.Adam(m.parameters(), lr=0.05) for m in (model, by_hand)]
        for i in range(14):
            if i in (4, 8, 12):
                by_hand.rotation = by_hand.rotation.detach()
            x = torch.randn(5, 3, dtype=torch.float64)
            for m, optimizer in zip((model, by_hand), optimizers, strict=True):
                m.backward([(p - 1).square().mean() for p in m(x)])
                optimizer.step()
                optimizer.zero_grad()
        for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-11)  # Adam divides by small numbers
        R = model.rotation.detach()
        torch.testing.assert_close(R, by_hand.rotation.detach(), rtol=0, atol=1e-11)
        assert (R - model.rotations.base).abs().max() > 1e-3


def test_rotations_stay_orthogonal_over_two_thousand_rebasings() -> None:
    torch.manual_seed(0)
    rotations = Rotations(2, 4, rebase_every=1)
    eye = torch.eye(4)
    for _ in range(2_000):
        rotations.free_parameters.detach().uniform_(-1, 1)
        rotations.rebase()
    # rounded once to float32 by the last of them: 6e-8 in every entry
    assert (rotations.base.mT @ rotations.base - eye).abs().max() < 5e-7
    assert all(torch.linalg.slogdet(R).sign > 0 for R in rotations.base)


def trained(rebase_every: int | None) -> tuple[RotoGrad, AveragedModel]:
    """A model after a few steps, and the average of its states."""
    torch.manual_seed(0)
    heads = [nn.Linear(6, 1), nn.Linear(6, 1)]
    model = RotoGrad(nn.Linear(3, 6), heads, 6, rebase_every=rebase_every)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(6):
        model.backward([(p - 1).square().mean() for p in model(torch.randn(5, 3))])
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(model)
    return model, averaged


def without_clock(model: nn.Module) -> dict[str, Tensor]:
    """The state that a model without ``rebase_every`` takes."""
    return {name: t for name, t in model.state_dict().items() if "steps_since" not in name}


def test_averaged_bases_are_refused_wherever_they_are_used() -> None:
    model, averaged = trained(rebase_every=1)
    other = RotoGrad(nn.Linear(3, 6), [nn.Linear(6, 1), nn.Linear(6, 1)], 6)
    x = torch.randn(2, 3)
    uses: list[Callable[[Any], Any]] = [
        lambda spoilt: spoilt.eval()(x),
        lambda spoilt: spoilt.train()(x),
        lambda spoilt: spoilt[1](x),
        lambda spoilt: spoilt.rotation,
        lambda spoilt: spoilt.rotations.rebase(),
    ]
    message = r"`rotations.base\[0\]` must be orthogonal, .*rebase_every=null"
    for spoilt in (averaged.module, copy.deepcopy(averaged.module)):
        for use in uses:
            with pytest.raises(CheckpointError, match=message):
                use(spoilt)
    with pytest.raises(CheckpointError, match=message):
        other.load_state_dict(without_clock(averaged.module))
    for evaluates in (lambda: other.rotation, lambda: other.evaluating().__enter__()):
        with pytest.raises(CheckpointError, match=message):  # the bases have been loaded
            evaluates()
    other.load_state_dict(without_clock(model))
    other(x)


def test_an_average_of_free_parameters_over_one_base_is_a_rotation() -> None:
    model, averaged = trained(rebase_every=None)
    R, base = averaged.module.rotation.detach(), model.rotations.base
    torch.testing.assert_close(R.mT @ R, torch.eye(6).expand(2, -1, -1), rtol=0, atol=1e-5)
    assert 0 < (R - base).norm() < (model.rotation.detach() - base).norm()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny matrices wait for each other's threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_rotations_stay_orthogonal_over_ten_thousand_steps() -> None:
    """R is computed from B and A anew in every step, so that rounding does not add up."""
    torch.manual_seed(0)
    rotations = Rotations(2, 6)
    optimizer = torch.optim.Adam(rotations.parameters(), lr=0.01, foreach=True)
    targets = haar_rotations(20, 6).float().view(10, 2, 6, 6)
    for step in range(10_000):  # the target moves on every 1000 steps: -<R, target>
        W = -rotations.whole().R.mT @ (targets[step // 1000] + 0.1 * torch.randn(2, 6, 6))
        rotations.free_parameters.grad = rotations.whole().gradient(W)
        optimizer.step()
    R = rotations.whole().R
    assert (
        spectral_bound(skew(unpacked(rotations.free_parameters.detach()))) > 2
    )  # far from the start
    assert (R.mT @ R - torch.eye(6)).abs().max() < 1e-5
    assert (R - targets[-1]).abs().max() < 0.5  # and it has followed


def test_large_rotations_are_built_without_a_batched_determinant() -> None:
    """The manifold's own constructor takes one, which hangs here with two threads."""
    script = (
        "import torch; torch.set_num_threads(2); "
        "from rotograd_cli.methods.rotation.rotations import Rotations; "
        "print(*Rotations(2, 512, init='identity').base.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert done.stdout.split() == ["2", "512", "512"]
    assert "MKL ERROR" not in done.stdout + done.stderr
