"""The toy problems: the same way as the authors' package."""

import copy

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli import methods
from rotograd_cli.data.toy import LOSSES, OPTIMA, TASKS, Problem
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.models.backbones.toy import ToyNetwork
from tests.oracle import load_reference, use_exact_exponential

reference = load_reference()


def walk(model: nn.Module, problem: Problem, num_steps: int) -> Tensor:
    """Points R_k z of both tasks before every step, ``[num_steps, 2, 2]``; values of toy.yml."""
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(list(model.model_parameters()), lr=1e-3)
    ]
    own = list(model.mtl_parameters())
    if own:
        optimizers.append(torch.optim.Adam(own, lr=0.05))
    decays = [torch.optim.lr_scheduler.ExponentialLR(o, 0.99999) for o in optimizers[1:]]
    x = torch.zeros(4, 2, dtype=torch.float64)
    optima = torch.tensor(OPTIMA[problem], dtype=torch.float64)
    ways = []
    model.train()
    for _ in range(num_steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        with reference.cached():
            points = model(x)
            losses = [LOSSES[problem](p - o).mean() for p, o in zip(points, optima, strict=True)]
            model.backward(losses)
        ways.append(torch.stack([p[0].detach() for p in points]))
        for optimizer in optimizers:
            optimizer.step()
        for decay in decays:
            decay.step()
    return torch.stack(ways)


def pair(method: str) -> tuple[nn.Module, MultiTaskMethod]:
    """The authors' model and ours from the same start, in float64."""
    torch.manual_seed(2)
    backbone = ToyNetwork(input_shape=(2,), hidden=10, num_features=2)
    arguments = () if method == "VanillaMTL" else (2,)
    options = {} if method == "VanillaMTL" else {"normalize_losses": True}
    heads = [nn.Identity() for _ in TASKS]
    theirs = getattr(reference, method)(copy.deepcopy(backbone), list(heads), *arguments, **options)
    ours = getattr(methods, method)(backbone, heads, *arguments, **options).double()
    theirs.double()
    theirs.backbone.double()
    if method != "VanillaMTL":
        use_exact_exponential(theirs)
        for k, R in enumerate(ours.rotation.detach()):
            theirs.parametrizations[f"rotation_{k}"][0].base.copy_(R)
    return theirs, ours


@pytest.mark.parametrize(
    ("method", "problem", "num_steps"),
    [
        ("RotoGrad", "nonconvex", 60),
        *(
            pytest.param(method, problem, 400, marks=pytest.mark.slow)
            for method in ("VanillaMTL", "RotateOnly", "RotoGrad")
            for problem in OPTIMA
        ),
    ],
)
def test_trajectory_is_that_of_the_authors_package(
    method: str, problem: Problem, num_steps: int
) -> None:
    theirs, ours = pair(method)
    expected = walk(theirs, problem, num_steps)
    difference = (walk(ours, problem, num_steps) - expected).abs().max()
    assert difference < 1e-6
    assert (expected[-1] - expected[0]).norm() > 0.1
