"""``rotograd evaluate``: a checkpoint of a run, measured again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rotograd_cli.errors import CheckpointError
from rotograd_cli.runs.building import build
from rotograd_cli.runs.config import EvaluateConfig
from rotograd_cli.runs.device import memory_errors
from rotograd_cli.runs.directory import CHECKPOINTS, other_data
from rotograd_cli.runs.saved import load_run_config
from rotograd_cli.runs.summary import recorded_metrics
from rotograd_cli.runs.trust import Trust
from rotograd_cli.training.batches import complete_batches, cut_notes, evaluation_parts
from rotograd_cli.training.checkpoint import load_checkpoint
from rotograd_cli.training.evaluation import evaluate
from rotograd_cli.training.precision import compilation
from rotograd_cli.training.run_state import load_weights

NO_LOGGER = {"_target_": "rotograd_cli.tracking.base.NullTracker", "_partial_": True}


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


@memory_errors()
def evaluate_run(config: EvaluateConfig, folders: tuple[Path, ...] = ()) -> Evaluation:
    """Evaluates a checkpoint of a run.

    Args:
        config: Checked configuration.
        folders: The user's own folders of YAML files, whose components are trusted.

    Returns:
        What was measured, beside what the run recorded.

    Raises:
        RotogradError: If the run, its configuration or its checkpoint is missing or does not fit,
            or names components that are not trusted.
    """
    run_dir = Path(config.run).expanduser()
    run_config = load_run_config(run_dir)
    run_config.logger = NO_LOGGER
    if isinstance(run_config.backbone, Mapping) and "pretrained" in run_config.backbone:
        # the checkpoint has all weights
        run_config.backbone = {**run_config.backbone, "pretrained": False}
    Trust(config.trust, folders).check(asdict(run_config), run_dir / "config.yaml", run_dir)
    if config.device is not None:
        run_config.device = config.device
    if config.data_dir is not None:
        run_config.paths.data_dir = config.data_dir
    experiment = build(run_config)
    path = run_dir / CHECKPOINTS / f"{config.checkpoint}.pt"
    checkpoint = load_checkpoint(path, experiment.device)
    if "model" not in checkpoint:
        raise CheckpointError(f"{path} holds no model; train the run again.")
    load_weights(experiment.model, checkpoint["model"], path)
    options = run_config.train
    split: Any = config.split
    parts = evaluation_parts(experiment.dataset, split, options)
    batches = complete_batches(experiment.dataset, split, parts)
    with compilation(run_config.compile):
        measured = evaluate(experiment.model, experiment.dataset.tasks, batches, split)
    recorded = recorded_metrics(run_dir, config.checkpoint)
    compared = {key: value for key, value in recorded.items() if key in measured}
    notes = (*experiment.dataset.notes, *cut_notes(experiment.dataset, (split,), options))
    difference = other_data(run_dir, experiment.dataset.fingerprint)
    return Evaluation(measured, compared, notes, difference)
