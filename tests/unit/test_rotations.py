"""Exponential of skew matrices, its adjoint, random rotations, and the stack a method owns."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.linalg.exponential import (
    exp_skew,
    exp_skew_adjoint,
    spectral_bound,
)
from rotograd_cli.linalg.rotations import haar_rotations, skew
from rotograd_cli.methods import RotoGrad
from rotograd_cli.methods.rotations import Rotations

NORMS = (1e-3, 0.04, 0.3, 1.0, 5.0, 20.0)
SIZES = (1, 2, 3, 7, 24)


def random_skew(size: int, norm: float, *, num: int = 3, seed: int = 0) -> Tensor:
    """Skew matrices of the given spectral norm, shape ``[num, size, size]``, float64."""
    generator = torch.Generator().manual_seed(seed)
    A = skew(torch.randn(num, size, size, generator=generator, dtype=torch.float64))
    largest = torch.linalg.matrix_norm(A, 2).clamp_min(1e-30)
    return A * (norm / largest).view(-1, 1, 1)


# ---- exponential


@pytest.mark.parametrize("size", SIZES)
def test_exponential_agrees_with_matrix_exp_in_float64(size: int) -> None:
    for norm in NORMS:
        A = random_skew(size, norm)
        error = (exp_skew(A) - torch.linalg.matrix_exp(A)).abs().max()
        assert error < 2e-14 * max(1.0, norm), norm  # each doubling doubles the rounding error


def test_float32_exponential_is_accurate_to_its_rounding() -> None:
    for norm in NORMS:
        A = random_skew(16, norm).float()
        E = exp_skew(A)
        assert E.dtype == torch.float32
        wanted = torch.linalg.matrix_exp(A.double())
        assert (E.double() - wanted).abs().max() < 2e-6 * max(1.0, norm), norm


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    A = random_skew(6, 2.0).to(dtype)
    torch.testing.assert_close(exp_skew(A), exp_skew(A.float()).to(dtype), rtol=0, atol=0)


def test_nan_stays_nan_and_empty_stays_empty() -> None:
    assert exp_skew(torch.full((1, 2, 2), torch.nan)).isnan().all()
    assert exp_skew(torch.zeros(0, 3, 3)).shape == (0, 3, 3)


def test_spectral_bound_is_an_upper_bound_and_sharp_up_to_size_three() -> None:
    for size in SIZES[1:]:
        bound = spectral_bound(random_skew(size, 2.5))
        assert (bound > 2.5 * (1 - 1e-12)).all()
        if size <= 3:
            torch.testing.assert_close(bound, torch.full_like(bound, 2.5))


# ---- derivative


@pytest.mark.parametrize("norm", [1e-3, 1.0, 6.0])
def test_gradcheck_of_the_exponential(norm: float) -> None:
    X = random_skew(4, norm, num=2).tril(-1).requires_grad_()
    assert torch.autograd.gradcheck(lambda X: exp_skew(skew(X)), (X,))


@pytest.mark.parametrize("size", SIZES)
def test_adjoint_agrees_with_the_gradient_of_matrix_exp(size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    for norm in NORMS[:-1]:
        A = random_skew(size, norm).requires_grad_()
        M = torch.randn(A.shape, generator=generator, dtype=torch.float64)
        E = torch.linalg.matrix_exp(A)
        (gradient,) = torch.autograd.grad((E * M).sum(), A)
        W = E.detach().mT @ M
        found = exp_skew_adjoint(A.detach(), (W - W.mT) / 2)
        wanted = (gradient - gradient.mT) / 2  # the part that a skew A can follow
        scale = max(1.0, norm) * max(1.0, float(wanted.abs().max()))
        assert (found - wanted).abs().max() < 1e-13 * scale, norm


def test_adjoint_is_the_integral_of_conjugations() -> None:
    A, T = random_skew(5, 4.0), random_skew(5, 1.0, seed=1)
    nodes = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    E = torch.linalg.matrix_exp(nodes.view(-1, 1, 1, 1) * A)
    quadrature = (E @ T @ E.mT).mean(0)
    # midpoint rule: ‖ad_A‖²/(24 n²) with ‖ad_A‖ ≤ 8 and n = 2000, below 1e-6
    torch.testing.assert_close(exp_skew_adjoint(A, T), quadrature, rtol=0, atol=1e-6)


def test_float32_adjoint_is_accurate_to_its_rounding() -> None:
    for norm in NORMS:
        A, T = random_skew(16, norm), random_skew(16, 1.0, seed=1)
        found = exp_skew_adjoint(A.float(), T.float()).double()
        wanted = exp_skew_adjoint(A.float().double(), T.float().double())
        assert (found - wanted).abs().max() < 1e-6 * max(1.0, norm), norm


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
    assert torch.equal(haar.current(), haar.base)
    assert not torch.equal(haar.base[0], haar.base[1])
    assert torch.equal(identity.current(), torch.eye(5).expand(2, 5, 5))
    assert not haar.free_parameters.any()
    with pytest.raises(ConfigError, match="`init` must be haar or identity, got 'orthogonal'"):
        Rotations(2, 5, init="orthogonal")  # type: ignore[arg-type]


def test_the_start_depends_on_nothing_but_the_seed() -> None:
    torch.manual_seed(3)
    first = Rotations(2, 4).base
    torch.manual_seed(3)
    wanted = haar_rotations(2, 4).float()
    assert torch.equal(first, wanted)


def test_gradient_is_that_of_autograd_through_the_matrices() -> None:
    rotations = Rotations(3, 5).double()
    rotations.assign(haar_rotations(3, 5))
    M = torch.randn(3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        rotations.free_parameters.copy_(M.mT)
    (rotations.matrices * M).sum().backward()
    found = rotations.gradient_(rotations.current().mT @ M)
    torch.testing.assert_close(found, rotations.free_parameters.grad)
    assert not found.triu().any()


def with_gradient() -> Rotations:
    torch.manual_seed(0)
    rotations = Rotations(2, 4)
    rotations.free_parameters.grad = torch.randn(2, 4, 4)
    rotations.current()
    return rotations


def is_fresh(rotations: Rotations) -> bool:
    return torch.allclose(rotations.current(), rotations.matrices.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_an_optimiser_step_is_seen(
    optimizer: Callable[..., torch.optim.Optimizer], foreach: bool
) -> None:
    rotations = with_gradient()
    before = rotations.current()
    assert rotations.current() is before  # computed once
    optimizer(rotations.parameters(), lr=0.1, foreach=foreach).step()
    assert not torch.equal(rotations.current(), before)
    assert is_fresh(rotations)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_fused_step_after_backward_is_seen(
    optimizer: Callable[..., torch.optim.Optimizer],
) -> None:
    """Fused optimisers do not advance the version counter that the cache watches."""
    torch.manual_seed(0)
    model = RotoGrad(nn.Linear(3, 4), [nn.Linear(4, 1), nn.Linear(4, 1)], 4)
    step = optimizer(model.mtl_parameters(), lr=0.1, fused=True).step
    for _ in range(2):
        before = model.rotations.current()
        model.backward([(p - 1).square().mean() for p in model(torch.randn(5, 3))])
        step()
        assert not torch.equal(model.rotations.current(), before)
        assert is_fresh(model.rotations)
        model.rotations.clear_cache()


def other_state() -> dict[str, Tensor]:
    other = with_gradient()
    torch.nn.init.normal_(other.free_parameters)
    return other.state_dict()


CHANGES: dict[str, Callable[[Rotations], object]] = {
    "load_state_dict": lambda r: r.load_state_dict(other_state()),
    "load_state_dict by assignment": lambda r: r.load_state_dict(other_state(), assign=True),
    "assign": lambda r: r.assign(haar_rotations(2, 4)),
    "double": lambda r: r.double(),
    "twice half": lambda r: r.double().float(),
    "in place": lambda r: r.free_parameters.detach().add_(0.1),
    "train": lambda r: (r.free_parameters.data.add_(0.1), r.train()),
    "eval": lambda r: (r.free_parameters.data.add_(0.1), r.eval()),
    "clear_cache": lambda r: (r.free_parameters.data.add_(0.1), r.clear_cache()),
    "deepcopy": lambda r: copy.deepcopy(r),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_parameters_is_seen(change: str) -> None:
    rotations = with_gradient()
    CHANGES[change](rotations)
    assert is_fresh(rotations)


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
    torch.testing.assert_close(model.rotations.current(), R.flip(0), rtol=0, atol=0)


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
    before = rotations.current().clone()
    with pytest.raises(ShapeError, match=message):
        rotations.assign(wrong(haar_rotations(2, 4)))
    assert torch.equal(rotations.current(), before)


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
        W = -rotations.current().mT @ (targets[step // 1000] + 0.1 * torch.randn(2, 6, 6))
        rotations.free_parameters.grad = rotations.gradient_(W)
        optimizer.step()
    R = rotations.current()
    assert spectral_bound(skew(rotations.free_parameters)).max() > 2  # far from the start
    assert (R.mT @ R - torch.eye(6)).abs().max() < 1e-5
    assert (R - targets[-1]).abs().max() < 0.5  # and it has followed


def test_large_rotations_are_built_without_a_batched_determinant() -> None:
    """The manifold's own constructor takes one, which hangs here with two threads."""
    script = (
        "import torch; torch.set_num_threads(2); "
        "from rotograd_cli.methods.rotations import Rotations; "
        "print(*Rotations(2, 512, init='identity').base.shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["2", "512", "512"]
    assert "MKL ERROR" not in done.stdout + done.stderr
