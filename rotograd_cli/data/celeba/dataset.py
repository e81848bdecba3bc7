"""CelebA: forty binary attributes of face images (Liu, Luo, Wang and Tang, ICCV 2015)."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.data.base import Batch, FileCheck, NotNegative, Positive, Preparation
from rotograd_cli.data.celeba.files import AGAIN, ATTRIBUTES, SOURCE, Annotations, Files, read_image
from rotograd_cli.data.prepared import Field
from rotograd_cli.data.rows import Rows, data_command
from rotograd_cli.data.stored import StoredDataset, channels_first
from rotograd_cli.errors import ConfigError, DatasetError, listed
from rotograd_cli.tasks import Task, always_labelled, losses, metrics, select_tasks

YAML_SIZE = 64  # of conf/data/celeba.yaml: the commands that we suggest leave it out
_VERSION = 2  # of what a row holds; to be raised whenever that changes

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
        files = Files.find(data_dir)
        annotations = Annotations.read(files, limit)
        arrays = rows_of(data_dir, files, annotations, image_size, limit).open()
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

    def images(self, inputs: Tensor) -> Tensor:
        """Return the colour images before their normalisation."""
        return (inputs * self._std + self._mean) / 255

    @classmethod
    def check_files(cls, *, data_dir: Path, options: Mapping[str, Any]) -> Sequence[FileCheck]:
        """Look at both annotation files, the images, and every prepared row."""
        size, limit = options["image_size"], options["limit"]
        files = Files.find(data_dir)
        checks = files.check_tables(limit)
        try:
            annotations = Annotations.read(files, limit)
        except DatasetError:  # the reason stands beside the file at fault
            unseen = ("not looked at", "fix the annotation files first.")
            names = ("images", "prepared rows")
            return [*checks, *(FileCheck(name, False, *unseen) for name in names)]
        rows = rows_of(data_dir, files, annotations, size, limit)
        images = FileCheck.of("images", lambda: _look_at_images(rows, annotations.names, size))
        return [*checks, images, FileCheck.of("prepared rows", rows.look)]

    @classmethod
    def prepare(cls, *, data_dir: Path, options: Mapping[str, Any], how: Preparation) -> None:
        """Decode and resize the images of all splits, or the first ``limit`` of each."""
        if how.source is not None:
            raise ConfigError(
                "`--from` has no meaning for CelebA, whose files are looked for in paths.data_dir; "
                "leave it out."
            )
        size, limit = options["image_size"], options["limit"]
        files = Files.find(data_dir)
        rows = rows_of(data_dir, files, Annotations.read(files, limit), size, limit)

        def make(names: Sequence[str], contents: Sequence[bytes]) -> Mapping[str, np.ndarray]:
            return {"image": read_image(rows.source / names[0], size, contents[0])}

        rows.prepare(make, how)


def _select(columns: Sequence[str], names: Sequence[str] | None, files: Files) -> tuple[Task, ...]:
    """Select tasks, all of which the attribute file must have."""
    absent = [name for name in names or () if name not in columns]
    if absent:
        raise DatasetError(
            f"The attribute file in {files.folder} must have the attribute {absent[0]}, which "
            f"`tasks` names, got {len(columns)} others; get the whole file from {SOURCE}, or leave "
            f"{', '.join(absent)} out of `tasks`."
        )
    return select_tasks(always_labelled(t for t in TASKS if t.name in columns), names)


def rows_of(
    data_dir: Path, files: Files, annotations: Annotations, image_size: int, limit: int | None
) -> Rows:
    """Rows of the images of all splits, in file order.

    Args:
        data_dir: Data root, for the command that prepares them.
        files: Where the files are.
        annotations: Their content, for the given limit.
        image_size: Height and width in pixels.
        limit: Images of each split, for the command.
    """
    positions = np.sort(np.concatenate(list(annotations.positions.values())))
    size = [] if image_size == YAML_SIZE else [f"data.image_size={image_size}"]
    subset = [] if limit is None else [f"data.limit={limit}"]
    command = f"run: {data_command('prepare', 'celeba', data_dir, *size, *subset)}"
    leave_out = "leave them out of both annotation files and set data.limit=N for a subset"
    return Rows(
        title=f"CelebA at {image_size}x{image_size}",
        unit="images",
        root=files.folder / "prepared",
        settings={
            "data": "celeba",
            "version": _VERSION,
            "image_size": image_size,
            "resize": "bilinear, antialiased, not cropped (PIL)",
        },
        fields={"image": Field((image_size, image_size, 3), "uint8")},
        files=[(annotations.names[position],) for position in positions],
        source=files.images,
        remedy=f"{files.remedy}, then {command}" if files.remedy else command,
        restore=files.remedy or f"{AGAIN}, or {leave_out}",
    )


def _look_at_images(rows: Rows, names: Sequence[str], image_size: int) -> str:
    existing = {path.name for path in rows.source.glob("*.jpg")}
    unnamed = sorted(existing.difference(names))
    also = f"; {len(unnamed):,} that no annotation names: {listed(unnamed)}" if unnamed else ""
    unprepared = rows.unprepared()
    rows.check_sources(unprepared)
    paths = [rows.source / name for (name,) in unprepared]
    with ThreadPoolExecutor() as pool:
        faults = list(filter(None, pool.map(lambda path: _fault(path, image_size), paths)))
    if faults:
        raise DatasetError(
            f"{len(faults):,} of {len(paths):,} images cannot be prepared: {listed(faults)}; "
            f"{AGAIN}."
        )
    num = sum(name in existing for (name,) in rows.files)
    return (
        f"{num:,} of {len(rows.files):,} in {rows.source}; {len(unprepared):,} to be prepared, "
        f"each of which can be decoded{also}"
    )


def _fault(path: Path, size: int) -> str:
    """Return why an image cannot be prepared; empty if it can."""
    try:
        read_image(path, size, path.read_bytes())
    except OSError as error:
        return str(error).partition("; ")[0]
    return ""
