"""Prepared rows: made once, resumed after any end, never mixed up, damage and changes found."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotograd_cli.data import filling
from rotograd_cli.data.filling import WritableArrays
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


def source(root: Path) -> Path:
    """Folder of the files, each of which holds the number of its row; made where it is absent."""
    folder = root.with_name(f"{root.name}-files")
    if not folder.exists():
        folder.mkdir(parents=True)
        for row in range(NUM):
            (folder / name(row)).write_text(f"{row:3d}")
    return folder


def name(row: int) -> str:
    return f"{row}.txt"


def create(root: Path, num: int = NUM) -> WritableArrays:
    files = [(name(row),) for row in range(num)]
    return WritableArrays.create(root, SETTINGS, FIELDS, files)


def fill(
    arrays: WritableArrays,
    rows: Sequence[int],
    make: Callable[[int], Mapping[str, np.ndarray]] = content,
    **options: Any,
) -> None:
    """Makes rows by the numbers in their files."""

    def make_row(files: tuple[str, ...], contents: Sequence[bytes]) -> Mapping[str, np.ndarray]:
        return make(int(contents[0]))

    root = arrays.folder.parent
    arrays.fill(rows, make_row, source=source(root), **{"workers": 2, **options})


def missing(arrays: PreparedArrays, rows: Sequence[int]) -> list[int]:
    return np.asarray(rows)[~arrays.is_done(rows)].tolist()


def filled(root: Path) -> WritableArrays:
    arrays = create(root)
    fill(arrays, range(NUM))
    return arrays


def files_of(arrays: PreparedArrays) -> dict[str, bytes]:
    """Content of the arrays; the times of the sources differ from one test's files to another's."""
    paths = [path for path in arrays.folder.glob("*.npy") if path.stem != "sources"]
    return {path.name: path.read_bytes() for path in paths}


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
    assert arrays.row_bytes == 6 + 8 + 1


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

    fill(arrays, [7, 3, 50], make, workers=2)
    assert sorted(made) == [3, 7, 50]
    assert missing(arrays, [50, 4, 3, 2]) == [4, 2]
    fill(arrays, [3, 4, 7], make, workers=2)
    assert sorted(made) == [3, 4, 7, 50]


def test_progress_counts_what_was_there_and_ends_at_the_total(tmp_path: Path) -> None:
    arrays = create(tmp_path)
    fill(arrays, range(30), workers=1)
    told: list[tuple[int, int]] = []
    fill(arrays, range(80), workers=1, progress=lambda *x: told.append(x))
    assert told[0] == (30, 80)
    assert told[-1] == (80, 80)


def test_row_of_another_shape_is_never_broadcast(tmp_path: Path) -> None:
    arrays = create(tmp_path)
    with pytest.raises(AssertionError):
        fill(arrays, [0], lambda row: {**content(row), "depth": np.zeros(1)})


# ---- interruptions


def test_preparation_that_fails_keeps_what_it_made_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "_CHUNK", 4)

    def breaks(row: int) -> Mapping[str, np.ndarray]:
        if row == 60:
            raise DatasetError("row 60 is broken")
        return content(row)

    arrays = create(tmp_path / "a")
    with pytest.raises(DatasetError, match="row 60 is broken"):
        fill(arrays, range(NUM), breaks, workers=1)
    undone = missing(arrays, range(NUM))
    assert undone[0] == 60  # all before it are kept; later ones may have been under way
    made: list[int] = []

    def make(row: int) -> Mapping[str, np.ndarray]:
        made.append(row)
        return content(row)

    fill(create(tmp_path / "a"), range(NUM), make)
    assert sorted(made) == undone
    assert files_of(arrays) == files_of(filled(tmp_path / "b"))


KILLED = """
import os, signal, sys, time
from pathlib import Path
from rotograd_cli.data import filling
from rotograd_cli.data.filling import WritableArrays
from tests.unit.test_prepared import NUM, content, create, fill, missing

filling._CHUNK, filling._COMMIT_S = 4, 0.0

def make(row):
    if row == 60:
        while len(missing(arrays, range(60))) > 20:
            time.sleep(0.001)  # something is to be kept
        os.kill(os.getpid(), signal.SIGKILL)
    return content(row)

arrays = create(Path(sys.argv[1]))
fill(arrays, range(NUM), make, workers=1)
"""


def test_preparation_that_is_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a")]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, timeout=PATIENCE_S)
    assert ended.returncode == -signal.SIGKILL
    arrays = create(tmp_path / "a")
    undone = missing(arrays, range(NUM))
    assert set(range(60, NUM)) <= set(undone)
    assert len(undone) <= NUM - 40
    fill(arrays, range(NUM), workers=2)
    assert files_of(arrays) == files_of(filled(tmp_path / "b"))


def test_second_preparation_at_the_same_time_is_refused(tmp_path: Path) -> None:
    arrays = create(tmp_path)
    started, go_on = threading.Event(), threading.Event()

    def waits(row: int) -> Mapping[str, np.ndarray]:
        started.set()
        assert go_on.wait(PATIENCE_S)
        return content(row)

    first = threading.Thread(target=fill, args=(arrays, [0], waits), kwargs={"workers": 1})
    first.start()
    try:
        assert started.wait(PATIENCE_S)
        with pytest.raises(DatasetError, match="Another process is preparing") as caught:
            fill(create(tmp_path), range(NUM))
        assert str(arrays.folder) in str(caught.value)
    finally:
        go_on.set()
        first.join()
    fill(create(tmp_path), range(NUM))  # the lock is free again


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
    assert len(missing(arrays, range(NUM))) == 0
    assert [path.name for path in tmp_path.iterdir()] == [arrays.folder.name]


# ---- what is on the disk


def test_other_settings_are_another_folder(tmp_path: Path) -> None:
    arrays = filled(tmp_path)
    other = WritableArrays.create(
        tmp_path, {**SETTINGS, "size": 3}, FIELDS, [(name(row),) for row in range(NUM)]
    )
    assert other.folder != arrays.folder
    assert len(missing(other, range(NUM))) == NUM
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
    fill(arrays, range(NUM), make, workers=2)
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
    fill(other, rows, lambda row: content(row + (row == 7)))
    assert fingerprint != other.fingerprint(rows)


def test_folder_and_fingerprint_are_those_of_earlier_versions(tmp_path: Path) -> None:
    arrays = filled(tmp_path)
    assert arrays.folder.name == "b6efd900d8c37a26"
    assert arrays.fingerprint(range(NUM)) == "2c59dd941a79e2c7"


def test_fingerprint_does_not_depend_on_the_order_in_which_rows_were_added(tmp_path: Path) -> None:
    create(tmp_path / "a", num=3)
    late = WritableArrays.create(tmp_path / "a", SETTINGS, FIELDS, [("9.txt",), ("4.txt",)])
    rows = late.rows_of([("4.txt",), ("9.txt",), ("1.txt",)])
    assert rows.tolist() == [4, 3, 1]
    fill(late, rows)
    assert late.fingerprint(rows) == filled(tmp_path / "b").fingerprint([4, 9, 1])


# ---- the files that rows were made from


def test_changed_files_are_told_from_touched_and_missing_ones(tmp_path: Path) -> None:
    arrays, files = filled(tmp_path), source(tmp_path)
    assert arrays.compare(range(NUM), files).changed == []
    (files / name(3)).write_text("333")  # as long as before
    (files / name(5)).write_text("5")
    (files / name(7)).unlink()
    os.utime(files / name(9))
    comparison = arrays.compare(range(NUM), files)
    assert comparison.changed == [name(3), name(5)]
    assert comparison.changed_rows.tolist() == [3, 5]
    assert np.flatnonzero(comparison.is_touched).tolist() == [9]
    assert arrays.compare([1, 9], files).changed == []


def test_a_change_that_keeps_size_and_time_is_seen_by_a_thorough_look(tmp_path: Path) -> None:
    arrays, path = filled(tmp_path), source(tmp_path) / name(3)
    time_ns = path.stat().st_mtime_ns
    path.write_text("333")
    os.utime(path, ns=(time_ns, time_ns))
    assert arrays.compare(range(NUM), path.parent, thorough=True).changed == [name(3)]


def test_times_that_are_remembered_are_not_read_again(tmp_path: Path) -> None:
    arrays, path = filled(tmp_path), source(tmp_path) / name(3)
    os.utime(path, ns=(0, 0))
    arrays.remember_times(arrays.compare(range(NUM), path.parent))
    path.write_text("333")
    os.utime(path, ns=(0, 0))
    # by size and time nothing changed: the content was not looked at
    assert PreparedArrays(arrays.folder).compare(range(NUM), path.parent).changed == []


def test_rows_are_added_where_there_are_new_files(tmp_path: Path) -> None:
    arrays = create(tmp_path, num=40)
    fill(arrays, range(40))
    before = arrays.fingerprint(range(40))
    arrays = create(tmp_path)
    assert missing(arrays, range(NUM)) == list(range(40, NUM))
    made: list[int] = []

    def make(row: int) -> Mapping[str, np.ndarray]:
        made.append(row)
        return content(row)

    fill(arrays, range(NUM), make)
    assert sorted(made) == list(range(40, NUM))
    assert arrays.fingerprint(range(40)) == before
    assert files_of(arrays) == files_of(filled(tmp_path / "b"))


def test_addition_that_was_killed_halfway_is_made_again(tmp_path: Path) -> None:
    arrays = create(tmp_path, num=40)
    fill(arrays, range(40))
    manifest = (arrays.folder / "manifest.json").read_bytes()
    create(tmp_path)
    (arrays.folder / "manifest.json").write_bytes(manifest)  # which is written last
    assert len(PreparedArrays(arrays.folder)) == 40
    arrays = create(tmp_path)
    fill(arrays, range(NUM))
    assert files_of(arrays) == files_of(filled(tmp_path / "b"))


# ---- the disk


def test_too_small_a_disk_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = create(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=15 * 60))
    fill(arrays, range(60), workers=1)  # a subset needs no room for the other rows
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=15 * 40 - 1))
    with pytest.raises(DatasetError, match=r"need 600 bytes in .*, 599 bytes are free; make room"):
        fill(arrays, range(NUM), workers=1)
    assert len(missing(arrays, range(NUM))) == 40


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot be written to .*file.* writable folder"):
        create(tmp_path / "file" / "prepared")
