"""``docs/own_network.md`` works as printed; a run needs the files that it began with no more."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import rotograd_cli
from tests.records import records

from .conftest import SMOKE, Cli
from .test_contributing import blocks
from .test_many_ranks import finished, torchrun
from .test_resume import whole

PAGE = "docs/own_network.md"
TOY = ("experiment=toy", "debug=smoke", "logger=none")
FROZEN = ("backbone=resnet20", "backbone.blocks=1", "freeze=[backbone.stem.*]")


def weights(run: str | Path, checkpoint: str = "last") -> dict[str, Any]:
    content = torch.load(Path(run) / "checkpoints" / f"{checkpoint}.pt", weights_only=True)
    result: dict[str, Any] = content["model"]
    return result


def test_a_run_that_began_with_another_does_not_need_it_afterwards(
    cli: Cli, tmp_path: Path
) -> None:
    words = (*TOY, "freeze=[backbone.layers.1.*]")
    assert cli("train", *TOY, "hydra.run.dir=first").code == 0
    result = cli("train", *words, "init_from=first", "hydra.run.dir=second")
    assert result.code == 0, result.err
    assert "  backbone: 4 of 4 tensors" in result.err
    summary = json.loads(Path("second/summary.json").read_text())
    assert summary["initial_weights"][1] == "  backbone: 4 of 4 tensors"
    first, second = weights("first", "best"), weights("second")
    same = [name for name in first if torch.equal(first[name], second[name])]
    assert {name for name in first if "layers.1" in name} <= set(same)

    Path("first").rename("elsewhere")
    assert cli("evaluate", "run=second").code == 0
    assert rotograd_cli.load_run("second").model.training is False
    refused = cli("train", *words, "init_from=first", "hydra.run.dir=third")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert not Path("third").exists()
    longer = ("train", "resume=second", "train.epochs=2")
    resumed = cli(*longer)
    assert resumed.code == 0, resumed.err
    after = json.loads(Path("second/summary.json").read_text())
    assert (after["epochs"], after["initial_weights"]) == (2, summary["initial_weights"])


@pytest.mark.slow
def test_statistics_of_a_frozen_part_stay(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *SMOKE, *FROZEN[:2], "hydra.run.dir=first").code == 0
    words = (*SMOKE, *FROZEN, "init_from=first", "hydra.run.dir=second")
    assert cli("train", *words).code == 0
    first, second = weights("first", "best"), weights("second")
    stem = [name for name in first if name.startswith("backbone.stem.")]
    assert len(stem) == 6  # of BatchNorm, running statistics too
    assert all(torch.equal(first[name], second[name]) for name in stem)
    assert not all(torch.equal(first[name], second[name]) for name in first if name not in stem)


@pytest.mark.slow
def test_the_page_works_as_printed(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    (network,) = blocks("python", PAGE)
    (tmp_path / "mine.py").write_text(network)
    (tmp_path / "conf" / "backbone").mkdir(parents=True)
    (tmp_path / "conf" / "backbone" / "mine.yaml").write_text(blocks("yaml", PAGE)[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    for line in [line for block in blocks("bash", PAGE) for line in block.splitlines()]:
        words = [word.strip("'") for word in line.split()]
        assert words.pop(0) == "rotograd"
        result = cli(*words)
        assert result.code == 0, result.err
    assert cli("evaluate", "run=runs/mine").code == 2
    assert cli("evaluate", "--config-dir", "conf", "run=runs/mine").code == 0
    third = json.loads(Path("runs/third/summary.json").read_text())["initial_weights"]
    assert len(third) == 2 + 5 + 1
    for name in ("resnet", "timm", "layer"):
        exported = cli("export", f"run=runs/{name}", "tasks=[left]")
        assert exported.code == 0, exported.err


@pytest.mark.slow
def test_two_processes_freeze_and_begin_as_one(tmp_path: Path) -> None:
    words = (*SMOKE, *FROZEN, "init_from=first", "init_what=all")
    whole(*SMOKE, *FROZEN[:2], "hydra.run.dir=first", cwd=tmp_path)
    whole(*words, "hydra.run.dir=alone", cwd=tmp_path)
    finished(torchrun("train", *words, "hydra.run.dir=two", cwd=tmp_path))
    for found, wanted in zip(records(tmp_path / "two"), records(tmp_path / "alone"), strict=True):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4)  # float32, BatchNorm


TEXTS = """
import torch
from torch.utils.data import Dataset


class Texts(Dataset):
    def __init__(self, num):
        self.num = num

    def __len__(self):
        return self.num

    def __getitem__(self, index):
        ids = torch.arange(index, index + 6) % 20
        return {"ids": ids, "mask": (torch.arange(6) < 4).long(), "late": index % 2}
"""
DATA = """
defaults: [torch]
name: texts
datasets:
  train: {_target_: texts.Texts, num: 40}
  val: {_target_: texts.Texts, num: 10}
  test: {_target_: texts.Texts, num: 10}
inputs: {input_ids: ids, attention_mask: mask}
tasks:
  late: {kind: binary}
"""


@pytest.mark.slow
def test_the_encoder_of_the_page_trains_on_tokens(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "texts.py").write_text(TEXTS)
    bert = blocks("yaml", PAGE)[1]
    for name, content in {"data/texts": DATA, "backbone/bert": bert}.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=512)
    published = transformers.BertForMaskedLM(config)
    published.save_pretrained("bert")
    words = ("--config-dir", "conf", "data=texts", "backbone=bert", "debug=smoke")
    start = ("init_from=bert/model.safetensors", "freeze=[backbone.module.embeddings.*]")
    result = cli("train", *words, *start, "hydra.run.dir=run")
    assert result.code == 0, result.err
    assert "tensors below 'bert.':" in result.err
    name = "embeddings.word_embeddings.weight"
    expected = published.bert.get_parameter(name)
    assert torch.equal(weights("run")[f"backbone.module.{name}"], expected)
    Path("bert/model.safetensors").unlink()
    evaluated = cli("evaluate", "--config-dir", "conf", "run=run")
    assert evaluated.code == 0, evaluated.err
