"""What there is to do, and how long it may take, from runs that are there or a few steps."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, count, islice

from rotograd_cli.commands.reproduction.plan import Cell, Planner, unique
from rotograd_cli.printing.grid import Grid
from rotograd_cli.runs.building import build_run
from rotograd_cli.runs.config import TrainConfig
from rotograd_cli.tables.spec import row_label
from rotograd_cli.training.batches import EpochBatches, num_evaluated
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
    all_cells = [*grid_cells, *final_cells]
    overall = _first_known(mean_seconds(all_cells), _mean(measured.values()))
    texts = []
    total_left = 0
    total_hours = 0.0
    for row in spec.rows:
        cells = unique(cell for cell in all_cells if cell.run.row == row)
        done = sum(cell.finished for cell in cells)
        left = len(cells) - done + _undecided(planner, row, grid_cells, final_cells)
        seconds = _first_known(mean_seconds(cells), measured.get(row, math.nan), overall)
        hours = left * seconds / 3600 if left else 0.0
        texts.append([row_label(spec, row), *map(str, (done + left, done, left)), _shown(hours)])
        total_left += left
        total_hours += hours
    total = ["all", "", "", str(total_left), _shown(total_hours)]
    return Grid.of_texts(HEADS, [*texts, total], f"Plan of table {spec.name}")


def _undecided(
    planner: Planner, row: str, grid_cells: Sequence[Cell], final_cells: Sequence[Cell]
) -> int:
    """Final runs of a row whose setting is not chosen yet, but for those that the grid has."""
    num_final = len(planner.seeds) * sum(place.row == row for place in planner.places())
    num_chosen = len(unique(cell for cell in final_cells if cell.run.row == row))
    in_grid = len({cell.run for cell in grid_cells if cell.run.row == row})
    return max(0, num_final - num_chosen - in_grid)


def _first_known(*seconds: float) -> float:
    return next((value for value in seconds if not math.isnan(value)), math.nan)


def _mean(values: Iterable[float]) -> float:
    """Mean; NaN of nothing."""
    numbers = list(values)
    return statistics.fmean(numbers) if numbers else math.nan


def _shown(hours: float) -> str:
    return "?" if math.isnan(hours) else f"{hours:.2f}"


def mean_seconds(cells: Iterable[Cell]) -> float:
    """Return the mean wall time of the finished cells; NaN if none is."""
    summaries = [cell.summary for cell in cells]
    return _mean(s.wall_s for s in summaries if s is not None and s.wall_s is not None)


def measured_seconds(config: TrainConfig) -> float:
    """Wall time of a run in seconds, as a few training steps and one evaluation batch let expect.

    Nothing is written.

    Args:
        config: Configuration of the run.

    Returns:
        Steps of all epochs, evaluations and the test.

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
    example_s = _seconds(lambda: evaluator.metrics("val")) / num_evaluated(dataset, "val", few)
    options = config.train
    num_evaluations = math.ceil(options.epochs / options.eval_every_epochs)
    num_val = num_evaluations * num_evaluated(dataset, "val", options)
    num_test = num_evaluated(dataset, "test", options)
    return options.epochs * batches.num_steps * step_s + (num_val + num_test) * example_s


def _seconds(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start
