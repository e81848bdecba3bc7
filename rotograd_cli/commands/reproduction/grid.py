"""The grid's results: what was tried, what was chosen."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from rotograd_cli.commands.reproduction.plan import Candidate
from rotograd_cli.files import replace_text
from rotograd_cli.tables.spec import GridSpec, TableSpec


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
    chosen = [c for c in candidates if c.chosen]
    notes = {
        "No candidates, as a run failed or has no finite validation value: {}.": "; ".join(
            _setting(spec, c) for c in candidates if c.gaps
        ),
        "Others are equal on validation, the first was taken: {}.": "; ".join(
            _setting(spec, c) for c in chosen if _has_equals(c, candidates)
        ),
        "Warning: settings of {} were compared on different data (data_fingerprint in "
        "summary.json); move the folders of older runs away and reproduce.": ", ".join(
            _compared_on_different_data(spec, candidates)
        ),
        "At the edge of the grid, so that more might be better: {}.": ", ".join(
            _name(spec, c) for c in chosen if _at_the_edge(spec.grid, c)
        ),
    }
    return [
        _tried(spec.grid),
        f"Chosen: {'; '.join(_setting(spec, c) for c in chosen) or 'nothing'}.",
        *(note.format(names) for note, names in notes.items() if names),
    ]


def _tried(grid: GridSpec) -> str:
    values = ", ".join(
        f"{key} in {{{', '.join(f'{value:g}' for value in points)}}}"
        for key, points in grid.values.items()
    )
    seeds = ", ".join(str(seed) for seed in grid.seeds)
    return (
        f"Grid: {values}; every row took its best on validation (its own selection metric, mean "
        f"over seeds {seeds})."
    )


def _compared_on_different_data(spec: TableSpec, candidates: Sequence[Candidate]) -> list[str]:
    data: dict[str, frozenset[str]] = {}
    for candidate in candidates:
        name = _name(spec, candidate)
        data[name] = data.get(name, frozenset()) | candidate.data
    return [name for name, fingerprints in data.items() if len(fingerprints) > 1]


def _has_equals(chosen: Candidate, candidates: Sequence[Candidate]) -> bool:
    return sum(c.mean == chosen.mean for c in candidates if c.place == chosen.place) > 1


def _at_the_edge(grid: GridSpec, candidate: Candidate) -> bool:
    """Whether a value is the smallest or largest of three or more, or one of two."""
    return any(
        value in (min(grid.values[key]), max(grid.values[key]))
        for key, value in candidate.point.items()
        if len(grid.values[key]) > 1
    )


def _setting(spec: TableSpec, candidate: Candidate) -> str:
    values = ", ".join(f"{value:g}" for value in candidate.point.values())
    return f"{_name(spec, candidate)} {values}"


def _name(spec: TableSpec, candidate: Candidate) -> str:
    return " ".join(filter(None, (spec.label(candidate.row), candidate.task)))


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
    keys = list(dict.fromkeys(key for c in candidates for key in c.point))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["row", "task", *keys, "seed", "validation", "chosen"])
    for c in candidates:
        point = [c.point.get(key, "") for key in keys]
        for seed, value in c.values.items():
            shown = repr(value) if math.isfinite(value) else ""
            writer.writerow([c.row, c.task or "", *point, seed, shown, int(c.chosen)])
    path = folder / "grid.csv"
    replace_text(path, text.getvalue())
    return [path]
