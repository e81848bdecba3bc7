"""The words of a command line: paths as they were typed, folders of one's own, groups left out."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rotograd_cli.errors import ConfigError

PATH_KEYS = frozenset(
    {
        *("run", "runs", "resume", "output", "data_dir"),
        *("paths.data_dir", "paths.output_dir", "paths.sweep_dir"),
        *("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"),
    }
)
"""Keys whose values are paths, which mean what they mean to the shell."""

_OVERRIDE = re.compile(r"(\+{0,2}[A-Za-z_][\w./@-]*)=(.*)", re.DOTALL)
_FOLDER_OPTIONS = ("--config-dir", "-cd")


def ready(words: Sequence[str], command: str) -> list[str]:
    """Words that Hydra's grammar reads as the user meant them.

    Args:
        words: Words after the command.
        command: Sub-command.

    Returns:
        The words: paths quoted for Hydra, ``~`` expanded, groups that are ``null`` by default left
        out where null was asked for.

    Raises:
        ConfigError: If ``--config-dir`` names no folder, or a group that is needed is left out.
    """
    config_dirs(words)
    is_sweep = "-m" in words or "--multirun" in words
    expanded = [_with_home(word, before) for before, word in zip(["", *words], words, strict=False)]
    return _without_null_groups([_as_typed(word, is_sweep) for word in expanded], command)


def config_dirs(words: Sequence[str]) -> list[Path]:
    """Folders that ``--config-dir`` names.

    Args:
        words: Words after the command.

    Returns:
        Existing folders.

    Raises:
        ConfigError: If one does not exist.
    """
    folders = []
    for word, after in zip(words, [*words[1:], ""], strict=False):
        option, equals, value = word.partition("=")
        if option in _FOLDER_OPTIONS:
            name = value if equals else after
            folders.append(Path(name).expanduser())
            if not name or not folders[-1].is_dir():
                raise ConfigError(
                    f"--config-dir must name an existing folder of YAML files, got {name!r}."
                )
    return folders


def quoted(text: str) -> str:
    """A text in quotes, as Hydra's grammar takes it literally."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def search_path(folder: Path) -> str:
    """Override that adds a folder of YAML files to a composition."""
    return f"hydra.searchpath=[{quoted(f'file://{folder}')}]"


def choices_of(group: str) -> str:
    """Remedy for a group that cannot be null: how to switch it off, or its files."""
    from rotograd_cli.runs.config import config_dir

    names = sorted(path.stem for path in (config_dir() / group.partition("@")[0]).glob("*.yaml"))
    return f"{group}=none" if "none" in names else f"one of {', '.join(names)}"


def _with_home(word: str, before: str) -> str:
    """The value of an option that takes a path, with ``~`` expanded."""
    option, equals, value = word.partition("=")
    if equals and option in (*_FOLDER_OPTIONS, "--from"):
        return f"{option}={os.path.expanduser(value)}"
    return os.path.expanduser(word) if before in (*_FOLDER_OPTIONS, "--from") else word


def _as_typed(word: str, is_sweep: bool) -> str:
    match = _OVERRIDE.fullmatch(word)
    if match is None or match.group(2).lower() in ("", "null", "???"):
        return word
    key, value = match.groups()
    name = key.lstrip("+")
    if name in PATH_KEYS:
        can_sweep = is_sweep and not name.startswith("hydra.")
        return f"{key}={_path_value(value, can_sweep, can_list=name == 'runs')}"
    path = os.path.expanduser(value)
    is_path = path != value or os.path.lexists(path)
    return f"{key}={quoted(path)}" if is_path and not _parses(value) else word


def _path_value(value: str, can_sweep: bool, can_list: bool) -> str:
    """A path for Hydra. What exists as it was typed is meant; else Hydra's own forms hold."""
    path = os.path.expanduser(value)
    parsed = _parsed(value)
    if os.path.lexists(path):
        return value if parsed == path else quoted(path)
    if can_list and value.startswith("[") and value.endswith("]"):
        return value if parsed is not _NOTHING else f"[{_each(value[1:-1])}]"
    if parsed is _NOTHING:
        return _each(value) if can_sweep and "," in value else quoted(path)
    return value if _means_itself(parsed, can_sweep) else quoted(_text(parsed, value))


def _each(values: str) -> str:
    return ",".join(_path_value(part.strip(), False, False) for part in values.split(","))


def _means_itself(parsed: Any, can_sweep: bool) -> bool:
    """Whether Hydra reads a path from a value: not a number, a list, or several values."""
    from hydra.core.override_parser.types import QuotedString, Sweep

    if isinstance(parsed, QuotedString):
        return not parsed.text.startswith("~")
    return isinstance(parsed, str) or (can_sweep and isinstance(parsed, Sweep))


def _text(parsed: Any, value: str) -> str:
    return os.path.expanduser(getattr(parsed, "text", value))


def _parses(value: str) -> bool:
    return _parsed(value) is not _NOTHING


_NOTHING = object()


def _parsed(value: str) -> Any:
    """What Hydra's grammar makes of a value; ``_NOTHING`` where it is none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(f"key={value}")._value
    except HydraException:
        return _NOTHING


def _without_null_groups(words: Sequence[str], command: str) -> list[str]:
    optional = _optional_groups(command) | _optional_groups("train")
    kept: list[str] = []
    for word in words:
        group = _left_out(word)
        if group in optional:
            kept = [other for other in kept if other.partition("=")[0].lstrip("+") != group]
        elif group is None:
            kept.append(word)
        else:
            raise ConfigError(
                f"`{group}` must name a file of its group, got {word!r}; choose "
                f"{choices_of(group)}."
            )
    return kept


def _left_out(word: str) -> str | None:
    """The group that ``GROUP=null`` or ``~GROUP`` leaves out."""
    from rotograd_cli.runs.config import config_dir

    key, _, value = word.partition("=")
    name = key.lstrip("+~").partition("@")[0]
    asks = key.startswith("~") or value.lower() == "null"
    is_group = bool(name) and name.isidentifier() and (config_dir() / name).is_dir()
    return key.lstrip("+~") if asks and is_group else None


def _optional_groups(command: str) -> set[str]:
    """Groups of a command whose default is null."""
    import yaml

    from rotograd_cli.runs.config import config_dir

    file = config_dir() / f"{command}.yaml"
    if not file.is_file():  # a command without a configuration
        return set()
    defaults = yaml.safe_load(file.read_text(encoding="utf-8"))["defaults"]
    entries = [entry for entry in defaults if isinstance(entry, dict)]
    return {name for entry in entries for name, choice in entry.items() if choice is None}
