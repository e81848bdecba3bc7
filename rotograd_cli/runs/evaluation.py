"""``rotograd evaluate``: a checkpoint of a run, measured again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rotograd_cli.config.schema import EvaluateConfig
from rotograd_cli.errors import CheckpointError
from rotograd_cli.runs.building import build, memory_errors, resolve_device
from rotograd_cli.runs.directory import CHECKPOINTS, other_data
from rotograd_cli.runs.saved import load_run_config
from rotograd_cli.runs.summary import recorded_metrics
from rotograd_cli.runs.trust import Trust, user_folders
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
    run_dir = Path(config.run).expanduser()
    run_config = load_run_config(run_dir)
    run_config.logger = NO_LOGGER
    if isinstance(run_config.backbone, Mapping) and "pretrained" in run_config.backbone:
        # the checkpoint has all weights
        run_config.backbone = {**run_config.backbone, "pretrained": False}
    trust = Trust(config.trust, user_folders())
    trust.check(asdict(run_config), run_dir / "config.yaml", run_dir)
    recorded = recorded_metrics(run_dir, config.checkpoint)
    if config.device is not None:
        run_config.device = config.device
    if config.data_dir is not None:
        run_config.paths.data_dir = config.data_dir
    model, dataset = build(run_config)
    path = run_dir / CHECKPOINTS / f"{config.checkpoint}.pt"
    checkpoint = load_checkpoint(path, resolve_device(run_config.device))
    if "model" not in checkpoint:
        raise CheckpointError(f"{path} holds no model; train the run again.")
    load_weights(model, checkpoint["model"], path)
    options = run_config.train
    split: Any = config.split
    batches = complete_batches(dataset, split, evaluation_parts(dataset, split, options))
    with compilation(run_config.compile):
        measured = evaluate(model, dataset.tasks, batches, split)
    return Evaluation(
        measured,
        recorded={key: value for key, value in recorded.items() if key in measured},
        notes=(*dataset.notes, *cut_notes(dataset, (split,), options)),
        other_data=other_data(run_dir, dataset.fingerprint),
    )
