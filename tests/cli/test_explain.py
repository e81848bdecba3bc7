"""Every key is explained: in a terminal, for completion, and for the reference of the site."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose
from omegaconf import OmegaConf

from rotograd_cli.commands.explain import COMMANDS, facts_of
from rotograd_cli.commands.support.completion import suggestions
from rotograd_cli.config.compose import composing
from rotograd_cli.config.facts import accepted_by, settings_of
from rotograd_cli.config.files import config_dir

from .conftest import Cli
from .test_help import imported_by, needs_script


def test_every_key_has_a_meaning() -> None:
    facts = facts_of("bench")  # has all keys of a training
    known = facts.settings
    silent = {key for key in known if known[key] and not facts.meaning(key)}
    for command in COMMANDS:
        for setting in settings_of(config_dir() / f"{command}.yaml"):
            if setting.key not in known and not setting.comment:
                silent.add(setting.key)
    assert not {key for key in silent if not key.startswith("hydra")}


def test_a_value_is_that_of_the_composed_configuration() -> None:
    facts = facts_of("train")
    with composing():
        config: Any = OmegaConf.to_container(compose("train"), resolve=False)
    num_compared = 0
    for key in facts.settings:
        section = config
        for part in key.split("."):
            section = section.get(part, {}) if isinstance(section, dict) else {}
        if not isinstance(section, (dict, str)) and key not in facts.groups:
            assert yaml.safe_load(facts.value(key)) == section, key
            num_compared += 1
    assert num_compared > 50


def test_a_key_says_its_meaning_type_default_and_file(cli: Cli) -> None:
    lines = cli("explain", "train.select_mode").out.splitlines()
    file = config_dir() / "training.yaml"
    text = file.read_text(encoding="utf-8").splitlines()
    number = next(n for n, line in enumerate(text, 1) if "select_mode: min" in line)
    assert lines == [
        "train.select_mode = min",
        "    min | max: which value is the best",
        "    accepts min | max",
        f"    set in conf/training.yaml:{number} min",
    ]


def test_a_choice_is_honoured_and_explained_alone(cli: Cli) -> None:
    alone = cli("explain", "scheduler@model_scheduler=cosine").out
    assert alone.startswith("model_scheduler = cosine\n    Half a cosine")
    assert "accepts constant | cosine | exponential" in alone
    assert "model_scheduler.scheduler.eta_min = 0.0\n    last learning rate" in alone
    lr = " ".join(cli("explain", "model_optimizer.lr").out.split())
    assert "conf/optimizer/radam.yaml:4 ???, then conf/training.yaml:" in lr


def test_an_option_of_a_component_accepts_what_its_signature_says() -> None:
    cagrad = "rotograd_cli.methods.cagrad.CAGrad"
    assert accepted_by(cagrad, "method.c") == "number, at least 0"
    assert accepted_by(cagrad, "method.gradients") == "features | parameters"
    rotograd = "rotograd_cli.methods.rotograd.RotoGrad"
    assert accepted_by(rotograd, "method.init") == "haar | identity"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.selct"], "`train.selct` is not a key; did you mean train.select"),
        ([], "`rotograd explain` needs a key"),
        *(
            pytest.param(words, message, marks=pytest.mark.slow)
            for words, message in (
                (["epochs"], "`epochs` is not a key; did you mean train.epochs"),
                (["method.c"], "An option of another method needs method=NAME."),
                (["train.epochs", "method=cagrat"], "Did you mean cagrad?"),
                (["resum"], "did you mean resume"),
            )
        ),
    ],
)
def test_an_unknown_key_is_one_line_with_the_nearest_names(
    cli: Cli, words: list[str], message: str
) -> None:
    result = cli("explain", *words)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1


def test_a_comment_belongs_to_the_line_of_its_value(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(
        "# Header.\nfirst: 1\nsecond: [1,\n  2] # behind\n#no more\n"
        "third: # of a section\n  # of a key\n  a: x # long\n  b: '#'\n"
    )
    found = {s.key: (s.line, s.text, s.comment) for s in settings_of(file, "p")}
    assert found == {
        "p.first": (2, "1", ""),
        "p.second": (3, "[1,\n  2]", "behind"),
        "p.third": (6, "", "of a section"),
        "p.third.a": (8, "x", "long"),
        "p.third.b": (9, "'#'", ""),
    }


@needs_script
def test_explaining_a_key_of_the_runner_does_not_load_torch() -> None:
    assert not imported_by("explain", "train.select") & {"torch", "numpy"}


def test_own_files_and_listed_values_are_completed(tmp_path: Path) -> None:
    own = tmp_path / "method" / "mine.yaml"
    own.parent.mkdir()
    own.write_text("# Mine.\n_target_: m.Mine\n")
    folder = f"--config-dir={tmp_path}"
    assert suggestions("train", [folder, "method=mi"]) == ["method=mine"]
    types = suggestions("train", ["precision="])
    assert types == [f"precision={name}" for name in ("fp32", "bf16", "fp16")]
    assert suggestions("evaluate", ["split=t"]) == ["split=train", "split=test"]
    assert suggestions("reproduce", ["table=svh"]) == ["table=svhn"]
    assert suggestions("data", [""]) == ["check", "prepare"]
    assert suggestions("data", ["check", "cel"]) == ["celeba"]
    assert suggestions("explain", ["train.epo"]) == ["train.epochs"]
