"""``rotograd evaluate``: a checkpoint of a run, measured again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rotograd_cli.config.schema import EvaluateConfig
from rotograd_cli.runs.building import memory_errors
from rotograd_cli.runs.directory import other_data
from rotograd_cli.runs.loading import load
from rotograd_cli.runs.summary import RunSummary, recorded_metrics
from rotograd_cli.runs.trust import Trust, user_folders
from rotograd_cli.training.batches import complete_batches, cut_notes, evaluation_parts
from rotograd_cli.training.evaluation import evaluate, unlabelled_notes
from rotograd_cli.training.precision import compilation
from rotograd_cli.training.seeding import set_deterministic


@dataclass(frozen=True)
class Evaluation:
    """A checkpoint of a run, measured again."""

    measured: dict[str, float]
    recorded: dict[str, float | None]
    """What the run recorded for the same split and checkpoint; empty where it recorded nothing."""
    notes: tuple[str, ...]
    """Notes on the data."""
    other_data: str | None
    """That the run saw other data than these, in words; None if it saw these, or is too old."""


def _averaging(summary: RunSummary) -> list[str]:
    """Say that a checkpoint is one of the epochs that the run's results are means of."""
    if summary.averaged_epochs is None:
        return []
    return [f"the run's results are of the {summary.measured_at}; these are of the last epoch"]


@memory_errors()
def evaluate_run(config: EvaluateConfig) -> Evaluation:
    """Evaluate a checkpoint of a run.

    Args:
        config: Checked configuration.

    Returns:
        What was measured, beside what the run recorded.

    Raises:
        RotogradError: If the run, its configuration or its checkpoint is missing or does not fit,
            or names components that are not trusted.
    """
    run = load(
        Path(config.run).expanduser(),
        checkpoint=config.checkpoint,
        device=config.device,
        data_dir=config.data_dir,
        trust=Trust(config.trust, user_folders()),
        compile=True,
    )
    set_deterministic(run.options.deterministic)
    options = run.options.train
    split: Any = config.split
    batches = complete_batches(run.data, split, evaluation_parts(run.data, split, options))
    with compilation(run.options.compile):
        measured = evaluate(run.model, run.data.tasks, batches, split)
    recorded = recorded_metrics(run.folder, config.checkpoint)
    return Evaluation(
        measured,
        recorded={key: value for key, value in recorded.items() if key in measured},
        notes=(
            *run.data.notes,
            *cut_notes(run.data, (split,), options),
            *unlabelled_notes(run.data.tasks, measured),
            *_averaging(run.summary),
        ),
        other_data=other_data(run.folder, run.data.fingerprint),
    )
