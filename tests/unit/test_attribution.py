"""A task's gradient is that of its loss, through whichever heads the loss uses."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rotograd_cli.errors import BackwardError
from rotograd_cli.linalg import devices
from rotograd_cli.methods.rule import Losses as RuleLosses
from rotograd_cli.methods.rule import Rule
from tests.contract.test_methods import METHODS, build
from tests.samplers import BATCH, SIZE

PLAIN = []
ROTATING = []
for method in METHODS:
    network = build(method, [nn.Identity()])
    if network.rotated is not None:
        ROTATING.append(method)
    elif network.per_task_gradients:
        PLAIN.append(method)
K = 3
Losses = Callable[[Sequence[Any]], list[Tensor | None]]


# ---- networks


class WithExtra(nn.Module):
    """A head that returns its prediction and what it saw on the way, the one changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(SIZE, 4), nn.Linear(4, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, dict[str, list[Tensor]]]:
        hidden = self.first(z).tanh()
        return self.last(hidden).sigmoid_(), {"hidden": [hidden]}


class Memory(nn.Module):
    """A head that leaves its activations to the next one, which adds them to its input."""

    def __init__(self, before: "Memory | None" = None) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(SIZE, SIZE), nn.Linear(SIZE, 1)
        self.before = [before]
        self.seen = torch.empty(())

    def forward(self, z: Tensor) -> Tensor:
        before = self.before[0]
        self.seen = self.layer(z if before is None else z + before.seen).tanh()
        result: Tensor = self.last(self.seen)
        return result


def chained() -> list[nn.Module]:
    heads = [Memory()]
    for _ in range(K - 1):
        heads.append(Memory(heads[-1]))
    return list(heads)


HEADS: dict[str, Callable[[], list[nn.Module]]] = {
    "equal linear layers": lambda: [nn.Linear(SIZE, 1) for _ in range(K)],
    "a head each": lambda: [
        nn.Linear(SIZE, 1),
        nn.Sequential(nn.ReLU(inplace=True), nn.Linear(SIZE, 1)),
        WithExtra(),
    ],
}


def outputs_of(output: Any) -> list[Any]:
    """Predictions, then the heads' extra outputs."""
    if isinstance(output, tuple):
        predictions, extras = output
        return [*predictions, *extras.heads]
    return list(output)


# ---- losses


def own(y: Sequence[Tensor]) -> list[Tensor | None]:
    return [(k + 1) * (p - 0.3).square().mean() for k, p in enumerate(y[:K])]


def click_and_purchase(y: Sequence[Tensor]) -> list[Tensor | None]:
    p = [prediction.sigmoid() for prediction in y[:K]]
    return [p[0].log().mean().neg(), (p[0] * p[1] - 0.5).square().mean(), (p[2] - 1).abs().mean()]


def one_loss_twice(y: Sequence[Tensor]) -> list[Tensor | None]:
    first, _, third = own(y)
    return [first, first, third]


def only_through_others(y: Sequence[Tensor]) -> list[Tensor | None]:
    first, second, third = own(y)
    return [third, first, second]


def with_an_absent_task(y: Sequence[Tensor]) -> list[Tensor | None]:
    return [(y[0] * y[1]).mean(), None, own(y)[2]]


def all_at_once(y: Sequence[Tensor]) -> list[Tensor | None]:
    """Every loss depends on all predictions."""
    return list(torch.stack(list(y[:K])).softmax(0).square().mean(dim=(1, 2)).unbind())


def with_a_shared_term(y: Sequence[Tensor]) -> list[Tensor | None]:
    agreement = (y[0] - y[1]).square().mean()
    return [loss + agreement for loss in own(y) if loss is not None]


CROSSING = {
    f.__name__: f
    for f in (
        click_and_purchase,
        one_loss_twice,
        only_through_others,
        with_an_absent_task,
        all_at_once,
        with_a_shared_term,
    )
}


def stacked(y: Sequence[Tensor]) -> list[Tensor | None]:
    """One graph, but every loss depends on its own prediction alone."""
    factors = torch.arange(1.0, K + 1, dtype=y[0].dtype)
    return list(((torch.stack(list(y[:K])) - 0.3).square().mean(dim=(1, 2)) * factors).unbind())


def vectorised(y: Sequence[Tensor]) -> list[Tensor | None]:
    factors = torch.arange(1.0, K + 1, dtype=y[0].dtype)
    loss = torch.vmap(lambda p, c: c * (p - 0.3).square().mean())
    return list(loss(torch.stack(list(y[:K])), factors).unbind())


def one_tensor(y: Sequence[Tensor]) -> Any:
    return torch.stack([loss for loss in own(y) if loss is not None])


def with_others_detached(y: Sequence[Tensor]) -> list[Tensor | None]:
    ahead = [p + 0 * y[0].detach() for p in y[:K]]
    return own(ahead)


SEPARATE = {f.__name__: f for f in (stacked, vectorised, one_tensor, with_others_detached)}


# ---- the oracle: torch.autograd.grad, loss by loss


def naive(
    heads: Sequence[nn.Module], z: Tensor, losses_of: Losses
) -> tuple[Tensor, list[Tensor | None]]:
    """Every loss's own gradient at the features, ``[K, N, d]``, and the losses."""
    z = z.detach().requires_grad_()
    outputs = [head(z.clone()) for head in heads]
    split = [o if isinstance(o, tuple) else (o,) for o in outputs]
    losses = losses_of([o[0] for o in split] + [o[1:] for o in split])
    gradients = [
        torch.zeros_like(z) if loss is None else torch.autograd.grad(loss, z, retain_graph=True)[0]
        for loss in losses
    ]
    return torch.stack(gradients), losses


def features(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(BATCH, SIZE, generator=generator, dtype=torch.float64).requires_grad_()


def told(model: Any, G: Tensor, losses: Sequence[Tensor | None]) -> Tensor:
    """What the method makes of these task gradients and values, each told by a head of its own."""
    z = torch.zeros(BATCH, SIZE, dtype=G.dtype, requires_grad=True)
    linear = [(p * g).sum() for p, g in zip(model(z), G, strict=True)]
    model.backward(
        [
            None if loss is None else x - x.detach() + loss.detach()
            for x, loss in zip(linear, losses, strict=True)
        ]
    )
    assert z.grad is not None
    return z.grad


def factors_of(rule: Rule, losses: Sequence[Tensor | None]) -> Tensor:
    """The factors that the heads' losses get."""
    present = torch.tensor([loss is not None for loss in losses])
    zero = torch.zeros((), dtype=torch.float64)
    values = torch.stack([zero if loss is None else loss.detach() for loss in losses])
    factors = rule.factors(RuleLosses(values, present))
    return torch.ones(len(losses)) if factors is None else factors


def assert_right(
    method: str, heads: Sequence[nn.Module], losses_of: Losses, scale: float | None = None
) -> None:
    """Two steps of a method, against what it makes of the naive gradients."""
    model = build(method, heads).double().train()
    twin = build(method, [nn.Identity() for _ in heads]).double().train()
    optimizers = [
        torch.optim.SGD(list(m.mtl_parameters()), lr=0.1)
        for m in (model, twin)
        if list(m.mtl_parameters())
    ]
    factor = 1.0 if scale is None else scale
    for seed in range(2):
        z = features(seed)
        rule = copy.deepcopy(model.rule)
        numbers = torch.get_rng_state()  # of methods that draw
        losses = losses_of(outputs_of(model(z)))
        scaled = [None if loss is None else factor * loss for loss in losses]
        model.backward(scaled, loss_scale=scale)
        torch.set_rng_state(numbers)
        G, values = naive(model.heads, z, losses_of)
        weights = factors_of(rule, values)
        assert z.grad is not None
        atol = 1e-7 if method == "nashmtl" else 1e-10  # Nash-MTL's solver stops early
        torch.testing.assert_close(z.grad / factor, told(twin, G, values), rtol=1e-8, atol=atol)
        total = sum(w * loss for w, loss in zip(weights, values, strict=True) if loss is not None)
        parameters = list(model.heads.parameters())
        wanted = torch.autograd.grad(total, parameters, allow_unused=True)
        for p, gradient in zip(parameters, wanted, strict=True):
            assert (p.grad is None) == (gradient is None)
            if p.grad is not None:
                torch.testing.assert_close(p.grad / factor, gradient, rtol=1e-10, atol=1e-12)
        for p in model.parameters():
            p.grad = None if p.grad is None else p.grad / factor
        for optimizer in optimizers:
            optimizer.step()
        for m in (model, twin):
            m.zero_grad()


every_crossing = pytest.mark.parametrize("losses", CROSSING)


@pytest.mark.parametrize("kind", HEADS)
@every_crossing
def test_a_task_gets_the_gradient_of_its_loss_through_all_heads(losses: str, kind: str) -> None:
    for method in PLAIN:
        torch.manual_seed(0)
        assert_right(method, HEADS[kind](), CROSSING[losses])


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("losses", SEPARATE)
def test_losses_of_one_graph_that_use_a_head_each_are_right_too(losses: str, kind: str) -> None:
    for method in PLAIN:
        torch.manual_seed(0)
        assert_right(method, HEADS[kind](), SEPARATE[losses])


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_extra_outputs_of_heads_may_be_used_by_every_loss(scale: float | None) -> None:
    def losses_of(y: Sequence[Any]) -> list[Tensor | None]:
        hidden = y[2 * K - 1][0]["hidden"][0]
        first, second, third = own(y)
        assert first is not None
        assert third is not None
        return [first + hidden.square().mean(), second, third + hidden.mean()]

    for method in PLAIN:
        torch.manual_seed(0)
        assert_right(method, HEADS["a head each"](), losses_of, scale)


def test_heads_that_use_the_activations_of_other_heads_get_their_own_gradients() -> None:
    for method in PLAIN:
        torch.manual_seed(0)
        assert_right(method, chained(), own)


def gradients_of(model: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def networks(kind: str) -> tuple[nn.Module, list[nn.Module]]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, SIZE), nn.Tanh()), HEADS[kind]()


@pytest.mark.parametrize("losses", SEPARATE)
@pytest.mark.parametrize("kind", HEADS)
def test_rotations_take_losses_of_one_graph_that_use_a_head_each(kind: str, losses: str) -> None:
    for method in ROTATING:
        backbone, heads = networks(kind)
        model = build(method, heads, backbone).double()
        x = torch.randn(BATCH, 4, dtype=torch.float64)
        found = []
        for losses_of in (SEPARATE[losses], own):
            one = copy.deepcopy(model)
            one.backward(losses_of(outputs_of(one(x))))
            found.append(gradients_of(one))
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@every_crossing
@pytest.mark.parametrize("kind", HEADS)
def test_rotations_refuse_a_loss_of_two_heads_and_leave_no_trace(kind: str, losses: str) -> None:
    for method in ROTATING:
        backbone, heads = networks(kind)
        model = build(method, heads, backbone).double()
        before = copy.deepcopy(model.state_dict())
        x = torch.randn(BATCH, 4, dtype=torch.float64)
        message = (
            r"^`losses\[\d\]` must depend on head \d alone, since \w+ turns the features of every "
            r"head in its own way, but depends on head \d too; detach .*\(predictions\[\d\]\.detach"
        )
        with pytest.raises(BackwardError, match=message):
            model.backward(CROSSING[losses](outputs_of(model(x))))
        assert gradients_of(model) == [None] * len(list(model.parameters()))
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        model.backward(own(outputs_of(model(x))))  # goes on


def test_rotations_refuse_heads_that_use_the_activations_of_other_heads() -> None:
    for method in ROTATING:
        model = build(method, chained()).double()
        for seed in range(2):
            with pytest.raises(BackwardError, match="must depend on head 1 alone"):
                model.backward(own(model(features(seed))))


@every_crossing
def test_a_method_that_needs_the_sum_alone_takes_any_losses(losses: str) -> None:
    model = build("vanilla", HEADS["equal linear layers"]()).double()
    z = features(0)
    model.backward(CROSSING[losses](model(z)))
    G, _ = naive(model.heads, z, CROSSING[losses])
    torch.testing.assert_close(z.grad, G.sum(0), rtol=1e-10, atol=1e-12)


# ---- what it costs


@pytest.mark.parametrize("kind", HEADS)
def test_usual_losses_are_told_apart_without_reading_a_number(
    kind: str, count_reads: Callable[[Callable[[], Any]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is any gradient computed for it."""
    monkeypatch.setattr(devices, "reads_are_free", lambda device: False)
    monkeypatch.setattr(torch.autograd, "grad", None)
    for losses_of in (own, one_tensor, with_others_detached):
        model = build("graddrop", HEADS[kind]()).double()
        losses = losses_of(outputs_of(model(features(0))))
        if losses_of is one_tensor:
            losses = [losses[k] for k in range(K)]
            with pytest.raises(TypeError):  # a common graph: here the numbers decide
                model.backward(losses)
        else:
            assert count_reads(lambda m=model, x=losses: m.backward(x)) == 0


def test_a_promise_of_one_head_per_loss_is_taken_at_its_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.autograd, "grad", None)
    for method in (*PLAIN, *ROTATING):
        model = build(method, HEADS["equal linear layers"]()).double()
        model.backward(stacked(model(features(0))), one_head_per_loss=True)


def test_losses_that_cannot_be_told_apart_are_believed_with_one_warning() -> None:
    """A reentrant checkpoint allows no second look."""
    model = build("mgda", HEADS["equal linear layers"]()).double()

    def all_losses(*y: Tensor) -> Tensor:
        return torch.stack([loss for loss in own(y) if loss is not None])

    found = []
    for seed in range(2):
        z = features(seed)
        losses = checkpoint(all_losses, *model(z), use_reentrant=True).unbind()
        if seed == 0:
            with pytest.warns(UserWarning, match=r"^`losses\[0\]` may depend on several heads,"):
                model.backward(losses)
        else:
            model.backward(losses)  # warnings are errors
        found.append(z.grad)
    z = features(0)
    model.backward(own(model(z)))
    assert z.grad is not None
    torch.testing.assert_close(found[0], z.grad)


# ---- features, infinite losses, repeated passes


@pytest.mark.parametrize("method", [*PLAIN, *ROTATING, "vanilla"])
def test_a_loss_on_the_backbones_output_itself_is_refused_and_has_its_own_place(
    method: str,
) -> None:
    backbone, heads = networks("equal linear layers")
    model = build(method, heads, backbone).double()
    x = torch.randn(BATCH, 4, dtype=torch.float64)
    first, *rest = own(model(x))
    assert first is not None
    assert model.rep is not None
    with pytest.raises(BackwardError, match=r"\(model\.rep\); pass that term as model\.backward"):
        model.backward([first + model.rep.square().mean(), *rest])
    model.zero_grad()
    losses = own(model(x))
    model.backward(losses, backbone_loss=model.rep.square().mean())
    assert all(p.grad is not None and p.grad.any() for p in model.backbone.parameters())


def test_losses_on_the_backbones_extra_outputs_go_straight_to_the_backbone() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 5), nn.Linear(5, SIZE)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.first(x).tanh()
            return self.second(hidden), hidden

    for method in (*PLAIN, *ROTATING):
        model = build(method, HEADS["equal linear layers"](), Two()).double()
        x = torch.randn(BATCH, 4, dtype=torch.float64)
        found = []
        for factor in (0.0, 1.0):
            one = copy.deepcopy(model)
            torch.manual_seed(1)
            predictions, extras = one(x)
            first, *rest = own(predictions)
            assert first is not None
            term = factor * extras.backbone[0].square().mean()
            of_loss = factors_of(copy.deepcopy(one.rule), [first, *rest])[0]
            one.backward([first + term - term.detach(), *rest])
            found.append(one.backbone.first.weight.grad)
        weight = model.backbone.first.weight
        (wanted,) = torch.autograd.grad(model.backbone(x)[1].square().mean(), weight)
        torch.testing.assert_close(found[1] - found[0], of_loss * wanted, rtol=1e-9, atol=1e-12)


def test_an_infinite_loss_in_a_common_graph_is_no_sign_of_another_head() -> None:
    """Zero times infinity: the other rows of the common gradient are NaN."""
    for method in ("graddrop", "pcgrad", "rotograd"):
        model = build(method, HEADS["equal linear layers"]()).double()
        p = torch.stack(model(features(0))).sigmoid()
        p = torch.cat((p[:1] * 0, p[1:]))
        model.backward(list(p.log().mean(dim=(1, 2)).neg().unbind()))
        assert model.num_nonfinite.tolist() == [1, 0, 0]


def test_a_kept_graph_can_be_gone_through_again() -> None:
    model = build("pcgrad", HEADS["a head each"]()).double()
    z = features(0)
    losses = click_and_purchase(outputs_of(model(z)))
    torch.manual_seed(0)
    model.backward(losses, retain_graph=True)
    assert z.grad is not None
    once = z.grad.clone()
    torch.manual_seed(0)
    model.backward(losses)
    torch.testing.assert_close(z.grad, 2 * once)
    with pytest.raises(BackwardError, match="needs a forward pass"):
        model.backward(losses)
