"""Arguments as the user meant them: paths as they were typed, groups left out."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rotograd_cli.config.files import is_group
from rotograd_cli.errors import ConfigError, hydra_value

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

PATH_KEYS = frozenset(
    {
        *("run", "runs", "resume", "output", "data_dir"),
        *("paths.data_dir", "paths.output_dir", "paths.sweep_dir"),
        *("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"),
    }
)
"""Keys whose values are paths, which mean what they mean to the shell."""

FOLDER_OPTIONS = ("--config-dir", "-cd")
FLAGS = {"--verbose": "verbose=true"}
"""Options that are short for an override."""
PATH_OPTIONS = (*FOLDER_OPTIONS, "--from")


def ready(arguments: Sequence[str]) -> list[str]:
    """Write arguments so that Hydra's grammar reads what the user meant.

    Args:
        arguments: What follows the command.

    Returns:
        The arguments: paths quoted for Hydra, ``~`` expanded, ``GROUP=null`` as ``~GROUP``.

    Raises:
        ConfigError: If ``--config-dir`` names no folder.
    """
    config_dirs(arguments)
    is_sweep = "-m" in arguments or "--multirun" in arguments
    arguments = [FLAGS.get(argument, argument) for argument in arguments]
    pairs = zip(["", *arguments], arguments, strict=False)
    return [_as_typed(_with_home(argument, before), is_sweep) for before, argument in pairs]


def config_dirs(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that ``--config-dir`` names.

    Args:
        arguments: What follows the command.

    Raises:
        ConfigError: If one does not exist.
    """
    folders = []
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        option, equals, value = argument.partition("=")
        if option in FOLDER_OPTIONS:
            name = value if equals else after
            folders.append(Path(name).expanduser())
            if not name or not folders[-1].is_dir():
                raise ConfigError(
                    f"--config-dir must name an existing folder of YAML files, got {name!r}."
                )
    return folders


def search_path(folder: Path) -> str:
    """Return the override that adds a folder of YAML files to a composition."""
    return f"hydra.searchpath=[{hydra_value(f'file://{folder.resolve()}')}]"


def _with_home(argument: str, before: str) -> str:
    """Expand ``~`` in the value of an option that takes a path."""
    option, equals, value = argument.partition("=")
    if equals and option in PATH_OPTIONS:
        return f"{option}={os.path.expanduser(value)}"
    return os.path.expanduser(argument) if before in PATH_OPTIONS else argument


def _as_typed(argument: str, is_sweep: bool) -> str:
    key, _, value = argument.partition("=")
    name = key.lstrip("+")
    if value.lower() == "null" and is_group(name):
        return f"~{name}"
    if not name or name.startswith("-") or value.lower() in ("", "null", "???"):
        return argument
    if name in PATH_KEYS:
        can_sweep = is_sweep and not name.startswith("hydra.")
        return f"{key}={_path_value(value, can_sweep, can_list=name == 'runs')}"
    path = os.path.expanduser(value)
    is_path = path != value or os.path.lexists(path)
    return f"{key}={hydra_value(path)}" if is_path and _parsed(value) is None else argument


def _path_value(value: str, can_sweep: bool, can_list: bool) -> str:
    """Return a path for Hydra: one that exists as it was typed, or what Hydra reads.

    Of several paths that Hydra's grammar does not read, each is written for it.
    """
    path = os.path.expanduser(value)
    if os.path.lexists(path):
        return hydra_value(path)
    override = _parsed(value)
    if override is None:
        if can_list and value.startswith("[") and value.endswith("]"):
            return f"[{_each(value[1:-1])}]"
        return _each(value) if can_sweep and "," in value else hydra_value(path)
    if override.is_sweep_override():
        return value if can_sweep else hydra_value(value)
    meant = override.value()
    if isinstance(meant, str):
        return hydra_value(os.path.expanduser(meant))
    return value if can_list and isinstance(meant, list) else hydra_value(value)


def _each(values: str) -> str:
    return ",".join(_path_value(part.strip(), False, False) for part in values.split(","))


def _parsed(value: str) -> "Override | None":
    """Parse a value by Hydra's grammar; None if it is not one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"key={value}")
    except HydraException:
        return None
