"""Train one run, or a sweep with -m.

usage: rotograd train [GROUP=NAME ...] [KEY=VALUE ...] [-m] [--cfg job]

There are two optimisers, each with a schedule: optimizer@model_optimizer and
scheduler@model_scheduler are the network's, optimizer@method_optimizer and
scheduler@method_scheduler those of the method's own parameters (rotations, task weights).

keys, with examples (rotograd train --cfg job prints all of them with their values):
  resume=DIR|auto continues a run, resume=DIR train.epochs=40 makes it longer
  trust=true, with resume=, runs components of others that the saved run names
  init_from=RUN|FILE starts from these weights (init_what=all: heads and method too)
  freeze=[backbone.linear.*] leaves these parameters untrained
  seed=0  device=auto|cpu|cuda|cuda:i  deterministic=true  tasks=[left,right]  tags=[...]
  train.epochs  train.batch_size  train.accumulate_steps  train.grad_clip_norm
  train.limit_batches  train.select  model_optimizer.lr  method_optimizer.lr
  method.rotation_shape  method.burn_in_period  method.init  backbone.num_features
  paths.data_dir  paths.output_dir  logger.mode=online|offline|disabled

-m            a sweep: every combination of comma-separated values, each in its own directory;
              launcher= says where the runs go, sweep=optuna searches instead (docs/sweeps.md)
--cfg job     print the composed configuration and stop
--config-dir  a folder of your own YAML files, laid out like the built-in ones: DIR/method/foo.yaml
"""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rotograd_cli.commands import TRAINING_GROUPS
from rotograd_cli.commands.support import session
from rotograd_cli.errors import RotogradError, run_under_way, suggested
from rotograd_cli.ranks import launch

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rotograd_cli.runs.saved import Target
    from rotograd_cli.runs.summary import RunSummary
    from rotograd_cli.tracking.console import Screen

GROUPS = (*TRAINING_GROUPS, "launcher", "sweep")


def run(arguments: Sequence[str]) -> int:
    """Train.

    Returns:
        Exit code: ``CELL_FAILED`` if a cell of a sweep did not finish.
    """
    from rotograd_cli.commands.support.hydra_app import run_app

    gc.disable()  # imports make a million objects that stay; the loop enables it again
    try:
        run_app("train", arguments, _train)
    except Exception as error:
        message = session.launcher_failure(error)
        if message is None:
            raise
        from rotograd_cli.commands.sweeps.cells import print_unfinished  # loads torch

        print_unfinished()
        session.failures.append(message)
    finally:
        gc.enable()
    return session.report_failures()


def _train(config: "DictConfig") -> float | None:
    """Train one run and return its selection value, which a search minimises or maximises."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from rotograd_cli.commands.sweeps.cells import cell_screen, check_direction, run_cell

    launch.read_launcher()
    hydra: Any = HydraConfig.get()
    # as written: an interpolation among them refers to the configuration, not to this list
    overrides: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    run_dir = Path(hydra.runtime.output_dir)
    is_sweep = hydra.mode == RunMode.MULTIRUN
    if config.diagnose:
        from rotograd_cli.runs.diagnosis import diagnose

        print(diagnose(config, overrides, several=is_sweep))
        session.remove_unused_folders()  # Hydra's, for a new run
        return None
    if is_sweep:
        check_direction(hydra.sweeper, config.train.select_mode)
        screen = cell_screen(hydra)
        summary = run_cell(lambda: _run(config, run_dir, overrides, screen)[0], overrides, hydra)
    else:
        summary, run_dir = _run(config, run_dir, overrides)
        if launch.job_rank() == 0:
            _print_run(summary, run_dir)
    value = summary.selected_value
    worst = float("inf" if config.train.select_mode == "min" else "-inf")  # for a sweeper
    return worst if value is None else value


def _run(
    config: "DictConfig", run_dir: Path, overrides: list[str], cell: "Screen | None" = None
) -> "tuple[RunSummary, Path]":
    """Train the run that is meant; return its summary and its folder.

    Args:
        config: What Hydra composed.
        run_dir: Folder of a new run.
        overrides: What the user changed.
        cell: What a cell of a sweep shows; None for a run of its own.
    """
    from rotograd_cli.runs.experiment import SCREEN, train
    from rotograd_cli.runs.summary import RunSummary

    with launch.joined(str(config.device)) as ranks:
        target = ranks.broadcast(lambda: _target(config, run_dir, overrides, cell is not None))
        if target.resumed and cell is None:
            session.remove_unused_folders()  # Hydra's, for a new run
        if target.finished:
            if ranks.is_first:
                print(f"{os.path.relpath(target.run_dir)} is finished.", file=sys.stderr)
            return RunSummary.read(target.run_dir) or RunSummary(), target.run_dir
        summary = train(
            target.config,
            target.run_dir,
            overrides,
            screen=cell or SCREEN,
            resume=target.resumed,
            extend=target.extended,
            ranks=ranks,
        )
        return summary, target.run_dir


def _target(config: "DictConfig", run_dir: Path, overrides: list[str], is_cell: bool) -> "Target":
    """Return the run that is meant: a new one, or one that ``resume`` names or finds."""
    from rotograd_cli.config.schema import to_train_config
    from rotograd_cli.runs.saved import Target, named_run, same_run
    from rotograd_cli.runs.trust import Trust, user_folders

    typed = to_train_config(config)
    if config.resume is None:
        return Target(typed, run_dir, resumed=False)
    if config.resume != "auto":
        trust = Trust(bool(config.trust), user_folders())
        return named_run(str(config.resume), typed, overrides, trust)
    root = Path(typed.paths.output_dir)  # output_dir/data/method/time, unless hydra.run.dir is set
    others = [] if is_cell else [file.parent for file in root.glob("*/*/*/config.yaml")]
    return same_run(typed, run_dir, others)


def _print_run(summary: "RunSummary", run_dir: Path) -> None:
    """Print the results.

    Raises:
        RotogradError: If they cannot be written, for instance because the disk is full. The run is
            finished all the same, which the exit code must not deny.
    """
    from rotograd_cli.printing.grid import print_grid
    from rotograd_cli.runs.terminal import remarks, run_table, training_time

    folder = os.path.relpath(run_dir)
    lines = [f"Protocol: {summary.protocol}.", *remarks(summary.notes), training_time(summary)]
    try:
        print_grid(run_table(summary))
        print(*lines, f"Run directory: {folder}", sep="\n", flush=True)
    except OSError as error:
        with run_under_way():
            raise RotogradError(
                f"{folder} is finished, but its results cannot be printed ({error.strerror}); "
                f"{suggested('evaluate', f'run={run_dir}')} prints them."
            ) from error
