"""Reading batches of the user's data sets from given seeds."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import Subset

from rotograd_cli.data.torch_datasets.items import ABSENT, find, find_inputs, require
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.targets import TargetForm
from rotograd_cli.trees import Inputs, map_tensors, shown, tensors
from rotograd_cli.user_code import blamed

Loaded = tuple[Inputs, dict[str, Tensor]]
"""Inputs, and targets by task, on the host; a task without any label is missing."""
Pair = tuple[int, int]
"""Position of an example, and the seed that it is read with."""
NUM_SAMPLES = 16
"""Items of each data set that are checked before training; the fingerprint is made of them."""


@dataclass
class Reader:
    """Reads batches of one split: examples one by one, then as tensors with examples first.

    Before an example is read, Python, NumPy and torch are seeded with its seed; afterwards they are
    as they were. What its transforms draw therefore depends on the seed alone.
    """

    dataset: Any
    """The user's, with ``__len__`` and ``__getitem__``."""
    place: str
    """Data set and split, for messages."""
    inputs: Any
    """Where the inputs are in an item (:func:`find_inputs`)."""
    tasks: Sequence[Task]
    """Tasks to read the targets of."""
    collate: Callable[[list[Any]], Any] | None
    """The user's, from items to a batch with inputs and targets under the keys of an item; None
    stacks them."""
    example: "Inputs | None" = None
    """Inputs of one item, which those of all others must be like; None until they are known."""

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, pairs: Sequence[Pair]) -> Loaded:
        """Return a batch.

        Raises:
            ConfigError: If an item cannot be read, or is not like the others.
        """
        with unchanged_generators():
            items = [self._item(*pair) for pair in pairs]
            if self.collate is None:
                return self._stacked(items, [index for index, _ in pairs])
            seed_generators(pairs[0][1])
            return self._collated(items, self.collate)

    def item(self, index: int) -> Any:
        """Return an item as the user's data set has it."""
        with unchanged_generators():
            return self._item(index, index)

    def draws(self, index: int) -> bool:
        """Return whether random numbers are drawn while an item is read."""
        with unchanged_generators():
            self._item(index, index)
            after = _next_numbers()
            seed_generators(index)
            return after != _next_numbers()

    def samples(self, task: Task) -> list[int]:
        """Return positions of items that may have a label of a task, at most 16, spread evenly."""
        del task
        return spread(len(self))

    def all_samples(self) -> list[int]:
        """Return the positions of all items that are checked before training."""
        return list(dict.fromkeys(index for task in self.tasks for index in self.samples(task)))

    def source(self, index: int) -> tuple[Any, int]:
        """Return the user's data set that an example comes from, and its index there."""
        return unwrapped(self.dataset, index)

    def target(self, task: Task, item: Any, index: int) -> Tensor | None:
        """Return the target of a task in the item at a position; None without one."""
        with blamed("the target cannot be read", "correct it", f"{self.place}, item {index}"):
            value, mask = _value_and_mask(task, item)
            return None if value is None else form_of(task).read(value, mask)

    def _item(self, index: int, seed: int) -> Any:
        seed_generators(seed)

        def what(_: Exception) -> str:
            dataset, local = self.source(index)
            return f"{type(dataset).__name__}[{local}] fails"

        with blamed(what, "correct it", self.place, files=True):
            return self.dataset[index]

    def _stacked(self, items: Sequence[Any], indices: Sequence[int]) -> Loaded:
        numbered = list(zip(items, indices, strict=True))
        inputs = [self._find_inputs(item, index) for item, index in numbered]
        targets = {}
        for task in self.tasks:
            rows = [self.target(task, item, index) for item, index in numbered]
            known = [row for row in rows if row is not None]
            if known:
                with blamed("targets cannot be stacked", "make them alike", self.place):
                    like = known[0]
                    filled = [form_of(task).unlabelled(like) if x is None else x for x in rows]
                    targets[task.name] = torch.stack(filled)
        return pytree.tree_map(lambda *xs: torch.stack(xs), *inputs), targets

    def _find_inputs(self, item: Any, index: int) -> Inputs:
        """Return the inputs of an item; refuse those that cannot be stacked with other items'."""
        with blamed("the inputs cannot be read", "correct them", f"{self.place}, item {index}"):
            inputs = find_inputs(item, self.inputs)
            if self.example is not None and _signature(inputs) != _signature(self.example):
                one, other = (_shown(x) for x in (inputs, self.example))
                raise ConfigError(
                    f"inputs must be like those of the first item, {other}, got {one}; make them "
                    "alike in your data set, or pad them in a `collate` of your own."
                )
        return inputs

    def _collated(self, items: list[Any], collate: Callable[[list[Any]], Any]) -> Loaded:
        with blamed("`data.collate` fails", "correct it", self.place, files=True):
            batch = collate(items)
        place = f"{self.place}, what `data.collate` returns"
        with blamed("it cannot be taken apart", "keep the keys and the order of items", place):
            inputs = find_inputs(batch, self.inputs)
            targets = {}
            for task in self.tasks:
                values, masks = _value_and_mask(task, batch)
                if values is not None:
                    masks = [None] * len(values) if masks is None else masks
                    pairs = zip(values, masks, strict=True)
                    read = form_of(task).read
                    targets[task.name] = torch.stack([read(*pair) for pair in pairs])
            for part in (*tensors(inputs), *targets.values()):
                if part.shape[:1] != (len(items),):
                    raise ConfigError(
                        f"everything must have the {len(items)} examples on the first axis, got "
                        f"shape {list(part.shape)}; leave none out."
                    )
        return inputs, targets


def form_of(task: Task) -> TargetForm:
    """Return the form of a declared task's targets."""
    assert task.target is not None
    return task.target


def unwrapped(dataset: Any, index: int) -> tuple[Any, int]:
    """Return the data set under torch's ``Subset``, and the index there."""
    while isinstance(dataset, Subset):
        index = dataset.indices[index]
        dataset = dataset.dataset
    return dataset, index


def spread(num: int) -> list[int]:
    """Return positions that are spread evenly over a data set, at most :data:`NUM_SAMPLES`."""
    places = torch.linspace(0, num - 1, min(num, NUM_SAMPLES), dtype=torch.float64)
    return places.round().long().tolist()


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch on the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


@contextmanager
def unchanged_generators() -> Iterator[None]:
    """Inside, numbers may be drawn; afterwards these generators are as they were."""
    of_python = random.getstate()
    of_numpy = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def _next_numbers() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand((), dtype=torch.float64))


def _value_and_mask(task: Task, item: Any) -> tuple[Any, Any]:
    """Return what an item or a batch of the user's has for a task; None where it has nothing."""
    form = form_of(task)
    value = find(item, form.key)
    mask = None
    if form.mask is not None:
        mask = require(item, form.mask, f"data.tasks.{task.name}.mask")
    return (None if value is ABSENT else value), mask


def _signature(inputs: Inputs) -> Any:
    return map_tensors(lambda x: (x.shape, x.dtype), inputs)


def _shown(inputs: Inputs) -> str:
    return shown(map_tensors(lambda x: x[None], inputs))
