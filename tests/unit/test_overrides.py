"""What is wrong with an override: found by Hydra's parser and in the composed configuration."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from rotograd_cli.config.components import import_target, method_constructor
from rotograd_cli.config.compose import composing, composing_many
from rotograd_cli.config.overrides import composed, explaining
from rotograd_cli.errors import ConfigError

REFUSED = [
    ("methd=rotograd", "`methd` is not a key; did you mean method?"),
    ("method=rotogard", "got 'rotogard'. Did you mean rotograd?"),
    ("optimizer@model_optimizer=adm", "Did you mean adam?"),
    ("optimizer=adam", "did you mean optimizer@method_optimizer or optimizer@model_optimizer?"),
    ("train.epocs=3", "did you mean train.epochs?"),
    ("epochs=3", "did you mean train.epochs?"),
    ("method=", "`method` must be one of"),
    ("'method=[vanilla'", "must read KEY=VALUE"),
    ("method.foo=3", "`method.foo` is not a key; keys of `method` here"),
    ("hydra.run.dirr=x", "Could not override 'hydra.run.dirr'; check the command"),
    ("heads.left.hidden=[3]", "+heads.left.hidden=VALUE where its class has that option"),
    ("~train.epochs", "`train.epochs` cannot be removed"),
    ("~foo", "`foo` is not a key"),
    ("+train.epochs=3", "`train.epochs` is a key already; leave out the +: train.epochs=3."),
    ("+method=vanilla", "`method` is chosen already; leave out the +: method=vanilla."),
    ("seed=abc", "a whole number is needed, got 'abc'"),
    ("seed=1.5", "a whole number is needed"),
    ("seed=", "a whole number is needed, got ''"),
    ("seed=null", "a value is needed"),
    ("seed=0,1", "`seed=0,1` has several values; add -m to run them all."),
    ("method=vanilla,rotograd", "has several values; add -m to run them all."),
    ("tasks=left,sum", "add -m to run them all, or write tasks=[left,sum] for a list."),
    ("heads.left=3", "`heads.left` is not a key; add it with +heads.left=VALUE."),
    ("method=mine", "A file of yours, DIR/method/mine.yaml, needs --config-dir DIR."),
    ("config-dir=mine", "did you mean --config-dir DIR?"),
    ("deterministic=maybe", "true or false is needed"),
    ("tags=abc", "a list is needed, tags=[VALUE,...]"),
    ("train=3", "train.KEY=VALUE"),
    ("foo", "must read KEY=VALUE, got 'foo'"),
    ("", "must read KEY=VALUE, got ''"),
    ("=3", "must read KEY=VALUE, got '=3'"),
    ("seed=[1", "check brackets and quotes"),
    ("seed='1", "check brackets and quotes"),
    ("method=3", "must name a file of its group, got 'method=3'"),
    ("optimizer@model_optimzer=sgd", "a group here; did you mean optimizer@model_optimizer?"),
    ("nogroup@here=3", "`nogroup@here` is not a group; rotograd train --help lists them"),
    ("launcher.jobs_per_device=2", "while `launcher` is null; choose one with launcher=NAME"),
]


def refusal(overrides: Sequence[str], command: str = "train") -> str:
    """The message for overrides that do not compose."""
    with (
        composing(),
        pytest.raises(ConfigError) as caught,
    ):
        composed(command, overrides)
    return str(caught.value)


def test_a_refusal_is_one_line_that_names_thing_and_remedy() -> None:
    for number, (override, expected) in enumerate(REFUSED):
        others = ["debug=smoke", "logger=none"] if number % 2 else []
        message = refusal([*others, override])
        assert expected in message, override
        assert len(message.splitlines()) == 1, override


def test_a_key_of_another_command_is_named_as_this_one_has_it() -> None:
    assert "did you mean data_dir?" in refusal(["run=x", "paths.data_dir=y"], "evaluate")


def test_a_key_of_another_choice_is_looked_up_in_that_choice() -> None:
    assert "did you mean method.c?" in refusal(["method=cagrad", "method.cc=3"])


def test_a_key_is_offered_only_where_the_class_takes_it() -> None:
    assert refusal(["method=cagrad", "method.alpha=3"]).endswith("method.c, method.gradients.")
    assert "+" not in refusal(["method=vanilla", "method.alpha=3"])
    assert "or +model_optimizer.foreach=VALUE" in refusal(["model_optimizer.foreach=false"])
    with pytest.raises(ConfigError, match=r"choose from method\.c, method\.gradients\."):
        method_constructor({"_target_": "rotograd_cli.methods.cagrad.CAGrad", "c": 0.4, "alpha": 3})


def test_a_module_of_the_folder_that_python_does_not_find_needs_pythonpath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    what = "`method._target_` cannot be imported, got 'own_rule.Own' (no 'own_rule'); "
    for folder in ("FOLDER", "."):
        remedy = f"check its spelling, or run with PYTHONPATH={folder} in front."
        with pytest.raises(ConfigError, match=f"^{re.escape(what + remedy)}$"):
            import_target("own_rule.Own", "method")
        Path("own_rule.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"'no_such_library', own_rule\.py line 1\); check its"):
        import_target("own_rule.Own", "method")
    Path("own_rule.py").write_text("")
    with pytest.raises(ConfigError, match=r"\(no 'own_rule.Own'\); check its spelling"):
        import_target("own_rule.Own", "method")


def test_a_wrong_value_is_found_in_a_sweep_too() -> None:
    with (
        composing(),
        pytest.raises(ConfigError, match="a whole number is needed, got 'a'"),
        explaining("train", ["seed=a,1"], is_sweep=True),
    ):
        composed("train", ["seed=a"])


def test_an_error_of_something_else_passes() -> None:
    with pytest.raises(ValueError, match="a bug"), explaining("train", []):
        raise ValueError("a bug")


def test_files_that_are_read_once_compose_what_they_compose_each_time(tmp_path: Path) -> None:
    """Also where a folder of the user comes first in one composition and not in the next."""
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("_target_: mine.Mine\n")
    several = [
        ["method=rotate", "train.epochs=2"],
        ["experiment=multimnist", "method=pcgrad", "+method.x={a: 1}"],
        [f"hydra.searchpath=[{tmp_path}]", "method=mine"],
        ["method=rotate"],
    ]
    with composing():
        expected = [composed("train", words) for words in several]
    with composing_many():
        found = [composed("train", words) for words in several]
    assert found == expected
