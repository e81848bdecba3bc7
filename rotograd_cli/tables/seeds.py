"""The seeds of a command line, and seeds in words, for those who need no runs."""

from collections.abc import Sequence
from typing import Any

from rotograd_cli.errors import ConfigError


def to_seeds(value: Any, key: str = "seeds") -> list[int] | None:
    """Return the seeds of ``seeds=5`` (0 to 4) or ``seeds=[0,3]``.

    Args:
        value: What was written; None: not restricted.
        key: Where, for the message.

    Returns:
        The seeds, ascending.

    Raises:
        ConfigError: If it is neither a positive number nor a list of different seeds.

    Examples:
        >>> to_seeds(3), to_seeds([4, 1])
        ([0, 1, 2], [1, 4])
    """
    if value is None:
        return None
    seeds = list(range(value)) if type(value) is int else value  # True is no number of seeds
    are_seeds = isinstance(seeds, list) and all(type(s) is int and s >= 0 for s in seeds)
    if are_seeds and len(set(seeds)) == len(seeds) > 0:
        return sorted(seeds)
    raise ConfigError(
        f"`{key}` must be a number of seeds of at least 1 or a list of different ones from 0 on, "
        f"got {value!r}; {key}=5 or {key}=[0,1,2]."
    )


def shortened(seeds: Sequence[int]) -> str:
    """Return ascending seeds as a text, three or more in a row by their first and last.

    Examples:
        >>> shortened([0, 1, 2, 3]), shortened([0, 2])
        ('0-3', '0, 2')
    """
    is_range = len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}-{seeds[-1]}" if is_range else ", ".join(map(str, seeds))
