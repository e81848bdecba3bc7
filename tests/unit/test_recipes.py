"""docs/recipes.md: every snippet runs as printed; wrong loops of other libraries are noticed."""

import os
import re
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from rotograd_cli.errors import RankError
from tests.cli.conftest import CHECKOUT
from tests.cli.test_contributing import blocks
from tests.unit.test_misuse import SAID
from tests.waiting import PATIENCE_S

PREAMBLE, *RECIPES = blocks("python", "docs/recipes.md")
PLAIN = [b for b in RECIPES if not b.startswith(("import lightning", "from accelerate"))]


def recipe(first_line: str) -> str:
    (block,) = [block for block in RECIPES if block.startswith(first_line)]
    return block


def run(block: str, names: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[str]]:
    """Runs a snippet after the first; returns its names, and what this package said of it."""
    names = {} if names is None else names
    exec(PREAMBLE, names)
    torch.manual_seed(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(block, names)
    texts = [str(warning.message) for warning in caught]
    return names, [text for text in texts if any(re.match(said, text) for said in SAID.values())]


@pytest.mark.parametrize("block", PLAIN, ids=lambda block: str(RECIPES.index(block)))
def test_a_snippet_runs_and_no_warning_is_given(
    block: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compile_eagerly = partial(torch.compile, backend="eager")  # the C++ compiler takes long
    monkeypatch.setattr(torch, "compile", compile_eagerly)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(PREAMBLE, names)
    exec(block, names)
    assert all(p.isfinite().all() for p in names["model"].parameters())


# ---- accelerate

ONE_MICRO_BATCH = {"steps=2": "steps=1", "/ 2": "/ 1", "batches=2": "batches=1"}
OTHER = "[nn.Parameter(torch.ones(1))]"
WRONG = {
    "two optimisers": {"model.model_parameters()": "model.parameters()"},
    "no optimiser": {"model.mtl_parameters()": OTHER},
    "plain backward": {
        "model.backward(losses, num_micro_batches=1, accumulating=more_follow)": (
            "accelerator.backward(sum(losses))"
        )
    },
}


def changed(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def test_accelerate_trains_in_bfloat16_with_micro_batches() -> None:
    pytest.importorskip("accelerate")
    names, said = run(recipe("from accelerate"))
    assert said == []
    model = names["model"]
    assert model.rule.initial_norms.num_steps.tolist() == [2, 2]  # of four micro-batches
    with torch.no_grad():
        assert model(names["batches"][0][0])[0].dtype == torch.float32


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_loop_under_accelerate_is_noticed(kind: str) -> None:
    pytest.importorskip("accelerate")
    block = changed(recipe("from accelerate"), ONE_MICRO_BATCH)
    _, said = run(changed(block, WRONG[kind]))
    assert len(said) == 1
    assert re.match(SAID["cleared" if kind == "two optimisers" else kind], said[0])


# ---- Lightning

WRONG_MODULES = {
    "two optimisers": {"self.method.model_parameters()": "self.method.parameters()"},
    "no optimiser": {"self.method.mtl_parameters()": OTHER.replace("nn.", "torch.nn.")},
    "plain backward": {
        "losses = self.method.backward(losses_of(self.method, *batch))": (
            "losses = torch.stack(losses_of(self.method, *batch))\n"
            "        self.manual_backward(losses.sum())"
        )
    },
}


@pytest.mark.slow
def test_lightning_resumes_exactly_notices_wrong_loops_and_refuses_what_would_be_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lightning = pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    block = recipe("import lightning")
    names, said = run(block)
    assert said == []
    torch.manual_seed(1)
    whole = names["Multitask"]()
    loader = names["DataLoader"](names["data"], batch_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        options = {"max_epochs": 4, "enable_checkpointing": False, **names["options"]}
        lightning.Trainer(**options).fit(whole, loader)
    resumed = names["module"].state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.state_dict().items())

    _, said = run(changed(block, {'"cpu",': '"cpu", "precision": "bf16-mixed",'}))
    assert said == []
    for kind, changes in WRONG_MODULES.items():
        _, said = run(changed(block, changes))
        expected = SAID["cleared" if kind == "two optimisers" else kind]
        assert len(said) == 2, kind  # two models
        assert all(re.match(expected, text) for text in said)
    scaler = 'torch.amp.GradScaler("cpu")'
    half = f'lightning.pytorch.plugins.MixedPrecision("16-mixed", "cpu", {scaler})'
    with pytest.raises(AssertionError, match=r"did not use scaler\.scale"):
        run(changed(block, {'"cpu",': f'"cpu", "plugins": [{half}],'}))
    alone = {'"cpu",': '"cpu", "strategy": "ddp", "devices": 1,'}
    with patch.dict(os.environ):  # where Lightning writes down its job
        with pytest.raises(RankError, match="must not be inside DistributedDataParallel"):
            run(changed(block, alone))
        dist.destroy_process_group()


# ---- several processes


def state_after(folder: Path, *command: str) -> dict[str, Any]:
    folder.mkdir()
    (folder / "train.py").write_text(recipe("# train.py"))
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    command = (sys.executable, *command, "train.py")
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=PATIENCE_S)
    state: dict[str, Any] = torch.load(folder / "model.pt", weights_only=True)
    return state


@pytest.mark.slow
def test_torchrun_trains_what_one_process_trains(tmp_path: Path) -> None:
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    expected = state_after(tmp_path / "one")
    torch.testing.assert_close(state_after(tmp_path / "two", *two), expected, rtol=1e-4, atol=1e-6)
