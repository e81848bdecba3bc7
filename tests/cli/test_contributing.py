"""The examples of docs/extending.md and docs/methods.md work as printed."""

import re
import shlex
from pathlib import Path

import pytest

from .conftest import CHECKOUT, Cli
from .test_train import SMOKE, summary


def blocks(language: str, page: str) -> list[str]:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_data_set_of_the_page_trains(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dataset,) = blocks("python", "docs/extending.md")
    (yaml,) = blocks("yaml", "docs/extending.md")
    (tmp_path / "noise_example.py").write_text(dataset)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    own = yaml.replace("rotograd_cli.data.noise", "noise_example")
    (tmp_path / "conf" / "data" / "noise.yaml").write_text(own)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("method=imtlg", "data=noise", "backbone=mlp", "hydra.run.dir=run")
    result = cli("train", "--config-dir", "conf", *SMOKE, *words)
    assert result.code == 0, result.err
    assert {"test/mean/mse", "test/spread/mse"} <= set(summary(tmp_path / "run")["metrics"])


def test_a_rule_is_called_in_a_notebook() -> None:
    (notebook,) = blocks("python", "docs/methods.md")
    exec(notebook, {})


def test_every_line_of_rotate_trains(cli: Cli, tmp_path: Path) -> None:
    *_, commands = blocks("bash", "docs/methods.md")
    for line in commands.splitlines():
        words = line.partition("#")[0].split()
        assert words.pop(0) == "rotograd"
        result = cli(*words, *SMOKE, "hydra.run.dir=runs/${hydra.job.override_dirname}")
        assert result.code == 0, result.err
    table = cli("table", "runs=runs/*")
    for label in ("Rotate + PCGrad", "Rotate + CAGrad", "Rotate + IMTL-G", "Rotate"):
        assert label in table.out


@pytest.mark.slow
def test_every_line_of_methods_with_values_by_task_trains(cli: Cli) -> None:
    *commands, _ = blocks("bash", "docs/methods.md")
    for number, line in enumerate("".join(commands).splitlines()):
        result = cli(*shlex.split(line)[1:], *SMOKE, f"hydra.run.dir=runs/{number}")
        assert result.code == 0, result.err
