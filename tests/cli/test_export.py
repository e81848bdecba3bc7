"""`rotograd export`: files that predict what the run does, and need nothing of this package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from rotograd_cli.runs import exporting
from rotograd_cli.runs.saved import key

from .conftest import CHECKOUT, Cli

pytestmark = pytest.mark.filterwarnings("default")  # torch's own, of what it exports
WITHOUT_PACKAGE = "import sys; sys.modules['rotograd_cli'] = None\n"


def test_a_program_is_written_with_what_it_is(cli: Cli, trained: Path) -> None:
    result = cli("export", f"run={trained}", "tasks=[sum,left]", "output=new/net.pt2")
    assert result.code == 0, result.err
    assert re.search(r"sum +│ folded +│ \[batch, 1\]", result.out)
    assert "difference / largest" in result.out
    ratios = [float(x) for x in re.findall(r"([\d.e+-]+) │\n", result.out)]
    assert len(ratios) == 2
    assert max(ratios) <= exporting.TOLERANCE
    assert "File: new/net.pt2" in result.out
    text = {"rotograd.json": ""}
    network = torch.export.load("new/net.pt2", extra_files=text).module()
    predictions = network(torch.rand(3, 1, 28, 28))
    assert {name: tuple(y.shape) for name, y in predictions.items()} == {
        "sum": (3, 1),
        "left": (3, 10),
    }
    about = json.loads(text["rotograd.json"])
    assert about["outputs"] == {"sum": ["batch", 1], "left": ["batch", 10]}
    assert about["losses"] == {"sum": "mean_squared_error", "left": "cross_entropy"}
    assert about["run"]["epoch"] == 1
    assert about["run"]["method"] == "RotoGrad"
    assert about["run"]["key"] == key(yaml.safe_load((trained / "config.yaml").read_text()))


@pytest.mark.slow
def test_a_file_that_predicts_something_else_is_not_kept(
    cli: Cli, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export without the rotations, say."""
    right = exporting.fold_tasks

    def wrong(*arguments: object) -> torch.nn.Module:
        network = right(*arguments)  # type: ignore[arg-type]
        for parameter in network.heads[1].parameters():
            parameter.data.mul_(1 + 1e-4)
        return network

    monkeypatch.setattr(exporting, "fold_tasks", wrong)
    result = cli("export", f"run={trained}", "output=net.pt2")
    assert result.code == 2
    assert "predict what the run does, to 1e-05" in result.err
    assert "task 'right' is off by" in result.err
    assert not list(Path().iterdir())


def test_wrong_input_is_refused_in_one_line(cli: Cli, trained: Path) -> None:
    run = f"run={trained}"
    refusals = [
        ((), "`run` needs a value; add run=VALUE"),
        (("run=nowhere",), "`run` must be a run directory, got nowhere"),
        ((run, "format=tflite"), "`format` must be torch or onnx, got 'tflite'"),
        ((run, "output=net.onnx"), "for format=torch, got net.onnx; write output=net.pt2"),
        ((run, "tasks=[lefft]"), "must name tasks of the data set, got 'lefft'; did you mean left"),
        ((run, "tasks=[]"), "`tasks` must name at least one task"),
        ((run, "checkpoint=worst"), "`checkpoint` must be best or last"),
    ]
    for words, message in refusals:
        result = cli("export", *words)
        assert result.code == 2, words
        assert message in result.err, (words, result.err)
        assert len(result.err.strip().splitlines()) == 1
    assert not list(Path().iterdir())
    assert not (trained / "export").exists()


@pytest.mark.slow
def test_the_examples_of_the_docs_run_without_this_package(cli: Cli, trained: Path) -> None:
    text = (CHECKOUT / "docs" / "export.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for form, name, example in zip(
        ("torch", "onnx"), ("best.pt2", "best.onnx"), examples, strict=True
    ):
        result = cli("export", f"run={trained}", f"format={form}", f"output={name}")
        assert result.code == 0, result.err
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", WITHOUT_PACKAGE + example],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = ["left (3, 10)", "right (3, 10)", "sum (3, 1)", "parity (3, 1)", "pixels (3, 1)"]
        assert done.stdout.splitlines() == lines, done.stderr
