"""Rules on the shared features of a network: what the engine does for all of them."""

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rule import Losses, Rule
from tests.methods.common import GRADIENT, LOSSES, RULES, close, gradients
from tests.methods.regression import K, data, losses_of, networks, on_network


def backbone_gradient(
    rule: Rule, G: Tensor, absent: int | None = None, nan: int | None = None
) -> tuple[Tensor, MultiTaskMethod]:
    """The backbone's gradient where task k's has the entries of row ``G[k]``, and the model."""
    model = MultiTaskMethod(nn.Identity(), [nn.Identity() for _ in G], rule).double()
    z = torch.zeros(2, G.shape[1] // 2, dtype=G.dtype, requires_grad=True)  # two examples
    losses: list[Tensor | None] = [
        (p * g.view_as(p)).sum() + (torch.nan if k == nan else 1.0)
        for k, (p, g) in enumerate(zip(model(z), G, strict=True))
    ]
    if absent is not None:
        losses[absent] = None
    torch.manual_seed(0)
    model.backward(losses)
    assert z.grad is not None
    return z.grad.flatten(), model


def test_the_backbone_receives_what_the_rule_makes_of_the_whole_batch() -> None:
    """Examples are never summed first: rows are the gradients at all examples, flattened."""
    G = gradients(4, 1, 3.0)
    for name, make in RULES.items():
        if name == "famo":
            continue  # its losses change their weight while they are differentiated
        expected_rule = make(4).double()
        torch.manual_seed(0)
        expected = expected_rule(G)
        close(backbone_gradient(make(4), G)[0], expected, atol=1e-12, message=name)


@pytest.mark.parametrize("name", GRADIENT)
def test_a_task_left_out_leaves_the_combination_of_the_others(name: str) -> None:
    make = GRADIENT[name]
    G = gradients(4, 1, 3.0)
    expected, _ = backbone_gradient(make(3), G[[0, 1, 3]])
    zero, infinite = G.clone(), G.clone()
    zero[2] = 0
    infinite[2, 7] = float("inf")
    results = {
        "absent": backbone_gradient(make(4), G, absent=2),
        "zero gradient": backbone_gradient(make(4), zero),
        "infinite gradient": backbone_gradient(make(4), infinite),
        "infinite loss": backbone_gradient(make(4), G, nan=2),
    }
    for why, (result, model) in results.items():
        close(result, expected, atol=1e-10, message=why)
        assert model.num_nonfinite.tolist() == [0, 0, int(why.startswith("infinite")), 0], why


@pytest.mark.parametrize("name", GRADIENT)
def test_heads_descend_their_own_losses_and_the_backbone_the_combination(name: str) -> None:
    """The plain losses, or times the rule's factors (of logarithms, say)."""
    x, y = data()
    model = on_network(GRADIENT[name](K))
    rule = GRADIENT[name](K).double()
    torch.manual_seed(2)
    model.backward(losses_of(model(x), y))
    z = model.backbone(x)
    losses = losses_of([head(z) for head in model.heads], y)
    values = torch.stack([loss.detach() for loss in losses if loss is not None])
    factors = rule.factors(Losses(values, torch.ones(K, dtype=torch.bool)))
    rows = []
    for k, (head, loss) in enumerate(zip(model.heads, losses, strict=True)):
        assert loss is not None
        parameters = list(head.parameters())
        *of_head, row = torch.autograd.grad(loss, [*parameters, z], retain_graph=True)
        rows.append(row.flatten())
        for p, gradient in zip(parameters, of_head, strict=True):
            factor = 1 if factors is None else factors[k]
            torch.testing.assert_close(p.grad, factor * gradient)
    torch.manual_seed(2)
    shared = rule(torch.stack(rows), values).view_as(z)
    parameters = list(model.backbone.parameters())
    for p, gradient in zip(parameters, torch.autograd.grad(z, parameters, shared), strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", [*LOSSES, "scaleonly", "gradnorm weights"])
def test_a_loss_scale_scales_every_gradient(name: str) -> None:
    x, y = data()
    first, second = on_network(RULES[name](K)), on_network(RULES[name](K))
    for scale, model in ((None, first), (1024.0, second)):
        for t in range(2):
            model.zero_grad()
            torch.manual_seed(t)
            losses = losses_of(model(x), y, [t])
            scaled = [loss if loss is None else loss * (scale or 1) for loss in losses]
            model.backward(scaled, loss_scale=scale)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(q.grad, 1024.0 * p.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["gradnorm", "uncertainty", "dwa"])  # the same weights all along
def test_micro_batches_give_the_networks_the_gradient_of_the_whole_batch(name: str) -> None:
    x, y = data()
    whole, split = on_network(LOSSES[name](K)), on_network(LOSSES[name](K))
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
    if name == "uncertainty":  # linear in the losses
        torch.testing.assert_close(whole.rule.log_variance.grad, split.rule.log_variance.grad)
    if name == "gradnorm":
        means = whole.rule.initial_losses.values
        torch.testing.assert_close(split.rule.initial_losses.values, means)


@pytest.mark.parametrize("name", ["gradnorm", "uncertainty", "gradnorm weights"])
def test_a_loss_that_is_not_finite_leaves_the_learned_weights_finite(name: str) -> None:
    x, y = data()
    for bad in (float("inf"), float("nan")):
        model = on_network(RULES[name](K))
        losses = losses_of(model(x), y)
        assert losses[1] is not None
        model.backward([losses[0], losses[1] + bad, losses[2]])
        (parameter,) = model.mtl_parameters()
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
        if name == "uncertainty":
            assert parameter.grad[1] == 0
        else:
            assert model.num_nonfinite.tolist() == [0, 1, 0]


def test_the_weights_of_the_logarithms_are_recorded() -> None:
    model = MultiTaskMethod(*networks(), LOSSES["famo"](K))
    (weight,) = model.diagnostics().values()
    assert list(model.diagnostics()) == ["logarithm_weight"]
    torch.testing.assert_close(weight, torch.full((K,), 1 / K))
    assert not weight.requires_grad
