"""Finding inputs and targets in an item of a data set, whatever class the item has."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rotograd_cli.errors import ConfigError
from rotograd_cli.trees import Inputs

Key = str | int
"""Key of a mapping, field of a dataclass or named tuple, or index; ``a.0.b`` goes further down."""
ABSENT = object()
"""What :func:`find` returns where an item has nothing under a key."""
_NUMBERS = (bool, int, float, np.generic)


def find(item: Any, key: Key) -> Any:
    """Return what an item holds under a key, or :data:`ABSENT`."""
    if isinstance(item, Mapping) and key in item:
        return item[key]
    if isinstance(item, (list, tuple)) and (isinstance(key, int) or key.isdecimal()):
        index = int(key)
        return item[index] if -len(item) <= index < len(item) else ABSENT
    if key in _fields(item):
        return getattr(item, str(key))
    first, _, rest = str(key).partition(".")
    if not rest:
        return ABSENT
    inner = find(item, first)
    return ABSENT if inner is ABSENT else find(inner, rest)


def require(item: Any, key: Key, option: str) -> Any:
    """Return what an item holds under a key.

    Raises:
        ConfigError: If it holds nothing there; the line names the option that has the key.
    """
    value = find(item, key)
    if value is ABSENT:
        raise ConfigError(f"`{option}` must be a key of it, got {key!r}; {keys_of(item)}.")
    return value


def keys_of(item: Any) -> str:
    """Return the keys of an item as a clause."""
    names = item if isinstance(item, Mapping) else _fields(item)
    if names:
        return f"it has {', '.join(map(str, names))}"
    if isinstance(item, (list, tuple)):
        return f"it is a {type(item).__name__} with the indices 0 to {len(item) - 1}"
    return f"it is a {type(item).__name__}; return a dict or a tuple"


def _fields(item: Any) -> Sequence[str]:
    if is_dataclass(item):
        return [field.name for field in fields(item)]
    names: Sequence[str] = getattr(item, "_fields", ())
    return names


def find_inputs(item: Any, where: Any) -> Inputs:
    """Return the inputs of an item as tensors.

    Args:
        item: The item.
        where: A key; or a list of them, for inputs by position, or a mapping, by keyword.

    Raises:
        ConfigError: If there is nothing under a key, or no tensor.
    """
    if isinstance(where, Mapping):
        return {str(name): find_inputs(item, key) for name, key in where.items()}
    if isinstance(where, (list, tuple)):
        return tuple(find_inputs(item, key) for key in where)
    return _tensors(require(item, where, "data.inputs"), where)


def _tensors(value: Any, key: Any) -> Inputs:
    if isinstance(value, Tensor):
        return value
    is_numeric = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    if is_numeric or isinstance(value, _NUMBERS):
        return torch.as_tensor(value)
    if isinstance(value, Mapping):
        return {str(name): _tensors(each, f"{key}.{name}") for name, each in value.items()}
    is_list = isinstance(value, (list, tuple))
    if is_list and value and not isinstance(value[0], _NUMBERS):
        return tuple(_tensors(each, f"{key}.{index}") for index, each in enumerate(value))
    raise ConfigError(
        f"the input {key!r} must be a tensor or an array, got a {type(value).__name__}; return a "
        "tensor: of a picture with transform=torchvision.transforms.ToTensor(), of text its token "
        "ids, from a Hugging Face data set with set_format('torch')."
    )
