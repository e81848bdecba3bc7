"""The grid's results: what was tried, what was chosen."""

import csv
import io
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rotograd_cli.commands.reproduction.plan import Cell, Place, Point
from rotograd_cli.files import replace_text
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.spec import GridSpec, TableSpec


@dataclass(frozen=True)
class Candidate:
    """A setting of the grid and its validation values."""

    point: Point
    values: Mapping[int, float]
    """Selection value by seed of the grid; NaN where the run failed or has no finite one."""
    data: frozenset[str] = frozenset()
    """Fingerprints of what its finished runs were trained on."""

    @property
    def num_gaps(self) -> int:
        """Seeds without a value: a setting that has any cannot be chosen."""
        return sum(not math.isfinite(value) for value in self.values.values())

    @property
    def mean(self) -> float:
        """Mean over the grid's seeds."""
        return statistics.fmean(self.values.values())


@dataclass(frozen=True)
class Search:
    """What was tried for a row and, of rows that are trained task by task, a task."""

    place: Place
    candidates: Sequence[Candidate]
    mode: str
    """``min`` or ``max``: which validation value is best."""

    @property
    def best(self) -> Candidate | None:
        """The best of those with a value at every seed, of equal ones the first; None if none."""
        complete = [candidate for candidate in self.candidates if candidate.num_gaps == 0]
        choose = min if self.mode == "min" else max
        return choose(complete, key=lambda candidate: candidate.mean, default=None)

    @property
    def failure(self) -> str:
        """Why there is nothing to choose; empty if there is."""
        if self.best is not None:
            return ""
        num_cells = sum(len(candidate.values) for candidate in self.candidates)
        num_gaps = sum(candidate.num_gaps for candidate in self.candidates)
        return (
            "failed: no setting of the grid has a finite validation value at every seed, "
            f"{num_gaps} of {num_cells} cells have none"
        )


def searches(grid_cells: Iterable[Cell]) -> list[Search]:
    """Return what the runs of the grid found, row by row and task by task."""
    by_place: dict[Place, list[Cell]] = defaultdict(list)
    for cell in grid_cells:
        by_place[cell.place].append(cell)
    return [
        Search(place, _candidates(cells), cells[0].config.train.select_mode)
        for place, cells in by_place.items()
    ]


def _candidates(cells: Iterable[Cell]) -> list[Candidate]:
    by_point: dict[tuple[tuple[str, float], ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        by_point[tuple(cell.point.items())].append(cell)
    return [_candidate(of_point) for of_point in by_point.values()]


def _candidate(cells: Sequence[Cell]) -> Candidate:
    """A setting from its cells, one per seed."""
    summaries = {cell.run.seed: cell.summary for cell in cells}
    values = {seed: _selected_value(summary) for seed, summary in summaries.items()}
    data = frozenset(str(s.data_fingerprint) for s in summaries.values() if s is not None)
    return Candidate(cells[0].point, values, data)


def _selected_value(summary: RunSummary | None) -> float:
    if summary is None or summary.selected_value is None:
        return math.nan
    return summary.selected_value


def grid_notes(spec: TableSpec, searches: Sequence[Search]) -> list[str]:
    """Return the sentences below the table: the grid and every row's choice.

    Args:
        spec: Table.
        searches: What was tried.

    Returns:
        The sentences; none without a grid.
    """
    if spec.grid is None or not searches:
        return []

    def setting(search: Search, candidate: Candidate) -> str:
        values = ", ".join(f"{value:g}" for value in candidate.point.values())
        return f"{spec.label(*search.place)} {values}"

    chosen = [(search, search.best) for search in searches if search.best is not None]
    notes = {
        "No candidates, as a run failed or has no finite validation value: {}.": [
            setting(search, c) for search in searches for c in search.candidates if c.num_gaps
        ],
        "Others are equal on validation, the first was taken: {}.": [
            setting(search, best)
            for search, best in chosen
            if sum(candidate.mean == best.mean for candidate in search.candidates) > 1
        ],
        "Warning: settings of {} were compared on different data (data_fingerprint in "
        "summary.json); move the folders of older runs away and reproduce.": [
            spec.label(*search.place)
            for search in searches
            if len(frozenset().union(*(candidate.data for candidate in search.candidates))) > 1
        ],
        "At the edge of the grid, so that more might be better: {}.": [
            spec.label(*search.place) for search, best in chosen if _at_the_edge(spec.grid, best)
        ],
    }
    settings = "; ".join(setting(search, best) for search, best in chosen)
    return [
        _tried(spec.grid),
        f"Chosen: {settings or 'nothing'}.",
        *(note.format("; ".join(names)) for note, names in notes.items() if names),
    ]


def _tried(grid: GridSpec) -> str:
    values = ", ".join(
        f"{key} in {{{', '.join(f'{value:g}' for value in points)}}}"
        for key, points in grid.values.items()
    )
    seeds = ", ".join(map(str, grid.seeds))
    return (
        f"Grid: {values}; every row took its best on validation (its own selection metric, mean "
        f"over seeds {seeds})."
    )


def _at_the_edge(grid: GridSpec, candidate: Candidate) -> bool:
    """Whether a value is the smallest or largest of three or more, or one of two."""
    return any(
        value in (min(grid.values[key]), max(grid.values[key]))
        for key, value in candidate.point.items()
        if len(grid.values[key]) > 1
    )


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
    writer.writerow(["row", "task", *keys, "seed", "validation", "chosen"])
    for search, candidate in tried:
        row, task = search.place
        point = [candidate.point.get(key, "") for key in keys]
        is_chosen = int(candidate is search.best)
        for seed, value in candidate.values.items():
            shown = repr(value) if math.isfinite(value) else ""
            writer.writerow([row, task or "", *point, seed, shown, is_chosen])
    path = folder / "grid.csv"
    replace_text(path, text.getvalue())
    return [path]
