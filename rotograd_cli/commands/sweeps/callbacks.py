"""Hydra's callbacks of a training: they check its folder, and print a sweep's results."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.commands.support import session
from rotograd_cli.commands.sweeps.folder import check_sweep_folder
from rotograd_cli.commands.sweeps.status import print_status
from rotograd_cli.errors import Refusal
from rotograd_cli.ranks.launch import job_rank
from rotograd_cli.runs.directory import check_own_folder, refuse_used


class NewFolders(Callback):
    """Looks at folders before Hydra makes them, which it does before the input is checked.

    A folder that holds a run is refused, and what is new is remembered.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a single run. Its folder refers to Hydra's values, which must be set for that."""
        del kwargs
        HydraConfig.instance().set_config(config)
        _remember(config.hydra.run)
        with refusing(), suppress(OmegaConfBaseException):  # Hydra is about to say so
            if job_rank() == 0 and config.get("resume") in (None, "auto"):
                run_dir = Path(config.hydra.run.dir)
                check_own_folder(run_dir)
                if config.get("resume") is None:
                    refuse_used(run_dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check a sweep."""
        del kwargs
        _remember(config.hydra.sweep)
        with refusing():
            check_sweep_folder(config)


@contextmanager
def refusing() -> Iterator[None]:
    """Inside a callback of Hydra, an exception ends the command instead of becoming a warning."""
    try:
        yield
    except Exception as error:
        raise Refusal(error) from error


def _remember(node: DictConfig) -> None:
    session.forget_folders()
    with suppress(OmegaConfBaseException):  # Hydra is about to say so
        session.remember_folder(Path(node.dir))


class SweepStatus(Callback):
    """Hydra callback that prints status and test metrics of every cell."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the sweep, whose launcher may fail."""
        del kwargs
        with suppress(OmegaConfBaseException):  # Hydra is about to say so
            session.sweep_dirs[:] = [Path(config.hydra.sweep.dir)]

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the cells' summaries below the sweep's directory, so every launcher is served."""
        del kwargs
        session.sweep_dirs.clear()
        print_status(Path(config.hydra.sweep.dir))
