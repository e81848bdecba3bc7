"""Cells, through any of Hydra's launchers."""

from collections.abc import Sequence

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode

from rotograd_cli.commands.reproduction.cells import Cell
from rotograd_cli.commands.reproduction.worker import train_cell
from rotograd_cli.errors import hydra_value
from rotograd_cli.runs.compose import register_schemas
from rotograd_cli.runs.config_files import config_dir
from rotograd_cli.runs.overrides import explaining


def launch(cells: Sequence[Cell], overrides: Sequence[str]) -> None:
    """Train cells, in their order as far as the launcher keeps one.

    Hydra's sweepers combine values; here every job is known, so that the launcher is asked as
    Hydra's own multirun asks it, with one job per cell.

    Args:
        cells: Cells whose folders have the same parent.
        overrides: The user's choice of launcher (``launcher=local``, ``hydra/launcher=joblib``,
            ``hydra.launcher.n_jobs=2``).
    """
    if not cells:
        return
    register_schemas()
    own = [
        "hydra.mode=MULTIRUN",
        f"hydra.sweep.dir={hydra_value(str(cells[0].run_dir.parent))}",
        "~hydra.callbacks.sweep_status",
        "~hydra.callbacks.new_folders",
    ]
    search_path = create_config_search_path(str(config_dir()))
    hydra = Hydra.create_main_hydra2(task_name="rotograd", config_search_path=search_path)
    try:
        with explaining("train", overrides):
            config = hydra.compose_config(
                config_name="train", overrides=[*overrides, *own], run_mode=RunMode.MULTIRUN
            )
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=train_cell, config=config
        )
        jobs = [[*cell.overrides, f"hydra.sweep.subdir={cell.run_dir.name}"] for cell in cells]
        launcher.launch(jobs, initial_job_idx=0)
    finally:
        GlobalHydra.instance().clear()
