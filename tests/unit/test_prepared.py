"""Prepared rows: made once, resumed after any end, never mixed up, damage found."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from rotograd_cli.data import prepared
from rotograd_cli.data.prepared import Field, PreparedArrays
from rotograd_cli.errors import DatasetError
from tests.waiting import PATIENCE_S

FIELDS = {"image": Field((3, 2), "uint8"), "depth": Field((2,), "float32"), "id": Field((), "int8")}
SETTINGS = {"data": "test", "size": 2}
NUM = 100


def content(row: int) -> Mapping[str, np.ndarray]:
    return {
        "image": np.full((3, 2), row % 256, np.uint8),
        "depth": np.array([row, row / 3], np.float32),
        "id": np.array(row % 100, np.int8),
    }


def create(root: Path) -> PreparedArrays:
    return PreparedArrays.create(root, SETTINGS, FIELDS, NUM)


def filled(root: Path) -> PreparedArrays:
    arrays = create(root)
    arrays.fill(range(NUM), content, workers=2)
    return arrays


def files_of(arrays: PreparedArrays) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in arrays.folder.glob("*.npy")}


# ---- writing and reading


def test_rows_read_back_as_they_were_made(tmp_path: Path) -> None:
    filled(tmp_path)
    arrays = PreparedArrays(PreparedArrays.locate(tmp_path, SETTINGS))
    rows = np.array([5, 99, 5, 0])
    for name in FIELDS:
        expected = np.stack([content(int(row))[name] for row in rows])
        taken = arrays.take(name, rows)
        assert taken.dtype == expected.dtype
        assert np.array_equal(taken, expected)
        out = np.empty_like(expected)
        arrays.take(name, rows, out)
        assert np.array_equal(out, expected)
    assert len(arrays) == NUM
    assert arrays.num_bytes == NUM * (6 + 8 + 1)


def test_rows_that_are_taken_are_copies(tmp_path: Path) -> None:
    arrays = filled(tmp_path)
    arrays.take("depth", np.array([3]))[...] = -1
    assert arrays.take("depth", np.array([3]))[0, 0] == 3


def test_only_the_wanted_rows_are_made_and_none_twice(tmp_path: Path) -> None:
    arrays = create(tmp_path)
    made: list[int] = []

    def make(row: int) -> Mapping[str, np.ndarray]:
        made.append(row)
        return content(row)

    arrays.fill([7, 3, 50], make, workers=2)
    assert sorted(made) == [3, 7, 50]
    assert arrays.missing(np.array([50, 4, 3, 2])).tolist() == [4, 2]
    arrays.fill([3, 4, 7], make, workers=2)
    assert sorted(made) == [3, 4, 7, 50]


def test_progress_counts_what_was_there_and_ends_at_the_total(tmp_path: Path) -> None:
    arrays = create(tmp_path)
    arrays.fill(range(30), content, workers=1)
    told: list[tuple[int, int]] = []
    arrays.fill(range(80), content, workers=1, progress=lambda *x: told.append(x))
    assert told[0] == (30, 80)
    assert told[-1] == (80, 80)


def test_row_of_another_shape_is_never_broadcast(tmp_path: Path) -> None:
    arrays = create(tmp_path)
    with pytest.raises(AssertionError):
        arrays.fill([0], lambda row: {**content(row), "depth": np.zeros(1)}, workers=1)


# ---- interruptions


def test_preparation_that_fails_keeps_what_it_made_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "_CHUNK", 4)

    def breaks(row: int) -> Mapping[str, np.ndarray]:
        if row == 60:
            raise DatasetError("row 60 is broken")
        return content(row)

    arrays = create(tmp_path / "a")
    with pytest.raises(DatasetError, match="row 60 is broken"):
        arrays.fill(range(NUM), breaks, workers=1)
    missing = arrays.missing(range(NUM))
    assert missing[0] == 60  # all before it are kept; later ones may have been under way
    made: list[int] = []

    def make(row: int) -> Mapping[str, np.ndarray]:
        made.append(row)
        return content(row)

    create(tmp_path / "a").fill(range(NUM), make, workers=2)
    assert sorted(made) == missing.tolist()
    assert files_of(arrays) == files_of(filled(tmp_path / "b"))


KILLED = """
import os, signal, sys, time
from pathlib import Path
from rotograd_cli.data import prepared
from tests.unit.test_prepared import NUM, content, create

prepared._CHUNK, prepared._COMMIT_S = 4, 0.0

def make(row):
    if row == 60:
        while len(arrays.missing(range(60))) > 20:
            time.sleep(0.001)  # something is to be kept
        os.kill(os.getpid(), signal.SIGKILL)
    return content(row)

arrays = create(Path(sys.argv[1]))
arrays.fill(range(NUM), make, workers=1)
"""


def test_preparation_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, timeout=PATIENCE_S)
    assert ended.returncode == -signal.SIGKILL
    arrays = create(tmp_path / "a")
    missing = arrays.missing(range(NUM)).tolist()
    assert set(range(60, NUM)) <= set(missing)
    assert len(missing) <= NUM - 40
    arrays.fill(range(NUM), content, workers=2)
    assert files_of(arrays) == files_of(filled(tmp_path / "b"))


def test_second_preparation_at_the_same_time_is_refused(tmp_path: Path) -> None:
    arrays = create(tmp_path)
    started, go_on = threading.Event(), threading.Event()

    def waits(row: int) -> Mapping[str, np.ndarray]:
        started.set()
        assert go_on.wait(PATIENCE_S)
        return content(row)

    first = threading.Thread(target=arrays.fill, args=([0], waits), kwargs={"workers": 1})
    first.start()
    try:
        assert started.wait(PATIENCE_S)
        with pytest.raises(DatasetError, match="Another process is preparing") as caught:
            create(tmp_path).fill(range(NUM), content, workers=1)
        assert str(arrays.folder) in str(caught.value)
    finally:
        go_on.set()
        first.join()
    create(tmp_path).fill(range(NUM), content, workers=1)  # the lock is free again


def test_folder_that_another_process_made_meanwhile_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        filled(tmp_path)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    arrays = create(tmp_path)
    assert len(arrays.missing(range(NUM))) == 0
    assert [path.name for path in tmp_path.iterdir()] == [arrays.folder.name]


# ---- what is on the disk


def test_other_settings_are_another_folder(tmp_path: Path) -> None:
    arrays = filled(tmp_path)
    other = PreparedArrays.create(tmp_path, {**SETTINGS, "size": 3}, FIELDS, NUM)
    assert other.folder != arrays.folder
    assert len(other.missing(range(NUM))) == NUM
    same = dict(reversed(SETTINGS.items()))
    assert PreparedArrays.locate(tmp_path, same) == arrays.folder


@pytest.mark.parametrize("name", ["image", "depth", "id"])
def test_damaged_row_is_found_and_it_alone_is_made_again(name: str, tmp_path: Path) -> None:
    arrays = filled(tmp_path)
    before = files_of(arrays)
    path = arrays.folder / f"{name}.npy"
    damaged = bytearray(path.read_bytes())
    header = len(damaged) - NUM * FIELDS[name].num_bytes
    damaged[header + 42 * FIELDS[name].num_bytes] ^= 1
    path.write_bytes(damaged)
    arrays = create(tmp_path)
    assert arrays.damaged(range(NUM)) == [42]
    made: list[int] = []

    def make(row: int) -> Mapping[str, np.ndarray]:
        made.append(row)
        return content(row)

    arrays.forget([42])
    arrays.fill(range(NUM), make, workers=2)
    assert made == [42]
    assert arrays.damaged(range(NUM)) == []
    assert files_of(arrays) == before


def cut(folder: Path) -> None:
    path = folder / "depth.npy"
    path.write_bytes(path.read_bytes()[:-1])


def no_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def other_length(folder: Path) -> None:
    np.save(folder / "id.npy", np.zeros(NUM - 1, np.int8))


def absent(folder: Path) -> None:
    (folder / "image.npy").unlink()


@pytest.mark.parametrize("damage", [cut, no_json, other_length, absent])
def test_folder_that_cannot_be_read_is_named_with_its_remedy(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = filled(tmp_path).folder
    damage(folder)
    with pytest.raises(DatasetError, match="delete this folder and prepare the data again") as e:
        PreparedArrays(folder)
    assert str(folder) in str(e.value)
    assert "\n" not in str(e.value)


def test_fingerprint_is_that_of_settings_rows_and_content(tmp_path: Path) -> None:
    arrays = filled(tmp_path / "a")
    rows = range(50)
    fingerprint = arrays.fingerprint(rows)
    assert fingerprint == filled(tmp_path / "b").fingerprint(rows)
    assert fingerprint != arrays.fingerprint(range(51))
    assert fingerprint != arrays.fingerprint(list(reversed(rows)))
    other = create(tmp_path / "c")
    other.fill(rows, lambda row: content(row + (row == 7)), workers=1)
    assert fingerprint != other.fingerprint(rows)


# ---- the disk


def test_too_small_a_disk_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = create(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=15 * 60))
    arrays.fill(range(60), content, workers=1)  # a subset needs no room for the other rows
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=15 * 40 - 1))
    with pytest.raises(DatasetError, match=r"need 0\.00 GB in .*; make room"):
        arrays.fill(range(NUM), content, workers=1)
    assert len(arrays.missing(range(NUM))) == 40


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot be written to .*file.* writable folder"):
        create(tmp_path / "file" / "prepared")
