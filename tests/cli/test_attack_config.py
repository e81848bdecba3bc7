"""Random overrides either run, or fail with one line and exit code 2."""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, Phase, given, settings
from omegaconf import DictConfig, OmegaConf

from rotograd_cli.cli import main
from rotograd_cli.config.compose import composing, register_schemas

BASE = (
    "logger=none",
    "device=cpu",
    "data=synthetic",
    "data.kind=regression",
    "data.input_shape=[5]",
    "data.num_outputs=1",
    "data.num_train=12",
    "data.num_val=4",
    "data.num_test=4",
    "backbone=mlp",
    "backbone.hidden=[4]",
    "backbone.num_features=6",
    "head=linear",
    "train.epochs=2",
    "train.batch_size=4",
    "hydra.run.dir=run",
)
GROUPS = ("method", "head", "backbone", "data", "optimizer@model_optimizer", "debug", "logger")
GROUPS += ("optimizer@method_optimizer", "scheduler@model_scheduler", "scheduler@method_scheduler")
NUMBERS = ("0", "1", "2", "3", "-1", "-7", "0.5", "1e-3", "-0.0", "1e400", "nan", "inf", "-inf")
WORDS = ("", "null", "true", "false", "a", "[]", "[1]", "[1,2]", "[null]", "{}", "{a:1}", "???")
WORDS += ("'1'", "[a,b]", "x.y", "${seed}", "${nothing}", "${oc.env:HOME}", "../..", "é", "0x10")
WORDS += ("1_0", "[[1],[2]]", "{_target_:builtins.print}", "'a b'", "0 1", "min", "max", "auto")
VALUES = st.sampled_from(NUMBERS + WORDS)
"""None so large that a run would take long."""


def known_values() -> dict[str, Any]:
    """Keys of a composed run with their values; output folders stay where they are."""
    register_schemas()
    GlobalHydra.instance().clear()
    with composing():
        config = compose("train", [word for word in BASE if not word.startswith("hydra")])
    left_out = ("paths", "hydra", "resume", "compile", "data.num_", "data.input_shape")
    return {key: value for key, value in leaves(config, "") if not key.startswith(left_out)}


def leaves(node: DictConfig, prefix: str) -> Iterator[tuple[str, Any]]:
    for name in node:
        value = node._get_node(name)
        if isinstance(value, DictConfig) and not value._is_none():
            yield from leaves(value, f"{prefix}{name}.")
        yield f"{prefix}{name}", OmegaConf.to_container(OmegaConf.create([value]))[0]  # type: ignore[index]


def choices(group: str) -> list[str]:
    folder = Path(__file__).parents[2] / "conf" / group.partition("@")[0]
    return sorted(file.stem for file in folder.glob("*.yaml"))


def fitting(value: Any) -> list[str]:
    """Values of the type that a key has."""
    if isinstance(value, bool):
        return ["true", "false"]
    if isinstance(value, int):
        return ["0", "1", "2", "3"]
    if isinstance(value, float):
        return ["0.1", "0.5", "1e-3", "1"]
    if value is None:
        return ["null", "1", "2"]
    return [json.dumps(value)] if isinstance(value, (str, list)) else ["null"]


def overrides() -> st.SearchStrategy[list[str]]:
    known = known_values()
    assert len(known) > 40
    keys = sorted(known)
    prefix = st.sampled_from(("", "", "", "+", "++", "~"))
    plain = st.builds(
        lambda p, key, value: f"~{key}" if p == "~" else f"{p}{key}={value}",
        prefix,
        st.sampled_from(keys),
        VALUES,
    )
    typed = st.sampled_from(keys).flatmap(
        lambda key: st.builds(lambda v: f"{key}={v}", st.sampled_from(fitting(known[key])))
    )
    misspelt = st.builds(
        lambda key, at, value: f"{key[:at]}{key[at + 1 :]}={value}",
        st.sampled_from(keys),
        st.integers(0, 12),
        VALUES,
    )
    chosen = st.sampled_from(GROUPS).flatmap(
        lambda group: st.builds(lambda name: f"{group}={name}", st.sampled_from(choices(group)))
    )
    unknown = st.sampled_from([f"{group}={name}" for group in GROUPS for name in ("null", "none")])
    wrong = st.lists(
        st.one_of(plain, plain, chosen, misspelt, unknown, st.text(max_size=8)),
        min_size=1,
        max_size=4,
    )
    return st.one_of(wrong, st.lists(st.one_of(typed, typed, chosen), min_size=1, max_size=3))


def run(words: list[str], folder: Path) -> tuple[int, str, str]:
    """The command in an empty folder; its exit code, output and errors."""
    out, err, before, argv = io.StringIO(), io.StringIO(), Path.cwd(), list(sys.argv)
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(["train", *BASE, *words])
            except SystemExit as error:  # argparse
                code = int(error.code or 0)
    finally:
        os.chdir(before)
        sys.argv = argv
    return code, out.getvalue(), err.getvalue()


def check(words: list[str], counts: dict[str, int]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        try:
            code, _, err = run(words, folder)
        except BaseException:
            pytest.fail(f"{words} ended with a traceback:\n{traceback.format_exc()}")
        counts[str(code)] = counts.get(str(code), 0) + 1
        if code == 0:
            summary = folder / "run" / "summary.json"
            helped = not summary.exists()  # --help and the like
            assert helped or json.loads(summary.read_text())["status"] == "finished", words
            return
        assert code == 2, (words, code, err)
        said = [line for line in err.splitlines() if line.startswith("rotograd: ")]
        assert len(said) == 1, (words, err)
        assert err.splitlines()[-1] == said[0], (words, err)
        assert "Traceback" not in err, (words, err)
        if not (folder / "run" / "summary.json").exists():  # refused before training
            assert err.splitlines() == said, (words, err)
            assert list(folder.iterdir()) == [], (words, list(folder.rglob("*")))
    finally:
        shutil.rmtree(folder)


def attack(num: int) -> dict[str, int]:
    counts: dict[str, int] = {}

    @settings(
        max_examples=num,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(words=overrides())
    def random_overrides_run_or_fail_in_one_line(words: list[str]) -> None:
        check(words, counts)

    random_overrides_run_or_fail_in_one_line()
    return counts


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the command changes in the process, taken back."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.slow
@pytest.mark.usefixtures("own_process")
def test_a_few_random_overrides() -> None:
    assert set(attack(15)) == {"0", "2"}


@pytest.mark.slow
@pytest.mark.usefixtures("own_process")
def test_many_random_overrides() -> None:
    counts = attack(400)
    print(f"random overrides, by exit code: {counts}")  # noqa: T201 - the figure is the point
    assert set(counts) <= {"0", "2"}
    assert min(counts.values()) > 20
