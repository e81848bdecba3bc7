"""Packages that are not installed by default."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rotograd_cli.errors import ConfigError


def installing(extra: str) -> str:
    """Return the command that installs an extra beside this package, whatever ``pip`` is first."""
    return f"{shlex.quote(sys.executable)} -m pip install 'rotograd-cli[{extra}]'"


@contextmanager
def needing_extra(component: str, extra: str, licence: str) -> Iterator[None]:
    """Refuse a component whose packages are missing.

    Args:
        component: Name in the message.
        extra: Extra of the distribution.
        licence: What it brings, and under which licence.

    Raises:
        ConfigError: If an import fails inside.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{component} needs the extra {extra!r} ({licence}), which is not installed "
            f"({' '.join(str(error).split())[:80]}); run {installing(extra)}."
        ) from error
