"""Reading ahead: the same values in the same order, and no thread that outlives its reader."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rotograd_cli.data.base import Batch, Split
from rotograd_cli.data.filling import WritableArrays
from rotograd_cli.data.prepared import Field, PreparedArrays
from rotograd_cli.data.stored import StoredDataset, read_ahead
from tests.waiting import PATIENCE_S, wait_for

DEPTHS = (0, 1, 2, 5)
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("read-ahead")]


# ---- the function


def test_results_come_in_order() -> None:
    for num in [0, 1, 2, 7]:
        for depth in DEPTHS:
            assert list(read_ahead(lambda x: x * x, range(num), depth)) == [
                x * x for x in range(num)
            ]
            assert threads() == []


@pytest.mark.parametrize("depth", DEPTHS)
def test_no_more_than_the_depth_is_read_ahead(depth: int) -> None:
    started: list[int] = []

    def read(item: int) -> int:
        started.append(item)
        return item

    for taken, item in enumerate(read_ahead(read, range(20), depth), 1):
        assert item == taken - 1
        wait_for(lambda taken=taken: len(started) >= min(taken + depth, 20))  # type: ignore[misc]
        assert len(started) == min(taken + depth, 20)


def test_exception_arrives_where_its_result_was_due() -> None:
    for depth in DEPTHS:

        def read(item: int) -> int:
            if item == 3:
                raise OSError("broken")
            return item

        results = read_ahead(read, range(10), depth)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="broken"):
            next(results)
        assert threads() == []


def test_reader_that_stops_early_leaves_no_thread_behind() -> None:
    for depth in DEPTHS:
        for item in read_ahead(lambda x: x, range(1000), depth):
            if item == 2:
                break
        wait_for(lambda: threads() == [])
        iterator = read_ahead(lambda x: x, range(1000), depth)
        next(iterator)
        assert isinstance(iterator, Iterator)
        iterator.close()  # type: ignore[attr-defined]
        assert threads() == []


def test_reading_goes_on_while_a_result_is_in_use() -> None:
    second = threading.Event()

    def read(item: int) -> int:
        if item == 1:
            second.set()
        return item

    iterator = read_ahead(read, range(3), 1)
    next(iterator)
    assert second.wait(PATIENCE_S)
    assert list(iterator) == [1, 2]


# ---- the data set


class Squares(StoredDataset):
    """Rows hold their number and its square."""

    name = "squares"
    tasks = ()
    input_shape = (1,)

    def decode(self, rows: Mapping[str, Tensor]) -> Batch:
        return Batch(rows["number"].float(), {"square": rows["square"]})


@pytest.fixture
def arrays(tmp_path: Path) -> PreparedArrays:
    fields = {"number": Field((1,), "int32"), "square": Field((), "int64")}
    for row in range(40):
        (tmp_path / f"{row}").write_text(f"{row}")
    result = WritableArrays.create(tmp_path, {}, fields, [(f"{row}",) for row in range(40)])

    def make(files: tuple[str, ...], contents: Sequence[bytes]) -> Mapping[str, np.ndarray]:
        row = int(contents[0])
        return {"number": np.array([row], np.int32), "square": np.array(row * row)}

    result.fill(range(40), make, source=tmp_path, workers=1)
    return result


def squares(arrays: PreparedArrays, depth: int = 2, **rows: Any) -> Squares:
    chosen = {"train": range(10, 30), "val": [3, 1], "test": [39, 0], **rows}
    return Squares(arrays=arrays, rows=chosen, device=torch.device("cpu"), read_ahead=depth)


def test_positions_are_those_in_the_split(arrays: PreparedArrays) -> None:
    data = squares(arrays)
    assert [data.num_examples(split) for split in ("train", "val", "test")] == [20, 2, 2]
    batch = data.batch("val", torch.tensor([1, 0, 1]))
    assert batch.inputs.flatten().tolist() == [1, 3, 1]
    assert batch.targets["square"].tolist() == [1, 9, 1]
    with pytest.raises(IndexError):
        data.batch("val", torch.tensor([2]))


@pytest.mark.parametrize("depth", DEPTHS)
def test_batches_equal_single_reads_whatever_is_read_ahead(
    arrays: PreparedArrays, depth: int
) -> None:
    data = squares(arrays, depth)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    batches = list(data.batches("train", order.split(3)))
    assert [len(batch.inputs) for batch in batches] == [3] * 6 + [2]
    for indices, batch in zip(order.split(3), batches, strict=True):
        expected = data.batch("train", indices)
        assert torch.equal(batch.inputs, expected.inputs)
        assert torch.equal(batch.targets["square"], expected.targets["square"])


def test_batch_never_shares_memory_with_the_files(arrays: PreparedArrays) -> None:
    data = squares(arrays)
    data.batch("train", torch.arange(20)).targets["square"].zero_()
    assert data.batch("train", torch.arange(1)).targets["square"].tolist() == [100]


def test_fingerprint_sees_where_one_split_ends_and_the_next_begins(arrays: PreparedArrays) -> None:
    first = squares(arrays, train=range(10), val=range(10, 20))
    second = squares(arrays, train=range(11), val=range(11, 20))
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == squares(arrays, 0, val=range(10, 20), train=range(10)).fingerprint
    assert len(first.fingerprint) == 16


def test_arrays_in_memory_follow_their_split_and_count_for_the_fingerprint(
    arrays: PreparedArrays,
) -> None:
    class Held(Squares):
        """Also hands over what is in memory."""

        def decode(self, rows: Mapping[str, Tensor]) -> Batch:
            return Batch(rows["number"].float(), {"held": rows["held"]})

    def build(first: int) -> Held:
        held = {split: {"held": np.array([first, 7], np.int16)} for split in SPLITS}
        rows = {split: [3, 1] for split in SPLITS}
        device = torch.device("cpu")
        return Held(arrays=arrays, rows=rows, device=device, read_ahead=0, held=held)

    batch = build(5).batch("val", torch.tensor([1, 0, 1]))
    assert batch.inputs.flatten().tolist() == [1, 3, 1]
    assert batch.targets["held"].tolist() == [7, 5, 7]
    assert build(5).fingerprint == build(5).fingerprint != build(6).fingerprint
