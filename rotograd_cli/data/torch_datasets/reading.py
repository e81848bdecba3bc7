"""Reading batches of the user's data sets from given seeds."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import Subset

from rotograd_cli.data.torch_datasets.items import ABSENT, Key, find, find_inputs, keys_of
from rotograd_cli.errors import ConfigError, RotogradError, first_line
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.targets import TargetForm
from rotograd_cli.trees import Inputs, map_tensors, shown, tensors
from rotograd_cli.user_code import describe

Loaded = tuple[Inputs, dict[str, Tensor]]
"""Inputs, and targets by task, on the host; a task without any label is missing."""
Pair = tuple[int, int]
"""Position of an example, and the seed that it is read with."""
NUM_SAMPLES = 16
"""Items of each data set that are looked at before training: the fingerprint is made of them."""


@dataclass(frozen=True)
class Place:
    """Where the target of a task is in an item."""

    target: Key
    mask: Key | None = None
    """Says where there is a label; None for everywhere."""


class Reader:
    """Reads batches of one split: examples one by one, then as tensors with examples first.

    Before an example is read, Python, NumPy and torch are seeded with its seed, and afterwards they
    are as they were. So what its transforms draw depends on the seed alone.

    Args:
        dataset: The user's, with ``__len__`` and ``__getitem__``.
        place: Data set and split, for messages.
        inputs: Where the inputs are in an item.
        tasks: Tasks to read the targets of.
        places: Where these are.
        collate: The user's, from items to a batch in which inputs and targets are found as they are
            in an item; None stacks them.
    """

    def __init__(
        self,
        dataset: Any,
        place: str,
        inputs: Any,
        tasks: Sequence[Task],
        places: Mapping[str, Place],
        collate: Callable[[list[Any]], Any] | None,
    ) -> None:
        self.dataset = dataset
        self.place = place
        self.inputs = inputs
        self.tasks = tasks
        self.places = places
        self.collate = collate
        self.example: Inputs | None = None
        """Inputs that those of all items are like; None until they are known."""

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
            return self._collated(items)

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

    def looked_at(self) -> list[int]:
        """Return the positions of all items that are looked at before training."""
        return list(dict.fromkeys(index for task in self.tasks for index in self.samples(task)))

    def source(self, index: int) -> tuple[Any, int]:
        """Return the user's data set that an example comes from, and its index there."""
        dataset: Any = self.dataset
        while isinstance(dataset, Subset):
            dataset, index = dataset.dataset, dataset.indices[index]
        return dataset, index

    def target(self, task: Task, item: Any, index: int | None) -> tuple[Any, Any]:
        """Return target and mask of a task, None where there is none.

        Args:
            task: The task.
            item: An item, or a batch of the user's collate.
            index: Its position; None of a batch.
        """
        place = self.places[task.name]
        value = find(item, place.target)
        mask = None if place.mask is None else find(item, place.mask)
        if mask is ABSENT:
            raise ConfigError(
                f"`data.tasks.{task.name}.mask` must be found in it, got {place.mask!r}; "
                f"{keys_of(item)}."
            )
        return (None if value is ABSENT else value), mask

    def _item(self, index: int, seed: int) -> Any:
        seed_generators(seed)
        try:
            return self.dataset[index]
        except MemoryError:
            raise
        except Exception as error:
            dataset, local = self.source(index)
            raise ConfigError(
                f"{self.place}: {type(dataset).__name__}[{local}] fails ({describe(error)}); "
                "correct it."
            ) from error

    def _stacked(self, items: Sequence[Any], indices: Sequence[int]) -> Loaded:
        rows = []
        targets: dict[str, list[Tensor | None]] = {task.name: [] for task in self.tasks}
        for item, index in zip(items, indices, strict=True):
            try:
                rows.append(self._checked(find_inputs(item, self.inputs)))
                for task in self.tasks:
                    value, mask = self.target(task, item, index)
                    target = None if value is None else _form(task).read(value, mask)
                    targets[task.name].append(target)
            except RotogradError as error:
                raise ConfigError(f"{self.place}, item {index}: {error}") from error
        inputs = pytree.tree_map(lambda *xs: torch.stack(xs), *rows)
        labelled = [task for task in self.tasks if any(x is not None for x in targets[task.name])]
        return inputs, {t.name: self._stacked_targets(t, targets[t.name]) for t in labelled}

    def _stacked_targets(self, task: Task, targets: Sequence[Tensor | None]) -> Tensor:
        """Stack the targets of a task, those of examples without one filled."""
        known = [target for target in targets if target is not None]
        try:
            if len(known) < len(targets):
                empty = _unlabelled(_form(task), known[0])
                known = [empty if target is None else target for target in targets]
            return torch.stack(known)
        except (RotogradError, RuntimeError) as error:
            raise ConfigError(f"{self.place}: {first_line(error)}") from error

    def _collated(self, items: list[Any]) -> Loaded:
        assert self.collate is not None
        try:
            batch = self.collate(items)
        except MemoryError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{self.place}: `data.collate` fails ({describe(error)}); correct it."
            ) from error
        try:
            inputs = find_inputs(batch, self.inputs)
            found = {task.name: self._of_batch(task, batch) for task in self.tasks}
            targets = {name: target for name, target in found.items() if target is not None}
            for part in (*tensors(inputs), *targets.values()):
                if part.shape[:1] != (len(items),):
                    raise ConfigError(
                        f"all must have the {len(items)} examples that it got on the first axis, "
                        f"got shape {list(part.shape)}; leave none out."
                    )
        except (RotogradError, RuntimeError, TypeError, ValueError) as error:
            text = str(error) if isinstance(error, RotogradError) else f"got {describe(error)}."
            raise ConfigError(f"{self.place}, what `data.collate` returns: {text}") from error
        return inputs, targets

    def _of_batch(self, task: Task, batch: Any) -> Tensor | None:
        """Return the targets that a collate of the user's has stacked; None without any."""
        values, masks = self.target(task, batch, None)
        if values is None:
            return None
        of_examples = [None] * len(values) if masks is None else masks
        pairs = zip(values, of_examples, strict=True)
        return torch.stack([_form(task).read(value, mask) for value, mask in pairs])

    def _checked(self, inputs: Inputs) -> Inputs:
        """Refuse inputs that cannot be stacked with those of other items."""
        if self.example is None or _signature(inputs) == _signature(self.example):
            return inputs
        one, other = (shown(map_tensors(lambda x: x[None], x)) for x in (inputs, self.example))
        raise ConfigError(
            f"inputs must be like those of the first item, {other}, got {one}; make them alike in "
            "your data set, or pad them in a `collate` of your own."
        )


def spread(num: int) -> list[int]:
    """Return positions that are spread evenly over a data set, at most :data:`NUM_SAMPLES`."""
    places = torch.linspace(0, num - 1, min(num, NUM_SAMPLES), dtype=torch.float64)
    return places.round().long().tolist()


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch on the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def _next_numbers() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand((), dtype=torch.float64))


@contextmanager
def unchanged_generators() -> Iterator[None]:
    """Inside, numbers may be drawn; afterwards these generators are as they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    of_torch = torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)


def _form(task: Task) -> TargetForm:
    assert task.target is not None  # it was declared
    return task.target


def _unlabelled(form: TargetForm, like: Tensor) -> Tensor:
    """Return the target of an example without a label; of a form that is not known, as another."""
    value = torch.nan if form.no_label is None else form.no_label
    if form.shape is None and (like.is_floating_point() or form.no_label is not None):
        return torch.full_like(like, value)
    return form.unlabelled()


def _signature(inputs: Inputs) -> Any:
    return map_tensors(lambda x: (x.shape, x.dtype), inputs)
