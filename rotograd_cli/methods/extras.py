"""Packages that are not installed by default."""

from collections.abc import Callable
from typing import TypeVar

from rotograd_cli.errors import ConfigError

T = TypeVar("T")


def with_extra(make: Callable[[], T], method: str, extra: str, licence: str) -> T:
    """Makes what needs an optional extra.

    Args:
        make: Raises ImportError where packages are missing.
        method: Name in the message.
        extra: Extra of the distribution.
        licence: What it brings, and under which licence.

    Returns:
        What ``make`` returns.

    Raises:
        ConfigError: If packages are missing.
    """
    try:
        return make()
    except ImportError as error:
        raise ConfigError(
            f"{method} needs the extra {extra!r} ({licence}), which is not installed "
            f"({' '.join(str(error).split())[:80]}); pip install 'rotograd-cli[{extra}]'."
        ) from error
