"""Rotations folded into linear first layers: which heads qualify, and nothing else changes."""

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from rotograd_cli import methods
from rotograd_cli.errors import BackwardError, ConfigError
from rotograd_cli.linalg.rotations import haar_rotations
from rotograd_cli.methods.rotation.rotations import Rotations
from rotograd_cli.models.heads import MLPHead
from tests.networks import Reshape
from tests.skews import skew, unpacked

SIZE, NUM_INPUTS, BATCH = 6, 4, 7
METHODS = ("RotateOnly", "RotoGrad", "RotoGradNorm")
# the paths add up in other orders; parameters are of order one and steps few
ROUNDING = 1e-12


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(1)


class InPlace(nn.Module):
    """Writes into its input without a flag that says so."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(x)


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class OwnLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sin()


class OwnSequential(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sin())


def linear(num_outputs: int = 2, num_inputs: int = SIZE, **options: Any) -> nn.Linear:
    return nn.Linear(num_inputs, num_outputs, **options)


def usual_heads() -> list[nn.Module]:
    """Every kind of head that folds, of several widths."""
    return [
        linear(1),
        linear(3, bias=False),
        nn.Sequential(linear(5), nn.Tanh(), nn.Linear(5, 2)),
        MLPHead(feature_shape=(SIZE,), num_outputs=2, hidden=[4]),
    ]


def model(
    heads: Sequence[nn.Module],
    path: str,
    *,
    method: str = "RotoGrad",
    rotated: int = SIZE,
    shape: Sequence[int] = (SIZE,),
    **options: Any,
) -> Any:
    """A method in float64, away from its start, with copies of the heads."""
    torch.manual_seed(0)
    size = torch.Size(shape).numel()
    backbone = nn.Sequential(nn.Linear(NUM_INPUTS, size), nn.Tanh(), Reshape(*shape))
    options = {"rotation_shape": rotated, "burn_in_period": 2} | options
    options |= {"alpha": 0.5} if method == "RotoGradNorm" else {}
    built = getattr(methods, method)(
        backbone, copy.deepcopy(list(heads)), rotation_path=path, **options
    ).double()
    built.rotation = haar_rotations(len(heads), rotated)
    with torch.no_grad():
        built.rotations.free_parameters.normal_(std=0.3)
    return built.train()


def pair(heads: Sequence[nn.Module], **options: Any) -> tuple[Any, Any]:
    """The same on the folded and on the general path."""
    folded = model(heads, "folded", **options)
    general = copy.deepcopy(folded)
    general.rotated.path = "general"
    return folded, general


def inputs(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, NUM_INPUTS, generator=generator, dtype=torch.float64)


def losses_of(predictions: Sequence[Tensor]) -> list[Tensor]:
    return [(k + 1) * (p - 0.3).square().mean() for k, p in enumerate(predictions)]


def pass_once(m: Any, x: Tensor | None = None, **options: Any) -> list[Tensor]:
    """Forward and backward pass; the predictions."""
    predictions: list[Tensor] = m(inputs() if x is None else x)
    m.backward(losses_of(predictions), **options)
    return predictions


def train(m: Any, num_steps: int, seed: int = 1) -> None:
    optimizers = [
        torch.optim.SGD(list(group), lr=0.05, momentum=0.9)
        for group in (m.model_parameters(), m.mtl_parameters())
    ]
    for i in range(num_steps):
        pass_once(m, inputs(seed + i))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def assert_same_gradients(found: Any, wanted: Any, scale: float = 1.0) -> None:
    some = False
    for (name, p), q in zip(found.named_parameters(), wanted.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, scale * q.grad, rtol=0, atol=scale * ROUNDING)
            some = some or bool(q.grad.any())
    assert some


def assert_same_parameters(found: Any, wanted: Any) -> None:
    for (name, p), q in zip(found.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=ROUNDING, msg=name)


def folds(heads: Sequence[nn.Module], **options: Any) -> bool:
    """Whether the folded path takes them: it refuses what it cannot fold."""
    m = model(heads, "folded", **options)
    try:
        m(inputs())
    except ConfigError as error:
        assert "`rotation_path=folded` needs heads that begin with nn.Linear" in str(error)  # noqa: PT017
        assert "use auto" in str(error)  # noqa: PT017
        return False
    return True


# ---- which heads qualify


FIT: dict[str, Callable[[], tuple[list[nn.Module], dict[str, Any]]]] = {
    "linear": lambda: ([linear(), linear(3)], {}),
    "without bias": lambda: ([linear(bias=False)], {}),
    "sequential": lambda: ([nn.Sequential(linear(), nn.Tanh(), nn.Linear(2, 1))], {}),
    "sequence of one": lambda: ([nn.Sequential(linear())], {}),
    "flattened": lambda: ([nn.Sequential(nn.Flatten(), linear())], {}),
    "flattened axes": lambda: (
        [nn.Sequential(nn.Flatten(), linear())],
        {"shape": (2, 3), "rotation_shape": (2, 2), "rotated": 4},
    ),
    "mlp head": lambda: ([MLPHead(feature_shape=(SIZE,), num_outputs=2, hidden=[3])], {}),
    "mlp head on axes": lambda: (
        [MLPHead(feature_shape=(2, 3), num_outputs=2, hidden=[])],
        {"shape": (2, 3), "rotation_shape": (2, 3)},
    ),
    "partial rotation": lambda: ([linear()], {"rotated": 4}),
    "several batch axes": lambda: ([linear(2, 3)], {"shape": (2, 3), "rotated": 3}),
}


@pytest.mark.parametrize("case", FIT)
def test_heads_that_begin_with_a_linear_layer_fold_to_the_same_gradients(case: str) -> None:
    heads, options = FIT[case]()
    assert folds(heads, **options)
    folded, general = pair(heads, **options)
    for m in (folded, general):
        pass_once(m)
    assert_same_gradients(folded, general)


def hooked(register: Callable[[nn.Module, nn.Module], object]) -> nn.Module:
    """A head with a hook on itself (first argument) or on its layer."""
    head = nn.Sequential(nn.Flatten(), linear(), nn.Tanh())
    register(head, head[1])
    return head


UNFIT: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "hook on head": lambda: (hooked(lambda h, _: h.register_forward_hook(lambda *a: None)), {}),
    "hook on layer": lambda: (hooked(lambda _, w: w.register_forward_hook(lambda *a: None)), {}),
    "hook on flatten": lambda: (
        hooked(lambda h, _: h.get_submodule("0").register_forward_pre_hook(lambda *a: None)),
        {},
    ),
    "pre-hook": lambda: (hooked(lambda _, w: w.register_forward_pre_hook(lambda *a: None)), {}),
    "hook with keywords": lambda: (
        hooked(lambda _, w: w.register_forward_hook(lambda *a: None, with_kwargs=True)),
        {},
    ),
    "backward hook": lambda: (
        hooked(lambda _, w: w.register_full_backward_hook(lambda *a: None)),
        {},
    ),
    "backward pre-hook": lambda: (
        hooked(lambda h, _: h.register_full_backward_pre_hook(lambda *a: None)),
        {},
    ),
    "forward replaced": lambda: (
        hooked(lambda _, w: setattr(w, "forward", lambda x: x[:, :2])),
        {},
    ),
    "spectral norm": lambda: (parametrizations.spectral_norm(linear()), {}),
    "parametrized": lambda: (_parametrized(), {}),
    "subclass of linear": lambda: (OwnLinear(SIZE, 2), {}),
    "subclass of sequential": lambda: (OwnSequential(linear()), {}),
    "flattened from the batch on": lambda: (nn.Sequential(nn.Flatten(0), Reshape(SIZE)), {}),
    "flattened in part": lambda: (
        nn.Sequential(nn.Flatten(1, 1), linear(2, 3)),
        {"shape": (2, 3), "rotated": 2, "rotation_shape": (2, 1)},
    ),
    "flattened from the second axis on": lambda: (
        nn.Sequential(nn.Flatten(2), linear()),
        {"shape": (1, SIZE), "rotation_shape": (1, SIZE)},
    ),
    "flattened batch axis": lambda: (nn.Sequential(nn.Flatten(), linear()), {"shape": (1, SIZE)}),
    "linear along the last of two rotated axes": lambda: (
        linear(),
        {"shape": (1, SIZE), "rotation_shape": (1, SIZE)},
    ),
    "flattened carried axes": lambda: (
        nn.Sequential(nn.Flatten(), linear()),
        {"shape": (2, 3), "rotated": 2, "post_shape": (3,)},
    ),
    "linear along one of two rotated axes": lambda: (
        linear(2, 3),
        {"shape": (2, 3), "rotated": 6, "rotation_shape": (2, 3)},
    ),
    "linear along a carried axis": lambda: (
        linear(2, 3),
        {"shape": (2, 3), "rotated": 2, "post_shape": (3,)},
    ),
    "empty sequence": lambda: (nn.Sequential(), {}),
    "flatten alone": lambda: (nn.Sequential(nn.Flatten()), {}),
    "activation first": lambda: (nn.Sequential(nn.ReLU(), linear()), {}),
    "convolution without an axis": lambda: (
        nn.Sequential(nn.Unflatten(1, (1, SIZE)), nn.Conv1d(1, 2, 3)),
        {},
    ),
}


def _parametrized() -> nn.Module:
    layer = linear()
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


@pytest.mark.parametrize("case", UNFIT)
def test_other_heads_do_not_fold_and_auto_takes_the_general_path(case: str) -> None:
    head, options = UNFIT[case]()
    assert not folds([head if "shape" in options else linear(), head], **options)
    auto = model([head, head], "auto", **options)
    general = copy.deepcopy(auto)
    general.rotated.path = "general"
    if case != "flattened from the batch on":  # which does not fit a batch of more than one
        for m in (auto, general):
            pass_once(m)
        assert_same_gradients(auto, general)


def test_a_layer_of_the_wrong_size_is_left_to_its_own_error() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model([linear(2, SIZE + 1)], "auto")(inputs())
    assert not folds([linear(2, SIZE + 1)])


def test_a_batch_that_is_flattened_away_is_not_folded_even_if_it_is_one_example() -> None:
    """Its sizes fit then, but the prediction has no batch axis."""
    auto = model([nn.Sequential(nn.Flatten(0), linear())], "auto", rotated=4)
    assert auto(inputs()[:1])[0].shape == (2,)
    auto.rotated.path = "folded"
    with pytest.raises(ConfigError):
        auto(inputs()[:1])


def test_auto_forms_no_rotation_for_narrow_heads_and_does_for_wide_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    formed: list[int] = []
    whole = Rotations.whole
    monkeypatch.setattr(Rotations, "whole", lambda self: (formed.append(1), whole(self))[1])
    narrow = model([linear(SIZE // 2), linear(1)], "auto")
    formed.clear()  # by the assignment of the start
    pass_once(narrow)
    with torch.no_grad():
        narrow.eval()(inputs())
    assert not formed
    pass_once(model([linear(SIZE // 2 + 1), linear(1)], "auto"))
    assert formed


def test_a_path_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="`rotation_path` must be auto or general or folded"):
        model([linear()], "fast")


# ---- the same numbers


@pytest.mark.parametrize("rotation_map", ["expm", "cayley"])
@pytest.mark.parametrize("rotated", [SIZE, 4])
@pytest.mark.parametrize("method", METHODS)
def test_training_gives_the_same_parameters_on_both_paths(
    method: str, rotated: int, rotation_map: str
) -> None:
    both = pair(usual_heads(), method=method, rotated=rotated, rotation_map=rotation_map)
    start = copy.deepcopy(both[0])
    for m in both:
        train(m, 10)
    assert_same_parameters(*both)
    for p, q in zip(both[0].parameters(), start.parameters(), strict=True):
        assert (p - q).abs().max() > 1e-4  # all of them have moved


def test_a_hook_that_comes_later_is_called_and_one_that_goes_leaves_no_trace() -> None:
    both = pair(usual_heads())
    calls: list[int] = []
    for m in both:
        train(m, 2)
        handle = m.heads[0].register_forward_hook(
            lambda module, args, y: (calls.append(1), 2 * y)[1]
        )
        m.rotated.path = "auto" if m is both[0] else "general"
        train(m, 2, seed=5)
        assert len(calls) == 2
        calls.clear()
        handle.remove()
        m.rotated.path = "folded" if m is both[0] else "general"
        train(m, 2, seed=8)
        assert not calls
    assert_same_parameters(*both)


def test_a_head_that_is_replaced_is_used() -> None:
    both = pair(usual_heads())
    new = linear(3).double()
    for m in both:
        train(m, 1)
        m.heads[1] = copy.deepcopy(new)
        train(m, 1)
        m.heads = nn.ModuleList([copy.deepcopy(new) for _ in m.heads])
        train(m, 1)
    assert_same_parameters(*both)
    assert not torch.equal(both[0].heads[3].weight, new.weight)


@pytest.mark.parametrize("inside", [nn.ReLU(inplace=True), InPlace()], ids=["flagged", "hidden"])
def test_what_follows_the_first_layer_may_write_in_place(inside: nn.Module) -> None:
    heads = [nn.Sequential(linear(), inside, nn.Linear(2, 1)), linear()]
    both = pair(heads)
    for m in both:
        pass_once(m)
    assert_same_gradients(*both)


@pytest.mark.parametrize("rest", [[], [nn.Identity()]], ids=["bare", "identity"])
def test_users_may_write_into_predictions(rest: list[nn.Module]) -> None:
    both = pair([nn.Sequential(linear(), *rest) if rest else linear(), linear()])
    for m in both:
        predictions = m(inputs())
        predictions[0].mul_(2)
        m.backward(losses_of(predictions))
        with torch.no_grad():
            expected = [p.clone() for p in m.eval()(inputs())]
            m(inputs())[0].zero_()  # leaves alone what is computed later, and the other tasks
            for p, q in zip(m(inputs()), expected, strict=True):
                assert torch.equal(p, q)
        m.train()
    assert_same_gradients(*both)


@pytest.mark.parametrize("frozen", [["weight"], ["bias"], ["weight", "bias"]], ids=str)
def test_a_frozen_first_layer_gets_no_gradient(frozen: list[str]) -> None:
    both = pair(usual_heads())
    for m in both:
        layer = m.heads[2][0]
        for name in frozen:
            getattr(layer, name).requires_grad_(False)
        pass_once(m)
        assert [name for name in ("weight", "bias") if getattr(layer, name).grad is None] == frozen
    assert_same_gradients(*both)


def test_a_frozen_backbone_leaves_the_heads_to_train() -> None:
    both = pair(usual_heads())
    for m in both:
        m.backbone.requires_grad_(False)
        pass_once(m)
    assert_same_gradients(*both)


def test_tied_first_layers_add_up() -> None:
    shared = linear(3)
    both = pair([shared, nn.Sequential(shared, nn.Tanh()), linear(1)])
    for m in both:
        assert m.heads[0] is m.heads[1][0]
        pass_once(m)
    assert_same_gradients(*both)


def test_a_task_without_a_loss_leaves_its_head_without_gradient() -> None:
    """No gradient, not one of zeros, with which momentum and weight decay would move the head."""
    both = pair(usual_heads())
    for m in both:
        losses: list[Tensor | None] = [*losses_of(m(inputs()))]
        losses[1] = losses[2] = None
        m.backward(losses)
        assert [p.grad is None for p in m.heads[1].parameters()] == [True]
        assert [p.grad is None for p in m.heads[2].parameters()] == [True] * 4
    assert_same_gradients(*both)


def test_a_head_may_be_reached_by_no_loss_of_its_own() -> None:
    both = pair(usual_heads())
    for m in both:
        predictions = m(inputs())
        _, *rest = losses_of(predictions)
        weight_decay = m.heads[1].weight.square().sum()
        m.backward([None, weight_decay, *rest[1:]])
        assert m.heads[1].weight.grad is not None
    assert_same_gradients(*both)


def test_losses_that_no_head_had_a_part_in_are_refused() -> None:
    for m in pair([linear(), linear()]):
        m(inputs())
        with pytest.raises(BackwardError, match="No task loss depends on the features"):
            m.backward([p.sum() for p in m.backbone.parameters()])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_scaled_loss_scales_every_gradient(method: str, normalize: bool) -> None:
    options = {"method": method, "normalize_losses": normalize}
    plain = model(usual_heads(), "folded", **options)
    scaled = copy.deepcopy(plain)
    pass_once(plain)
    scaled.backward([1024 * loss for loss in losses_of(scaled(inputs()))], loss_scale=1024.0)
    # a power of two, but quotients of scaled losses are rounded
    assert_same_gradients(scaled, plain, scale=1024.0)


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_give_the_same_on_both_paths(method: str) -> None:
    both = pair(usual_heads(), method=method)
    for m in both:
        for i in range(3):
            predictions = m(inputs(i))
            losses = [loss / 3 for loss in losses_of(predictions)]
            m.backward(losses, num_micro_batches=3, accumulating=i < 2)
    assert_same_gradients(*both)


def test_a_retained_graph_doubles_the_gradients_of_the_heads() -> None:
    both = pair(usual_heads())
    for m in both:
        losses = losses_of(m(inputs()))
        m.backward(losses, retain_graph=True, accumulating=True)
        once = m.heads[0].weight.grad.clone()
        m.backward(losses)
        torch.testing.assert_close(m.heads[0].weight.grad, 2 * once)
    assert_same_gradients(*both)


def test_hooks_of_first_layers_parameters_are_called_once_with_the_whole_gradient() -> None:
    both = pair([linear(), linear()])
    for m in both:
        seen: list[Tensor] = []
        weight = m.heads[0].weight
        weight.register_hook(lambda gradient: 3 * gradient)
        weight.register_post_accumulate_grad_hook(lambda p, seen=seen: seen.append(p.grad.clone()))
        pass_once(m)
        assert len(seen) == 1
        assert torch.equal(seen[0], weight.grad)
    assert_same_gradients(*both)
    without = model([linear(), linear()], "folded")
    without.load_state_dict(both[0].state_dict())
    pass_once(without)
    assert (both[0].heads[0].weight.grad - without.heads[0].weight.grad).abs().max() > 1e-3


def test_under_autocast_the_paths_agree_to_bfloat16() -> None:
    both = tuple(m.float() for m in pair(usual_heads()))
    exact = copy.deepcopy(both[1]).double()
    x = inputs()
    wanted = pass_once(exact, x)
    outputs = []
    for m in both:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predictions = m(x.float())
            losses = losses_of([p.float() for p in predictions])
        assert all(p.dtype == torch.bfloat16 for p in predictions)
        m.backward(losses)
        outputs.append(predictions)
    for found in outputs:
        for p, q in zip(found, wanted, strict=True):
            # three products in a row, of terms of order one, each rounded to eight bits
            assert (p.double() - q).abs().max() < 8 * 2**-8
    for m in both:
        for (name, p), q in zip(m.named_parameters(), exact.parameters(), strict=True):
            assert p.grad.dtype == torch.float32
            error = (p.grad.double() - q.grad).norm() / q.grad.norm()
            assert error < 10 * 2**-8, name  # as above, and residuals that may cancel a little


# ---- state


def evaluated(m: Any) -> list[Tensor]:
    m.eval()
    with torch.no_grad():
        predictions = [p.clone() for p in m(inputs(9))]
    m.train()
    return predictions


def test_evaluation_and_single_networks_agree_with_predictions_in_training() -> None:
    folded, general = pair(usual_heads(), rotated=4)
    x = inputs(9)
    for m in (folded, general):
        train(m, 3)
        found = {"training": m(x), "evaluation": evaluated(m)}
        with torch.inference_mode():
            found["inference"] = m.eval()(x)
            found["alone, without gradient"] = [m[k](x) for k in range(len(m))]
        found["alone"] = [m[k](x) for k in range(len(m))]
        found["evaluation with gradients"] = m(x)
        m.train()
        R = torch.linalg.matrix_exp(skew(unpacked(m.rotations.free_parameters)))
        z = m.backbone(x)
        for k, head in enumerate(m.heads):
            seen = z[:, :4] @ (m.rotations.base[k] @ R[k]).T
            wanted = head(torch.cat((seen, z[:, 4:]), dim=1))
            for name, predictions in found.items():
                torch.testing.assert_close(
                    predictions[k], wanted, rtol=0, atol=ROUNDING, msg=f"{name} {k}"
                )


def test_evaluation_with_gradients_is_differentiable() -> None:
    for m in pair(usual_heads()):
        m.eval()
        x = inputs().requires_grad_()
        m(x)[2].sum().backward()
        assert x.grad is not None
        assert m.heads[2][0].weight.grad is not None


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "state_dict": lambda m: _restored(m),
}


def _restored(m: Any) -> Any:
    other = model(usual_heads(), "folded", rebase_every=m.rotations.rebase_every)
    other.load_state_dict(copy.deepcopy(m.state_dict()))
    return other


@pytest.mark.parametrize("rebase_every", [None, 3])
@pytest.mark.parametrize("how", COPIES)
def test_a_copy_goes_on_as_the_original_and_shares_nothing(
    how: str, rebase_every: int | None
) -> None:
    original = model(usual_heads(), "folded", rebase_every=rebase_every)
    train(original, 5)
    original(inputs())  # what a forward pass keeps must not be in the way
    other = COPIES[how](original)
    before = copy.deepcopy(original.state_dict())
    train(other, 4)
    assert all(torch.equal(t, before[name]) for name, t in original.state_dict().items())
    train(original, 4)
    for (name, t), u in zip(
        original.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(t, u), name


def test_a_pickle_holds_nothing_that_can_be_computed_again() -> None:
    fresh = model(usual_heads(), "folded")
    size = len(pickle.dumps(fresh))
    pass_once(fresh)
    fresh.zero_grad()
    with torch.no_grad():
        fresh.eval()(inputs())
    assert len(pickle.dumps(fresh)) < size + 4 * SIZE**2 * 8  # less than one stack of rotations
