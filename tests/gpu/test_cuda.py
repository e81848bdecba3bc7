"""What only a CUDA device can show: no waiting in the step, and the CPU's data and numbers."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rotograd_cli import methods
from rotograd_cli.cli import main
from rotograd_cli.data.base import Batch
from rotograd_cli.data.multidigits import MultiDigits
from rotograd_cli.data.two_digits import TASKS
from rotograd_cli.methods.dwa import DynamicWeightAverage
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.famo import FAMO
from rotograd_cli.methods.gradnorm import GradNorm
from rotograd_cli.methods.rlw import RandomLossWeighting
from rotograd_cli.methods.rule import Rule
from rotograd_cli.methods.scaleonly import ScaleOnly
from rotograd_cli.methods.uncertainty import UncertaintyWeighting
from rotograd_cli.training.stepper import train_step

pytestmark = pytest.mark.gpu


def network(heads: str) -> tuple[nn.Module, list[nn.Module]]:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU())
    if heads == "linear":
        return backbone, [nn.Linear(20, task.num_outputs) for task in TASKS]
    backbone.append(nn.Unflatten(1, (5, 2, 2)))
    return backbone, [
        nn.Sequential(nn.Conv2d(5, 3, 2), nn.Flatten(), nn.Linear(3, task.num_outputs))
        for task in TASKS
    ]


def model(case: str) -> MultiTaskMethod:
    """A method by its name and, if it rotates, path, map, heads, and steps between re-basings."""
    method, *words = case.split()
    if method in WEIGHTING:
        backbone, heads = network("linear")
        return MultiTaskMethod(backbone, heads, WEIGHTING[method](len(heads))).train()
    if not words:
        return getattr(methods, method)(*network("linear")).train()
    path, rotation_map, heads, rebase_every = words
    options: dict[str, Any] = {"alpha": 0.5} if method == "RotoGradNorm" else {}
    if heads == "conv":
        options |= {"post_shape": (2, 2)}
    built: MultiTaskMethod = getattr(methods, method)(
        *network(heads),
        rotation_shape=5 if heads == "conv" else 18,
        burn_in_period=2,
        rotation_path=path,
        rotation_map=rotation_map,
        rebase_every=int(rebase_every) or None,
        **options,
    )
    return built.train()


WEIGHTING: dict[str, Callable[[int], Rule]] = {
    "GradNorm": lambda num: GradNorm(num_tasks=num, alpha=0.5, burn_in_period=2),
    "ScaleOnly": lambda num: ScaleOnly(num_tasks=num, burn_in_period=2),
    "UncertaintyWeighting": lambda num: UncertaintyWeighting(num_tasks=num),
    "DynamicWeightAverage": lambda num: DynamicWeightAverage(num_tasks=num, temperature=2.0),
    "RandomLossWeighting": lambda num: RandomLossWeighting(),
    "FAMO": lambda num: FAMO(num_tasks=num, gamma=1e-3),
}
CASES = ["VanillaMTL", *WEIGHTING] + [
    f"{method} {variant}"
    for method in ("RotateOnly", "RotoGrad", "RotoGradNorm")
    for variant in (
        "auto expm linear 0",
        "general expm linear 0",
        "folded expm linear 0",
        "general cayley linear 0",
        "folded cayley linear 0",
        "folded expm conv 0",
        "general expm linear 2",
        "folded expm linear 2",
    )
]
every_case = pytest.mark.parametrize("case", CASES)


def batch(device: str) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 1, 28, 28, generator=generator)
    labels = torch.randint(10, (2, 32), generator=generator)
    targets = {
        "left": labels[0],
        "right": labels[1],
        "sum": labels.sum(0).float(),
        "parity": (labels.prod(0) % 2).float(),
        "pixels": inputs.mean((1, 2, 3)),
    }
    return Batch(inputs.to(device), {name: t.to(device) for name, t in targets.items()})


def optimizers(m: MultiTaskMethod) -> list[torch.optim.Optimizer]:
    groups = [list(m.model_parameters()), list(m.mtl_parameters())]
    return [torch.optim.SGD(group, lr=1e-3) for group in groups if group]


@every_case
def test_a_training_step_never_waits_for_the_device(case: str) -> None:
    m, data = model(case).cuda(), batch("cuda")
    opts = optimizers(m)
    for _ in range(3):  # the first step loads libraries and plans series, the third re-bases
        train_step(m, TASKS, [data], opts)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            train_step(m, TASKS, [data], opts)
            m.end_epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", [case for case in CASES if case != "RandomLossWeighting"])
def test_parameters_on_the_device_agree_with_the_cpu_in_float64(case: str) -> None:
    on_cpu = model(case).double()
    start = [p.detach().clone() for p in on_cpu.parameters()]
    on_cuda = copy.deepcopy(on_cpu).cuda()
    for m, device in ((on_cpu, "cpu"), (on_cuda, "cuda")):
        data, opts = batch(device), optimizers(m)
        data = Batch(data.inputs.double(), data.targets)
        for _ in range(10):
            train_step(m, TASKS, [data], opts)
            m.end_epoch()
    for p, q, before in zip(on_cpu.parameters(), on_cuda.parameters(), start, strict=True):
        # products are summed in another order; steps are few and small
        torch.testing.assert_close(q.cpu(), p, rtol=0, atol=1e-9)
        assert not torch.equal(p, before)
    for p, q in zip(predictions(on_cpu, "cpu"), predictions(on_cuda, "cuda"), strict=True):
        torch.testing.assert_close(q.cpu(), p, rtol=0, atol=1e-9)


@torch.no_grad()
def predictions(m: MultiTaskMethod, device: str) -> list[torch.Tensor]:
    found: list[torch.Tensor] = m.eval()(batch(device).inputs.double())
    return found


def test_composed_images_are_the_same_on_every_device() -> None:
    found = [
        MultiDigits(
            data_dir=Path(),
            tasks=None,
            device=torch.device(device),
            partners=3,
            num_val=300,
            num_test=300,
            seed=0,
            mean=0.13,
            std=0.31,
        ).fingerprint
        for device in ("cpu", "cuda")
    ]
    assert found[0] == found[1]


def test_a_run_trains_and_evaluates_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["debug=smoke", "device=cuda", "logger=none", "hydra.run.dir=run"]
    assert main(["train", *words]) == 0
    assert main(["evaluate", "run=run"]) == 0
    assert "equal the run's record exactly" in capsys.readouterr().out
