"""The records of a run, for tests that compare runs."""

import json
from pathlib import Path
from typing import Any


def records(run: Path) -> list[dict[str, Any]]:
    """What ``metrics.jsonl`` holds, without the times, which no two runs have in common."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for record in found:
        record.pop("seconds", None)  # earlier versions recorded none
    return found
