"""Where the authors' package goes wrong and ours must not: the numbered list of docs/migration.md.

A claim is a function of the package; it holds for ours and, where a few lines can show it, fails
for the authors'.
"""

import copy
import gc
import io
import math
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rotograd_cli import methods
from rotograd_cli.errors import BackwardError, ShapeError
from rotograd_cli.linalg.rotations import haar_rotations
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.engine.passes import ExtraOutputs
from rotograd_cli.methods.rotation import plan
from tests.networks import Reshape
from tests.oracle import load_reference

reference = load_reference()
METHODS = ("VanillaMTL", "RotateOnly", "RotoGrad", "RotoGradNorm")
ROTATING = METHODS[1:]
NUM_INPUTS, SIZE, NUM_TASKS, BATCH, BURN_IN = 5, 4, 3, 6, 3
every_method = pytest.mark.parametrize("method", METHODS)
every_rotating_method = pytest.mark.parametrize("method", ROTATING)


class WithExtra(nn.Module):
    """Features, and a second output that still depends on the parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.module(x)
        return z, z.square().mean()


class Scale(nn.Module):
    """Multiplies by a constant; 0 makes a head that ignores its input for now."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z


def make_backbone() -> nn.Module:
    return nn.Sequential(nn.Linear(NUM_INPUTS, 8), nn.Tanh(), nn.Linear(8, SIZE))


def make_heads() -> list[nn.Module]:
    return [nn.Linear(SIZE, 2) for _ in range(NUM_TASKS)]


def build(
    package: ModuleType,
    method: str = "RotoGrad",
    *,
    backbone: nn.Module | None = None,
    heads: Sequence[nn.Module] | None = None,
    **options: Any,
) -> Any:
    """A model with parameters that depend on nothing but the arguments."""
    torch.manual_seed(0)
    backbone = make_backbone() if backbone is None else backbone
    heads = make_heads() if heads is None else heads
    if method != "VanillaMTL":
        options = {"rotation_shape": SIZE, "burn_in_period": BURN_IN, **options}
    if method == "RotoGradNorm":
        options.setdefault("alpha", 0.7)
    return getattr(package, method)(backbone, heads, **options)


def batch(seed: int = 0, num: int = BATCH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, NUM_INPUTS, generator=generator, dtype=torch.float64)


def task_losses(predictions: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    target = x[:, :1].sin().to(predictions[0].dtype)
    return [(k + 1) * (p - target).square().mean() for k, p in enumerate(predictions)]


def pass_once(model: Any, x: Tensor, absent: Sequence[int] = (), **options: Any) -> list[Tensor]:
    """Forward and backward; returns the losses."""
    losses = task_losses(model(x), x)
    model.backward([None if k in absent else loss for k, loss in enumerate(losses)], **options)
    return losses


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def backbone_gradient(model: Any) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.backbone.parameters()])


def make_optimizers(model: Any) -> list[torch.optim.Optimizer]:
    groups = (list(model.model_parameters()), list(model.mtl_parameters()))
    return [torch.optim.Adam(group, lr=0.02) for group in groups if group]


def step(
    model: Any, optimizers: list[torch.optim.Optimizer], x: Tensor, **options: Any
) -> list[Tensor]:
    for optimizer in optimizers:
        optimizer.zero_grad()
    losses = pass_once(model, x, **options)
    for optimizer in optimizers:
        optimizer.step()
    return losses


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor], factor: float = 1.0) -> None:
    """Equal up to the rounding of float64 sums taken in another order."""
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(
            gradient, factor * wanted[name], rtol=1e-10, atol=1e-13 * factor, msg=name
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


# ---- 4: tasks without a loss


def normalized(method: str) -> dict[str, bool]:
    """Options with which the start values of the losses count."""
    return {} if method == "VanillaMTL" else {"normalize_losses": True}


def without_task(model: MultiTaskMethod, method: str, absent: int) -> MultiTaskMethod:
    """The model of the other tasks, in the same state."""
    kept = [k for k in range(NUM_TASKS) if k != absent]
    heads = [copy.deepcopy(model.heads[k]) for k in kept]
    backbone = copy.deepcopy(model.backbone)
    smaller = build(methods, method, backbone=backbone, heads=heads, **normalized(method)).double()
    if method != "VanillaMTL":
        smaller.rotation = model.rotation.detach()[kept]
    return smaller


@every_method
@pytest.mark.parametrize("first_step", [True, False])
def test_a_missing_loss_leaves_the_update_of_the_other_tasks(method: str, first_step: bool) -> None:
    model = build(methods, method, **normalized(method)).double()
    smaller = without_task(model, method, absent=1)
    x = batch()
    if not first_step:  # task 1 has a gradient that must not be used again
        losses = task_losses(model(x), x)
        model.backward(losses)
        model.zero_grad()
        losses = task_losses(smaller(x), x)
        smaller.backward([losses[0], 1.5 * losses[1]])
        smaller.zero_grad()
    pass_once(model, x, absent=[1])
    losses = task_losses(smaller(x), x)
    smaller.backward([losses[0], 1.5 * losses[1]])  # 3/2: the third task's factor, not the second's
    torch.testing.assert_close(backbone_gradient(model), backbone_gradient(smaller))
    assert all(p.grad is None or not p.grad.any() for p in model.heads[1].parameters())
    for k, mine in ((0, 0), (2, 1)):
        torch.testing.assert_close(model.heads[k].weight.grad, smaller.heads[mine].weight.grad)
    if method != "VanillaMTL":
        grad = model.rotations.free_parameters.grad
        torch.testing.assert_close(grad[[0, 2]], smaller.rotations.free_parameters.grad)
        assert not grad[1].any()
        assert model.initial_losses.num_steps.tolist() == [
            2 - first_step,
            1 - first_step,
            2 - first_step,
        ]


def test_the_reference_uses_the_last_gradient_of_a_missing_task_again() -> None:
    model = build(reference, "VanillaMTL")
    x = batch().float()
    pass_once(model, x)
    for p in model.model_parameters():
        p.grad = None
    model.backward(task_losses(model(x), x)[:1])
    found = backbone_gradient(model).clone()
    plain = torch.autograd.grad(
        task_losses([model.heads[0](model.backbone(x))], x)[0], list(model.backbone.parameters())
    )
    wanted = torch.cat([g.flatten() for g in plain])
    assert not torch.allclose(found, wanted, rtol=0.1)
    with pytest.raises(AttributeError):
        pass_once(build(reference), x, absent=[1])


@every_method
def test_a_step_without_any_loss_is_an_error(method: str) -> None:
    model = build(methods, method).double()
    model(batch())
    with pytest.raises(BackwardError, match="at least one loss, got None for every task"):
        model.backward([None] * NUM_TASKS)


# ---- 5: zero losses and losses of mixed sign


def stays_finite(
    package: ModuleType, method: str, offsets: Sequence[float], **options: Any
) -> None:
    """Losses start at the given values; their gradients are as ever."""
    model = build(package, method, **options)
    optimizers = make_optimizers(model)
    for seed in range(BURN_IN + 2):
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses = task_losses(model(batch(seed).float()), batch(seed))
        pairs = list(zip(losses, offsets, strict=True))
        shifted = [
            x - x.detach() + offset if seed == 0 else x * 0.5 + offset for x, offset in pairs
        ]
        model.backward(shifted)
        for optimizer in optimizers:
            optimizer.step()
    for p in (*model.model_parameters(), *model.mtl_parameters()):
        assert p.isfinite().all()
        assert p.grad.isfinite().all()


@every_rotating_method
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("offsets", [(0.0, 1.0, 2.0), (-2.0, 1.0, -0.7), (0.0, 0.0, 0.0)])
def test_zero_losses_and_mixed_signs_stay_finite(
    method: str, normalize: bool, offsets: tuple[float, ...]
) -> None:
    stays_finite(methods, method, offsets, normalize_losses=normalize)


@pytest.mark.parametrize("offsets", [(0.0, 1.0, 2.0), (-2.0, 1.0, -0.7)])
def test_the_reference_fails_at_zero_losses_and_mixed_signs(offsets: tuple[float, ...]) -> None:
    with pytest.raises((AssertionError, TypeError)):
        stays_finite(reference, "RotoGradNorm", offsets, normalize_losses=True)


# ---- 6 and 7: exponentials, device syncs, memory


def count_exponentials(
    monkeypatch: pytest.MonkeyPatch, model: Any, package: ModuleType
) -> list[int]:
    """A list that grows by the number of matrices in every exponential of the model."""
    calls: list[int] = []
    if package is methods:
        for name in ("minus_one", "fold"):  # whole rotations, or those folded into the heads
            exact = getattr(model.rotations.map, name)
            monkeypatch.setattr(
                model.rotations.map,
                name,
                lambda A, *rest, exact=exact: (calls.append(A.shape[0]), exact(A, *rest))[1],
            )
    else:
        for k in range(NUM_TASKS):
            manifold = model.parametrizations[f"rotation_{k}"][0]
            triv = manifold.triv
            manifold.triv = lambda A, triv=triv: (calls.append(1), triv(A))[1]
    return calls


def uses_each_rotation_once(monkeypatch: pytest.MonkeyPatch, package: ModuleType) -> None:
    model, x = build(package), batch().float()
    calls = count_exponentials(monkeypatch, model, package)
    optimizers = make_optimizers(model)
    for _ in range(3):
        step(model, optimizers, x)
    assert sum(calls) == 3 * NUM_TASKS
    model.eval()
    calls.clear()
    with package.cached():
        for _ in range(3):
            model(x)
            model[1](x)
    assert sum(calls) == NUM_TASKS


def test_each_rotation_is_computed_once_per_step_and_once_for_all_of_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uses_each_rotation_once(monkeypatch, methods)
    with pytest.raises(AssertionError):
        uses_each_rotation_once(monkeypatch, reference)


def test_micro_batches_share_the_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(methods)
    calls = count_exponentials(monkeypatch, model, methods)
    with methods.cached():
        for accumulating in (True, True, False):
            pass_once(model, batch().float(), accumulating=accumulating)
    assert calls == [NUM_TASKS]


class CountSyncs(TorchDispatchMode):
    """Counts the operations for which an accelerator's queue would have to drain."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += func.name() in {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal"}
        return func(*args, **(kwargs or {}))


def never_waits(package: ModuleType, method: str) -> None:
    model, x = build(package, method, heads=make_heads()), batch().float()
    options = {} if package is reference else {"loss_scale": torch.tensor(8.0)}
    pass_once(model, x, **options)  # after a switch of the mode, series are planned once
    for _ in range(BURN_IN + 2):
        with CountSyncs() as syncs:
            pass_once(model, x, **options)
        assert syncs.num == 0


@every_method
@pytest.mark.parametrize("normalize", [True, False])
def test_a_training_pass_never_waits_for_the_device(
    method: str, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "reads_are_free", lambda device: False)
    never_waits(methods, method)
    if method != "VanillaMTL":
        with pytest.raises(AssertionError):
            never_waits(reference, method)


def retains_one_feature_tensor(package: ModuleType, method: str) -> None:
    num = 97  # a batch size that nothing else here has
    model = build(package, method)
    pass_once(model, batch(num=num).float())
    gc.collect()
    shapes = [tuple(t.shape) for t in gc.get_objects() if type(t) is Tensor]
    assert shapes.count((num, SIZE)) + NUM_TASKS * shapes.count((NUM_TASKS, num, SIZE)) <= 1


@every_method
def test_one_feature_tensor_is_kept_between_steps(method: str) -> None:
    retains_one_feature_tensor(methods, method)
    with pytest.raises(AssertionError):
        retains_one_feature_tensor(reference, method)


# ---- 8: mixed precision


def scales_every_gradient(package: ModuleType, method: str, **options: Any) -> None:
    factor = 2.0**10  # a power of two, so that equality is exact
    x = batch()
    found = []
    for scale in (None, factor):
        model = build(package, method, **options)
        for module in (model, model.backbone, *model.heads):
            module.double()
        losses = task_losses(model(x), x)
        regulariser = 0.1 * model.rep.square().mean()
        if scale is not None:
            losses, regulariser = [loss * scale for loss in losses], regulariser * scale
        keywords = {} if package is reference else {"loss_scale": scale}
        model.backward(losses, backbone_loss=regulariser, **keywords)
        found.append([p.grad for p in (*model.model_parameters(), *model.mtl_parameters())])
    assert all(torch.equal(factor * p, q) for p, q in zip(*found, strict=True))


@every_method
@pytest.mark.parametrize("normalize", [True, False])
def test_loss_scale_scales_every_gradient_exactly(method: str, normalize: bool) -> None:
    options = {} if method == "VanillaMTL" else {"normalize_losses": normalize}
    scales_every_gradient(methods, method, **options)


@every_rotating_method
def test_the_reference_scales_rotation_gradients_twice(method: str) -> None:
    with pytest.raises(AssertionError):
        scales_every_gradient(reference, method)


def trains_under_autocast(package: ModuleType, method: str) -> Any:
    model, x = build(package, method), batch().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = model(x)
    model.backward(task_losses([p.float() for p in predictions], x))
    return model


@every_method
def test_backward_works_outside_autocast(method: str) -> None:
    model = trains_under_autocast(methods, method)
    plain = build(methods, method)
    pass_once(plain, batch().float())
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        # bfloat16 has 8 bits; a handful of products of sums lose three or four of them
        assert (p.grad - q.grad).norm() < 0.1 * q.grad.norm() + 1e-3
    if method != "VanillaMTL":
        with pytest.raises(RuntimeError):
            trains_under_autocast(reference, method)


def test_rotations_keep_their_precision_under_autocast() -> None:
    model = trains_under_autocast(methods, "RotoGrad")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [model.rotations.whole().R, model.rotation.detach()]
    for R in found:
        assert R.dtype == torch.float32
        assert (R.mT @ R - torch.eye(SIZE)).abs().max() < 1e-5  # bfloat16 leaves 1e-2


# ---- 10: gradient accumulation


def test_the_burn_in_counts_optimiser_steps() -> None:
    model = build(methods, "RotoGrad", normalize_losses=True).double()
    for num_steps in range(1, 5):
        for accumulating in (True, False):
            pass_once(model, batch(), accumulating=accumulating)
        for values in (model.initial_losses, model.rule.initial_norms):
            assert values.num_steps.tolist() == [num_steps] * NUM_TASKS
    theirs = build(reference, "RotoGrad")
    for _ in range(2):
        pass_once(theirs, batch().float())
    assert theirs.iteration_counter == theirs.counter == 2  # one step of two micro-batches


@every_rotating_method
def test_start_values_are_means_over_the_micro_batches_of_a_step(method: str) -> None:
    model = build(methods, method, normalize_losses=True).double()
    for num_steps in range(BURN_IN + 2):
        halves = batch(num_steps).chunk(2)
        first = pass_once(model, halves[0], accumulating=True)
        second = pass_once(model, halves[1])
        means = torch.stack([(a + b).detach() / 2 for a, b in zip(first, second, strict=True)])
        if num_steps in (0, BURN_IN):
            recorded = means
        torch.testing.assert_close(model.initial_losses.values, recorded)


def test_two_half_batches_with_half_the_loss_are_one_batch() -> None:
    whole, halved = (build(methods, "VanillaMTL").double() for _ in range(2))
    pass_once(whole, batch())
    for half, accumulating in zip(batch().chunk(2), (True, False), strict=True):
        losses = [loss / 2 for loss in task_losses(halved(half), half)]
        halved.backward(losses, accumulating=accumulating)
    assert_same(gradients(halved), gradients(whole))


@every_rotating_method
def test_accumulating_normalised_losses_gives_the_gradient_of_the_whole_batch(method: str) -> None:
    """Two equal halves, so that start values, directions and ratios are the batch's own."""
    half = batch().chunk(2)[0]
    whole, halved = (build(methods, method, normalize_losses=True).double() for _ in range(2))
    for model in (whole, halved):
        generator = torch.Generator().manual_seed(1)
        model.rotation = haar_rotations(NUM_TASKS, SIZE, generator=generator)
    for _ in range(2):  # in the second step the start values are those of the first
        whole.zero_grad()
        halved.zero_grad()
        pass_once(whole, torch.cat((half, half)))
        for accumulating in (True, False):
            losses = [loss / 2 for loss in task_losses(halved(half), half)]
            halved.backward(losses, num_micro_batches=2, accumulating=accumulating)
    torch.testing.assert_close(halved.initial_losses.values, whole.initial_losses.values)
    pairs = zip(halved.model_parameters(), whole.model_parameters(), strict=True)
    for ours, batchs in pairs:
        torch.testing.assert_close(ours.grad, batchs.grad)


@pytest.mark.parametrize("rotation_reduction", ["reference", "per_example"])
@pytest.mark.parametrize("feature_shape", [(SIZE,), (SIZE, 2), (2, SIZE)])  # vector, map, sequence
def test_accumulation_keeps_the_rotations_gradient(
    rotation_reduction: str, feature_shape: tuple[int, ...]
) -> None:
    half = batch().chunk(2)[0]
    found = []
    for inputs in ([torch.cat((half, half))], [half, half]):
        torch.manual_seed(0)
        backbone = nn.Sequential(
            nn.Linear(NUM_INPUTS, math.prod(feature_shape)), nn.Unflatten(1, feature_shape)
        )
        heads = [
            nn.Sequential(nn.Flatten(), nn.Linear(math.prod(feature_shape), 2)) for _ in range(2)
        ]
        post_shape = feature_shape[1:] if feature_shape[0] == SIZE else ()
        model = methods.RotateOnly(
            backbone, heads, SIZE, post_shape=post_shape, rotation_reduction=rotation_reduction
        ).double()
        num = len(inputs)
        for index, x in enumerate(inputs):
            losses = [loss / num for loss in task_losses(model(x), x)]
            model.backward(losses, num_micro_batches=num, accumulating=index < num - 1)
        found.append(model.rotations.free_parameters.grad)
    torch.testing.assert_close(found[1], found[0])


# ---- 11: duplicated examples


def rotation_gradients(model: Any) -> Tensor:
    return torch.stack([p.grad.tril(-1) for p in model.mtl_parameters() if p.dim() > 1])


def ignores_duplicates(package: ModuleType, **options: Any) -> None:
    found = []
    for x in (batch().float(), batch().float().repeat(2, 1)):
        model = build(package, "RotateOnly", **options)
        pass_once(model, x)
        found.append(rotation_gradients(model))
    torch.testing.assert_close(*found)


def test_duplicating_the_batch_leaves_the_per_example_rotation_step() -> None:
    ignores_duplicates(methods, rotation_reduction="per_example")
    for package in (methods, reference):  # the default keeps the authors' arithmetic
        with pytest.raises(AssertionError):
            ignores_duplicates(package)


# ---- 12: shapes


WRONG_SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any], str]] = {
    "rotation too large": ((4,), {"rotation_shape": 5}, r"needs 5 features, got \(4,\)"),
    "post_shape of another size": (
        (4, 2, 3),
        {"rotation_shape": 4, "post_shape": (3, 2)},
        r"post_shape \(3, 2\), got \[4, 2, 3\]; set both",
    ),
    "no post_shape axes": (
        (4,),
        {"rotation_shape": 4, "post_shape": (4, 2)},
        r"post_shape \(4, 2\), got \[4\]; set both",
    ),
    "rotation over missing axes": (
        (6,),
        {"rotation_shape": (2, 3), "post_shape": (1,)},
        r"rotation_shape \(2, 3\) and post_shape \(1,\), got \[6\]; set both",
    ),
}


@pytest.mark.parametrize("case", WRONG_SHAPES)
def test_wrong_shapes_are_refused_at_construction_and_in_forward(case: str) -> None:
    shape, options, message = WRONG_SHAPES[case]
    backbone = nn.Sequential(nn.Linear(NUM_INPUTS, math.prod(shape)), Reshape(*shape))
    with pytest.raises(ShapeError, match=message):
        build(methods, backbone=backbone, feature_shape=shape, **options)
    model = build(methods, backbone=backbone, **options)
    if "axes" in case:
        model.backbone.append(nn.Flatten(0))  # or the batch would stand in for a missing axis
    with pytest.raises(ShapeError, match=r"needs 5 features|must have shape"):
        model(batch().float())


def test_the_reference_does_not_look_at_post_shape() -> None:
    backbone = nn.Sequential(nn.Linear(NUM_INPUTS, 24), Reshape(4, 2, 3))
    heads = [nn.Flatten() for _ in range(NUM_TASKS)]
    model = build(reference, backbone=backbone, heads=heads, rotation_shape=2, post_shape=(3,))
    wrong = build(reference, backbone=backbone, heads=heads[:], rotation_shape=2, post_shape=(7,))
    assert model(batch().float())[0].shape == wrong(batch().float())[0].shape


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda losses: losses[:2], ShapeError, r"one entry per task \(3\), got 2; pass None"),
        (
            lambda losses: [losses[0], losses[1].repeat(2), losses[2]],
            ShapeError,
            r"`losses\[1\]` must be a scalar, got shape \[2\]; reduce it",
        ),
        (
            lambda losses: [losses[0], losses[1].detach(), losses[2]],
            BackwardError,
            r"`losses\[1\]` does not depend on any trainable tensor",
        ),
    ],
)
@every_method
def test_wrong_losses_are_refused(
    method: str,
    change: Callable[[list[Tensor]], list[Tensor]],
    error: type[Exception],
    message: str,
) -> None:
    model, x = build(methods, method).double(), batch()
    losses = task_losses(model(x), x)
    with pytest.raises(error, match=message):
        model.backward(change(losses))


# ---- 13: what the reference answers with an autograd error


@every_method
def test_backward_without_a_differentiable_forward_says_so(method: str) -> None:
    model, x = build(methods, method), batch().float()
    with pytest.raises(BackwardError, match="needs a forward pass in training mode"):
        model.backward([torch.zeros(())] * NUM_TASKS)
    with torch.no_grad():
        losses = task_losses(model(x), x)
    with pytest.raises(BackwardError, match=r"outside torch\.no_grad"):
        model.backward(losses)
    pass_once(model, x)
    with pytest.raises(BackwardError):
        model.backward([torch.zeros(())] * NUM_TASKS)  # the graph of the last forward is spent


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_forward_without_gradients_works_in_training_mode(mode: Callable[[], Any]) -> None:
    model, x = build(methods), batch().float()
    with mode():
        found = model(x)
    assert all(torch.equal(p, q) for p, q in zip(found, model(x), strict=True))
    with pytest.raises(RuntimeError), mode():
        build(reference)(x)


def trains_on_a_frozen_backbone(package: ModuleType, method: str) -> None:
    model = build(package, method)
    model.backbone.requires_grad_(False)
    pass_once(model, batch().float())
    for p in (*model.model_parameters(), *model.mtl_parameters()):
        assert p.grad is not None if p.requires_grad else p.grad is None


@every_method
def test_a_frozen_backbone_leaves_heads_and_rotations_to_train(method: str) -> None:
    trains_on_a_frozen_backbone(methods, method)
    with pytest.raises(RuntimeError):
        trains_on_a_frozen_backbone(reference, method)


def uses_the_backbones_extra_output(package: ModuleType, method: str) -> None:
    x = batch().float()
    model = build(package, method, backbone=WithExtra(make_backbone()))
    predictions, extras = model(x)
    regulariser = extras.backbone[0] if package is methods else extras[0]
    losses = task_losses(predictions, x)
    losses[1] = losses[1] + 0.3 * regulariser
    found = list(model.model_parameters())
    model.backward(losses)
    # rotations are constants of the joint loss: an evaluation pass differentiates straight through
    predictions, extras = model.eval()(x)
    total = sum(task_losses(predictions, x)) + 0.3 * extras.backbone[0]
    wanted = torch.autograd.grad(total, found)
    for p, gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["VanillaMTL", "RotateOnly"])
def test_task_losses_may_use_the_backbones_extra_outputs(method: str) -> None:
    uses_the_backbones_extra_output(methods, method)
    with pytest.raises(RuntimeError):
        uses_the_backbones_extra_output(reference, method)


@every_method
def test_heads_may_modify_their_input_in_place(method: str) -> None:
    def in_place_heads(inplace: bool) -> list[nn.Module]:
        return [nn.Sequential(nn.ReLU(inplace=inplace), head) for head in make_heads()]

    found, wanted = (
        build(
            methods,
            method,
            backbone=nn.Sequential(make_backbone(), nn.Tanh()),
            heads=in_place_heads(inplace),
        ).double()
        for inplace in (True, False)
    )
    wanted.load_state_dict(found.state_dict())
    for model in (found, wanted):
        pass_once(model, batch())
    assert_same(gradients(found), gradients(wanted))
    wanted.eval()
    found.eval()
    x = batch()
    for k in range(NUM_TASKS):
        torch.testing.assert_close(found[k](x), wanted(x)[k])
        found[k](x).sum().backward()  # Tanh needs its output, which the head must leave alone


# ---- 14: extra outputs


def test_extra_outputs_have_one_structure() -> None:
    heads = make_heads()
    heads[1] = WithExtra(heads[1])
    x = batch().float()
    predictions, extras = build(methods, heads=heads)(x)
    assert isinstance(extras, ExtraOutputs)
    assert len(predictions) == NUM_TASKS
    assert extras.backbone == ()
    assert [len(extra) for extra in extras.heads] == [0, 1, 0]
    both = build(methods, heads=heads, backbone=WithExtra(make_backbone()))
    _, extras = both(x)
    assert len(extras.backbone) == 1
    assert [len(extra) for extra in extras.heads] == [0, 1, 0]
    # the authors' list: a tuple for task 1 alone, then with the backbone's tensor put before it
    _, flat = build(reference, heads=list(heads))(x)
    assert [type(extra) for extra in flat] == [tuple]
    _, flat = build(reference, heads=list(heads), backbone=WithExtra(make_backbone()))(x)
    assert [type(extra) for extra in flat] == [Tensor, tuple]


# ---- 15: normalised losses, infinite losses


@every_rotating_method
def test_normalize_losses_makes_the_backbones_gradient_independent_of_units(method: str) -> None:
    """A task in millimetres or metres: only then is L_k/L_k^0 what reaches the backbone."""

    def gradient(factors: Sequence[float], normalize: bool) -> Tensor:
        model = build(methods, method, normalize_losses=normalize).double()
        for seed in range(2):
            model.zero_grad()
            losses = task_losses(model(batch(seed)), batch(seed))
            model.backward([factor * loss for factor, loss in zip(factors, losses, strict=True)])
        return backbone_gradient(model)

    units = (1000.0, 1.0, 0.01)
    torch.testing.assert_close(gradient(units, True), gradient((1.0, 1.0, 1.0), True))
    assert not torch.allclose(gradient(units, False), gradient((1.0, 1.0, 1.0), False), rtol=0.1)


def survives_an_infinite_loss(
    package: ModuleType, method: str, spoil: Callable[[Tensor], Tensor], num_steps: int
) -> None:
    found = []
    for spoilt in (True, False):
        model = build(package, method)
        for _ in range(num_steps):
            pass_once(model, batch().float())
        for p in (*model.model_parameters(), *model.mtl_parameters()):
            p.grad = None
        losses = task_losses(model(batch().float()), batch())
        losses[1] = spoil(losses[1]) if spoilt else None
        model.backward(losses)
        parameters = [p for j in (0, 2) for p in model.heads[j].parameters()]
        parameters += [*model.backbone.parameters(), *model.mtl_parameters()]
        found.append([p.grad for p in parameters])
    for p, q in zip(*found, strict=True):
        assert p.isfinite().all()
        assert torch.equal(p, q)


SPOIL = {"gradient": lambda loss: loss * math.inf, "value": lambda loss: loss + math.inf}


@every_rotating_method
@pytest.mark.parametrize("kind", SPOIL)
@pytest.mark.parametrize("num_steps", [0, 2])
def test_an_infinite_loss_counts_as_a_missing_one(method: str, kind: str, num_steps: int) -> None:
    survives_an_infinite_loss(methods, method, SPOIL[kind], num_steps)


def test_an_infinite_loss_poisons_the_reference() -> None:
    model = build(reference, "RotateOnly")
    losses = task_losses(model(batch().float()), batch())
    model.backward([losses[0], losses[1] * math.inf, losses[2]])
    assert not any(p.grad.isfinite().all() for p in model.mtl_parameters())
    assert not backbone_gradient(model).isfinite().all()


def test_nonfinite_gradients_are_counted_by_task() -> None:
    model = build(methods)
    losses = task_losses(model(batch().float()), batch())
    model.backward([losses[0], losses[1] * math.nan, None])
    assert model.num_nonfinite.tolist() == [0, 1, 0]


# ---- 16: a zero gradient at the first step


def recovers_from_a_zero_gradient(package: ModuleType) -> None:
    scale = Scale(0.0)
    heads = [nn.Identity(), nn.Sequential(scale), nn.Identity()]
    model = build(package, heads=heads)
    norms = torch.tensor([1.0, 50.0, 2.0])
    for factor in (0.0, 1.0, 1.0):
        scale.factor = factor
        z = model(batch().float())
        model.rep.retain_grad()
        directions = [torch.ones(BATCH, SIZE) / (BATCH * SIZE) ** 0.5 for _ in z]
        model.backward(
            [n * (p * d).sum() + 1 for n, p, d in zip(norms, z, directions, strict=True)]
        )
    units = sum(d @ R.detach() for d, R in zip(directions, model.rotation, strict=True))
    length = model.rep.grad.norm() / units.norm()
    # every task is at its start norm, so all weigh the same; the reference's length is task 1's, 50
    torch.testing.assert_close(length, norms.mean())


def test_a_zero_gradient_at_the_first_step_is_no_start_value() -> None:
    recovers_from_a_zero_gradient(methods)
    with pytest.raises(AssertionError):
        recovers_from_a_zero_gradient(reference)


# ---- the page that lists them


PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text("utf-8")


def test_the_migration_page_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15
    assert named <= globals().keys()


def test_the_first_example_of_the_migration_page_runs() -> None:
    (example, *_) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(example, scope)
    assert all(p.grad is not None for p in scope["model"].parameters())
