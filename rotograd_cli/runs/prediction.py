"""``rotograd predict``: predictions and targets of a split, in a file."""

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotograd_cli.config.schema import PredictConfig
from rotograd_cli.data.base import Split
from rotograd_cli.errors import ConfigError, first_line
from rotograd_cli.runs.building import memory_errors
from rotograd_cli.runs.directory import other_data
from rotograd_cli.runs.evaluation import Evaluation
from rotograd_cli.runs.loading import LoadedRun, load
from rotograd_cli.runs.prediction_columns import ColumnFolder
from rotograd_cli.runs.prediction_files import SUFFIXES, are_predictions, finish, read_predictions
from rotograd_cli.runs.summary import recorded_metrics
from rotograd_cli.runs.trust import Trust, user_folders
from rotograd_cli.training.batches import cut_notes, num_evaluated
from rotograd_cli.training.evaluation import unlabelled_notes
from rotograd_cli.training.precision import compilation
from rotograd_cli.training.prediction import PredictedBatch, predict_examples
from rotograd_cli.training.seeding import set_deterministic

FOLDER = "predictions"
"""Where predictions go in a run directory."""


@dataclass(frozen=True)
class Written(Evaluation):
    """A file of predictions that was written, and what was measured of it when it was read back."""

    path: Path
    num_examples: int


@memory_errors()
def predict_run(config: PredictConfig) -> Written:
    """Write the predictions of a checkpoint for the examples of a split that the run evaluates.

    Args:
        config: Checked configuration.

    Returns:
        The file, and what it measures.

    Raises:
        RotogradError: If the run cannot be loaded, its data are not there, or something
            else than predictions is in the file's place, or it cannot be written. Nothing is
            written then.
    """
    folder = Path(config.run).expanduser()
    if config.output is not None:
        _refuse_other(Path(config.output).expanduser())
    run = load(
        folder,
        checkpoint=config.checkpoint,
        device=config.device,
        data_dir=config.data_dir,
        trust=Trust(config.trust, user_folders()),
        compile=True,
    )
    path = _path(config, run)
    set_deterministic(run.options.deterministic)
    split: Any = config.split
    with compilation(run.options.compile):
        write_predictions(run, split, path)
    predictions = read_predictions(path)
    measured = predictions.metrics(run.data.tasks)
    recorded = recorded_metrics(folder, config.checkpoint)
    return Written(
        measured=measured,
        path=path,
        num_examples=len(predictions),
        recorded={key: value for key, value in recorded.items() if key in measured},
        notes=(
            *run.data.notes,
            *cut_notes(run.data, (split,), run.options.train),
            *unlabelled_notes(run.data.tasks, measured),
        ),
        other_data=other_data(folder, run.data.fingerprint),
    )


def _path(config: PredictConfig, run: LoadedRun) -> Path:
    is_dense = any(task.map_shape for task in run.data.tasks)
    if config.output is None:
        name = config.split if config.checkpoint == "best" else f"{config.split}-last"
        path = run.folder / FOLDER / (name if is_dense else f"{name}.npz")
        _refuse_other(path)
    else:
        path = Path(config.output).expanduser()
    if is_dense == (path.suffix in SUFFIXES):
        kind = "a folder" if is_dense else "a file .npz or .parquet"
        example = path.with_suffix("" if is_dense else ".npz")
        raise ConfigError(
            f"`output` must name {kind} for the tasks of {run.data.name}, got {path}; write "
            f"output={example}."
        )
    if path.suffix == ".parquet":
        importlib.import_module("rotograd_cli.runs.prediction_parquet")  # refused at once
    return path


def _refuse_other(path: Path) -> None:
    """Refuse to write over what is there, unless that is predictions."""
    if os.path.lexists(path) and not are_predictions(path):
        raise ConfigError(
            f"{path} is there already and holds no predictions, which alone are written over; "
            "remove it, or name another file or folder with output=."
        )


def write_predictions(run: LoadedRun, split: Split, path: Path) -> None:
    """Write what a run predicts for a split, batch by batch; whole or not at all.

    Predictions that are there stay until the new ones are complete.

    Args:
        run: The run.
        split: The split, of which the examples are taken that the run's evaluation takes.
        path: What there shall be: a file with one of :data:`SUFFIXES`, or else a folder.

    Raises:
        ConfigError: If it cannot be written.
    """
    options = run.options.train
    num = num_evaluated(run.data, split, options)
    order = torch.arange(num)
    about = {
        "run": str(run.folder),
        "method": run.summary.method,
        "data": run.data.name,
        "data_fingerprint": run.data.fingerprint,
        "tasks": list(run.tasks),
        "split": split,
        "checkpoint": run.checkpoint,
        "batch_size": options.eval_batch_size,
    }
    with _temporary(path) as folder:
        with ColumnFolder(folder, num) as columns:
            names = run.data.example_names(split, order)
            if names is not None:
                columns.add("name", np.array(names))
            size = options.eval_batch_size
            for batch in predict_examples(run.model, run.data, split, order, batch_size=size):
                _add(columns, batch)
        finish(folder, about, path)


def _add(columns: ColumnFolder, batch: PredictedBatch) -> None:
    num = len(batch.indices)
    columns.add("index", batch.indices.numpy())
    for name, prediction in batch.predictions.items():
        columns.add(f"{name}/prediction", _array(prediction))
        target = batch.targets.get(name)
        columns.add(f"{name}/has_target", np.full(num, target is not None))
        if target is None:
            columns.skip(f"{name}/target", num)
        else:
            columns.add(f"{name}/target", _array(target))


def _array(values: Tensor) -> np.ndarray:
    on_host = values.detach().cpu()
    # NumPy does not have it
    return (on_host.float() if on_host.dtype == torch.bfloat16 else on_host).numpy()


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Inside, there is an empty folder beside a path; afterwards, it and empty parents are gone.

    Raises:
        ConfigError: If something cannot be written.
    """
    folder = path.with_name(f".{path.name}.columns.{os.getpid()}.tmp")
    new = [parent for parent in path.parents if not parent.exists()]
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or first_line(error)}); name a place with "
            "room that can be written, with output=."
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in new:
            with suppress(OSError):  # not empty: the file is there
                parent.rmdir()
