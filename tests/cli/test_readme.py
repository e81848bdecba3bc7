"""What README prints works when pasted."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from .conftest import CHECKOUT, SMOKE, Cli
from .test_contributing import blocks

PAGE = "README.md"
FACES = """
import torch
from torch.utils.data import Dataset

class Faces(Dataset):
    def __init__(self, split):
        self.split = split
    def __len__(self):
        return 100
    def __getitem__(self, index):
        return {"image": torch.rand(1, 32, 32), "smiling": index % 2, "age": float(index)}
"""


def test_its_data_trains(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(FACES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "mine", None)
    monkeypatch.delitem(sys.modules, "mine")  # taken back after the test
    file = tmp_path / "conf" / "data" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(blocks("yaml", PAGE)[0])
    result = cli("train", "--config-dir", "conf", "data=mine", *SMOKE)
    assert result.code == 0, result.err
    assert "RotoGrad on mine, seed 0" in result.out


def test_its_loop_trains_networks_and_rotations() -> None:
    torch.manual_seed(0)
    names: dict[str, Any] = {
        "torch": torch,
        "backbone": nn.Linear(8, 64),
        "head_a": nn.Linear(64, 1),
        "head_b": nn.Linear(64, 3),
        "loss_a": nn.MSELoss(),
        "loss_b": nn.CrossEntropyLoss(),
        "x": torch.randn(16, 8),
        "y_a": torch.randn(16, 1),
        "y_b": torch.randint(3, (16,)),
    }
    before = names["backbone"].weight.clone()
    exec(blocks("python", PAGE)[0], names)
    assert not torch.equal(names["backbone"].weight, before)
    for parameter in names["model"].mtl_parameters():  # rotations begin at 0
        assert parameter.abs().sum() > 0


@pytest.mark.slow
def test_its_commands_compose(cli: Cli) -> None:
    text = (CHECKOUT / PAGE).read_text(encoding="utf-8")
    (lines,) = re.findall(r"## Five commands\n\n```\n(.*?)```", text, re.DOTALL)
    commands = [line.partition("  #")[0].split()[1:] for line in lines.splitlines()]
    assert len(commands) == 5
    for words in commands:
        result = cli(*without_run(words))
        assert result.code == 0, (words, result.err)


def without_run(words: Sequence[str]) -> list[str]:
    """The command without a run that it needs, and without training."""
    if any("=DIR" in word for word in words):
        return [words[0], "--help"]
    if words[0] == "train":
        return [*(re.sub(",.*", "", word) for word in words if word != "-m"), "--cfg", "job"]
    return list(words)
