"""Rules that a user writes: what trains their parameters, and what is refused in one line."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError, ShapeError
from rotograd_cli.methods import MultiTaskMethod, RotoGrad, RotoGradNorm, VanillaMTL
from rotograd_cli.methods.pcgrad import PCGrad
from rotograd_cli.methods.rotate import Rotate
from rotograd_cli.methods.rule import (
    Combining,
    GramianWeighting,
    Losses,
    LossWeighting,
    Statistics,
    Weighting,
)
from rotograd_cli.methods.single import SingleTask
from tests.methods.common import RULES, gradients
from tests.methods.regression import D, K, N, data, losses_of, networks, on_network

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


# ---- what a rule is called with, and returns

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


class Returns(Weighting):
    """Returns anything."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def weights(self, s: Statistics) -> Tensor:
        return cast(Tensor, self.value)


class ReturnsFactors(LossWeighting):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def factors(self, losses: Losses) -> Tensor:
        return cast(Tensor, self.value)


class ReturnsOfTasks(GramianWeighting):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def weights_of(self, gramian: Tensor, tasks: Tensor) -> Tensor:
        return cast(Tensor, self.value)


class ReturnsCombination(Combining):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def combine(self, G: Tensor, s: Statistics) -> Tensor:
        return cast(Tensor, self.value)


WRONG: dict[str, Any] = {
    "[4]": torch.ones(4),
    "[]": torch.ones(()),
    "[3, 1]": torch.ones(K, 1),
    "list": [1.0] * K,
    "float": 1.0,
    "ndarray": torch.ones(K).numpy(),
}
RETURNING: dict[str, Any] = {
    "weights": Returns,
    "factors": ReturnsFactors,
    "weights_of": ReturnsOfTasks,
    "combine": ReturnsCombination,
}


@pytest.mark.parametrize("function", RETURNING)
def test_what_a_rule_returns_is_refused_where_it_is_no_number_per_task(function: str) -> None:
    x, y = data()
    per = "column of `G`" if function == "combine" else "task"
    for found, value in WRONG.items():
        rule = RETURNING[function](value)
        num = N * D if function == "combine" else K
        message = (
            rf"^`{type(rule).__name__}.{function}` must return a tensor of shape \[{num}\], one "
            rf"number per {per}, got {re.escape(found)}\.$"
        )
        model = on_network(rule)
        with pytest.raises(ShapeError, match=message):
            model.backward(losses_of(model(x), y))
        with pytest.raises(ShapeError, match=message):
            rule(torch.eye(K, num))


def test_a_learned_gradient_of_another_shape_is_refused() -> None:
    class Wrong(Scaled):
        def learn(self, s: Statistics, weights: Tensor) -> Learned:
            return {self.scale: torch.ones(7)}

    x, y = data()
    model = on_network(Wrong())
    message = r"^Wrong must learn by gradients .* parameters, got \[7\] for one of shape \[3\]\.$"
    with pytest.raises(ShapeError, match=message):
        model.backward(losses_of(model(x), y))


# ---- what a network is made of


class NoSuper(Weighting):
    def __init__(self) -> None:
        self.anything = 1

    def weights(self, s: Statistics) -> Tensor:
        return torch.ones_like(s.norms)


WRONG_RULES: dict[str, Any] = {
    "`rule` must be an object of a subclass of .*Rule, got the class PCGrad; pass PCGrad": PCGrad,
    "`rule` must be an object of a subclass of .*Rule, got Linear; pass PCGrad": nn.Linear(2, 2),
    r"`NoSuper.__init__` must call super\(\).__init__\(\) first, .* the call\.$": NoSuper(),
}


def test_what_is_no_rule_is_refused_in_one_line() -> None:
    for message, rule in WRONG_RULES.items():
        for make in (MultiTaskMethod, partial(Rotate, rotation_shape=D)):
            with pytest.raises(ConfigError, match="^" + message):
                make(*networks(), rule=rule)


def test_a_rule_for_another_number_of_tasks_is_refused() -> None:
    num_refused = 0
    for make in RULES.values():
        rule = make(K + 1)
        if rule.num_tasks is None:
            continue
        num_refused += 1
        message = (
            rf"^`rule.num_tasks` must be the number of heads \({K}\), got {K + 1}; build "
            rf"{type(rule).__name__} with num_tasks={K}\.$"
        )
        with pytest.raises(ShapeError, match=message):
            MultiTaskMethod(*networks(), rule)
        with pytest.raises(
            ShapeError, match=rf"^`G` .* {K + 1} tasks, got {K} rows; build the rule"
        ):
            rule(gradients(K, 0))
    assert num_refused == 16


def test_heads_that_are_no_list_are_refused() -> None:
    backbone, heads = networks()
    wrong: dict[str, Any] = {
        "Linear": heads[0],
        "Sequential": nn.Sequential(*heads),
        "ModuleDict": nn.ModuleDict({"a": heads[0]}),
        "generator": (head for head in heads),
    }
    makes = (
        MultiTaskMethod,
        VanillaMTL,
        SingleTask,
        partial(Rotate, rotation_shape=D, rule=None),
        partial(RotoGrad, rotation_shape=D),
        partial(RotoGradNorm, rotation_shape=D, alpha=1.0),
    )
    for make in makes:
        for kind, value in wrong.items():
            message = f"^`heads` must be a list of modules, one per task, got {kind}; pass"
            with pytest.raises(ConfigError, match=message):
                make(backbone, value)
        with pytest.raises(ShapeError, match=r"^`heads` must hold one module per task, got none"):
            make(backbone, [])
    MultiTaskMethod(backbone, nn.ModuleList(heads))
    MultiTaskMethod(backbone, tuple(heads))


# ---- parameters

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
