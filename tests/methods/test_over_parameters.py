"""`gradients=parameters`: rules on the task gradients over the backbone's parameters."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.errors import BackwardError, ConfigError
from rotograd_cli.methods.engine.measurement import Measurement
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.graddrop import GradDrop
from rotograd_cli.methods.imtlg_rotations import IMTLGRotations
from rotograd_cli.methods.pcgrad import PCGrad
from rotograd_cli.methods.rule import Losses, Rule, Statistics
from tests.methods.common import GRADIENT, RULES, close
from tests.methods.regression import K, N, data, losses_of, networks

SEEING = [*GRADIENT, "gradnorm", "gradnorm weights"]
TOLERANCE = {"nashmtl": 1e-6}  # stops short of the solution, where rounding decides
LEARNED = torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)


def on_parameters(rule: Rule, backbone: nn.Module | None = None) -> Any:
    default, heads = networks()
    model = MultiTaskMethod(backbone or default, heads, rule, gradients="parameters")
    for p in model.mtl_parameters():
        p.data = LEARNED.clone()
    return model.double()


def rule_of(name: str, num: int = K) -> Rule:
    rule = RULES[name](num).double()
    for p in rule.parameters():
        p.data = LEARNED.clone()
    return rule


def rows_of(model: Any, losses: Sequence[Tensor | None]) -> Tensor:
    """The oracle: an autograd pass over the backbone's parameters from every loss."""
    parameters = [p for p in model.backbone.parameters() if p.requires_grad]
    rows = []
    for loss in losses:
        zeros = [torch.zeros_like(p) for p in parameters]
        gradients: Sequence[Tensor | None] = zeros
        if loss is not None:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        pairs = zip(gradients, zeros, strict=True)
        rows.append(torch.cat([(zero if g is None else g).flatten() for g, zero in pairs]))
    return torch.stack(rows)


def plain_losses(model: Any, x: Tensor, y: Tensor, without: Sequence[int] = ()) -> Any:
    z = model.backbone(x)
    return losses_of([head(z) for head in model.heads], y, without)


def backbone_gradient(model: Any) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.backbone.parameters() if p.requires_grad])


def backward(model: Any, x: Tensor, y: Tensor, num: int = 1, **options: Any) -> None:
    """A step of `num` micro-batches, with the random numbers that `expected` draws."""
    for index, rows in enumerate(torch.arange(len(x)).chunk(num)):
        losses = losses_of(model(x[rows]), y[rows])
        parts = [None if loss is None else loss / num for loss in losses]
        torch.manual_seed(2)
        model.backward(parts, num_micro_batches=num, accumulating=index < num - 1, **options)


@pytest.mark.parametrize("name", SEEING)
def test_the_backbone_gets_what_the_rule_makes_of_k_passes_over_its_parameters(name: str) -> None:
    """In one batch and in two micro-batches, where rows at the features would be other numbers."""
    x, y = data()
    for num in (1, 2):
        if (name, num) == ("dbmtl", 2):
            continue  # every micro-batch has logarithms of its own
        model, rule = on_parameters(rule_of(name)), rule_of(name)
        backward(model, x, y, num)
        losses = plain_losses(model, x, y)
        values = torch.stack([loss.detach() for loss in losses])
        G = rows_of(model, losses)
        torch.manual_seed(2)
        expected = rule(G, values)
        tolerance = TOLERANCE.get(name, 1e-10)
        close(backbone_gradient(model), expected, atol=tolerance, message=(name, num))
        given = Losses(values, torch.ones(K, dtype=torch.bool))
        factors = rule.factors(given)
        for p, q in zip(model.mtl_parameters(), rule.parameters(), strict=True):
            weights = getattr(rule, "weight", torch.ones(K)).detach()
            of_gradients = rule.learn(Statistics.of(G, values), weights)
            learned = {**rule.learn_from_losses(given), **of_gradients}
            close(p.grad, learned[q], atol=1e-10, message=(name, num))
        for k, head in enumerate(model.heads):  # as ever
            loss = losses[k] if factors is None else losses[k] * factors[k]
            for p in head.parameters():
                (gradient,) = torch.autograd.grad(loss, p, retain_graph=True)
                close(p.grad, gradient, atol=1e-12)


@pytest.mark.parametrize("name", SEEING)
def test_absent_and_spoilt_tasks_leave_the_combination_of_the_others(name: str) -> None:
    x, y = data()
    for bad in (None, float("nan")):
        model = on_parameters(rule_of(name))
        losses: Any = losses_of(model(x), y)
        losses[1] = None if bad is None else losses[1] * bad
        torch.manual_seed(2)
        model.backward(losses)
        others = on_parameters(rule_of(name))
        expected = losses_of(others(x), y, [1])
        torch.manual_seed(2)
        others.backward(expected)
        close(backbone_gradient(model), backbone_gradient(others), atol=1e-12)
        assert model.num_nonfinite.tolist() == [0, int(bad is not None), 0]
        G = rows_of(model, plain_losses(model, x, y, [1]))
        torch.manual_seed(2)
        values = torch.stack([loss or torch.zeros(()) for loss in expected]).detach()
        if name not in ("gradnorm", "gradnorm weights"):  # of whose weights one is away
            wanted = rule_of(name)(G, values)
            close(backbone_gradient(model), wanted, atol=TOLERANCE.get(name, 1e-10))


def test_torchjd_makes_the_same_of_the_same_network() -> None:
    """A second implementation from end to end; two tasks, so that PCGrad's orders do not matter.

    Their gradients conflict. UPGrad adds 1e-8 to the diagonal of the cosines; torchjd alone would
    add 1e-4 to that of the Gramian over its trace, which changes 6e-4 of the result.
    """
    pytest.importorskip("quadprog")
    from torchjd import aggregation
    from torchjd.autojac import jac_to_grad, mtl_backward
    from torchjd.linalg import QuadprogProjector

    x, y = data()
    y[:, 1] = -4 * y[:, 0]
    exact = QuadprogProjector(norm_eps=0, reg_eps=0)
    for name, aggregator, atol in (
        ("pcgrad", aggregation.PCGrad(), 1e-14),
        ("upgrad", aggregation.UPGrad(projector=exact), 1e-7),
        ("imtlg", aggregation.IMTLG(), 1e-14),
        ("alignedmtl", aggregation.AlignedMTL(), 1e-14),
    ):
        backbone, heads = networks(2)
        heads[1].load_state_dict(heads[0].state_dict())
        model = MultiTaskMethod(backbone, heads, rule_of(name, 2), gradients="parameters").double()
        model.backward(losses_of(model(x), y))
        result = backbone_gradient(model)
        model.zero_grad()
        z = model.backbone(x)
        mtl_backward(losses_of([head(z) for head in heads], y), features=z)  # type: ignore[arg-type]
        first, second = torch.cat([p.jac.flatten(1) for p in backbone.parameters()], 1)  # type: ignore[attr-defined]
        assert first @ second < 0
        jac_to_grad(list(backbone.parameters()), aggregator)
        close(result, backbone_gradient(model), atol=atol, message=name)


class Shared(nn.Module):
    """Frozen, unused and tied parameters, BatchNorm, and a second way out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 5)
        self.norm = nn.BatchNorm1d(4)
        self.unused = nn.Linear(2, 2)
        self.first.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.norm(self.first(x)).tanh()).tanh())


def test_frozen_unused_and_normalised_parameters() -> None:
    x, y = data()
    torch.manual_seed(3)
    model = on_parameters(PCGrad(), Shared())
    regulariser = model.backbone.second.weight.square().sum()
    torch.manual_seed(2)
    model.backward(losses_of(model(x), y), backbone_loss=regulariser)
    G = rows_of(model, plain_losses(model, x, y))
    torch.manual_seed(2)
    expected = PCGrad()(G)
    index = 0
    for p in model.backbone.parameters():
        if not p.requires_grad:
            assert p.grad is None
            continue
        part = expected[index : index + p.numel()].view_as(p)
        index += p.numel()
        own = 2 * p.detach() if p is model.backbone.second.weight else 0
        close(p.grad, part + own, atol=1e-12)
    assert not model.backbone.unused.weight.grad.any()


def test_gradients_are_added_and_graphs_are_kept_as_in_any_backward_pass() -> None:
    x, y = data()
    model = on_parameters(rule_of("imtlg"))
    losses = losses_of(model(x), y)
    model.backward(losses, retain_graph=True)
    once = backbone_gradient(model).clone()
    model.backward(losses)
    close(backbone_gradient(model), 2 * once, atol=1e-12)
    with pytest.raises(BackwardError, match="needs a forward pass"):
        model.backward(losses)


@pytest.mark.parametrize("name", ["pcgrad", "gradnorm", "gradnorm weights"])
def test_a_loss_scale_comes_out_again_and_an_overflow_in_any_micro_batch_shows(name: str) -> None:
    x, y = data()
    plain, scaled, spoilt = (on_parameters(rule_of(name)) for _ in range(3))
    backward(plain, x, y, 2)
    for model in (scaled, spoilt):
        for index, rows in enumerate(torch.arange(N).chunk(2)):
            losses: Any = [1024.0 * loss / 2 for loss in losses_of(model(x[rows]), y[rows])]
            if model is spoilt and index == 0:
                losses[0] = losses[0] * 1e300 * 1e300
            torch.manual_seed(2)
            model.backward(losses, loss_scale=1024.0, num_micro_batches=2, accumulating=index == 0)
    for p, q, r in zip(*(m.parameters() for m in (plain, scaled, spoilt)), strict=True):
        close(q.grad / 1024, p.grad, atol=1e-10)
        assert p in set(plain.heads.parameters()) or r.grad.isnan().all()


def test_what_is_measured_is_over_the_parameters() -> None:
    x, y = data()
    model = on_parameters(rule_of("mgda"))
    measurement = Measurement("full")
    backward(model, x, y, 2, one_head_per_loss=True, measurement=measurement)
    G = rows_of(model, plain_losses(model, x, y))
    numbers = measurement.read()
    assert numbers is not None
    close(numbers.of_tasks["grad_norm"], G.norm(dim=1), atol=1e-10)
    units = G / G.norm(dim=1, keepdim=True)
    close(numbers.of_pairs["cosine"], units @ units.mT, atol=1e-10)
    update = backbone_gradient(model)
    close(numbers.of_tasks["cosine_to_update"], units @ (update / update.norm()), atol=1e-6)


def test_losses_that_use_several_heads_have_one_gradient_each() -> None:
    x, y = data()
    model = on_parameters(rule_of("imtlg"))
    predictions = model(x)
    losses: Any = losses_of(predictions, y)
    losses[2] = (predictions[0] * predictions[2]).mean()
    model.backward(losses)
    z = model.backbone(x)
    again = [head(z) for head in model.heads]
    expected: Any = losses_of(again, y)
    expected[2] = (again[0] * again[2]).mean()
    close(backbone_gradient(model), rule_of("imtlg")(rows_of(model, expected)), atol=1e-10)


def test_what_cannot_be_is_refused_in_one_line() -> None:
    x, y = data()
    for rule in (None, RULES["uncertainty"](K)):
        with pytest.raises(ConfigError, match=r"features with \w+, which takes no task gradients"):
            MultiTaskMethod(*networks(), rule, gradients="parameters")
    with pytest.raises(ConfigError, match="must be features or parameters, got weights"):
        MultiTaskMethod(*networks(), PCGrad(), gradients="weights")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        IMTLGRotations(*networks(), None, feature_shape=(5,), gradients="parameters")
    model = on_parameters(PCGrad())
    with pytest.raises(BackwardError, match="`x` must require no gradient"):
        model({"x": x.requires_grad_()})
    x = x.detach()
    model.backward(losses_of(model(x), y), accumulating=True, num_micro_batches=3)
    losses = losses_of(model(x), y)
    with pytest.raises(BackwardError, match="got 3 after 2; pass the same number"):
        model.backward(losses, num_micro_batches=3)
    model.requires_grad_(False)
    model.heads.requires_grad_(True)
    losses = losses_of(model(x), y)
    with pytest.raises(BackwardError, match="no parameter of the backbone is trained"):
        model.backward(losses)


def test_graddrop_draws_once_for_every_parameter() -> None:
    x, y = data()
    model = on_parameters(GradDrop())
    backward(model, x, y)
    after = torch.rand(1)
    torch.manual_seed(2)
    torch.rand(len(backbone_gradient(model)), dtype=torch.float64)
    assert torch.equal(after, torch.rand(1))
