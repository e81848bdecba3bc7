"""Training, validation and test split from what the user's YAML names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset, Subset

from rotograd_cli.data.base import SPLITS, Split
from rotograd_cli.errors import ConfigError

_SPLIT_OF = "{split_of: train, fraction: 0.1, seed: 0}"


def make_splits(datasets: Any, where: str) -> dict[Split, Any]:
    """Return a data set for every split.

    Args:
        datasets: By split, the user's data set; or ``split_of``, ``fraction`` and ``seed``, a share
            of the examples of another split, which loses them.
        where: Key in messages.

    Raises:
        ConfigError: If a split is missing or empty, or no data set of map style.
    """
    given = datasets if isinstance(datasets, Mapping) else {}
    names = [str(name) for name, value in given.items() if value is not None]
    if set(names) != set(SPLITS):
        raise ConfigError(
            f"`{where}` must have the keys train, val and test, got {', '.join(names) or 'none'}; "
            f"name a data set for each, or take val and test from train with {_SPLIT_OF}."
        )
    result: dict[Split, Any] = {}
    for split in SPLITS:
        place = f"{where}.{split}"
        if isinstance(given[split], Mapping):
            _cut(result, split, given[split], place)
        else:
            _check(given[split], place)
            result[split] = given[split]
    return result


def _cut(result: dict[Split, Any], split: Split, options: Mapping[str, Any], where: str) -> None:
    """Move a share of the examples of another split to this one."""
    source: Any = options.get("split_of")
    fraction: Any = options.get("fraction")
    seed: Any = options.get("seed", 0)
    is_known = options.keys() <= {"split_of", "fraction", "seed"} and source in result
    is_right = type(fraction) is float and 0 < fraction < 1 and type(seed) is int
    if not is_known or not is_right:
        raise ConfigError(
            f"`{where}` must be a data set (a _target_), or a share of a split before it as in "
            f"{_SPLIT_OF}, got {dict(options)!r}."
        )
    whole = result[source]
    num = round(fraction * len(whole))
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    if not 0 < num < len(whole):
        raise ConfigError(
            f"`{where}.fraction` must leave examples on both sides, got {fraction} of the "
            f"{len(whole)} of {source}; change it."
        )
    result[split] = Subset(whole, order[:num].sort().values.tolist())
    result[source] = Subset(whole, order[num:].sort().values.tolist())


def _check(dataset: Any, where: str) -> None:
    is_map = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    if not is_map or isinstance(dataset, (IterableDataset, str)):
        raise ConfigError(
            f"`{where}` must be a data set of map style, with __len__ and __getitem__, got a "
            f"{type(dataset).__name__}; load what it streams into a list."
        )
    if len(dataset) == 0:
        raise ConfigError(
            f"`{where}` must have at least one example, got none; check its files and options."
        )
