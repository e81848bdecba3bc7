"""A file is replaced whole or left as it was."""

import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from rotograd_cli.files import remove_temporaries, replace_file, replace_text
from tests.waiting import PATIENCE_S

WRITE = """
import sys
from pathlib import Path
from rotograd_cli.files import replace_text
for _ in range(500):
    replace_text(Path(sys.argv[1]), sys.argv[2] * 1000)
"""


def test_content_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    replace_text(path, "old")
    replace_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise OSError("disk full")

    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 7)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".file.txt.7.tmp").symlink_to(precious)
    replace_text(tmp_path / "file.txt", "new")
    assert precious.read_text() == "mine"
    assert (tmp_path / "file.txt").read_text() == "new"


def test_leftovers_of_a_killed_writer_can_be_removed(tmp_path: Path) -> None:
    for name in ("last.pt", ".last.pt.7.tmp", "other.tmp"):
        (tmp_path / name).touch()
    remove_temporaries(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "other.tmp"}


@pytest.mark.slow
def test_two_processes_may_write_the_same_file_at_once(tmp_path: Path) -> None:
    file = tmp_path / "table.md"
    command = [sys.executable, "-c", WRITE, str(file)]
    both = [subprocess.Popen([*command, text]) for text in "ab"]
    assert [process.wait(timeout=PATIENCE_S) for process in both] == [0, 0]
    assert file.read_text() in ("a" * 1000, "b" * 1000)
    assert list(tmp_path.iterdir()) == [file]
