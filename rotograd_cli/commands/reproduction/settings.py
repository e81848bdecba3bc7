"""What ``rotograd reproduce`` itself is asked for."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from rotograd_cli.commands.reproduction.arguments import Arguments
from rotograd_cli.runs.config import register_schemas, typed
from rotograd_cli.runs.config_files import config_dir
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


@contextmanager
def composing() -> Iterator[None]:
    """Inside, configurations of the command and of its runs can be composed."""
    register_schemas()
    ConfigStore.instance().store(name="reproduce_schema", node=ReproduceConfig)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        yield


def own_config(arguments: Arguments) -> ReproduceConfig:
    """Compose and check the command's own configuration.

    Args:
        arguments: The command line.

    Raises:
        ConfigError: If an override is wrong.
    """
    with composing():
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
