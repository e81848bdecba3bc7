"""What is refused before anything is trained."""

import dataclasses
from collections.abc import Sequence

import torch

from rotograd_cli.commands.reproduction.cells import Cell, first_of_rows
from rotograd_cli.commands.reproduction.exploring import no_such_metric
from rotograd_cli.config.components import Constructors
from rotograd_cli.config.schema import TrainConfig
from rotograd_cli.runs.building import build, build_dataset
from rotograd_cli.tables.spec import TableSpec
from rotograd_cli.tables.table import check_tasks, measured_metrics


def check_table(spec: TableSpec, cells: Sequence[Cell]) -> None:
    """Refuse a task or metric that the data set does not have.

    Args:
        spec: Table.
        cells: Its runs.

    Raises:
        RotogradError: If the data set lacks one, or cannot be built.
    """
    config = _of_all_tasks(cells)
    dataset = build_dataset(config, Constructors(config), torch.device("cpu"))
    check_tasks(spec, dataset.tasks)
    select = None if spec.grid is None else spec.grid.select
    losses = ["loss", *(f"{task.name}/loss" for task in dataset.tasks)]
    names = [f"val/{name}" for name in (*losses, *measured_metrics(dataset.tasks))]
    if select is not None and select not in names:
        raise no_such_metric(select, names)


def check_rows(cells: Sequence[Cell]) -> None:
    """Build one run of every row.

    Raises:
        RotogradError: If data are missing, or a component is refused or does not fit.
    """
    for cell in first_of_rows(cells).values():
        build(cell.config)


def _of_all_tasks(cells: Sequence[Cell]) -> TrainConfig:
    """Return the configuration of a run of all tasks that the runs of a table have."""
    tasks = dict.fromkeys(task for cell in cells for task in cell.config.tasks or ())
    has_all = any(cell.config.tasks is None for cell in cells)
    return dataclasses.replace(cells[0].config, tasks=None if has_all else list(tasks))
