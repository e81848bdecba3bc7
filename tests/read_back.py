"""What loggers wrote, read with the real libraries."""

import csv
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def csv_records(run_dir: Path) -> list[dict[str, float | None]]:
    """Records of ``metrics.csv``, as ``metrics.jsonl`` has them but for values that are null."""
    with (run_dir / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: float(cell) for key, cell in row.items() if cell} for row in rows]


def accumulator(run_dir: Path) -> Any:
    """TensorBoard's own reader of a run's events, with all of them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = EventAccumulator(str(run_dir / "tensorboard"), {"scalars": 0, "images": 0})
    result.Reload()
    return result


def events(run_dir: Path) -> dict[tuple[str, int], float]:
    """Scalars by key and step, none of which is there twice."""
    reader = accumulator(run_dir)
    values: dict[tuple[str, int], float] = {}
    for key in reader.Tags()["scalars"]:
        for event in reader.Scalars(key):
            assert (key, event.step) not in values, (key, event.step)
            values[key, event.step] = event.value
    return values


BLOCK = 2**15
HEADER = 7


def wandb_history(path: Path) -> dict[tuple[str, int], Any]:
    """What was logged, by key and step."""
    history: dict[tuple[str, int], Any] = {}
    for record in _wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            items = {_key(item): json.loads(item.value_json) for item in record.history.item}
            history |= {(key, items["_step"]): value for key, value in items.items()}
    return history


def _key(item: Any) -> str:
    return "/".join(item.nested_key) or str(item.key)


def _wandb_records(path: Path) -> Iterator[Any]:
    """Records of a ``.wandb`` file, parsed by wandb's own messages.

    The file is a log as LevelDB's: blocks of 32 KiB, chunks of checksum, length and kind (1 whole,
    2 first, 3 middle, 4 last). wandb reads it in Go, and no longer in Python.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content = path.read_bytes()
    place, message = HEADER, b""  # wandb's name and version
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        place += HEADER
        message += content[place : place + length]
        place += length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(message)
            yield record
            message = b""
