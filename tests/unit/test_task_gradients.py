"""Both forms of the task gradients against a loop over tasks and examples in float64."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from geotorch.so import cayley_map
from torch import Tensor, nn

from rotograd_cli import methods
from rotograd_cli.linalg.rotations import haar_rotations
from rotograd_cli.linalg.triangle import packed
from rotograd_cli.methods.engine.step import Step
from rotograd_cli.methods.heads.folded_linear import FoldedLinearLeaves, split_heads
from rotograd_cli.methods.heads.leaves import new_leaf
from rotograd_cli.methods.rotation.features import RotatedAxes
from rotograd_cli.methods.rotation.maps import CayleyMap, ExponentialMap
from rotograd_cli.methods.rotation.rotations import Rotations
from rotograd_cli.methods.rotation.task_gradients import (
    DenseTaskGradients,
    FoldedTaskGradients,
    TaskGradients,
    rotate,
)
from rotograd_cli.methods.rule import Losses
from tests.samplers import BATCH, SAMPLERS, SIZE
from tests.skews import skew, unpacked

NUM_TASKS, NUM_EXAMPLES = 3, 5
ROUNDING = 1e-13  # sums of tens of numbers of order one, in float64


@dataclass
class Layout:
    """Features ``[N, d, S]`` of which m are rotated, and the outputs of linear heads."""

    m: int
    d: int
    S: int = 1
    widths: tuple[int, ...] = (2, 1, 3)


DENSE = {
    "vectors": Layout(4, 4),
    "vectors, d > m": Layout(4, 7),
    "maps, S < m": Layout(4, 4, 3),
    "maps, S < m < d": Layout(4, 7, 3),
    "maps, S = m": Layout(4, 4, 4),
    "maps, S > m": Layout(3, 3, 8),
    "maps, d > m, S > m": Layout(3, 5, 8),
    "size one": Layout(1, 2, 2),
}
FOLDED = {
    "vectors": Layout(4, 4),
    "vectors, d > m": Layout(4, 7),
    "equal widths": Layout(4, 6, widths=(2, 2, 2)),
    "wider than the rotation": Layout(3, 5, widths=(4, 6, 1)),
    "size one": Layout(1, 3),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def rotations_of(m: int, num_tasks: int = NUM_TASKS, **options: Any) -> Rotations:
    """Away from their start."""
    rotations = Rotations(num_tasks, m, **options).double()
    rotations.assign(haar_rotations(num_tasks, m, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        rotations.free_parameters.copy_(packed(normal(num_tasks, m, m, seed=4)))
    return rotations


def dense(layout: Layout, *, rotated: bool = True) -> tuple[Rotations, TaskGradients, Tensor]:
    """Gradients at the features ``[K, N, d, S]``, and the object to be tested."""
    rotations = rotations_of(layout.m)
    post = () if layout.S == 1 else (layout.S,)
    axes = RotatedAxes(layout.m, post, (layout.d, *post))
    given = normal(NUM_TASKS, NUM_EXAMPLES, layout.d, layout.S)
    R = rotations.matrices.detach()
    wanted = given.clone()
    if rotated:
        for k in range(NUM_TASKS):
            for n in range(NUM_EXAMPLES):
                wanted[k, n, : layout.m] = R[k].T @ given[k, n, : layout.m]
    gradients = [g.reshape(NUM_EXAMPLES, layout.d, *post) for g in given.clone()]
    return rotations, dense_gradients(rotations, axes, gradients, rotated=rotated), wanted


def dense_gradients(
    rotations: Rotations, axes: RotatedAxes, gradients: list[Tensor], *, rotated: bool
) -> DenseTaskGradients:
    """The object, of gradients at rotated features or at the features themselves."""
    whole = rotations.whole()
    blocks = [axes.to_blocks(gradient) for gradient in gradients]
    if rotated:
        blocks = list(rotate(whole.R.mT, blocks))
    return DenseTaskGradients(blocks, whole)


def folded_leaves(
    layers: list[nn.Module], z: Tensor, rotations: Rotations, axes: RotatedAxes
) -> FoldedLinearLeaves:
    split = split_heads(layers, z, axes)
    assert split is not None
    rotated: Any = SimpleNamespace(rotations=rotations, axes=axes)
    return FoldedLinearLeaves(split, z, new_leaf, rotated)


def folded(
    layout: Layout, rotation_map: str = "expm"
) -> tuple[Rotations, FoldedTaskGradients, Tensor, Any]:
    """As :func:`dense`, with the first layers and what they saw."""
    torch.manual_seed(0)
    rotations = rotations_of(layout.m, rotation_map=rotation_map)
    layers = [nn.Linear(layout.d, o).double() for o in layout.widths]
    z = normal(NUM_EXAMPLES, layout.d, seed=5)
    axes = RotatedAxes(layout.m, (), (layout.d,))
    leaves = folded_leaves(list(layers), z, rotations, axes)
    R = rotations.matrices.detach()
    delta = torch.zeros(NUM_TASKS, NUM_EXAMPLES, max(layout.widths), dtype=torch.float64)
    wanted = torch.zeros(NUM_TASKS, NUM_EXAMPLES, layout.d, 1, dtype=torch.float64)
    for k, layer in enumerate(layers):
        o, m = layer.out_features, layout.m
        delta[k, :, :o] = normal(NUM_EXAMPLES, o, seed=10 + k)
        for n in range(NUM_EXAMPLES):
            g = layer.weight.detach().T @ delta[k, n, :o]
            wanted[k, n, :, 0] = torch.cat((R[k].T @ g[:m], g[m:]))
    found = leaves.task_gradients(list(delta))
    return rotations, found, wanted, (leaves, layers, delta, z, R)


CASES = [("dense", case) for case in DENSE] + [("folded", case) for case in FOLDED]
every_case = pytest.mark.parametrize(("form", "case"), CASES)


def build(form: str, case: str) -> tuple[Rotations, TaskGradients, Tensor]:
    return dense(DENSE[case]) if form == "dense" else folded(FOLDED[case])[:3]


def naive_rotation_gradient(rotations: Rotations, g: Tensor, v: Tensor, factor: float) -> Tensor:
    """Autograd of a loss whose gradient at R_k is f Σ_n (R_k g_n) v_nᵀ."""
    m = rotations.size
    psi = {ExponentialMap: torch.linalg.matrix_exp, CayleyMap: cayley_map}[type(rotations.map)]
    X = rotations.free_parameters.detach().requires_grad_()
    R = rotations.base @ psi(skew(unpacked(X)))
    G = torch.zeros_like(R)
    for k in range(len(g)):
        for n in range(g.shape[1]):
            G[k] += factor * (R[k].detach() @ g[k, n, :m]) @ v[n, :m].T
    (gradient,) = torch.autograd.grad((R * G.detach()).sum(), X)
    return gradient


@every_case
def test_norms_are_those_of_the_gradients_at_the_features(form: str, case: str) -> None:
    _, found, g = build(form, case)
    wanted = torch.stack([row.square().sum().sqrt() for row in g])
    torch.testing.assert_close(found.norms(), wanted, rtol=ROUNDING, atol=0)


@every_case
def test_combinations_are_sums_over_the_tasks(form: str, case: str) -> None:
    _, found, g = build(form, case)
    weights = normal(2, NUM_TASKS, seed=6)
    combined = found.combine(weights)
    for r in range(2):
        wanted = weights[r, 0] * g[0] + weights[r, 1] * g[1] + weights[r, 2] * g[2]
        torch.testing.assert_close(combined[r], wanted, rtol=0, atol=20 * ROUNDING)


@every_case
def test_rotation_gradient_is_that_of_autograd(form: str, case: str) -> None:
    rotations, found, g = build(form, case)
    v = normal(*g.shape[1:], seed=7)
    wanted = naive_rotation_gradient(rotations, g, v, 0.7)
    gradient = found.rotation_gradient(v, torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=100 * ROUNDING)
    if rotations.size > 1:
        assert wanted.norm(dim=1).min() > 0.1


@every_case
def test_dropped_tasks_have_no_part_in_anything(form: str, case: str) -> None:
    _, found, g = build(form, case)
    kept = build(form, case)[1]
    found.drop(torch.tensor([False, True, False]))
    ones = torch.ones(1, NUM_TASKS, dtype=torch.float64)
    torch.testing.assert_close(found.combine(ones)[0], g[0] + g[2], rtol=0, atol=10 * ROUNDING)
    v = normal(*g.shape[1:], seed=7)
    factor = torch.tensor(1.0, dtype=torch.float64)
    gradient, wanted = found.rotation_gradient(v, factor), kept.rotation_gradient(v, factor)
    assert not gradient[1].any()
    torch.testing.assert_close(gradient[::2], wanted[::2], rtol=0, atol=10 * ROUNDING)


@pytest.mark.parametrize("form", ["dense", "folded"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_dropped_task_that_is_not_finite_leaves_the_others_finite(
    form: str, value: float
) -> None:
    rotations = rotations_of(4)
    axes = RotatedAxes(4, (), (6,))
    found: TaskGradients
    if form == "dense":
        gradients = list(normal(NUM_TASKS, NUM_EXAMPLES, 6))
        gradients[1][2, 3] = value
        found = dense_gradients(rotations, axes, gradients, rotated=True)
    else:
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Linear(6, 2).double() for _ in "abc"]
        z = normal(NUM_EXAMPLES, 6, seed=5)
        leaves = folded_leaves(layers, z, rotations, axes)
        delta = normal(NUM_TASKS, NUM_EXAMPLES, 2)
        delta[1, 2, 1] = value
        found = leaves.task_gradients(list(delta))
    finite = found.norms().isfinite()
    assert finite.tolist() == [True, False, True]
    found.drop(~finite)
    assert found.combine(torch.ones(1, NUM_TASKS)).isfinite().all()
    v = normal(NUM_EXAMPLES, 6, 1, seed=7)
    gradient = found.rotation_gradient(v, torch.tensor(1.0, dtype=torch.float64))
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    assert gradient[0].any()


@pytest.mark.parametrize("rotation_map", ["expm", "cayley"])
@pytest.mark.parametrize("case", FOLDED)
def test_first_layers_get_the_gradients_that_they_would_have_seen(
    case: str, rotation_map: str
) -> None:
    layout = FOLDED[case]
    rotations, found, g, (leaves, layers, delta, z, R) = folded(layout, rotation_map)
    v = normal(*g.shape[1:], seed=7)
    gradient = found.rotation_gradient(v, torch.tensor(0.7, dtype=torch.float64))
    torch.testing.assert_close(
        gradient, naive_rotation_gradient(rotations, g, v, 0.7), rtol=0, atol=100 * ROUNDING
    )
    by_parameter = {id(p): t for p, t in leaves.parameter_gradients(found)}
    assert len(by_parameter) == 2 * NUM_TASKS
    for k, layer in enumerate(layers):
        o, m = layer.out_features, layout.m
        seen = torch.cat((z[:, :m] @ R[k].T, z[:, m:]), dim=1)
        torch.testing.assert_close(
            leaves.tensors[0][k][:, :o], layer(seen), rtol=0, atol=ROUNDING * 10
        )
        layer(seen).backward(delta[k, :, :o])
        for p in layer.parameters():
            torch.testing.assert_close(by_parameter[id(p)], p.grad, rtol=0, atol=ROUNDING * 10)


def test_gradients_that_lie_one_after_the_other_are_not_copied() -> None:
    rotations, axes = rotations_of(4), RotatedAxes(4, (2,), (4, 2))
    whole = normal(NUM_TASKS, NUM_EXAMPLES, 4, 2)
    found = dense_gradients(rotations, axes, list(whole), rotated=False)
    assert found.G.data_ptr() == whole.data_ptr()
    for others in ([whole[1], whole[0], whole[2]], [whole[0]] * 3, [*whole[:2], whole[2].clone()]):
        found = dense_gradients(rotations, axes, list(others), rotated=False)
        assert torch.equal(found.G, torch.stack(list(others)))
        assert found.G.data_ptr() != whole.data_ptr()


@pytest.mark.parametrize("case", DENSE)
def test_gradients_at_unrotated_features_are_taken_as_they_are(case: str) -> None:
    rotations, found, g = dense(DENSE[case], rotated=False)
    v = normal(*g.shape[1:], seed=7)
    torch.testing.assert_close(found.norms(), g.flatten(1).norm(dim=1), rtol=ROUNDING, atol=0)
    gradient = found.rotation_gradient(v, torch.tensor(0.7, dtype=torch.float64))
    wanted = naive_rotation_gradient(rotations, g, v, 0.7)
    torch.testing.assert_close(gradient, wanted, rtol=0, atol=100 * ROUNDING)


@pytest.mark.parametrize(("form", "case"), CASES)
def test_the_matrix_has_the_gradients_as_rows(form: str, case: str) -> None:
    _, found, g = build(form, case)
    torch.testing.assert_close(found.matrix(), g.flatten(1), rtol=0, atol=20 * ROUNDING)


def test_half_precision_is_accumulated_in_float32() -> None:
    gradient = torch.full((500, 4), 300.0, dtype=torch.float16)  # squares overflow in float16
    losses = Losses(torch.ones(1), torch.ones(1, dtype=torch.bool))
    step = Step(losses.values, losses, scale=None, num_micro_batches=1)
    gradients = [gradient]
    assert step.unscale(gradients) is None
    found = DenseTaskGradients(gradients)
    assert found.norms().dtype == torch.float32
    torch.testing.assert_close(found.norms(), torch.tensor([300.0 * 2000**0.5]))


# ---- the reference direction, by a method's combine step


def naive_reference(rows: list[Tensor]) -> Tensor:
    """The authors' v': task gradients at the length of their mean, averaged."""
    mean = torch.stack(rows).mean(0)
    return torch.stack([g * (mean.norm() / g.norm()) if g.any() else g for g in rows]).mean(0)


def linear_model(path: str, G: Tensor) -> tuple[Any, Tensor, Tensor]:
    """A method whose task k has the gradient ``G[k]``, as rows of its loss, at the features.

    Heads are square linear layers, so that any gradient can be had. Returns the method, features,
    and weights C so that the loss Σ <y, C> of the head's output y has that gradient.
    """
    K, dtype = len(G), G.dtype
    torch.manual_seed(0)
    heads = [nn.Linear(SIZE, SIZE, bias=False) for _ in range(K)]
    model = methods.RotateOnly(nn.Identity(), heads, SIZE, rotation_path=path, burn_in_period=2)
    model = model.double()
    model.rotation = haar_rotations(K, SIZE)
    for head, weight in zip(model.heads, haar_rotations(K, SIZE), strict=True):
        head.weight.detach().copy_(weight)
    W = torch.stack([head.weight.detach() for head in model.heads]) @ model.rotation.detach()
    C = G.double() @ W.mT  # W is orthogonal: (G Wᵀ) W = G
    z = torch.linspace(-1, 1, BATCH * SIZE, dtype=torch.float64).view(BATCH, SIZE)
    model = model.to(dtype)
    return model, z.to(dtype).requires_grad_(), C.to(dtype)


def rotate_once(path: str, G: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the free parameters at A = 0, and of the features."""
    model, z, C = linear_model(path, G)
    products = [(p * c).sum() for p, c in zip(model(z), C, strict=True)]
    model.backward([x - x.detach() + 1 for x in products])
    assert z.grad is not None
    assert model.rotations.free_parameters.grad is not None
    return model.rotations.free_parameters.grad, z.grad


@pytest.mark.parametrize("path", ["general", "folded"])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_rotations_turn_towards_the_authors_reference_direction(kind: str, path: str) -> None:
    G = SAMPLERS[kind]().double().view(-1, BATCH, SIZE)
    gradient, shared = rotate_once(path, G)
    moving = [g for g in G.flatten(1) if g.any()]  # a zero gradient takes no part, unlike theirs
    v = naive_reference(moving or list(G.flatten(1))).view(BATCH, SIZE)
    largest = float(G.flatten(1).norm(dim=1).max()) + 1e-300
    for k, g in enumerate(G):
        W = -2 * g.T @ v
        wanted = packed((W - W.T).unsqueeze(0))[0]  # at A = 0 the adjoint is the identity
        own = float(g.norm()) + 1e-300
        # relative to this task's own gradient: at mixed scales a small task's is exact too; the
        # direction is measured by the longest gradient, whose rounding enters the mean
        torch.testing.assert_close(
            gradient[k] / own / largest, wanted / own / largest, rtol=0, atol=1e-14
        )
    torch.testing.assert_close(shared / largest, G.sum(0) / largest, rtol=0, atol=1e-14)


@pytest.mark.parametrize("path", ["general", "folded"])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_float32_stays_finite_and_close_at_every_scale(kind: str, path: str) -> None:
    G = SAMPLERS[kind]().view(-1, BATCH, SIZE)
    gradient, shared = rotate_once(path, G)
    exact, exact_shared = rotate_once(path, G.double())
    assert gradient.dtype == shared.dtype == torch.float32
    assert gradient.isfinite().all()
    assert shared.isfinite().all()
    largest = float(G.flatten(1).norm(dim=1).max()) + 1e-30
    # products of 30 numbers with rotations rounded to float32, which cancel for opposite gradients
    assert (gradient.double() - exact).abs().max() / largest / largest < 5e-6
    assert (shared.double() - exact_shared).abs().max() / largest < 5e-6


def test_norms_and_cosines_survive_rows_of_a_weight_that_are_nearly_equal() -> None:
    """Outputs of a classifier pull in opposite directions: terms of the Gram matrices cancel."""
    rotations = Rotations(2, 8)
    direction, differences = normal(8), 1e-4 * normal(2, 2, 8, seed=1)
    weight = (direction + differences).float()
    delta = normal(2, 6, 1, seed=2).float() * torch.tensor([1.0, -1.0])
    layers = rotations.fold(weight)
    gradients = FoldedTaskGradients(layers, weight, delta, normal(6, 8).float())
    exact = torch.bmm(delta.double(), weight.double()).flatten(1)
    norms = exact.norm(dim=1)
    units = exact / norms.unsqueeze(1)
    torch.testing.assert_close(gradients.norms().double(), norms, rtol=1e-6, atol=0)
    cosines = gradients.cosines(norms.float()).double()
    torch.testing.assert_close(cosines, units @ units.mT, rtol=0, atol=1e-6)
