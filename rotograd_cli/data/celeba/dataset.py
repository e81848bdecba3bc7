"""CelebA: forty binary attributes of face images (Liu, Luo, Wang and Tang, ICCV 2015)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.data.base import Batch, FileCheck, NotNegative, Positive, Preparation
from rotograd_cli.data.celeba import preparation
from rotograd_cli.data.celeba.annotations import ATTRIBUTES, Annotations
from rotograd_cli.data.celeba.files import ATTRIBUTE_FILE, SOURCE, Files, find
from rotograd_cli.data.celeba.preparation import rows_of
from rotograd_cli.data.stored import StoredDataset, channels_first
from rotograd_cli.errors import DatasetError
from rotograd_cli.tasks import Task, losses, metrics, select_tasks

TASKS = tuple(
    Task(name, 1, losses.binary_cross_entropy, (metrics.f1(),), batchable=True)
    for name in ATTRIBUTES
)


class CelebA(StoredDataset):
    """Aligned face images with the official splits; every attribute is a task (BCE, F1).

    Reads what :meth:`prepare` wrote: the images are decoded and resized once. The annotation files
    stay where they are and are read at every start; the images may go.

    Args:
        data_dir: Data root.
        tasks: Names of the wanted attributes; None for all that the attribute file has.
        device: Where batches are wanted.
        image_size: Height and width in pixels.
        limit: Images of each split, the first ones; None demands the official numbers.
        read_ahead: Batches that are read before they are asked for; 0 reads when asked.
        mean: Mean of the normalisation for red, green and blue, full intensity = 1.
        std: Standard deviation of the normalisation, likewise.

    Raises:
        ConfigError: If an option is out of range.
        DatasetError: If a file is absent or wrong, or the images are not prepared or have changed
            since.
    """

    name = "celeba"

    @checked
    def __init__(
        self,
        *,
        data_dir: Path,
        tasks: Sequence[str] | None,
        device: torch.device,
        image_size: AtLeastOne,
        limit: AtLeastOne | None,
        read_ahead: NotNegative,
        mean: tuple[float, float, float],
        std: tuple[Positive, Positive, Positive],
    ) -> None:
        select_tasks(TASKS, tasks)  # a wrong name is refused before files are read
        self.input_shape = (3, image_size, image_size)
        files = find(Path(data_dir))
        annotations = Annotations.read(files, limit)
        arrays = rows_of(Path(data_dir), files, annotations, image_size, limit).open()
        names = [(name,) for name in annotations.names]
        super().__init__(
            arrays=arrays,
            rows={
                split: arrays.rows_of([names[position] for position in chosen])
                for split, chosen in annotations.positions.items()
            },
            held={
                split: {"attributes": annotations.attributes[chosen]}
                for split, chosen in annotations.positions.items()
            },
            device=device,
            read_ahead=read_ahead,
        )
        self.tasks = _select(annotations.columns, tasks, files)
        self.notes = annotations.notes
        self._mean = 255 * torch.tensor(mean, device=device).view(3, 1, 1)
        self._std = 255 * torch.tensor(std, device=device).view(3, 1, 1)
        self._columns = {task.name: annotations.columns.index(task.name) for task in self.tasks}

    def decode(self, rows: Mapping[str, Tensor]) -> Batch:
        """Normalised images ``[N, 3, S, S]`` and the chosen tasks' targets 0 or 1, ``[N]``."""
        images = channels_first(rows["image"])
        images.sub_(self._mean).div_(self._std)
        # one conversion for all tasks, each target contiguous
        values = rows["attributes"].T.to(torch.float32, memory_format=torch.contiguous_format)
        return Batch(images, {name: values[column] for name, column in self._columns.items()})

    @classmethod
    def check_files(cls, *, data_dir: Path, options: Mapping[str, Any]) -> Sequence[FileCheck]:
        """Both annotation files, the images, and every prepared row."""
        return preparation.check(Path(data_dir), options["image_size"], options["limit"])

    @classmethod
    def prepare(cls, *, data_dir: Path, options: Mapping[str, Any], how: Preparation) -> None:
        """Decodes and resizes the images of all splits, or the first ``limit`` of each."""
        preparation.prepare(Path(data_dir), options["image_size"], options["limit"], how)


def _select(columns: Sequence[str], names: Sequence[str] | None, files: Files) -> tuple[Task, ...]:
    """Select tasks, all of which the attribute file must have."""
    absent = [name for name in names or () if name not in columns]
    if absent:
        raise DatasetError(
            f"{files.require(ATTRIBUTE_FILE)} must have the attribute {absent[0]}, which `tasks` "
            f"names, got {len(columns)} others; get the whole file from {SOURCE}, or leave "
            f"{', '.join(absent)} out of `tasks`."
        )
    return select_tasks([task for task in TASKS if task.name in columns], names)
