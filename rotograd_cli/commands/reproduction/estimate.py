"""What there is to do, and how long it may take."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from rotograd_cli.commands.reproduction.cells import Cell, unique
from rotograd_cli.commands.reproduction.plan import Planner
from rotograd_cli.commands.reproduction.search import Search
from rotograd_cli.printing.grid import Grid
from rotograd_cli.tables.runs import RunKey

HEADS = ["row", "runs", "finished", "to train", "hours, one after another"]
UNKNOWN = "\N{EN DASH}"


def plan_table(
    planner: Planner,
    searches: Sequence[Search],
    final_cells: Sequence[Cell],
    measured: Mapping[str, float],
) -> Grid:
    """Plan a row per row of the table: its runs, those that are there, and hours for the others.

    Args:
        planner: The table's cells.
        searches: The grid of every row, as far as its runs are there.
        final_cells: Cells of the chosen settings, as far as they are chosen.
        measured: Seconds of a run by row, for rows without a finished one.

    Returns:
        The plan, without what widening may add. Where the grid is not finished, one of its runs per
        row and task is also one of the final ones.
    """
    spec = planner.spec
    cells = [*(cell for search in searches for cell in search.cells), *final_cells]
    rows = {row: unique(cell for cell in cells if cell.run.row == row) for row in spec.rows}
    overall = mean_seconds(cells)
    if overall is None and measured:
        overall = statistics.fmean(measured.values())
    lines = []
    total = 0
    total_hours = 0.0
    for row, of_row in rows.items():
        done = sum(cell.finished for cell in of_row)
        later = sum(search.num_later for search in searches if search.place[0] == row)
        left = len(of_row) - done + later + _num_unplanned(planner, row, of_row)
        hours = _hours(left, (mean_seconds(of_row), measured.get(row), overall))
        lines.append([spec.label(row), str(done + left), str(done), str(left), _shown(hours)])
        total += left
        total_hours += hours
    lines.append(["all", "", "", str(total), _shown(total_hours)])
    return Grid.of_texts(HEADS, lines, f"Plan of table {spec.name}")


def plan_notes(plan: Grid, searches: Sequence[Search], cells: Sequence[Cell]) -> list[str]:
    """Return what the numbers of a plan do not say.

    Args:
        plan: The plan.
        searches: The grid of every row.
        cells: All runs that are known to be needed.
    """
    notes = []
    num_failed = sum(cell.has_failed for cell in cells)
    if num_failed > 0:
        notes.append(
            f"Of the {plan.rows[-1][3].text} runs to train, {num_failed} failed before; every call "
            "tries them once more."
        )
    num_extra = sum(search.num_extra for search in searches)
    if num_extra > 0:
        notes.append(
            f"Up to {num_extra} more runs are needed if best values lie at the edge of the grid, "
            "which is widened there."
        )
    if plan.rows[-1][-1].text == UNKNOWN:
        notes.append(
            f"Hours are {UNKNOWN} as none of these runs is finished in {_shown_folders(cells)}; "
            "plan=timed estimates them from a few training steps of each row."
        )
    return notes


def _shown_folders(cells: Sequence[Cell]) -> str:
    return ", ".join(dict.fromkeys(str(cell.setting.folders.cells) for cell in cells))


def _num_unplanned(planner: Planner, row: str, cells: Sequence[Cell]) -> int:
    """Seeds (of each task) whose setting is not chosen yet, and that the grid does not train."""
    tasks = planner.spec.tasks_of(row)
    runs = {RunKey(row, seed, task) for seed in planner.seeds for task in tasks}
    return len(runs - {cell.run for cell in cells})


def _hours(num_runs: int, estimates: Iterable[float | None]) -> float:
    """Hours of runs that take the first of these seconds that is known; NaN if none is."""
    if num_runs == 0:
        return 0.0
    seconds = next((s for s in estimates if s is not None), math.nan)
    return num_runs * seconds / 3600


def _shown(hours: float) -> str:
    return UNKNOWN if math.isnan(hours) else f"{hours:.2f}"


def mean_seconds(cells: Iterable[Cell]) -> float | None:
    """Return the mean wall time of the finished cells; None if none is."""
    summaries = [cell.summary for cell in cells]
    times = [summary.wall_s for summary in summaries if summary and summary.wall_s is not None]
    return statistics.fmean(times) if times else None
