"""What ``rotograd reproduce`` itself is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig

from rotograd_cli.commands.reproduction.arguments import Arguments
from rotograd_cli.runs.compose import composing
from rotograd_cli.runs.config import typed
from rotograd_cli.runs.overrides import composed
from rotograd_cli.tables.command import to_seeds
from rotograd_cli.tables.spec import TableSpec, check_spec


@dataclass
class ReproduceConfig:
    """The command's own keys; ``conf/reproduce.yaml`` says what each means."""

    table: TableSpec = field(default_factory=TableSpec)
    seeds: Any = None
    methods: list[str] | None = None
    statistic: str | None = None
    plan: bool = False
    output: str | None = None


def own_config(arguments: Arguments) -> ReproduceConfig:
    """Compose and check the command's own configuration.

    Args:
        arguments: The command line.

    Raises:
        ConfigError: If an override is wrong.
    """
    with composing(reproduce_schema=ReproduceConfig):
        overrides = [*arguments.table, *arguments.search_path]
        return to_reproduce_config(composed("reproduce", overrides))


def to_reproduce_config(config: DictConfig | Mapping[str, Any]) -> ReproduceConfig:
    """Return the typed and checked configuration of the command.

    Args:
        config: Composed configuration.

    Returns:
        The configuration.

    Raises:
        ConfigError: If a key is unknown, missing, of a wrong type or out of range.
    """
    result = typed(config, ReproduceConfig)
    check_spec(result.table, result.statistic)
    to_seeds(result.seeds)
    return result
