"""Checkpoints: atomic to write, harmless to read."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rotograd_cli.errors import CheckpointError
from rotograd_cli.training.checkpoint import load_checkpoint, serialized, write_checkpoint
from rotograd_cli.training.checkpoint_content import load_weights
from rotograd_cli.training.seeding import rng_state


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def saved(folder: Path) -> Path:
    path = folder / "last.pt"
    write_checkpoint(
        path, serialized({"model": nn.Linear(30, 20).state_dict(), "rng": rng_state()})
    )
    return path


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    model, path = nn.Linear(3, 2), tmp_path / "last.pt"
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    write_checkpoint(path, serialized(content))
    loaded = load_checkpoint(path)
    assert loaded["epoch"] == 3
    other = nn.Linear(3, 2)
    load_weights(other, loaded["model"], path)
    assert torch.equal(other.weight, model.weight)
    moments = loaded["optimizer"]["state"][0]["exp_avg"]
    assert torch.equal(moments, optimizer.state[model.weight]["exp_avg"])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_while_saving_leaves_the_old_checkpoint(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        del descriptor
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError if isinstance(error, OSError) else type(error)) as raised:
        write_checkpoint(path, serialized({"model": {}}))
    if isinstance(error, OSError):
        assert "No space left on device" in str(raised.value)
    assert path.read_bytes() == before
    load_checkpoint(path)


def test_checkpoint_cut_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    for length in {0, 1, 2, 3, 4, 10, *range(0, len(content), 97), len(content) - 1}:
        path.write_bytes(content[:length])
        assert "cannot be read as a checkpoint" in refusal(path), length


def test_checkpoint_with_a_flipped_bit_is_refused_or_loads_what_was_saved(tmp_path: Path) -> None:
    path = saved(tmp_path)
    content, weight = path.read_bytes(), load_checkpoint(path)["model"]["weight"]
    refused = 0
    for position in range(0, len(content), 37):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except CheckpointError:
            refused += 1
        else:  # padding and fields that nobody reads
            assert torch.equal(loaded["model"]["weight"], weight), position
    assert refused > len(content) / 37 / 2


@pytest.mark.parametrize(
    "content",
    [
        b"<!doctype html><title>404</title>",
        b"PK\x03\x04 not a zip file",
        b"\x80\x02}q\x00.",
        b"(lp0\n.",
        b"\x00" * 1_000,
        bytes(range(256)) * 4,
        pickle.dumps({"format": 1, "model": {}}, protocol=2),
        pickle.dumps([1, 2, 3], protocol=4),
    ],
    ids=["page", "zip", "pickle", "text pickle", "zeros", "bytes", "dict", "list"],
)
def test_foreign_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    refusal(path)


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("in_zip", [True, False])
def test_code_in_a_checkpoint_is_never_executed(in_zip: bool, tmp_path: Path) -> None:
    path, traces = tmp_path / "last.pt", tmp_path / "traces"
    content = {"format": 1, "model": Hostile(traces)}
    torch.save(content, path, _use_new_zipfile_serialization=in_zip)
    assert "cannot be read as a checkpoint" in refusal(path)
    assert not traces.exists()
    torch.load(path, weights_only=False)
    assert traces.exists()  # the attack would have worked


def test_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for content in ({"format": 3, "model": {}}, {"model": {}}, [1], torch.zeros(2)):
        torch.save(content, path)
        assert "not a checkpoint of this version (format 2)" in refusal(path)


def test_missing_checkpoint_is_named_with_its_remedy(tmp_path: Path) -> None:
    assert "train the run first" in refusal(tmp_path / "last.pt")
    assert "train the run first" in refusal(tmp_path)


@pytest.mark.parametrize(
    "other",
    [nn.Linear(3, 4), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2))],
    ids=["shape", "fewer", "names"],
)
def test_weights_of_another_model_are_refused_in_one_line(other: nn.Module) -> None:
    with pytest.raises(CheckpointError, match="the checkpoint of another model") as caught:
        load_weights(nn.Linear(3, 2), other.state_dict(), Path("best.pt"))
    assert "\n" not in str(caught.value)
