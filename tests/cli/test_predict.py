"""rotograd predict and load_run: what a run predicts, in a file and in Python."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score, f1_score
from torch.utils.data import DataLoader

import rotograd_cli
from rotograd_cli.data.base import Batch
from rotograd_cli.errors import CheckpointError, ConfigError, DatasetError, RotogradError
from rotograd_cli.runs.prediction import write_predictions

from .conftest import CHECKOUT, Cli
from .test_contributing import blocks
from .test_dense import DENSE

RUN = "hydra.run.dir=run"
DATA = Path(os.environ.get("ROTOGRAD_DATA", "nowhere"))  # which is taken from the tests


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return content


# ---- in Python


def test_a_loaded_run_predicts_what_it_recorded(smoke_run: Path) -> None:
    before = torch.get_rng_state()
    run = rotograd_cli.load_run(smoke_run)
    assert torch.equal(torch.get_rng_state(), before)
    assert not run.model.training
    assert run.tasks == ("left", "right", "sum", "parity", "pixels")
    assert run.config == yaml.safe_load((smoke_run / "config.yaml").read_text())
    assert run.metrics == summary(smoke_run)["metrics"]
    assert run.summary.method == "RotoGrad"
    assert isinstance(run.history, pd.DataFrame)
    lines = (smoke_run / "metrics.jsonl").read_text().splitlines()
    assert run.history["step"].tolist() == [json.loads(line)["step"] for line in lines]
    left = run.task("left")
    copied = pickle.loads(pickle.dumps(left))
    hits = []
    with torch.no_grad():
        for inputs, targets in DataLoader(run.dataset("val"), batch_size=20):
            predicted = run.model(inputs)[0]
            torch.testing.assert_close(left(inputs), predicted, atol=1e-5, rtol=1e-5)
            assert torch.equal(copied(inputs), left(inputs))
            hits += (predicted.argmax(1) == targets["left"]).tolist()
    num = run.summary.num_evaluated["val"]  # type: ignore[index]
    assert np.mean(hits[:num]) == pytest.approx(run.metrics["val/left/accuracy"])
    inputs, targets = run.dataset("val")[-1]
    assert inputs.shape == (1, 28, 28)
    last = run.data.batch("val", torch.tensor([len(run.dataset("val")) - 1]))
    assert torch.equal(inputs, last.inputs[0])
    assert targets.keys() == last.targets.keys()


def test_networks_are_loaded_without_the_data(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rotograd_cli.load_run(smoke_run).model.state_dict()

    def absent(*_: object) -> None:
        raise DatasetError("There are no digits here; get them.")

    monkeypatch.setattr("rotograd_cli.data.multidigits._load", absent)
    run = rotograd_cli.load_run(str(smoke_run))
    assert all(torch.equal(value, expected[name]) for name, value in run.model.state_dict().items())
    assert run.task("parity")(torch.zeros(2, 1, 28, 28)).shape == (2, 1)
    with pytest.raises(DatasetError, match=r"There are no digits here; get them\."):
        run.dataset("val")
    content = summary(smoke_run)
    del content["input_shape"]  # as an earlier version wrote it
    (smoke_run / "summary.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"did not record the shapes .*: There are no digits"):
        rotograd_cli.load_run(smoke_run)


def test_what_cannot_be_loaded_is_refused_in_one_line(smoke_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"must be a run directory, got .*empty"):
        rotograd_cli.load_run(tmp_path / "empty")
    with pytest.raises(ConfigError, match="`checkpoint` must be best or last, got 'epoch_1'"):
        rotograd_cli.load_run(smoke_run, checkpoint="epoch_1")
    run = rotograd_cli.load_run(smoke_run, checkpoint="last")
    assert not any(key.startswith("test/") for key in run.metrics)
    with pytest.raises(ConfigError, match=r"got 'lft'; did you mean left\?"):
        run.task("lft")
    for wrong in (0, ["left"]):
        with pytest.raises(ConfigError, match=r"`tasks` must name tasks .*; "):
            run.task(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be one of train, val, test, got 'valid'"):
        run.dataset("valid")  # type: ignore[arg-type]
    text = (smoke_run / "config.yaml").read_text()
    (smoke_run / "config.yaml").write_text(text.replace("rotograd_cli.models.backbones", "evil"))
    with pytest.raises(ConfigError, match=r"got 'evil\..*'; pass trust=True to run it anyway\.$"):
        rotograd_cli.load_run(smoke_run)
    (smoke_run / "config.yaml").write_text(text)
    (smoke_run / "checkpoints" / "best.pt").unlink()
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        rotograd_cli.load_run(smoke_run)


def test_the_package_itself_is_imported_at_once_and_has_the_names_of_its_stub() -> None:
    stub = (CHECKOUT / "rotograd_cli" / "__init__.pyi").read_text()
    (names,) = re.findall(r"__all__ = \[(.*)\]", stub)
    assert {name.strip('" ') for name in names.split(",")} == set(rotograd_cli.__all__)
    assert all(hasattr(rotograd_cli, name) for name in rotograd_cli.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        rotograd_cli.load  # noqa: B018
    program = "import rotograd_cli, sys; assert not {'torch', 'numpy', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- files


@pytest.mark.parametrize("name", ["run/predictions/test.npz", "out/x.parquet"])
def test_metrics_of_the_file_are_the_runs_own(cli: Cli, smoke_run: Path, name: str) -> None:
    words = [] if name.endswith("test.npz") else [f"output={name}"]
    result = cli("predict", "run=run", *words)
    assert result.code == 0, result.err
    assert f"File: {name} (40 examples)" in result.out
    assert "values equal the run's record exactly." in result.out
    assert [path.name for path in Path(name).parent.iterdir()] == [Path(name).name]
    run = rotograd_cli.load_run("run")
    file = rotograd_cli.read_predictions(name)
    metrics = file.metrics(run.data.tasks)
    assert metrics == {k: v for k, v in run.metrics.items() if k.startswith("test/")}
    # and by somebody else's arithmetic
    predictions, targets = file.predictions, file.targets
    accuracy = accuracy_score(targets["left"], predictions["left"].argmax(1))
    assert accuracy == pytest.approx(metrics["test/left/accuracy"])
    f1 = f1_score(targets["parity"], predictions["parity"][:, 0] > 0)
    assert f1 == pytest.approx(metrics["test/parity/f1"])
    squares = (targets["sum"] - predictions["sum"][:, 0].astype(float)) ** 2
    assert squares.mean() == pytest.approx(metrics["test/sum/mse"])
    batch = run.data.batch("test", torch.from_numpy(file.index.copy()))
    for task, values in targets.items():
        np.testing.assert_array_equal(values, batch.targets[task])
        assert file.has_target[task].all()
    assert file.names is None
    again = cli("predict", "run=run", "checkpoint=last", f"output={name}")
    assert again.code == 0, again.err
    assert rotograd_cli.read_predictions(name).about["checkpoint"] == "last"
    Path(name).write_text("mine")
    refused = cli("predict", "run=run", f"output={name}")
    assert (refused.code, refused.err) == (
        2,
        f"rotograd: {name} is there already and holds no predictions, which alone are written "
        "over; remove it, or name another file or folder with output=.\n",
    )
    assert Path(name).read_text() == "mine"


def test_dense_tasks_have_a_folder_of_arrays_mapped_into_memory(cli: Cli, tmp_path: Path) -> None:
    assert cli("train", *DENSE).code == 0
    refused = cli("predict", "run=run", "output=x.npz")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "`output` must name a folder for the tasks of synthetic, got x.npz" in refused.err
    assert not Path("x.npz").exists()
    result = cli("predict", "run=run", "split=val", "checkpoint=last")
    assert result.code == 0, result.err
    assert "values equal the run's record exactly." in result.out
    folder = Path("run/predictions/val-last")
    notes = folder / "notes.txt"
    notes.touch()
    refused = cli("predict", "run=run", "split=val", "checkpoint=last")
    assert "is there already and holds no predictions" in refused.err
    notes.unlink()
    assert cli("predict", "run=run", "split=val", "checkpoint=last").code == 0
    assert list(folder.parent.iterdir()) == [folder]
    file = rotograd_cli.read_predictions(folder)
    assert isinstance(file.predictions["task_1"], np.memmap)
    num = len(file)
    assert file.predictions["task_1"].shape == (num, 2, 9, 12)
    error = file.predictions["task_1"].astype(float) - file.targets["task_1"]
    run = rotograd_cli.load_run("run", checkpoint="last")
    assert (error**2).mean() == pytest.approx(run.metrics["val/task_1/mse"])
    with pytest.raises(ConfigError, match="`tasks` must be those of the predictions"):
        file.metrics(run.data.tasks[:2])


def test_absent_targets_are_marked(
    cli: Cli, smoke_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of whole batches, which the data set leaves out: the first, and all of a task."""
    run = rotograd_cli.load_run(smoke_run)
    whole = run.data.batch

    def batch(split: Any, indices: torch.Tensor) -> Batch:
        full = whole(split, indices)
        absent = {"right", *(["left", "sum"] if 0 in indices else [])}
        targets = {name: target for name, target in full.targets.items() if name not in absent}
        return Batch(full.inputs, targets)

    monkeypatch.setattr(run.data, "batch", batch)
    names = [f"digit {i}" for i in range(40)]
    monkeypatch.setattr(run.data, "example_names", lambda split, indices: names)
    for name in ("a.npz", "a.parquet", "a"):
        write_predictions(run, "test", tmp_path / name)
        file = rotograd_cli.read_predictions(tmp_path / name)
        assert file.names is not None
        assert file.names.tolist() == names
        assert "right" not in file.targets
        assert not file.has_target["right"].any()
        for task, missing in (("left", -1), ("sum", np.nan)):
            assert file.has_target[task].tolist() == 20 * [False] + 20 * [True]
            np.testing.assert_array_equal(file.targets[task][:20], 20 * [missing])
        metrics = file.metrics(run.data.tasks)
        assert not any("right" in key for key in metrics)
        half = file.predictions["left"][20:].argmax(1)
        assert metrics["test/left/accuracy"] == pytest.approx(
            accuracy_score(whole("test", torch.arange(20, 40)).targets["left"], half)
        )


def test_data_that_are_not_there_are_named_by_the_key_of_the_command(
    cli: Cli, smoke_run: Path
) -> None:
    del smoke_run
    text = Path("run/config.yaml").read_text()
    own = "rotograd_cli.data.multimnist.MultiMNIST"
    config = yaml.safe_load(text)
    values = {"partners": 1, "download": False, "seed": 0, "mean": 0.0, "std": 1.0}
    config["data"] = {"_target_": own, "_partial_": True, **values}
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    result = cli("predict", "run=run", "data_dir=nowhere")
    assert result.code == 2
    assert ", or set data_dir to their folder." in result.err


def test_a_file_that_cannot_be_written_leaves_nothing(
    cli: Cli, smoke_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    result = cli("predict", "run=run")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "test.npz cannot be written (No space left on device); name a place" in result.err
    assert not (smoke_run / "predictions").exists()
    for word, message in (
        ("output=x.csv", "`output` must name a file .npz or .parquet for the tasks of multidigits"),
        ("output=run/config.yaml/x.npz", "cannot be written"),
        ("split=tset", "`split` must be train or val or test"),
    ):
        result = cli("predict", "run=run", word)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert message in result.err


def test_what_is_no_file_of_predictions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"x")
    np.savez(tmp_path / "b.npz", about=np.array("{}"), index=np.arange(3))
    pd.DataFrame({"index": [1]}).to_parquet(tmp_path / "c.parquet")
    (tmp_path / "d").mkdir()
    for name in ("a.npz", "b.npz", "c.parquet", "d", "e.npz", "f.parquet"):
        with pytest.raises(RotogradError, match="cannot be read as predictions") as raised:
            rotograd_cli.read_predictions(tmp_path / name)
        assert "\n" not in str(raised.value)


# ---- documentation, real files


def test_the_page_works_as_printed(
    cli: Cli, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (commands,) = blocks("bash", "docs/python.md")
    for line in commands.strip().splitlines():
        result = cli(*line.split()[1:])
        assert result.code == 0, result.err
    scope: dict[str, Any] = {}
    for block in blocks("python", "docs/python.md"):
        exec(block, scope)
    printed = capsys.readouterr().out
    assert printed.startswith("('left', 'right', 'sum', 'parity', 'pixels')\n")
    assert "val/sum/mse" in printed
    assert "tensor([ 0,  5, 17])" in printed


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "name", "words"),
    [
        ("celeba", "000027.jpg", ("data=celeba", "data.limit=20", "backbone=celeba_conv")),
        ("nyuv2/mtan", "val/image/0.npy", ("data=nyuv2", "data.limit=6", "backbone=segnet")),
    ],
)
def test_predictions_of_real_files_are_named_and_measure_what_the_run_did(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    name: str,
    words: tuple[str, ...],
) -> None:
    source = DATA / folder
    if not source.is_dir():
        pytest.skip(f"no sample in {source}")
    target = tmp_path / "data" / folder
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.name != "prepared":
            (target / path.name).symlink_to(path)
    monkeypatch.setenv("ROTOGRAD_DATA", str(tmp_path / "data"))
    data, limit, _ = words
    head = ("head=conv",) if "nyuv2" in data else ()
    assert cli("data", "prepare", data.partition("=")[2], limit).code == 0
    sizes = ("train.batch_size=2", "train.eval_batch_size=4")
    trained = cli(
        "train", *words, *head, *sizes, "debug=smoke", "logger=none", "method=vanilla", RUN
    )
    assert trained.code == 0, trained.err
    result = cli("predict", "run=run", "output=" + ("out" if head else "out.npz"))
    assert result.code == 0, result.err
    assert "values equal the run's record exactly." in result.out
    file = rotograd_cli.read_predictions("out" if head else "out.npz")
    assert file.names is not None
    assert file.names[0] == name
