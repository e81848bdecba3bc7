"""Choosing tasks."""

import pytest

from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import select_tasks
from tests.toy import TASKS


def test_null_takes_all_tasks_in_the_order_of_the_data_set() -> None:
    assert select_tasks(TASKS, None) == TASKS


def test_tasks_come_in_the_order_asked_for() -> None:
    assert select_tasks(TASKS, ["flag", "kind"]) == (TASKS[2], TASKS[0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one task, got []; use null for all of them"),
        (["kind", "depth"], "got 'depth'; choose from kind, value, flag"),
        (["kind", "flag", "kind"], "each task once, got [kind, flag, kind]"),
    ],
)
def test_wrong_names_are_refused_in_one_line(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select_tasks(TASKS, names)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
