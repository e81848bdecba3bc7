"""What there is to do, and how long it may take, from the runs that are there."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from rotograd_cli.commands.reproduce.cells import Cell
from rotograd_cli.commands.reproduce.plan import Place
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tables.schema import TableSpec
from rotograd_cli.tables.spec import row_label


def plan_table(
    spec: TableSpec,
    grid_cells: Sequence[Cell],
    final_cells: Sequence[Cell],
    num_final: Mapping[Place, int],
    measured: Mapping[str, float],
) -> tuple[list[str], list[list[str]], str]:
    """A row per row of the table: its runs, those that are there, and hours for the others.

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
    rows = []
    total_left, total_hours, unknown = 0, 0.0, False
    overall = mean_seconds([*grid_cells, *final_cells])
    if overall is None and measured:
        overall = statistics.fmean(measured.values())
    for row in spec.rows:
        grid = _unique(cell for cell in grid_cells if cell.run.row == row)
        final = _unique(cell for cell in final_cells if cell.run.row == row)
        cells = _unique([*grid, *final])
        known_final = {(cell.run.task, cell.run.seed) for cell in final}
        undecided = sum(n for (r, _), n in num_final.items() if r == row) - len(known_final)
        in_grid = len({(c.run.task, c.run.seed) for c in grid}) if undecided else 0
        done = sum(cell.finished for cell in cells)
        left = len(cells) - done + max(0, undecided - in_grid)
        seconds = mean_seconds(cells)
        if seconds is None:
            seconds = measured.get(row, overall)
        hours = None if seconds is None else left * seconds / 3600
        total_left += left
        total_hours += hours or 0.0
        unknown |= hours is None and left > 0
        rows.append([row_label(spec, row), str(done + left), str(done), str(left), _hours(hours)])
    rows.append(["all", "", "", str(total_left), "?" if unknown else _hours(total_hours)])
    heads = ["row", "runs", "finished", "to train", "hours, one after another"]
    return heads, rows, f"Plan of table {spec.name}"


def _unique(cells: Iterable[Cell]) -> list[Cell]:
    return list({cell.run_dir: cell for cell in cells}.values())


def mean_seconds(cells: Iterable[Cell]) -> float | None:
    """Mean wall time of the finished ones; None if none is."""
    summaries = [RunSummary.read(cell.run_dir) for cell in cells if cell.finished]
    times = [summary.wall_s for summary in summaries if summary and summary.wall_s is not None]
    return statistics.fmean(times) if times else None


def _hours(hours: float | None) -> str:
    return "?" if hours is None else f"{hours:.2f}"
