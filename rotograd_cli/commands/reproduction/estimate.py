"""What there is to do, and how long it may take, from runs that are there or a few steps."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, count, islice

from rotograd_cli.commands.reproduction.plan import Cell, Planner, unique
from rotograd_cli.config.schema import TrainConfig
from rotograd_cli.printing.grid import Grid
from rotograd_cli.runs.building import build_run
from rotograd_cli.tables.runs import RunKey
from rotograd_cli.training.batches import EpochBatches, evaluation_parts
from rotograd_cli.training.evaluation import Evaluator
from rotograd_cli.training.stepper import Stepper

STEPS = 3
"""Steps that are timed, after one that is not."""
HEADS = ["row", "runs", "finished", "to train", "hours, one after another"]


def plan_table(
    planner: Planner,
    grid_cells: Sequence[Cell],
    final_cells: Sequence[Cell],
    measured: Mapping[str, float],
) -> Grid:
    """Plan a row per row of the table: its runs, those that are there, and hours for the others.

    Args:
        planner: The table's cells.
        grid_cells: Cells of the grid.
        final_cells: Cells of the chosen settings, as far as they are chosen.
        measured: Seconds of a run by row, for rows without a finished one.

    Returns:
        The plan. Where the grid is not finished, one of its runs per row and task is also one of
        the final ones.
    """
    spec = planner.spec
    cells = [*grid_cells, *final_cells]
    rows = {row: unique(cell for cell in cells if cell.run.row == row) for row in spec.rows}
    overall = mean_seconds(cells)
    if overall is None and measured:
        overall = statistics.fmean(measured.values())
    done = {row: sum(cell.finished for cell in of_row) for row, of_row in rows.items()}
    left = {
        row: len(of_row) - done[row] + _num_unplanned(planner, row, of_row)
        for row, of_row in rows.items()
    }
    hours = {
        row: _hours(left[row], (mean_seconds(of_row), measured.get(row), overall))
        for row, of_row in rows.items()
    }
    numbers = {row: map(str, (done[row] + left[row], done[row], left[row])) for row in rows}
    lines = [[spec.label(row), *numbers[row], _shown(hours[row])] for row in rows]
    total = ["all", "", "", str(sum(left.values())), _shown(sum(hours.values()))]
    return Grid.of_texts(HEADS, [*lines, total], f"Plan of table {spec.name}")


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
    return "?" if math.isnan(hours) else f"{hours:.2f}"


def mean_seconds(cells: Iterable[Cell]) -> float | None:
    """Return the mean wall time of the finished cells; None if none is."""
    summaries = [cell.summary for cell in cells]
    times = [summary.wall_s for summary in summaries if summary and summary.wall_s is not None]
    return statistics.fmean(times) if times else None


def measured_seconds(config: TrainConfig) -> float:
    """Wall time of a run in seconds, as a few training steps and one evaluation batch let expect.

    Nothing is written.

    Args:
        config: Configuration of the run.

    Returns:
        Epochs times steps and evaluation batches, plus the test.

    Raises:
        RotogradError: If the run cannot be built.
    """
    run, dataset = build_run(config)
    batches = EpochBatches(dataset, config.train, config.seed, run.device)
    stepper = Stepper(run, dataset.tasks, config.train)
    run.begin_epoch()
    steps = chain.from_iterable(map(batches.steps, count()))

    def train(num_steps: int) -> None:
        for micro_batches in islice(steps, num_steps):
            stepper.take(micro_batches)
        run.record(dataset.tasks)  # waits for the device

    train(1)
    step_s = _seconds(lambda: train(STEPS)) / STEPS
    few = dataclasses.replace(config.train, limit_eval_batches=1)
    evaluator = Evaluator(run.model, dataset, few)
    batch_s = _seconds(lambda: evaluator.metrics("val"))
    options = config.train
    num_evaluations = math.ceil(options.epochs / options.eval_every_epochs)
    num_val = len(evaluation_parts(dataset, "val", options))
    num_test = len(evaluation_parts(dataset, "test", options))
    evaluation_s = batch_s * (num_evaluations * num_val + num_test)
    return options.epochs * batches.num_steps * step_s + evaluation_s


def _seconds(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start
