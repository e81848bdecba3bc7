"""Files of a table, while another process writes the same ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

WRITE = """
import sys
from pathlib import Path
from rotograd_cli.tables.formats import _replace
for _ in range(500):
    _replace(Path(sys.argv[1]), sys.argv[2] * 1000)
"""


@pytest.mark.slow
def test_two_processes_may_write_the_same_table_at_once(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    command = [sys.executable, "-c", WRITE, str(file)]
    both = [subprocess.Popen([*command, text]) for text in "ab"]
    assert [process.wait(timeout=PATIENCE_S) for process in both] == [0, 0]
    assert file.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [file]
