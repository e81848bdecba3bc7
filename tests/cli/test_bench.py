"""`rotograd bench`: what it prints and writes, on networks that take milliseconds."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rotograd_cli.config.schema import to_bench_config

from .conftest import Cli
from .test_wrong_input import refused

QUICK = ("bench.rounds=1",)
NAMES = ["ideal", "vanilla", "rotateonly", "rotograd", "rotogradnorm", "reference"]
TINY = (
    "device=cpu",
    "data=synthetic",
    "data.input_shape=[6]",
    "data.num_train=32",
    "data.num_val=2",
    "data.num_test=2",
    "backbone=mlp",
    "backbone.hidden=[]",
    "backbone.num_features=8",
    "train.batch_size=8",
    "bench.rounds=3",
    "bench.block_s=0",
    "bench.warmup_steps=1",
)


def measured(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob("bench.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_a_benchmark_prints_a_table_and_leaves_three_files(cli: Cli, tmp_path: Path) -> None:
    result = cli("bench", *TINY, "method.rotation_shape=5", "bench.name=tiny")
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "outputs" / "bench" / "tiny").iterdir()
    assert f"Bench directory: {folder.relative_to(tmp_path)}" in result.out
    assert sorted(path.name for path in folder.iterdir()) == [
        "bench.json",
        "bench.md",
        "config.yaml",
    ]
    for text in (result.out, (folder / "bench.md").read_text(encoding="utf-8")):
        assert all(name in text for name in NAMES)
        assert "tiny: K = 3, N = 8, d = 8, m = 5, float32, |A| = 0.5, cpu" in text
    assert result.err.splitlines() == [f"round {n} of 3" for n in (1, 2, 3)]

    content = measured(folder)
    assert [c["name"] for c in content["contenders"]] == NAMES
    assert content["contenders"][0]["ratio"] == {"median": 1.0, "p10": 1.0, "p90": 1.0}
    assert all(c["peak_bytes"] > 0 for c in content["contenders"])
    timed = {c["name"] for c in content["contenders"] if c["rotation_part_ms"] is not None}
    assert timed == {"rotateonly", "rotograd", "rotogradnorm"}  # their rotation part, alone
    assert len(content["blocks"]) == 3 * (len(NAMES) + len(timed))
    assert {block["steps"] for block in content["blocks"]} == {1}
    assert content["settings"]["rotation_stack_bytes"] == 3 * 5 * 5 * 4
    options = {c["name"]: c["options"] for c in content["contenders"]}
    assert options["rotograd"]["rotation_shape"] == 5
    assert content["machine"]["threads"] >= 1
    assert content["command"].startswith("rotograd bench device=cpu data=synthetic")
    assert "bench.name=tiny" in shlex.split(content["command"])

    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert to_bench_config(config).bench.name == "tiny"


def test_the_name_is_that_of_the_data_unless_a_workload_has_its_own(cli: Cli) -> None:
    for words, name in ((TINY, "synthetic"), (("workload=linear40",), "linear40")):
        result = cli("bench", *words, "--cfg", "job", "--resolve")
        assert result.code == 0, result.err
        assert yaml.safe_load(result.out)["bench"]["name"] == name


@pytest.mark.parametrize("dtype", [pytest.param("float64", marks=pytest.mark.slow), "bfloat16"])
def test_other_types_and_optimisers_take_part(cli: Cli, tmp_path: Path, dtype: str) -> None:
    words = (f"bench.dtype={dtype}", "bench.optimizers=true", "bench.threads=1")
    result = cli("bench", *TINY, *QUICK, *words)
    assert result.code == 0, result.err
    content = measured(tmp_path)
    assert [c["name"] for c in content["contenders"]] == NAMES
    itemsize = 8 if dtype == "float64" else 4  # parameters stay float32 under autocast
    assert content["settings"]["rotation_stack_bytes"] == 3 * 8 * 8 * itemsize


@pytest.mark.slow
def test_tasks_whose_losses_are_computed_at_once_take_part_in_the_reference_too(
    cli: Cli, tmp_path: Path
) -> None:
    binary = ("data.kind=binary", "data.num_outputs=1", "head=linear")
    result = cli("bench", *TINY, *QUICK, *binary)
    assert result.code == 0, result.err
    assert [c["name"] for c in measured(tmp_path)["contenders"]] == NAMES


@pytest.mark.slow
def test_the_rotated_channels_of_a_map_are_measured(cli: Cli, tmp_path: Path) -> None:
    sizes = ("data.input_shape=[3,8,12]", "data.map_shape=[4,6]", "backbone.channels=[4,4]")
    rotated = ("method.rotation_shape=[4]", "method.post_shape=[4,6]")
    quick = [word for word in TINY if word.startswith(("device", "bench"))]
    result = cli("bench", "workload=channels", *quick, *QUICK, *sizes, *rotated)
    assert result.code == 0, result.err
    assert measured(tmp_path)["settings"]["feature_shape"] == [4, 4, 6]


def test_without_the_authors_package_the_others_are_measured(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rotograd", None)  # as if it were not installed
    result = cli("bench", *TINY, *QUICK, "bench.contenders=[ideal,reference]")
    assert result.code == 0, result.err
    assert "reference is left out: " in result.err
    assert "pip install rotograd==0.1.6.0" in result.err
    content = measured(tmp_path)
    assert [c["name"] for c in content["contenders"]] == ["ideal"]
    assert list(content["left_out"]) == ["reference"]
    (markdown,) = tmp_path.rglob("bench.md")
    assert "Left out: `reference`" in markdown.read_text(encoding="utf-8")


MINE = """
from rotograd_cli.methods.vanilla import VanillaMTL


class Mine(VanillaMTL):
    pass
"""


def test_a_method_of_ones_own_is_measured_without_a_reference(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_to_measure.py").write_text(MINE)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    file = tmp_path / "conf" / "method" / "mine.yaml"
    file.write_text("_target_: mine_to_measure.Mine\n_partial_: true\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("--config-dir", "conf", "method=mine", "bench.contenders=[ideal,mine,reference]")
    result = cli("bench", *TINY, *QUICK, *words)
    assert result.code == 0, result.err
    assert "reference is left out: the authors' package has no Mine." in result.err
    assert [c["name"] for c in measured(tmp_path)["contenders"]] == ["ideal", "mine"]


REFUSED = {
    "bench.contenders=[rotogard]": "got 'rotogard'; did you mean rotograd?",
    "bench.contenders=rotograd": "a list is needed, bench.contenders=[VALUE,...]",
    "bench.rounds=0": "`bench.rounds` must be at least 1, got 0",
    "bench.round=3": "did you mean bench.rounds?",
    "workload=linear4": "Did you mean linear40?",
    "train.batch_size=33": "at most the 32 training examples, got 33; lower it",
    "-m seed=0,1": "takes one configuration at a time, got -m",
}
REFUSED_TOO = {
    "compile=maybe": "true or false is needed",
    "rounds=3": "did you mean bench.rounds?",
    "method.rotation_shape=9": "choose a size of at most 8",
    "method=vanilla +method.rotation_shape=3": "leave it out, there are none",
    "seed=0,1": "has several values; choose one.",
    "hydra.run.dir=.": "a folder of its own",
    "device=cuda:99": "use device=auto or device=cpu",
}


@pytest.mark.parametrize("cases", [REFUSED, pytest.param(REFUSED_TOO, marks=pytest.mark.slow)])
def test_a_wrong_benchmark_is_refused(cli: Cli, tmp_path: Path, cases: dict[str, str]) -> None:
    for words, expected in cases.items():
        assert expected in refused(cli, tmp_path, "bench", *TINY, *words.split()), words


def test_a_method_that_does_not_take_part_is_not_named(cli: Cli) -> None:
    for contenders, is_named in (("ideal,vanilla", False), ("ideal,rotogradnorm", True)):
        words = ("method=rotogradnorm", f"bench.contenders=[{contenders}]")
        result = cli("bench", *TINY, *QUICK, *words)
        assert ("configured method RotoGradNorm" in result.out) == is_named


def test_nobody_left_to_measure_is_refused(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rotograd", None)
    line = refused(cli, tmp_path, "bench", *TINY, "bench.contenders=[reference]")
    assert "leaves nobody to measure" in line


def test_train_does_not_know_the_options_of_a_benchmark(cli: Cli, tmp_path: Path) -> None:
    assert "`bench.rounds` is not a key" in refused(cli, tmp_path, "train", "bench.rounds=3")
