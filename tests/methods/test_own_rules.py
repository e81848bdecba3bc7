"""Rules that a user writes: what trains their parameters, and what is refused in one line."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rotate import Rotate
from rotograd_cli.methods.rule import Combining, Losses, LossWeighting, Statistics, Weighting
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


UNTRAINED = (
    r"^`{}.scale` is a parameter, which needs a gradient from learn \(with sees_gradients = True\), "
    r"learn_from_losses or learn_from_update \(with needs_losses_after_update = True\), got none of "
    r"them; override one, or register a buffer\.$"
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
    norms = [
        torch.autograd.grad(loss, z, retain_graph=True)[0].norm()
        for loss in losses
        if loss is not None
    ]
    torch.testing.assert_close(model.rule.scale.grad, torch.stack(norms))
