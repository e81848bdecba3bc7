"""Arguments of ``rotograd reproduce`` and ``rotograd plot``, by what they are for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rotograd_cli.commands.support.parsing import parsed, plain_parser
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.arguments import ready, search_path

TABLE_KEYS = ("table", "seeds", "methods", "statistic", "plan", "output")
FIGURE_KEYS = ("figure", "output")
LAUNCHER_KEYS = ("hydra", "launcher")


@dataclass
class Arguments:
    """Overrides by what they are for."""

    figure: list[str] = field(default_factory=list)
    table: list[str] = field(default_factory=list)
    launcher: list[str] = field(default_factory=list)
    """For Hydra: the choice of a launcher and its options."""
    runs: list[str] = field(default_factory=list)
    config_dir: Path | None = None

    @property
    def search_path(self) -> list[str]:
        """Override that adds the user's folder to a composition."""
        return [] if self.config_dir is None else [search_path(self.config_dir)]


def parse(command: str, arguments: Sequence[str]) -> Arguments:
    """Sort the arguments of a command.

    Args:
        command: ``reproduce`` or ``plot``.
        arguments: What follows the command.

    Raises:
        ConfigError: If an option is unknown or an argument is no override.
    """
    options = parsed(plain_parser(), command, ready(arguments, command))
    folder = options.config_dir
    result = Arguments(config_dir=None if folder is None else Path(folder).resolve())
    for override in options.overrides:
        first = re.split("[./]", override.partition("=")[0].lstrip("+~"))[0]
        if command == "plot" and first in FIGURE_KEYS:
            result.figure.append(override)
        elif first in TABLE_KEYS:
            result.table.append(override)
        elif first in LAUNCHER_KEYS:
            result.launcher.append(override)
        else:
            _check_of_run(override)
            result.runs.append(override)
    return result


def _check_of_run(override: str) -> None:
    key, equals, _ = override.partition("=")
    if key == "seed":
        raise ConfigError("`seed` is set by the table; seeds=3 or seeds=[0,1] choose seeds.")
    if key in ("method", "experiment"):
        raise ConfigError(
            f"`{key}` is set by the table; methods=[NAME,...] chooses rows, and a table of "
            "your own is a file in DIR/table with --config-dir DIR."
        )
    if not equals and not key.startswith("~"):
        raise ConfigError(
            f"An override must read KEY=VALUE, got {override!r}; did you mean table={override}?"
        )
