"""Stored rows and batched heads on a CUDA device: the CPU's numbers."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from rotograd_cli.data.base import in_parts
from rotograd_cli.data.celeba import CelebA
from rotograd_cli.methods.vanilla import VanillaMTL
from tests import fake_celeba

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("read_ahead", [0, 2])
def test_batches_of_stored_rows_are_those_of_the_cpu(read_ahead: int, tmp_path: Path) -> None:
    fake_celeba.write(tmp_path / "celeba")
    fake_celeba.prepare(tmp_path)
    options = {**fake_celeba.OPTIONS, "read_ahead": read_ahead}
    here, there = (
        CelebA(data_dir=tmp_path, tasks=None, device=torch.device(name), **options)
        for name in ("cpu", "cuda")
    )
    parts = in_parts(torch.tensor([3, 1, 4, 1, 5, 9, 2, 6]), 3)
    pairs = zip(here.batches("train", parts), there.batches("train", parts), strict=True)
    for expected, found in pairs:
        assert found.inputs.device.type == "cuda"
        torch.testing.assert_close(found.inputs.cpu(), expected.inputs, rtol=1e-6, atol=1e-7)
        for name, target in expected.targets.items():
            assert torch.equal(found.targets[name].cpu(), target)


def test_batched_heads_have_the_gradients_of_the_cpu() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    here = VanillaMTL(backbone, [nn.Linear(6, 1) for _ in range(40)]).double()
    there = copy.deepcopy(here).cuda()
    x = torch.randn(7, 4, dtype=torch.float64)
    for model, inputs in ((here, x), (there, x.cuda())):
        model.backward([prediction.square().mean() for prediction in model(inputs)])
    for expected, found in zip(here.parameters(), there.parameters(), strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(found.grad.cpu(), expected.grad, rtol=1e-10, atol=1e-12)
