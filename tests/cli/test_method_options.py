"""Options of the methods and the packages they need: wrong or missing ones cost one line."""

import json
import tomllib
from pathlib import Path

import pytest
import torchjd._mixins

from tests.marks import slow_unless

from .conftest import CHECKOUT, SMOKE, Cli
from .test_wrong_input import refused

# method, package that is missing, extra, licence
EXTRAS = [
    ("nashmtl", "ecos", "nashmtl", "ecos, GPL 3"),
    ("nashmtl", "cvxpy", "nashmtl", "ecos, GPL 3"),
    ("upgrad", "quadprog", "upgrad", "quadprog, GPL 2 or later"),
    ("upgrad", "qpsolvers", "upgrad", "quadprog, GPL 2 or later"),
]


@pytest.mark.parametrize(("method", "package", "extra", "licence"), slow_unless(EXTRAS[:1], EXTRAS))
def test_a_missing_package_names_extra_licence_and_command(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    package: str,
    extra: str,
    licence: str,
) -> None:
    find = torchjd._mixins.find_spec
    monkeypatch.setattr(
        torchjd._mixins, "find_spec", lambda name: None if name == package else find(name)
    )
    line = refused(cli, tmp_path, "train", *SMOKE, f"method={method}")
    assert f"needs the extra '{extra}' (" in line
    assert licence in line
    assert f"'{package}'" in line
    assert f"pip install 'rotograd-cli[{extra}]'" in line


def test_no_method_needs_a_package_under_the_gpl_by_default() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {extra for _, _, extra, _ in EXTRAS} <= set(extras)
    assert not any("[" in requirement.split(";")[0] for requirement in project["dependencies"])
    for extra in {extra for _, _, extra, _ in EXTRAS}:
        assert any(requirement.startswith("torchjd[") for requirement in extras[extra])
        assert any(extra in requirement for requirement in extras["dev"])


# an option of another value, of another type, and one that is none
KINDS = (
    ("method=cagrad method.c=-1", "`method.c` must be at least 0, got -1"),
    ("method=cagrad method.c=null", "`method.c`"),
    ("method=pcgrad +method.c=1", "`method.c` is not an option of PCGrad"),
)
WRONG = (
    *KINDS,
    ("method=fairgrad method.alpha=-1", "`method.alpha` must be at least 0, got -1"),
    ("method=fairgrad method.alpha=even", "`method.alpha`"),
    ("method=alignedmtl method.scale_mode=max", "must be min or median or rmse, got 'max'"),
    ("method=nashmtl method.update_every=0", "`method.update_every` must be at least 1, got 0"),
    ("method=nashmtl method.num_iterations=1.5", "`method.num_iterations`"),
    ("method=single", "trains one network for 1 task, got"),
    ("method=fixed +method.weights.lft=2", "`weights.lft` must name a task of this run, which are"),
    ("method=fixed method.weights=[1,2]", "`weights` must hold one number per task, 5, got 2"),
    ("method=fixed +method.weights.left=-1", "`method.weights.left` must be at least 0, got -1"),
    ("method=fixed method.weights.left=2", "add it with +method.weights.left=VALUE"),
    ("method=stch method.warmup_epochs=0", "`method.warmup_epochs` must be at least 1, got 0"),
    ("method=pivrg", "add +method.baselines.left.accuracy=VALUE"),
)


@pytest.mark.parametrize(("arguments", "expected"), slow_unless(KINDS, WRONG))
def test_a_wrong_option_is_refused(cli: Cli, tmp_path: Path, arguments: str, expected: str) -> None:
    assert expected in refused(cli, tmp_path, "train", *SMOKE, *arguments.split())


BASELINES = "method.baselines={left:{accuracy:0.9},sum:{mse:4}}"
NEEDED = {"single": ("tasks=[left]",), "pivrg": ("tasks=[left,sum]", BASELINES)}
METHODS = sorted(file.stem for file in (CHECKOUT / "conf" / "method").glob("*.yaml"))


@pytest.mark.parametrize("method", slow_unless(["famo", "single"], METHODS))
def test_a_trained_model_is_evaluated_from_its_checkpoint(cli: Cli, method: str) -> None:
    words = NEEDED.get(method, ())
    result = cli("train", *SMOKE, f"method={method}", *words, "hydra.run.dir=run")
    assert result.code == 0, result.err
    result = cli("evaluate", "run=run", "checkpoint=last", "split=val")
    assert result.code == 0, result.err
    assert "values equal the run's record exactly." in result.out


@pytest.mark.parametrize("method", slow_unless(["graddrop"], ["graddrop", "pcgrad"]))
def test_the_same_seed_draws_the_same(cli: Cli, tmp_path: Path, method: str) -> None:
    records = []
    for name in ("a", "b"):
        assert cli("train", *SMOKE, f"method={method}", f"hydra.run.dir={name}").code == 0
        records.append(json.loads((tmp_path / name / "summary.json").read_text())["metrics"])
    assert records[0] == records[1]
