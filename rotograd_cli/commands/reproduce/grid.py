"""The grid's results: what was tried, what was chosen."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from rotograd_cli.commands.reproduce.plan import Candidate
from rotograd_cli.tables.formats import temporary_of
from rotograd_cli.tables.schema import TableSpec
from rotograd_cli.tables.spec import row_label


def grid_notes(spec: TableSpec, candidates: Sequence[Candidate]) -> list[str]:
    """Sentences below the table: the grid and every row's choice.

    Args:
        spec: Table.
        candidates: Settings of the grid.

    Returns:
        The sentences; none without a grid.
    """
    if spec.grid is None or not candidates:
        return []
    tried = ", ".join(f"{key} in {_list(values)}" for key, values in spec.grid.values.items())
    seeds = ", ".join(str(seed) for seed in spec.grid.seeds)
    chosen = "; ".join(_setting(spec, c) for c in candidates if c.chosen)
    notes = [
        f"Grid: {tried}; every row took its best on validation (its own selection metric, mean "
        f"over seeds {seeds}).",
        f"Chosen: {chosen or 'nothing'}.",
    ]
    left_out = [_setting(spec, c) for c in candidates if c.gaps]
    if left_out:
        notes.append(
            "No candidates, as a run failed or has no finite validation value: "
            f"{'; '.join(left_out)}."
        )
    ties = [_setting(spec, c) for c in candidates if c.chosen and _has_equals(c, candidates)]
    if ties:
        notes.append(f"Others are equal on validation, the first was taken: {'; '.join(ties)}.")
    notes += _unlike(spec, candidates)
    edges = [_name(spec, c) for c in candidates if c.chosen and _at_the_edge(spec, c)]
    if edges:
        notes.append(f"At the edge of the grid, so that more might be better: {', '.join(edges)}.")
    return notes


def write_grid(candidates: Sequence[Candidate], folder: Path) -> list[Path]:
    """Writes ``grid.csv``: a line per setting and seed.

    Args:
        candidates: Settings of the grid.
        folder: Existing folder.

    Returns:
        The file; none without a grid.
    """
    if not candidates:
        return []
    keys = list(dict.fromkeys(key for c in candidates for key in c.point))
    path = folder / "grid.csv"
    temporary = temporary_of(path)
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "task", *keys, "seed", "validation", "chosen"])
        for c in candidates:
            point = [c.point.get(key, "") for key in keys]
            for seed, value in c.values.items():
                shown = repr(value) if math.isfinite(value) else ""
                writer.writerow([c.row, c.task or "", *point, seed, shown, int(c.chosen)])
    temporary.replace(path)
    return [path]


def _unlike(spec: TableSpec, candidates: Sequence[Candidate]) -> list[str]:
    """Rows whose settings were compared on different data."""
    found: dict[str, set[str]] = {}
    for candidate in candidates:
        found.setdefault(_name(spec, candidate), set()).update(candidate.data)
    names = [name for name, data in found.items() if len(data) > 1]
    if not names:
        return []
    return [
        f"Warning: settings of {', '.join(names)} were compared on different data "
        "(data_fingerprint in summary.json); move the folders of older runs away and reproduce."
    ]


def _has_equals(chosen: Candidate, candidates: Sequence[Candidate]) -> bool:
    rivals = [c for c in candidates if (c.row, c.task) == (chosen.row, chosen.task)]
    return sum(c.mean == chosen.mean for c in rivals) > 1


def _setting(spec: TableSpec, candidate: Candidate) -> str:
    values = ", ".join(f"{value:g}" for value in candidate.point.values())
    return f"{_name(spec, candidate)} {values}"


def _name(spec: TableSpec, candidate: Candidate) -> str:
    label = row_label(spec, candidate.row)
    return label if candidate.task is None else f"{label} {candidate.task}"


def _at_the_edge(spec: TableSpec, candidate: Candidate) -> bool:
    """Whether a value is the smallest or largest of three or more, or one of two."""
    assert spec.grid is not None
    return any(
        value in (min(spec.grid.values[key]), max(spec.grid.values[key]))
        for key, value in candidate.point.items()
        if len(spec.grid.values[key]) > 1
    )


def _list(values: Sequence[float]) -> str:
    return "{" + ", ".join(f"{value:g}" for value in values) + "}"
