"""A split as torch's own data sets are: examples by index, for ``torch.utils.data.DataLoader``."""

from collections.abc import Sequence
from operator import itemgetter

import torch
from torch import Tensor
from torch.utils.data import Dataset

from rotograd_cli.data.base import MultiTaskDataset, Split
from rotograd_cli.trees import Inputs, map_tensors

Item = tuple[Inputs, dict[str, Tensor]]
"""Input, of shape ``input_shape`` or a tree, and target by task, where there is one."""


class Examples(Dataset[Item]):
    """A split of a data set, without augmentation, on the data set's device.

    Args:
        data: The data set.
        split: The split.
    """

    def __init__(self, data: MultiTaskDataset, split: Split) -> None:
        self.data = data
        self.split = split

    def __len__(self) -> int:
        return self.data.num_examples(self.split)

    def __getitem__(self, index: int) -> Item:
        """Return one example; a negative index counts from the end.

        Raises:
            IndexError: If there is no such example.
        """
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return several examples, read at once; torch's loader asks for them here."""
        batch = self.data.batch(self.split, torch.tensor(indices, dtype=torch.int64))
        return [
            (
                map_tensors(itemgetter(row), batch.inputs),
                {name: target[row] for name, target in batch.targets.items()},
            )
            for row in range(len(batch))
        ]
