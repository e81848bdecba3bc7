"""Choosing tasks."""

from typing import Any

import pytest

from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task, select_tasks
from rotograd_cli.tasks.losses import mean_squared_error
from rotograd_cli.tasks.metrics import mse
from tests.toy import TASKS


def test_null_takes_all_tasks_in_the_order_of_the_data_set() -> None:
    assert select_tasks(TASKS, None) == TASKS


def test_tasks_come_in_the_order_asked_for() -> None:
    assert select_tasks(TASKS, ["flag", "kind"]) == (TASKS[2], TASKS[0])


def test_wrong_names_are_refused_in_one_line() -> None:
    for names, message in [
        ([], "at least one task, got []; use null for all of them"),
        (["kind", "depth"], "got 'depth'; choose from kind, value, flag"),
        (["kind", "flag", "kind"], "each task once, got [kind, flag, kind]"),
    ]:
        with pytest.raises(ConfigError) as caught:
            select_tasks(TASKS, names)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_task_that_keys_heads_and_tables_could_not_use_is_refused() -> None:
    good: dict[str, Any] = {"name": "a", "num_outputs": 1, "loss": mean_squared_error}
    for wrong, message in (
        ({"name": "a/b", "metrics": ()}, "a word without /, got 'a/b'"),
        ({"name": "conflict", "metrics": ()}, "must not be 'conflict', under which records have"),
        ({"name": " ", "metrics": ()}, "a word without /, got ' '"),
        ({"num_outputs": "1", "metrics": ()}, "an integer of at least 1, got '1'"),
        ({"num_outputs": 0, "metrics": ()}, "an integer of at least 1, got 0"),
        ({"metrics": mse()}, r"a tuple of metrics, as in \(mse\(\),\)"),
        ({"metrics": (mse,)}, r"a tuple of metrics, as in \(mse\(\),\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            Task(**{**good, **wrong})
