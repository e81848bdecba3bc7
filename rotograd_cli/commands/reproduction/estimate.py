"""What there is to do, and how long it may take, from the runs that are there."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rotograd_cli.commands.reproduction.cells import Cell, unique
from rotograd_cli.commands.reproduction.plan import Place
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.spec import TableSpec, row_label


def plan_table(
    spec: TableSpec,
    grid_cells: Sequence[Cell],
    final_cells: Sequence[Cell],
    num_final: Mapping[Place, int],
    measured: Mapping[str, float],
) -> tuple[list[str], list[list[str]], str]:
    """Plan a row per row of the table: its runs, those that are there, and hours for the others.

    Args:
        spec: Table.
        grid_cells: Cells of the grid.
        final_cells: Cells of the chosen settings, as far as they are chosen.
        num_final: Cells of the chosen settings by row and task, chosen or not.
        measured: Seconds of a run by row, for rows without a finished one.

    Returns:
        Heads, rows and title. Where the grid is not finished, one of its runs per row and task is
        also one of the final ones.
    """
    overall = mean_seconds([*grid_cells, *final_cells])
    if overall is None and measured:
        overall = statistics.fmean(measured.values())
    rows = []
    for row in spec.rows:
        grid = unique(cell for cell in grid_cells if cell.run.row == row)
        final = unique(cell for cell in final_cells if cell.run.row == row)
        num = sum(n for (name, _), n in num_final.items() if name == row)
        seconds = measured.get(row, overall)
        rows.append(_row_plan(row_label(spec, row), grid, final, num, seconds))
    known = not any(row.is_unknown for row in rows)
    hours = sum(row.hours or 0 for row in rows) if known else None
    total = ["all", "", "", str(sum(row.left for row in rows)), _hours(hours)]
    heads = ["row", "runs", "finished", "to train", "hours, one after another"]
    return heads, [*(row.texts for row in rows), total], f"Plan of table {spec.name}"


@dataclass(frozen=True)
class _RowPlan:
    """What there is to do for a row of the table."""

    label: str
    done: int
    left: int
    seconds: float | None
    """Of a run; None if nothing is known."""

    @property
    def hours(self) -> float | None:
        return None if self.seconds is None else self.left * self.seconds / 3600

    @property
    def texts(self) -> list[str]:
        """Cells of the table."""
        counts = (self.done + self.left, self.done, self.left)
        return [self.label, *map(str, counts), _hours(self.hours)]

    @property
    def is_unknown(self) -> bool:
        return self.seconds is None and self.left > 0


def _row_plan(
    label: str,
    grid: Sequence[Cell],
    final: Sequence[Cell],
    num_final: int,
    seconds: float | None,
) -> _RowPlan:
    cells = unique([*grid, *final])
    done = sum(cell.finished for cell in cells)
    # final cells whose setting is not chosen yet; one of the grid's cells will be one of them
    undecided = num_final - len({(cell.run.task, cell.run.seed) for cell in final})
    in_grid = len({(cell.run.task, cell.run.seed) for cell in grid}) if undecided else 0
    left = len(cells) - done + max(0, undecided - in_grid)
    of_row = mean_seconds(cells)
    return _RowPlan(label, done, left, seconds if of_row is None else of_row)


def mean_seconds(cells: Iterable[Cell]) -> float | None:
    """Return the mean wall time of the finished cells; None if none is."""
    summaries = [RunSummary.read(cell.run_dir) for cell in cells if cell.finished]
    times = [summary.wall_s for summary in summaries if summary and summary.wall_s is not None]
    return statistics.fmean(times) if times else None


def _hours(hours: float | None) -> str:
    return "?" if hours is None else f"{hours:.2f}"
