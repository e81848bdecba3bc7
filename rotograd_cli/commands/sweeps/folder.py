"""The folder of a sweep: its cells continue the runs in it, or nothing begins."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.errors import ConfigError, OccupiedError, listed
from rotograd_cli.runs.config import to_train_config
from rotograd_cli.runs.directory import is_used
from rotograd_cli.runs.identity import holds_run

MAX_NAMED = 8


def check_sweep_folder(config: DictConfig) -> None:
    """Refuse a sweep whose cells would find other runs in their folders, before its first cell.

    Args:
        config: What Hydra composed for the sweep, with its own node.

    Raises:
        OccupiedError: If a cell's folder holds a run, or with ``resume=auto`` the run of another
            configuration. A search draws its cells as it goes: its cells ask for themselves.
        ConfigError: If ``resume`` names a folder.
    """
    resume = config.get("resume")
    if resume not in (None, "auto"):
        raise ConfigError(
            f"`resume` must be auto in a sweep, whose cells each have a folder, got {resume!r}."
        )
    try:
        sweep_dir = Path(config.hydra.sweep.dir)
    except OmegaConfBaseException:
        return  # Hydra is about to say so
    if not sweep_dir.is_dir():
        return
    if is_used(sweep_dir):
        raise OccupiedError(
            f"{sweep_dir} holds a run, got a sweep; choose another hydra.sweep.dir."
        )
    before = HydraConfig.instance().cfg
    try:
        occupied = [folder for folder, cell in _cells(config) if _is_occupied(folder, cell)]
    finally:
        HydraConfig.instance().cfg = before
    if occupied:
        raise OccupiedError(_message(sweep_dir, occupied, resume))


def is_search(hydra: DictConfig) -> bool:
    """Return whether the sweeper draws cells one after the other, from earlier results.

    Args:
        hydra: Hydra's own node.
    """
    return "BasicSweeper" not in str(hydra.sweeper._target_)


def _cells(config: DictConfig) -> Iterator[tuple[Path, DictConfig]]:
    """Folder and configuration of every cell; a search's are without the drawn values."""
    sweep_dir = Path(config.hydra.sweep.dir)
    compose = GlobalHydra.instance().config_loader().load_sweep_config
    jobs = _trials(config) if is_search(config.hydra) else _jobs(config)
    for number, overrides in enumerate(jobs):
        cell = compose(config, list(overrides)) if overrides else config.copy()
        with open_dict(cell):
            cell.hydra.job.id = number
            cell.hydra.job.num = number
        HydraConfig.instance().set_config(cell)  # the folder's name refers to it
        yield sweep_dir / str(cell.hydra.sweep.subdir), cell


def _trials(config: DictConfig) -> Sequence[Sequence[str]]:
    """Empty overrides for every trial; no trial with ``resume=auto``, where each checks itself."""
    num = int(config.hydra.sweeper.get("n_trials") or 0)
    return [[]] * num if config.resume is None else []


def _jobs(config: DictConfig) -> Sequence[Sequence[str]]:
    """Overrides of every cell, as Hydra's own sweeper combines them."""
    overrides: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*params, *overrides]), None)
    return jobs


def _is_occupied(folder: Path, cell: DictConfig) -> bool:
    """Whether a folder holds something that the run of a cell would not continue."""
    if cell.resume == "auto":
        return is_used(folder) and not _is_run_of(folder, cell)
    return is_used(folder) or (folder / "summary.json").exists()


def _is_run_of(folder: Path, cell: DictConfig) -> bool:
    plain = cell.copy()
    with open_dict(plain):
        del plain["hydra"]
    try:
        return holds_run(folder, to_train_config(plain))
    except ConfigError:  # wrong input, which is no configuration of a run
        return False


def _message(sweep_dir: Path, occupied: Sequence[Path], resume: str | None) -> str:
    where = listed([str(folder.relative_to(sweep_dir)) for folder in occupied], MAX_NAMED)
    if resume is None:
        return (
            f"{sweep_dir} already holds runs, in {where}; choose another "
            "hydra.sweep.dir, or add resume=auto to continue runs of the same configuration."
        )
    return (
        f"{sweep_dir} holds runs of other configurations, in {where}; choose another "
        "hydra.sweep.dir (resume=auto continues only runs of the same configuration)."
    )
