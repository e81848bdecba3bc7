"""Methods are named as users name them, and the name is no part of a run's identity."""

import copy
from dataclasses import asdict
from typing import Any

import pytest

from rotograd_cli.config.components import method_constructor
from rotograd_cli.config.compose import component_names, component_node, composing
from rotograd_cli.config.labels import LABEL, class_label, file_label, method_label, without_label
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import to_train_config
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.saved import key
from rotograd_cli.runs.summary import RunSummary
from tests.fake_runs import to_table_spec


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
            assert class_label(node["_target_"].rpartition(".")[2]) == labels[name]


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
