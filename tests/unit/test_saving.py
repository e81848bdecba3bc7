"""What the loop saves: bases once, the selected epoch without optimisers, all of it by a thread."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from rotograd_cli.errors import CheckpointError
from rotograd_cli.linalg.rotations import haar_rotations
from rotograd_cli.training import checkpoint_folder
from rotograd_cli.training.checkpoint import load_checkpoint
from rotograd_cli.training.writer import Writer
from tests.unit.test_loop import trainer

BASE = "rotations.manifold.base"


def names(folder: Path) -> list[str]:
    return sorted(path.name.split(".")[0] for path in folder.iterdir())


def raw(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def test_bases_are_saved_once_and_are_in_every_checkpoint_that_is_read(tmp_path: Path) -> None:
    loop = trainer(tmp_path, "rotograd", epochs=1)
    loop.fit()
    assert names(tmp_path) == ["bases", "best", "last"]
    base = loop.run.model.rotations.base
    for name in ("best.pt", "last.pt"):
        assert BASE not in raw(tmp_path / name)["model"]
        content = load_checkpoint(tmp_path / name)
        assert torch.equal(content["model"][BASE], base)
        loop.run.model.load_state_dict(content["model"])
    (file,) = tmp_path.glob("bases.*.pt")
    before = file.stat().st_mtime_ns
    longer = trainer(tmp_path, "rotograd", epochs=2)
    longer.checkpoints.resume()
    longer.fit()
    assert file.stat().st_mtime_ns == before


def test_the_selected_epoch_holds_no_optimiser(tmp_path: Path) -> None:
    trainer(tmp_path, "rotograd", epochs=1).fit()
    best, last = (raw(tmp_path / name) for name in ("best.pt", "last.pt"))
    assert best.keys() == {"format", "state", "model", "records", "config", "bases"}
    assert {"optimizers", "schedulers", "rng"} <= last.keys()
    (tmp_path / "best.pt").replace(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"got a selected epoch .*; put last.pt back"):
        trainer(tmp_path, "rotograd", epochs=2).checkpoints.resume()


def test_bases_that_change_are_in_every_checkpoint(tmp_path: Path) -> None:
    loop = trainer(tmp_path, "rotograd", epochs=1)
    loop.run.model.rotations.rebase_every = 2
    loop.fit()
    assert names(tmp_path) == ["best", "last"]
    assert BASE in raw(tmp_path / "best.pt")["model"]


def test_bases_that_somebody_assigns_get_a_file_of_their_own(tmp_path: Path) -> None:
    loop = trainer(tmp_path, "rotograd")
    rotations = loop.run.model.rotations
    bases = [rotations.base.clone()]
    loop.checkpoints.save("best.pt")
    rotations.assign(haar_rotations(*rotations.base.shape[:2]))
    bases.append(rotations.base.clone())
    loop.checkpoints.save("last.pt")
    loop.checkpoints.wait()
    for name, base in zip(("best.pt", "last.pt"), bases, strict=True):
        assert torch.equal(load_checkpoint(tmp_path / name)["model"][BASE], base)


def test_a_checkpoint_without_its_bases_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, "rotograd", epochs=1).fit()
    (file,) = tmp_path.glob("bases.*.pt")
    content = raw(file)
    content["model"][BASE][0, 0, 0] += 1
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=r"best.pt needs .*bases.*\.pt, .* holds others;"):
        load_checkpoint(tmp_path / "best.pt")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"which is not there; copy the run's whole folder"):
        load_checkpoint(tmp_path / "best.pt")


def test_training_goes_on_while_what_was_saved_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()

    def write(path: Path, data: memoryview) -> None:
        assert may_write.wait(60)
        path.write_bytes(data)

    monkeypatch.setattr(checkpoint_folder, "write_checkpoint", write)
    loop = trainer(tmp_path, "rotograd")
    loop.train_epoch()
    expected = {name: x.clone() for name, x in loop.run.model.state_dict().items()}
    loop.checkpoints.save("last.pt")
    loop.train_epoch()
    assert names(tmp_path) == []
    now = loop.run.model.state_dict()
    assert not all(torch.equal(now[name], x) for name, x in expected.items())
    may_write.set()
    loop.checkpoints.wait()
    found = load_checkpoint(tmp_path / "last.pt")["model"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], x) for name, x in expected.items())


def test_what_cannot_be_written_ends_the_run_in_the_line_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(tmp_path, "rotograd", epochs=1).fit()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    loop = trainer(tmp_path, "rotograd", epochs=40)
    loop.checkpoints.resume()
    with pytest.raises(CheckpointError, match=r"cannot be written \(.*No space left on device"):
        loop.fit()
    assert loop.run.state.epoch < 4  # not after the last epoch
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_after_a_failure_nothing_more_is_written() -> None:
    writer = Writer()
    done: list[int] = []

    def fail() -> None:
        raise OSError("full")

    for write in (lambda: done.append(1), fail, lambda: done.append(2)):
        try:
            writer.submit(write)
        except OSError:
            assert done == [1]
    with pytest.raises(OSError, match="full"):
        writer.wait()
    with pytest.raises(OSError, match="full"):
        writer.check()
    assert done == [1]
