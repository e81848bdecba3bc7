"""Rules that a user writes: what trains their parameters, and what is refused in one line."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rotate import Rotate
from rotograd_cli.methods.rule import Combining, Losses, LossWeighting, Statistics, Weighting
from tests.methods.common import RULES, gradients
from tests.methods.networks import D, K, data, losses_of, networks, on_network

Learned = Mapping[nn.Parameter, Tensor]


class Scaled(Weighting):
    """Weights by a parameter that nothing trains."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(K))

    def weights(self, s: Statistics) -> Tensor:
        return self.scale.detach().to(s.norms)


class LearnsFromGradients(Scaled):
    def learn(self, s: Statistics, weights: Tensor) -> Learned:
        return {self.scale: weights * s.norms}


class LearnsFromLosses(Scaled):
    def learn_from_losses(self, losses: Losses) -> Learned:
        return {self.scale: losses.values}


class LearnsFromUpdate(Scaled):
    def learn_from_update(self, before: Tensor, after: Tensor, present: Tensor) -> Learned:
        return {self.scale: before - after}


class WeighsLosses(LossWeighting):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(K))

    def factors(self, losses: Losses) -> Tensor:
        return self.scale.detach()

    def learn(self, s: Statistics, weights: Tensor) -> Learned:
        return {self.scale: weights * s.norms}


class SumOfEntries(Combining):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(K))

    def combine(self, G: Tensor, s: Statistics) -> Tensor:
        return self.scale.detach().to(G) @ G

    def learn(self, s: Statistics, weights: Tensor) -> Learned:
        return {self.scale: weights * s.norms}


WRONG_MATRICES: dict[str, Any] = {
    "[5]": torch.ones(5),
    "[2, 3, 4]": torch.ones(2, 3, 4),
    "[0, 4]": torch.ones(0, 4),
    "[2, 0]": torch.ones(2, 0),
    "torch.int64 numbers": torch.ones(2, 4, dtype=torch.int64),
    "list": [[1.0, 2.0]],
}


@pytest.mark.parametrize("kind", WRONG_MATRICES)
def test_a_matrix_of_another_shape_or_type_is_refused(kind: str) -> None:
    for make in RULES.values():
        message = (
            r"^`G` must have shape \[K, D\], floating-point numbers, with at least one row and "
            rf"column, got {re.escape(kind)}; pass one task gradient per row\.$"
        )
        with pytest.raises(ShapeError, match=message):
            make(2)(WRONG_MATRICES[kind])


def test_losses_of_another_shape_are_refused() -> None:
    G = gradients(3, 0)
    wrong: dict[str, Any] = {"[2]": torch.ones(2), "[3, 1]": torch.ones(3, 1), "list": [1.0] * 3}
    for shape, losses in wrong.items():
        for make in RULES.values():
            message = rf"^`losses` must have shape \[3\], got {re.escape(shape)}; pass one per row"
            with pytest.raises(ShapeError, match=message):
                make(3)(G, losses)


def test_a_row_that_is_not_finite_takes_no_part() -> None:
    G = gradients(4, 1, 3.0)
    for name, make in RULES.items():
        spoilt, zero = G.clone(), G.clone()
        spoilt[2, 7] = torch.nan
        zero[2] = 0
        results = []
        for matrix in (spoilt, zero):
            torch.manual_seed(0)
            results.append(make(4).double()(matrix))
        assert results[0].isfinite().all(), name
        assert torch.equal(*results), name


UNTRAINED = (
    r"^`{}.scale` is a parameter, which needs a gradient from "
    r"learn \(with sees_gradients = True\), learn_from_losses or "
    r"learn_from_update \(with needs_losses_after_update = True\), got none of them; "
    r"override one, or register a buffer\.$"
)


def test_parameters_that_nothing_trains_are_refused() -> None:
    for kind in (Scaled, LearnsFromUpdate, WeighsLosses):  # the others' functions are never called
        with pytest.raises(ConfigError, match=UNTRAINED.format(kind.__name__)):
            MultiTaskMethod(*networks(), kind())


def test_parameters_that_are_frozen_on_purpose_are_accepted() -> None:
    rule = Scaled()
    rule.scale.requires_grad_(False)
    MultiTaskMethod(*networks(), rule)


def test_a_function_that_is_called_trains_parameters() -> None:
    x, y = data()
    rotated = Rotate(*networks(), D, rule=WeighsLosses()).double()  # which measures gradients
    rules = LearnsFromGradients(), LearnsFromLosses(), SumOfEntries()
    for model in (rotated, *map(on_network, rules)):
        model.backward(losses_of(model(x), y))
        gradient = model.rule.scale.grad
        assert gradient is not None
        assert gradient.all()


def test_a_combining_rule_learns_from_the_norms_of_the_gradients() -> None:
    x, y = data()
    model: Any = on_network(SumOfEntries())
    model.backward(losses_of(model(x), y))
    z = model.backbone(x)
    losses = losses_of([head(z) for head in model.heads], y)
    for loss, result in zip(losses, model.rule.scale.grad, strict=True):
        assert loss is not None
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        torch.testing.assert_close(result, gradient.norm())
