"""The grid's results: what was tried, what was chosen."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from rotograd_cli.commands.reproduction.plan import Candidate
from rotograd_cli.files import replace_text
from rotograd_cli.tables.spec import GridSpec, TableSpec, row_label


def grid_notes(spec: TableSpec, candidates: Sequence[Candidate]) -> list[str]:
    """Return the sentences below the table: the grid and every row's choice.

    Args:
        spec: Table.
        candidates: Settings of the grid.

    Returns:
        The sentences; none without a grid.
    """
    if spec.grid is None or not candidates:
        return []
    return [
        *_tried(spec.grid),
        f"Chosen: {_settings(spec, [c for c in candidates if c.chosen]) or 'nothing'}.",
        *_incomplete(spec, candidates),
        *_ties(spec, candidates),
        *_unlike(spec, candidates),
        *_edges(spec, candidates),
    ]


def _tried(grid: GridSpec) -> list[str]:
    values = ", ".join(f"{key} in {_list(points)}" for key, points in grid.values.items())
    seeds = ", ".join(str(seed) for seed in grid.seeds)
    return [
        f"Grid: {values}; every row took its best on validation (its own selection metric, mean "
        f"over seeds {seeds})."
    ]


def _incomplete(spec: TableSpec, candidates: Sequence[Candidate]) -> list[str]:
    names = _settings(spec, [c for c in candidates if c.gaps])
    note = f"No candidates, as a run failed or has no finite validation value: {names}."
    return [note] if names else []


def _ties(spec: TableSpec, candidates: Sequence[Candidate]) -> list[str]:
    names = _settings(spec, [c for c in candidates if c.chosen and _has_equals(c, candidates)])
    return [f"Others are equal on validation, the first was taken: {names}."] if names else []


def _edges(spec: TableSpec, candidates: Sequence[Candidate]) -> list[str]:
    edges = [_name(spec, c) for c in candidates if c.chosen and _at_the_edge(spec, c)]
    note = f"At the edge of the grid, so that more might be better: {', '.join(edges)}."
    return [note] if edges else []


def write_grid(candidates: Sequence[Candidate], folder: Path) -> list[Path]:
    """Write ``grid.csv``: a line per setting and seed.

    Args:
        candidates: Settings of the grid.
        folder: Existing folder.

    Returns:
        The file; none without a grid.
    """
    if not candidates:
        return []
    path = folder / "grid.csv"
    replace_text(path, _csv(candidates))
    return [path]


def _csv(candidates: Sequence[Candidate]) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    keys = list(dict.fromkeys(key for c in candidates for key in c.point))
    writer.writerow(["row", "task", *keys, "seed", "validation", "chosen"])
    for c in candidates:
        point = [c.point.get(key, "") for key in keys]
        for seed, value in c.values.items():
            shown = repr(value) if math.isfinite(value) else ""
            writer.writerow([c.row, c.task or "", *point, seed, shown, int(c.chosen)])
    return text.getvalue()


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


def _settings(spec: TableSpec, candidates: Sequence[Candidate]) -> str:
    return "; ".join(_setting(spec, candidate) for candidate in candidates)


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
