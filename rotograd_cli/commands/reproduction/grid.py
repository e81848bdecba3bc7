"""The grid's results: what was tried, what was chosen."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rotograd_cli.commands.reproduction.search import MAX_EXTRA, Candidate, Search
from rotograd_cli.files import replace_text
from rotograd_cli.tables.parts import Detail
from rotograd_cli.tables.spec import GridSpec, TableSpec


def grid_notes(spec: TableSpec, searches: Sequence[Search]) -> list[str]:
    """Return the sentences below the table: the grid and every row's choice.

    Args:
        spec: Table.
        searches: What was tried.

    Returns:
        The sentences; none without a grid.
    """
    searches = [search for search in searches if not search.is_open]
    if spec.grid is None or not searches:
        return []

    def setting(search: Search, candidate: Candidate) -> str:
        return f"{spec.label(*search.place)} {_shown(candidate.point.values())}"

    chosen = [(search, search.best) for search in searches if search.best is not None]
    notes = {
        "Settings left out of the search, as a run failed or has no finite validation value: {}.": [
            setting(search, c) for search in searches for c in search.candidates if c.num_gaps
        ],
        "Warning: the data changed between the runs of the grid, so that the choice is not fair "
        "(data_fingerprint in summary.json): {}. Move the folders of older runs away and "
        "reproduce.": [
            spec.label(*search.place)
            for search in searches
            if len(frozenset().union(*(candidate.data for candidate in search.candidates))) > 1
        ],
        "Best at an edge of the grid, so that values beyond it may be better: {}.": [
            spec.label(*search.place) for search, _ in chosen if search.edges
        ],
    }
    details = {
        f"{_tried(spec.grid)} Chosen: {{}}.": [setting(*each) for each in chosen] or ["nothing"],
        "Chosen among settings with equal validation values, as the first of them: {}.": [
            setting(search, best)
            for search, best in chosen
            if sum(candidate.mean == best.mean for candidate in search.candidates) > 1
        ],
    }
    return [*_filled(notes), *map(Detail, _filled(details))]


def _filled(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """The sentences that are about something."""
    return [note.replace("{}", "; ".join(names)) for note, names in notes.items() if names]


def _tried(grid: GridSpec) -> str:
    """What was tried, and how every row chose."""
    values = ", ".join(f"{key} in {{{_shown(points)}}}" for key, points in grid.values.items())
    one_by_one = ", one key after the other" if grid.search == "one_by_one" else ""
    widened = f"; up to {MAX_EXTRA} values more beyond an edge that was best" if grid.widen else ""
    own = "its own selection metric"
    by = own if grid.select is None else f"{grid.select} of the epoch that {own} selected"
    alone = "" if grid.select is None else "; networks of a single task by their own"
    return (
        f"Grid: {values}{one_by_one}{widened}; every row took its best on validation ({by}, mean "
        f"over seeds {_shown(grid.seeds)}{alone})."
    )


def _shown(values: Iterable[Any]) -> str:
    return ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)


def write_grid(searches: Sequence[Search], folder: Path) -> list[Path]:
    """Write ``grid.csv``: a line per setting and seed.

    Args:
        searches: What was tried.
        folder: Existing folder.

    Returns:
        The file; none without a grid.
    """
    if not searches:
        return []
    tried = [(search, candidate) for search in searches for candidate in search.candidates]
    keys = list(dict.fromkeys(key for _, candidate in tried for key in candidate.point))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["row", "task", *keys, "seed", "metric", "validation", "chosen"])
    for search, candidate in tried:
        row, task = search.place
        point = [candidate.point.get(key, "") for key in keys]
        is_chosen = int(candidate is search.best)
        for seed, value in candidate.values.items():
            shown = repr(value) if math.isfinite(value) else ""
            line = [row, task or "", *point, seed, search.metric, shown, is_chosen]
            writer.writerow(line)
    path = folder / "grid.csv"
    replace_text(path, text.getvalue())
    return [path]
