"""A step without a task is the step of the others alone."""

from typing import Any

import pytest
import torch

from rotograd_cli.methods.engine.method import MultiTaskMethod
from tests.methods.common import GRAMIAN, RULES
from tests.methods.regression import K, data, networks, sgd_step

# draws of random numbers and weights with sum K belong to all tasks; these have one norm for all
OTHERS = ("rlw", "dwa", "gradnorm", "gradnorm weights", "graddrop", "nashmtl", "upgrad", "fixed")


@pytest.mark.parametrize("name", [name for name in RULES if name not in OTHERS])
def test_a_step_without_the_last_task_is_the_step_of_the_others(name: str) -> None:
    x, y = data()
    found: list[list[Any]] = []
    for num in (K, K - 1):
        backbone, heads = networks()
        model = MultiTaskMethod(backbone, heads[:num], RULES[name](num)).double()
        for step in range(6):
            torch.manual_seed(step)  # pcgrad draws an order
            sgd_step(model, x, y, without=range(K - 1, num))
            if step % 2:
                model.end_epoch()
        own = [p[: K - 1] for p in model.mtl_parameters()]
        found.append([*model.backbone.parameters(), *model.heads[: K - 1].parameters(), *own])
    tolerance = 1e-7 if name in GRAMIAN else 1e-12
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
