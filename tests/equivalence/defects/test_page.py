"""The page that lists the defects."""

import re
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[3] / "docs" / "migration.md").read_text("utf-8")
TESTS = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))


def test_the_migration_page_names_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15
    assert named <= set(re.findall(r"^def (test_\w+)", TESTS, re.MULTILINE))


def test_the_first_example_of_the_migration_page_runs() -> None:
    (example, *_) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(example, scope)
    assert all(p.grad is not None for p in scope["model"].parameters())
