"""A run's network and data, for the predictions on its page."""

from pathlib import Path
from typing import cast

from rotograd_cli.config.schema import ReportConfig
from rotograd_cli.data.base import Split
from rotograd_cli.report.measured import Measured, measure
from rotograd_cli.runs.directory import CHECKPOINTS
from rotograd_cli.runs.loading import load
from rotograd_cli.runs.trust import Trust, user_folders
from rotograd_cli.training.batches import num_evaluated


def measure_run(run_dir: Path, config: ReportConfig) -> Measured:
    """Predict with a checkpoint of a run.

    Args:
        run_dir: The run.
        config: Checked configuration.

    Raises:
        RotogradError: If the checkpoint or the data are missing, or the run names components that
            are not trusted.
    """
    has_best = (run_dir / CHECKPOINTS / "best.pt").is_file()
    run = load(
        run_dir,
        checkpoint=config.checkpoint or ("best" if has_best else "last"),
        device=config.device,
        data_dir=config.data_dir,
        trust=Trust(config.trust, user_folders()),
        compile=False,
    )
    split = cast(Split, config.split)
    return measure(
        run.model,
        run.data,
        split,
        checkpoint=run.checkpoint,
        evaluated=num_evaluated(run.data, split, run.options.train),
        limit=config.limit,
        num_examples=config.examples,
        batch_size=run.options.train.eval_batch_size,
    )
