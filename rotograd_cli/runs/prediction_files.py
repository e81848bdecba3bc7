"""Files of predictions: what is in them, writing them example by example, reading them back.

========================= =========== ==============================================================
column                    type        content, a row per example
========================= =========== ==============================================================
``index``                 int64       position in the split
``name``                  text        what the data set calls the example; absent where it has none
``<task>/prediction``     float       what the task's loss takes, ``[N, num_outputs, *map_shape]``
``<task>/target``         as in the   target, first axis N; -1 or NaN where there is no label;
                          data set    absent where no example has one
``<task>/has_target``     bool        whether the example's batch has a target of the task at all
========================= =========== ==============================================================

``FILE.npz`` holds the columns under these names, ``FILE.parquet`` likewise (a prediction of one
number as a number, a missing target as null), and a folder, for dense tasks, a ``.npy`` file per
column with a dot for the slash, which NumPy can map into memory. ``about`` says in JSON what the
predictions are of.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError, DatasetError, first_line
from rotograd_cli.files import replace_file, replace_folder
from rotograd_cli.runs.prediction_columns import file_name
from rotograd_cli.tasks import Task
from rotograd_cli.training.evaluation import measure

SUFFIXES = (".npz", ".parquet")
"""Of files; dense tasks have a folder."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a checkpoint for the examples of a split, as a file has them."""

    about: dict[str, Any]
    """``run``, ``method``, ``data``, ``data_fingerprint``, ``tasks``, ``split``, ``checkpoint``,
    and ``batch_size`` of the evaluation."""
    index: np.ndarray
    """Positions in the split, int64, shape ``[N]``."""
    names: np.ndarray | None
    """What the data set calls the examples; None where it has no names."""
    predictions: dict[str, np.ndarray]
    """By task, shape ``[N, num_outputs, *map_shape]``."""
    targets: dict[str, np.ndarray]
    """By task, first axis N; a task is missing where no example has a target."""
    has_target: dict[str, np.ndarray]
    """Whether each example has a target, by task, bool, shape ``[N]``."""

    def __len__(self) -> int:
        return len(self.index)

    def metrics(self, tasks: Sequence[Task]) -> dict[str, float]:
        """Return losses and metrics as ``rotograd evaluate`` does, from what is here alone.

        Args:
            tasks: Those of the run, with their losses and metrics: ``run.data.tasks``.

        Raises:
            ConfigError: If they are not the tasks of the file.
        """
        names = [task.name for task in tasks]
        if names != list(self.predictions):
            raise ConfigError(
                f"`tasks` must be those of the predictions ({', '.join(self.predictions)}), got "
                f"{', '.join(names)}; pass run.data.tasks of the run that predicted."
            )
        return measure(tasks, self._batches(), self.about["split"], device=torch.device("cpu"))

    def _batches(self) -> Iterator[tuple[list[Tensor], Batch]]:
        """Yield the batches of the run's own evaluation, so that sums are rounded as they were."""
        size = self.about["batch_size"]
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            predictions = [_tensor(values[rows]) for values in self.predictions.values()]
            targets = {}
            for name, values in self.targets.items():
                # a data set leaves a target out of whole batches
                if self.has_target[name][rows].all():
                    targets[name] = _tensor(values[rows])
            yield predictions, Batch(predictions[0], targets)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values))


def finish(folder: Path, about: Mapping[str, Any], path: Path) -> None:
    """Make a folder of columns the file that was asked for, whole or not at all.

    Args:
        folder: Folder that a :class:`ColumnFolder` wrote.
        about: What the predictions are of.
        path: What they shall be: a folder, or a file with one of :data:`SUFFIXES`.

    Raises:
        OSError: If it cannot be written.
    """
    text = json.dumps(about)
    if path.suffix not in SUFFIXES:
        (folder / "about.json").write_text(text + "\n", encoding="utf-8")
        replace_folder(folder, path)
        return
    columns = _columns_of(folder, about)
    if path.suffix == ".npz":
        content: dict[str, Any] = {"about": np.array(text), **columns}
        replace_file(path, lambda file: np.savez(file, **content))
        return
    from rotograd_cli.runs.prediction_parquet import write_parquet

    replace_file(path, lambda file: write_parquet(file, columns, text))


def _columns_of(folder: Path, about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    kinds = ("prediction", "target", "has_target")
    names = ["index", "name", *(f"{task}/{kind}" for task in about["tasks"] for kind in kinds)]
    paths = {name: folder / file_name(name) for name in names}
    return {
        name: np.load(path, mmap_mode="r", allow_pickle=False)
        for name, path in paths.items()
        if path.exists()
    }


def read_predictions(path: Path | str) -> Predictions:
    """Read what ``rotograd predict`` wrote.

    Args:
        path: File or folder. The arrays of a folder are mapped into memory, not read.

    Raises:
        DatasetError: If it is not there, or holds something else.
    """
    path = Path(path).expanduser()
    try:
        about, columns = _read(path)
        return Predictions(
            about=about,
            index=columns["index"],
            names=columns.get("name"),
            predictions={task: columns[f"{task}/prediction"] for task in about["tasks"]},
            targets={
                task: columns[f"{task}/target"]
                for task in about["tasks"]
                if f"{task}/target" in columns
            },
            has_target={task: columns[f"{task}/has_target"] for task in about["tasks"]},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DatasetError(
            f"{path} cannot be read as predictions ({reason}); rotograd predict run=DIR writes "
            "such a file or folder."
        ) from error


def are_predictions(path: Path) -> bool:
    """Whether a file or folder holds predictions and nothing else: it may be written over."""
    if path.is_dir():
        is_own = [each.name == "about.json" or each.suffix == ".npy" for each in path.iterdir()]
        if path.is_symlink() or not all(is_own):
            return False
    try:
        read_predictions(path)
    except DatasetError:
        return False
    return True


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if path.is_dir():
        about = json.loads((path / "about.json").read_text(encoding="utf-8"))
        return about, _columns_of(path, about)
    if path.suffix == ".parquet":
        from rotograd_cli.runs.prediction_parquet import read_parquet

        return read_parquet(path)
    with np.load(path, allow_pickle=False) as archive:
        columns = {name: archive[name] for name in archive.files}
    return json.loads(str(columns.pop("about"))), columns
