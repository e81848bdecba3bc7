"""What only a CUDA device can show: no waiting in the step, and the CPU's data and numbers."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from rotograd_cli import methods
from rotograd_cli.cli import main
from rotograd_cli.data.base import Batch
from rotograd_cli.data.multidigits import MultiDigits
from rotograd_cli.data.two_digits import TASKS
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.training.step import train_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def network() -> tuple[nn.Module, list[nn.Module]]:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU())
    return backbone, [nn.Linear(20, task.num_outputs) for task in TASKS]


def model(method: str) -> MultiTaskMethod:
    options = {} if method == "VanillaMTL" else {"rotation_shape": 20, "burn_in_period": 2}
    options |= {"alpha": 0.5} if method == "RotoGradNorm" else {}
    built: MultiTaskMethod = getattr(methods, method)(*network(), **options)
    return built.train()


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


@pytest.mark.parametrize("method", ["VanillaMTL", "RotateOnly", "RotoGrad", "RotoGradNorm"])
def test_a_training_step_never_waits_for_the_device(method: str) -> None:
    m, data = model(method).cuda(), batch("cuda")
    opts = optimizers(m)
    train_step(m, TASKS, [data], opts)  # the first step loads libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            train_step(m, TASKS, [data], opts)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["VanillaMTL", "RotateOnly", "RotoGrad", "RotoGradNorm"])
def test_parameters_on_the_device_agree_with_the_cpu_in_float64(method: str) -> None:
    on_cpu = model(method).double()
    on_cuda = copy.deepcopy(on_cpu).cuda()
    for m, device in ((on_cpu, "cpu"), (on_cuda, "cuda")):
        data, opts = batch(device), optimizers(m)
        data = Batch(data.inputs.double(), data.targets)
        for _ in range(10):
            train_step(m, TASKS, [data], opts)
    for p, q in zip(on_cpu.parameters(), on_cuda.parameters(), strict=True):
        torch.testing.assert_close(q.cpu(), p, rtol=0, atol=1e-9)


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
