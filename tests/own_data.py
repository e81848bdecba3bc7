"""Data sets of map style as users write them, and backbones for their inputs."""

import random
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

FAKE_ITEM = namedtuple("FAKE_ITEM", ["x", "label"])


@dataclass
class Pair:
    x: Tensor
    label: Any


class Points(Dataset[Any]):
    """Points of the plane with a class and a number, which some lack.

    Args:
        num: How many.
        kind: Class of the items.
        draws: Whether points are moved at random when they are read.
        wrong: What is wrong with item 7.
    """

    def __init__(
        self, num: int, *, kind: str = "dict", draws: bool = False, wrong: str = "", seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(num, 2, generator=generator)
        self.kind, self.draws, self.wrong = kind, draws, wrong

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        x = self.x[index].clone()
        label: Any = int(x[0] > 0)
        size: Any = float(x.norm())
        if self.draws:
            x += torch.rand(()) + random.random() + float(np.random.rand())
        if self.wrong and index == 7:
            if self.wrong == "raises":
                raise LookupError("no such point")
            if self.wrong == "dies":
                import os

                os._exit(3)
            x = {"shape": x[:1], "dtype": x.double(), "list": [1.0, 2.0], "text": "x"}[self.wrong]
        if self.kind == "dict":
            item = {"x": x, "label": label, "size": size}
            if index % 3 == 1:
                item["size"] = None
            if index % 3 == 2:
                del item["size"]
            return item
        if self.kind == "tree":
            tokens = torch.tensor([index % 7, 1, 2])
            return {"text": {"ids": tokens, "mask": torch.ones(3)}, "x": x, "label": label}
        return {"tuple": (x, label), "named": FAKE_ITEM(x, label), "data": Pair(x, label)}[
            self.kind
        ]


class Numbers(Dataset[Any]):
    """A number for each of some points, in float64-friendly values; data sets of their own."""

    def __init__(self, num: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(num, 3, generator=generator)
        self.y = torch.randn(num, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.x[index], self.y[index]


class Words(nn.Module):
    """Takes token ids and their mask by keyword, as the encoders of Hugging Face do."""

    def __init__(self, *, input_shape: Any) -> None:
        super().__init__()
        assert {name: len(shape) for name, shape in input_shape.items()} == {"ids": 1, "mask": 1}
        self.embedding = nn.Embedding(7, 6)

    def forward(self, *, ids: Tensor, mask: Tensor) -> Tensor:
        return (self.embedding(ids) * mask.unsqueeze(-1)).sum(1)


class Two(nn.Module):
    """Takes two inputs by position."""

    def __init__(self, *, input_shape: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0][0], 6)

    def forward(self, x: Tensor, text: dict[str, Tensor]) -> Tensor:
        return torch.relu(self.layer(x) + text["mask"].sum(1, keepdim=True))


def padded(items: Sequence[Any]) -> dict[str, Any]:
    """A collate of one's own: as long as the longest of the batch."""
    rows = [torch.arange(1.0, 2 + item["label"]) for item in items]
    x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"x": x, "label": [item["label"] for item in items], "size": None}


class Summed(nn.Module):
    """Takes rows of any length."""

    def __init__(self, *, input_shape: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.sum(1, keepdim=True))
