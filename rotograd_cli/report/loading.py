"""A run's network and data, for the predictions on its page."""

from dataclasses import asdict
from pathlib import Path
from typing import cast

from rotograd_cli.config.schema import ReportConfig
from rotograd_cli.data.base import Split
from rotograd_cli.report.measured import Measured, measure
from rotograd_cli.runs.building import build, resolve_device
from rotograd_cli.runs.directory import CHECKPOINTS
from rotograd_cli.runs.evaluation import NO_LOGGER
from rotograd_cli.runs.saved import load_run_config
from rotograd_cli.runs.trust import Trust, user_folders
from rotograd_cli.training.checkpoint import load_checkpoint
from rotograd_cli.training.run_state import load_weights


def measure_run(run_dir: Path, config: ReportConfig) -> Measured:
    """Predict with a checkpoint of a run.

    Args:
        run_dir: The run.
        config: Checked configuration.

    Raises:
        RotogradError: If the checkpoint or the data are missing, or the run names components that
            are not trusted.
    """
    run_config = load_run_config(run_dir)
    run_config.logger = NO_LOGGER
    Trust(config.trust, user_folders()).check(asdict(run_config), run_dir / "config.yaml", run_dir)
    if config.device is not None:
        run_config.device = config.device
    if config.data_dir is not None:
        run_config.paths.data_dir = config.data_dir
    name = config.checkpoint or (
        "best" if (run_dir / CHECKPOINTS / "best.pt").is_file() else "last"
    )
    path = run_dir / CHECKPOINTS / f"{name}.pt"
    checkpoint = load_checkpoint(path, resolve_device(run_config.device))
    model, dataset = build(run_config)
    load_weights(model, checkpoint["model"], path)
    return measure(
        model,
        dataset,
        cast(Split, config.split),
        limit=config.limit,
        num_examples=config.examples,
        batch_size=run_config.train.eval_batch_size,
    )
