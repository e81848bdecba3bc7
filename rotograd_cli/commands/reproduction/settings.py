"""What ``rotograd reproduce`` and ``rotograd plot`` are asked for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rotograd_cli.commands.support.hydra_app import parsed, plain_parser
from rotograd_cli.config.arguments import ready, search_path
from rotograd_cli.config.compose import composing
from rotograd_cli.config.overrides import composed
from rotograd_cli.config.schema import typed
from rotograd_cli.errors import ConfigError
from rotograd_cli.tables.checks import check_spec
from rotograd_cli.tables.latex import Layout
from rotograd_cli.tables.seeds import to_seeds
from rotograd_cli.tables.spec import Statistic, TableSpec

TABLE_KEYS = ("table", "seeds", "methods", "statistic", "plan", "output", "latex", "verbose")
FIGURE_KEYS = ("figure", "runs", "x", "y", "smooth", "band", "output")
TIMED = "timed"
"""Value of ``plan`` that times a few steps of each row."""
LAUNCHER_KEYS = ("hydra", "launcher")


@dataclass
class Arguments:
    """Overrides by what they are for, each with the user's folder of YAML files."""

    figure: list[str] = field(default_factory=list)
    table: list[str] = field(default_factory=list)
    launcher: list[str] = field(default_factory=list)
    """For Hydra: the choice of a launcher and its options."""
    runs: list[str] = field(default_factory=list)


@dataclass
class ReproduceConfig:
    """The command's own keys; ``conf/reproduce.yaml`` says what each means."""

    table: TableSpec = field(default_factory=TableSpec)
    seeds: Any = None
    """Seeds, None for the table's; on the command line also their number."""
    methods: list[str] | None = None
    statistic: Statistic | None = None
    plan: Any = False
    """False; true: only plan; ``timed``: only plan, and time a few steps for its hours."""
    output: str | None = None
    latex: Layout = "auto"
    verbose: bool = False


def parse(command: str, arguments: Sequence[str]) -> Arguments:
    """Sort the arguments of a command.

    Args:
        command: ``reproduce`` or ``plot``.
        arguments: What follows the command.

    Raises:
        ConfigError: If an option is unknown or an argument is no override.
    """
    options = parsed(plain_parser(), command, ready(arguments))
    result = Arguments()
    for override in options.overrides:
        first = re.split("[./]", override.partition("=")[0].lstrip("+~"))[0]
        if command == "plot" and first in FIGURE_KEYS:
            result.figure.append(override)
        elif first in TABLE_KEYS:
            result.table.append(override)
        elif first in LAUNCHER_KEYS:
            result.launcher.append(override)
        else:
            _check_of_run(override, "figure" if command == "plot" else "table")
            result.runs.append(override)
    if options.config_dir is not None:
        for overrides in vars(result).values():
            overrides.append(search_path(Path(options.config_dir)))
    return result


def _check_of_run(override: str, main_key: str) -> None:
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
            f"An override must read KEY=VALUE, got {override!r}; did you mean "
            f"{main_key}={override}?"
        )


def _check_name(name: str, overrides: Sequence[str]) -> None:
    """Refuse a table that would write over the files of the one that it is made of."""
    chosen = [word.partition("=")[2] for word in overrides if word.startswith("table=")]
    is_renamed = any(word.startswith("table.name=") for word in overrides)
    if chosen and chosen[-1] != name and not is_renamed:
        raise ConfigError(
            f"`name` in table/{chosen[-1]}.yaml must be the file's own, got {name!r}; write "
            f"name: {chosen[-1]}"
        )


def reproduce_config(overrides: Sequence[str]) -> ReproduceConfig:
    """Compose and check the command's own configuration.

    Raises:
        ConfigError: If an override is wrong, or a key missing, of a wrong type or out of range.
    """
    with composing(reproduce_schema=ReproduceConfig):
        result = typed(composed("reproduce", overrides), ReproduceConfig)
    check_spec(result.table)
    _check_name(result.table.name, overrides)
    if result.plan not in (False, True, TIMED):
        raise ConfigError(f"`plan` must be true, false or timed, got {result.plan!r}.")
    return replace(result, seeds=to_seeds(result.seeds))
