"""NYUv2 as a data set of three dense tasks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from rotograd_cli.bounds import checked
from rotograd_cli.data.base import Batch, FileCheck, NotNegative, Preparation
from rotograd_cli.data.nyuv2 import augmentation, layout, preparation, storage
from rotograd_cli.data.nyuv2.layout import HEIGHT, NUM_CLASSES, NUM_FRAMES, WIDTH, Part
from rotograd_cli.data.nyuv2.preparation import NAME, command, find_rows
from rotograd_cli.data.prepared import PreparedArrays
from rotograd_cli.data.stored import StoredDataset
from rotograd_cli.errors import DatasetError
from rotograd_cli.tasks import Task, always_labelled, losses, metrics, select_tasks
from rotograd_cli.tasks.metrics import Protocol

# task: its array, and what decodes it
_TARGETS = {
    "segmentation": ("label", storage.decode_label),
    "depth": ("depth", storage.decode_depth),
    "normals": ("normal", storage.decode_normal),
}


class NYUv2(StoredDataset):
    """Indoor scenes at 288×384: segmentation in 13 classes, depth in metres, surface normals.

    Splits: test is MTAN's "val" folder (654 frames, the official test split), val a fixed list of
    80 of the 795 training frames (``datasets/nyuv2/validation.txt``), train the other 715. Images
    are in [0, 1] and not standardised, as in MTAN's code.

    Args:
        data_dir: Data root.
        tasks: Names of the wanted tasks; None for all three.
        device: Where batches are wanted.
        limit: Largest number of training frames and of test frames, the first ones; at least 5,
            because training frame 4 is the first of the validation split. None requires the
            official numbers.
        protocol: How depth and normal metrics are averaged.
        read_ahead: Batches that are read before they are asked for.
        normals: Folder of published normals, for :meth:`prepare`.

    Raises:
        ConfigError: If an option is out of range.
        DatasetError: If the data are not prepared, lack the target of a task, or have changed
            since.
    """

    name = NAME
    input_shape = (3, HEIGHT, WIDTH)
    num_draws: ClassVar[int] = augmentation.NUM_DRAWS

    @checked
    def __init__(
        self,
        *,
        data_dir: Path,
        tasks: Sequence[str] | None,
        device: torch.device,
        limit: Annotated[int, Ge(layout.FIRST_VALIDATION_FRAME + 1)] | None,
        protocol: Protocol,
        read_ahead: NotNegative,
        normals: str | None,
    ) -> None:
        del normals
        self.tasks = select_tasks(always_labelled(make_tasks(protocol)), tasks)
        rows, chosen = find_rows(data_dir, limit)
        arrays = rows.open()
        _check_targets(arrays, self.tasks, command(data_dir, limit))
        train, test = np.split(arrays.rows_of(rows.files), [chosen["train"]])
        held_out = np.isin(np.arange(len(train)), sorted(layout.validation_frames()))
        super().__init__(
            arrays=arrays,
            rows={"train": train[~held_out], "val": train[held_out], "test": test},
            device=device,
            read_ahead=read_ahead,
        )
        self.notes = _notes(arrays, chosen, protocol)

    @property
    def fields(self) -> Sequence[str]:
        """The image and the chosen tasks' arrays."""
        return ["image", *(_TARGETS[task.name][0] for task in self.tasks)]

    def decode(self, rows: Mapping[str, Tensor]) -> Batch:
        """Images ``[N, 3, 288, 384]``; targets as the losses of dense tasks take them."""
        targets = {}
        for task in self.tasks:
            array, decoder = _TARGETS[task.name]
            targets[task.name] = decoder(rows[array])
        return Batch(storage.decode_image(rows["image"]), targets)

    def images(self, inputs: Tensor) -> Tensor:
        """Return the images as they are: intensities in [0, 1]."""
        return inputs

    def augment(self, batch: Batch, draws: Tensor) -> Batch:
        """Scale, crop and mirror every example: :mod:`rotograd_cli.data.nyuv2.augmentation`."""
        variation = augmentation.vary(draws, HEIGHT, WIDTH)
        return Batch(*augmentation.augment_maps(batch.inputs, batch.targets, variation))

    @classmethod
    def check_files(cls, *, data_dir: Path, options: Mapping[str, Any]) -> Sequence[FileCheck]:
        """Look at MTAN's layout, the official file and the prepared rows."""
        return preparation.check(data_dir, options["limit"])

    @classmethod
    def prepare(cls, *, data_dir: Path, options: Mapping[str, Any], how: Preparation) -> None:
        """Pack MTAN's layout, which is first built from ``how.source``, the official file."""
        preparation.prepare(data_dir, options["limit"], options["normals"], how)


def make_tasks(protocol: Protocol) -> tuple[Task, ...]:
    """Return the three tasks; the protocol says how depth and normal metrics are averaged."""
    shape = (HEIGHT, WIDTH)
    segmentation = metrics.segmentation(NUM_CLASSES)
    return (
        Task("segmentation", NUM_CLASSES, losses.segmentation_cross_entropy, segmentation, shape),
        Task("depth", 1, losses.depth_l1, metrics.depth(protocol), shape),
        Task("normals", 3, losses.normal_cosine, metrics.normals(protocol), shape),
    )


def _check_targets(arrays: PreparedArrays, tasks: Sequence[Task], prepare: str) -> None:
    """Refuse tasks whose targets are not prepared."""
    available = [name for name, (kind, _) in _TARGETS.items() if kind in arrays.fields]
    absent = [task.name for task in tasks if task.name not in available]
    if not absent:
        return
    kind, _ = _TARGETS[absent[0]]
    raise DatasetError(
        f"NYUv2 in {arrays.folder} has no {kind} files, which the task {absent[0]} needs; train "
        f"without that task ('tasks=[{','.join(available)}]'), or put the folders train/{kind} and "
        f"val/{kind} beside the images and run: {prepare}"
    )


def _notes(
    arrays: PreparedArrays, chosen: Mapping[Part, int], protocol: Protocol
) -> tuple[str, ...]:
    notes = []
    provenance = arrays.settings["provenance"]
    if provenance is not None:
        notes.append(f"Normals {provenance['normals']}; frames {provenance['frames']}.")
    if chosen != NUM_FRAMES:
        notes.append(
            f"A subset: the first {chosen['train']} of {NUM_FRAMES['train']} training frames "
            f"(validation included) and {chosen['val']} of {NUM_FRAMES['val']} test frames."
        )
    if protocol == "mtan_batch":
        notes.append(
            "Protocol mtan_batch: depth and normal metrics are means over pairs of images, as in "
            "MTAN's code, not over pixels."
        )
    return tuple(notes)
