"""Configurations that runs have saved, read without resolving or importing anything they name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.errors import ConfigError, first_line
from rotograd_cli.runs.config import TrainConfig, to_train_config

MAX_BYTES = 1_000_000
"""Size of a saved configuration beyond which it is none; a run's has some thousand bytes."""
MAX_VALUES = 100_000
"""Values in it likewise: containers that a pickle repeats can be more than memory holds."""

ADDED_KEYS: Mapping[str, Any] = {
    "precision": "fp32",
    "compile": False,
    "train.on_nonfinite": "stop",
    "train.max_skipped_steps": 100,
    "checkpoints.every_minutes": 10.0,
    "checkpoints.keep_epochs": 0,
}
"""Keys that earlier versions did not have, with the value that does what those versions did."""


def load_run_config(run_dir: Path, key: str = "run") -> TrainConfig:
    """Read the configuration that a run wrote.

    Args:
        run_dir: Run directory.
        key: What named it, for the message.

    Returns:
        The checked configuration. Before anything is built from it, it must pass
        :meth:`rotograd_cli.runs.trust.Trust.check`.

    Raises:
        ConfigError: If the folder is not a run directory or its configuration is unreadable.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"`{key}` must be a run directory, got {run_dir} without a config.yaml; rotograd "
            "train prints the directory of every run."
        )
    return saved_config(read_saved(path), path)


def read_saved(path: Path) -> dict[str, Any]:
    """Read a configuration that a run wrote; in time and memory that its size bounds.

    Args:
        path: The file.

    Returns:
        Its content, with :data:`ADDED_KEYS` where it lacks them.

    Raises:
        ConfigError: If it is unreadable, or holds what no run writes.
    """
    try:
        content = yaml.load(_text(path), _Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({first_line(error)}).") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(content).__name__}.")
    _add_keys(content)
    return content


def _add_keys(content: dict[str, Any]) -> None:
    for key, value in ADDED_KEYS.items():
        section, _, name = key.rpartition(".")
        values = content.setdefault(section, {}) if section else content
        if isinstance(values, dict):
            values.setdefault(name, value)


def _text(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("no such file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes are no run's configuration")
    return path.read_text(encoding="utf-8")


class _Loader(yaml.SafeLoader):
    """Plain values, each written out: repeated ones (``*name``) can grow beyond all bounds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it repeats a value with *, as no run does")
        return super().compose_node(parent, index)


def saved_config(content: Any, source: Path) -> TrainConfig:
    """Check a saved configuration; nothing in it is resolved.

    Args:
        content: What the file holds.
        source: The file, for the message.

    Returns:
        The configuration; its components still have to pass :meth:`Trust.check`.

    Raises:
        ConfigError: If it is not a run's.
    """
    try:
        for value in _values(content):
            if isinstance(value, str) and "${" in value:
                raise ConfigError(f"{value!r} is an interpolation, which no run saves")
        return to_train_config(content)
    except (OmegaConfBaseException, TypeError, ValueError, KeyError, RecursionError) as error:
        raise ConfigError(f"{source} is not a run's configuration: {first_line(error)}") from error


def _values(content: Any) -> Iterator[Any]:
    """All keys and values at any depth; keeps no path, so that no depth is too deep."""
    waiting = [content]
    for _ in range(MAX_VALUES):
        if not waiting:
            return
        value = waiting.pop()
        yield value
        if isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set)):
            waiting += value
    raise ConfigError(f"it holds more than {MAX_VALUES} values")
