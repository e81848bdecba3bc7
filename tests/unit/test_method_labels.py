"""Methods are named as users name them, and the name is no part of a run's identity."""

import copy
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rotograd_cli.config.components import method_constructor
from rotograd_cli.config.compose import component_names, component_node, composing
from rotograd_cli.config.labels import (
    FEATURES,
    GRADIENTS,
    LABEL,
    class_label,
    file_label,
    method_label,
    without_label,
)
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import to_train_config
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.excessmtl import ExcessMTL
from rotograd_cli.methods.rule import Rule
from rotograd_cli.runs.saved import key
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.adhoc import cells_of
from rotograd_cli.tables.cells import match_runs
from rotograd_cli.tables.runs import Run, RunKey, find_runs
from tests.fake_runs import fake_summary, to_table_spec, write_run


def configuration(*words: str) -> dict[str, Any]:
    with composing():
        return asdict(to_train_config(composed("train", ["experiment=multimnist", *words])))


def test_every_method_has_a_name_of_its_own_that_older_runs_get_by_their_class() -> None:
    with composing():
        nodes = {
            name: component_node("method", name, rotation={}) for name in component_names("method")
        }
    labels = {name: method_label(node) for name, node in nodes.items()}
    assert len(set(labels.values())) == len(labels)
    assert labels | {"vanilla": "Vanilla", "imtlg": "IMTL-G", "mgda": "MGDA-UB"} == labels
    assert labels["rotate"] == "Rotate + ScaleOnly"
    for name, node in nodes.items():
        assert method_label(without_label(node)) == labels[name]
        if name != "rotate":
            assert file_label(name) == labels[name]
            of_class = class_label(node["_target_"].rpartition(".")[2])
            assert of_class == labels[name].removesuffix(" (parameters)")


def test_a_label_changes_no_key() -> None:
    named = configuration("method=rotate", "method@method.rule=imtlg")
    before = copy.deepcopy(named)
    assert before["method"]["rule"].pop(LABEL) == "IMTL-G"
    renamed = {**named, "method": {**named["method"], LABEL: "Mine"}}
    assert key(named) == key(before) == key(renamed)


def test_a_run_shows_its_own_label_and_the_class_never_gets_it() -> None:
    node = {"_target_": "rotograd_cli.methods.pcgrad.PCGrad", "_partial_": True, LABEL: "Surgery"}
    assert method_label(node) == "Surgery"
    method_constructor(node)
    assert RunSummary(method="PCGrad", label="Surgery").method_label == "Surgery"
    assert RunSummary(method="VanillaMTL").method_label == "Vanilla"
    assert method_label({"_target_": "mine.VanillaMTL"}) == "VanillaMTL"


@pytest.mark.parametrize("key", ["method._label_", "method.rule._label_"])
def test_a_label_has_no_comma_as_methods_are_listed_with_commas(key: str) -> None:
    words = ["method=rotate", "method@method.rule=imtlg", f"++{key}='A, b'"]
    with pytest.raises(ConfigError, match=rf"`{key}` must have no comma.*'A, b'; write 'A b'"):
        configuration(*words)


def test_rows_of_a_table_are_named_by_their_method_and_never_alike() -> None:
    rows = {
        "a": {"overrides": ["method=mgda"]},
        "b": {"overrides": ["method=mine"]},
        "c": {"label": "Mine", "overrides": ["method=imtlg"]},
    }
    content = {"name": "t", "title": "T", "seeds": 1, "compare_with": None, "rows": rows}
    columns = {"x": {"metric": "x/mse"}}
    spec = to_table_spec({**content, "columns": columns})
    assert [spec.label(row) for row in spec.rows] == ["MGDA-UB", "b", "Mine"]
    twice = {**rows, "d": {"overrides": ["method=mgda", "rotation.shape=64"]}}
    message = r"different names, got 'MGDA-UB' for a, d; set table\.rows\.d\.label"
    with pytest.raises(ConfigError, match=message):
        to_table_spec({**content, "columns": columns, "rows": twice})


PARAMETERS = "method.gradients=parameters"


def rows_by_folder(cells: Mapping[RunKey, Sequence[Run]]) -> dict[str, str]:
    return {run.folder.name: cell.row for cell, runs in cells.items() for run in runs}


def test_where_gradients_are_taken_counts_only_with_another_value_than_before() -> None:
    for words in (["method=pcgrad"], ["method=rotate", "method@method.rule=pcgrad"]):
        now = configuration(*words)
        before = copy.deepcopy(now)
        assert (before["method"].get("rule") or before["method"]).pop(GRADIENTS) == FEATURES
        assert key(now) == key(before)
    assert key(configuration("method=pcgrad", PARAMETERS)) != key(configuration("method=pcgrad"))


def test_exactly_the_rules_that_see_gradients_say_where_they_are_taken() -> None:
    with composing():
        nodes = [component_node("method", name) for name in component_names("method")]
    for node in nodes:
        target = pkgutil.resolve_name(node["_target_"])
        sees = issubclass(target, Rule) and target.sees_gradients
        default = "parameters" if target is ExcessMTL else FEATURES
        assert node.get(GRADIENTS) == (default if sees else None), node


def test_gradients_over_the_parameters_are_another_row_of_a_table(tmp_path: Path) -> None:
    """Runs of versions without the key belong to the row that says nothing of it."""
    configs = {name: configuration(f"method={name}") for name in ("pcgrad", "vanilla")}
    configs["parameters"] = configuration("method=pcgrad", PARAMETERS)
    configs["older"] = copy.deepcopy(configs["pcgrad"])
    del configs["older"]["method"][GRADIENTS]
    for name, config in configs.items():
        write_run(tmp_path / name, config, fake_summary({"left/accuracy": 0.5}))
    runs = find_runs([str(tmp_path)])
    assert {
        run.folder.name: cell.row for cell, cells in cells_of(runs).items() for run in cells
    } == {
        "pcgrad": "PCGrad",
        "older": "PCGrad",
        "parameters": "PCGrad (parameters)",
        "vanilla": "Vanilla",
    }
    rows = {
        name: {"label": name, "overrides": ["experiment=multimnist", "method=pcgrad", *words]}
        for name, words in {"a": [], "b": [PARAMETERS]}.items()
    }
    columns = {"x": {"metric": "left/accuracy"}}
    content = {"name": "t", "title": "T", "seeds": 1, "compare_with": None, "columns": columns}
    spec = to_table_spec({**content, "rows": rows})
    expected = {"a": configs["pcgrad"], "b": configs["parameters"]}
    cells, _ = match_runs(spec, runs, expected)
    assert rows_by_folder(cells) == {
        "pcgrad": "a",
        "older": "a",
        "parameters": "b",
    }


def test_gradients_that_a_network_has_no_use_for_are_refused() -> None:
    with composing():
        rotated = component_node("method", "rotate")
        pcgrad = component_node("method", "pcgrad")
    with pytest.raises(ConfigError, match="must be features or parameters, got 'weights'"):
        method_constructor({**pcgrad, GRADIENTS: "weights"})
    rule = {**pcgrad, GRADIENTS: "parameters"}
    with pytest.raises(ConfigError, match=r"`method\.rule\.gradients` must be features, which Rot"):
        method_constructor({**rotated, "rule": rule})
    for words in (["method=vanilla"], ["method=rotograd"]):
        with pytest.raises(ConfigError, match="which takes no task gradients or rotates"):
            configuration(*words, PARAMETERS)
