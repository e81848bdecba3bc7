"""Refusals of Hydra in one line: what is wrong with an override or a file of the user."""

import difflib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any

from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import (
    BooleanNode,
    DictConfig,
    FloatNode,
    IntegerNode,
    ListConfig,
    OmegaConf,
    open_dict,
)
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.config.compose import composing
from rotograd_cli.config.files import choices, is_group
from rotograd_cli.errors import ConfigError, RotogradError, first_line

EXTRAS = {
    "joblib": "local",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
    "optuna": "optuna",
}
"""Extra of this package that installs a launcher or sweeper of Hydra."""

NEEDED: Mapping[type, str] = {
    IntegerNode: "a whole number is needed",
    FloatNode: "a number is needed",
    BooleanNode: "true or false is needed",
    ListConfig: "a list is needed, {key}=[VALUE,...]",
    DictConfig: "it holds keys, set them one by one with {key}.KEY=VALUE",
}
SEARCH_PATH = "hydra.searchpath"
DOTTED = "table.grid.values."
"""Section whose keys have dots, as the path of an override has."""


@contextmanager
def explaining(command: str, overrides: Sequence[str], *, is_sweep: bool = False) -> Iterator[None]:
    """Inside, what Hydra refuses becomes one line; any other error passes.

    Args:
        command: Name of the configuration that is composed.
        overrides: Its overrides; ``hydra.searchpath`` names the user's folders.
        is_sweep: Whether an override may have several values.

    Raises:
        ConfigError: In place of an error of Hydra.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_hydra(error):
            raise
        raise ConfigError(_diagnosis(error, command, overrides, is_sweep)) from error


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration. Hydra must be running.

    Args:
        name: YAML file.
        overrides: Overrides.

    Raises:
        ConfigError: If it does not compose.
    """
    with explaining(name, overrides):
        return compose(name, list(overrides))


def _is_of_hydra(error: Exception) -> bool:
    """Whether Hydra refused something, with or without a type of its own for that."""
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return True
    frame, _ = list(walk_tb(error.__traceback__))[-1]
    module = str(frame.f_globals.get("__name__"))
    refuses = isinstance(error, (ValueError, AssertionError))
    return refuses and module.startswith(("hydra.", "omegaconf."))


@dataclass(frozen=True)
class _Configuration:
    """What the overrides of a command may name."""

    command: str
    config: DictConfig
    """Composed with the groups that were chosen."""
    keys: Sequence[str]
    groups: Sequence[str]
    """Groups in the defaults list, with their package: ``optimizer@model_optimizer``."""
    folders: Sequence[Path]
    """The user's folders of YAML files."""


def _diagnosis(error: Exception, command: str, overrides: Sequence[str], is_sweep: bool) -> str:
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    parsed = []
    for text in overrides:
        override = _parsed(text)
        if override is None:
            return _not_an_override(text, command)
        parsed.append(override)
    configuration = _composed(command, parsed)
    if configuration is None:
        return _in_hydras_words(error)
    refusals = [_refusal(configuration, override, is_sweep) for override in parsed]
    refusals.append(_refusal_of_file(configuration, error))
    return next(filter(None, refusals), None) or _in_hydras_words(error)


def _parsed(text: str) -> Override | None:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return None
    return override if override.key_or_group else None


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper") and name in EXTRAS:
        return f"{name} is not installed; run pip install 'rotograd-cli[{EXTRAS[name]}]'."
    options = list(error.options or [])
    close = difflib.get_close_matches(name, options, n=1)
    remedy = f" Did you mean {close[0]}?" if close else ""
    required = f"one of {', '.join(options)}" if options else "one of its group's files"
    return f"{_place(error)}`{group}` must be {required}, got {name!r}.{remedy}"


def _place(error: Exception) -> str:
    """Return the file below a group that an error is about, as Hydra names it; empty for none."""
    start, quote, _ = str(error).partition("': ")
    is_file = quote and start.startswith("In '") and "/" in start
    return f"{start}': " if is_file else ""


def _not_an_override(override: str, command: str) -> str:
    hint = "check brackets and quotes."
    if command == "evaluate":
        hint = f"did you mean {shlex.quote(f'run={override}')}?"
    return f"An override must read KEY=VALUE, got {override!r}; {hint}"


def _composed(command: str, overrides: Sequence[Override]) -> _Configuration | None:
    """Compose with the groups that were chosen, or without where they do not compose."""
    paths = [o for o in overrides if o.key_or_group == SEARCH_PATH]
    folders = [Path(str(f).removeprefix("file://")) for o in paths for f in o.value()]  # type: ignore[union-attr]
    chosen = [o for o in overrides if is_group(o.key_or_group, folders) and _is_choice(o, folders)]
    for some in (chosen, []):
        lines = [str(o.input_line) for o in (*paths, *some)]
        try:
            with composing():
                config = compose(command, lines, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException):
            continue
        groups = list(config.hydra.runtime.choices)
        with open_dict(config):
            del config["hydra"]
        return _Configuration(command, config, list(_walk(config, "")), groups, folders)
    return None


def _is_choice(override: Override, folders: Sequence[Path]) -> bool:
    if override.is_sweep_override() or override.is_delete():
        return False
    return override.value() in choices(override.key_or_group, folders)


def _walk(node: DictConfig, prefix: str) -> Iterator[str]:
    for key in map(str, node):
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _walk(child, f"{prefix}{key}.")


def _refusal(configuration: _Configuration, override: Override, is_sweep: bool) -> str | None:
    """Return why an override cannot be taken; None if nothing speaks against it."""
    key = override.key_or_group
    text = str(override.input_line)
    if override.is_sweep_override() and not is_sweep:
        return _several_values(text, configuration.command)
    if key.startswith(("hydra/", "hydra.")):
        return None  # Hydra's own line names it
    is_added = override.is_add() or override.is_force_add()
    if override.package is not None or is_group(key, configuration.folders):
        name = text.partition("=")[0].lstrip("+~")
        if name not in configuration.groups and not is_added:
            return _unknown_group(configuration, name)
        has_name = override.is_sweep_override() or isinstance(override.value(), str)
        return None if has_name else _no_choice(name, text)
    if is_added:
        return None  # added keys are checked with the configuration
    if key not in configuration.keys or key.startswith(DOTTED):
        return _unknown_key(configuration, key)
    if override.is_delete():
        return f"`{key}` cannot be removed; give it a value: {key}=VALUE."
    return _wrong_value(configuration.config, override)


def _several_values(text: str, command: str) -> str:
    key, _, values = text.partition("=")
    several = "add -m to run them all" if command in ("train", "evaluate") else "choose one"
    return f"`{text}` has several values; {several}, or write {key}=[{values}] for a list."


def _unknown_group(configuration: _Configuration, name: str) -> str:
    packages = [group for group in configuration.groups if group.startswith(f"{name}@")]
    close = packages or difflib.get_close_matches(name, configuration.groups, n=1)
    if close:
        return f"`{name}` is not a group here; did you mean {' or '.join(close)}?"
    return f"`{name}` is not a group; rotograd {configuration.command} --help lists them."


def _no_choice(group: str, argument: str) -> str:
    """Return the refusal of a value that names no file: how to switch it off, or its files."""
    names = choices(group)
    remedy = f"{group}=none" if "none" in names else f"one of {', '.join(names)}"
    return f"`{group}` must name a file of its group, got {argument!r}; choose {remedy}."


def _unknown_key(configuration: _Configuration, key: str) -> str:
    keys = configuration.keys
    parent = key.rpartition(".")[0]
    if key.startswith(DOTTED):
        name = key.removeprefix(DOTTED)
        return f"`{key}` cannot be written so; write 'table.grid.values={{{name}:[VALUE,...]}}'."
    if parent in keys and OmegaConf.select(configuration.config, parent) is None:
        remedy = f"choose one with {parent}=NAME" if is_group(parent) else f"add {parent}=VALUE"
        return f"`{key}` cannot be set while `{parent}` is null; {remedy}."
    close = _close(key, keys)
    if close is not None:
        return f"`{key}` is not a key; did you mean {close}?"
    siblings = [k for k in keys if k.rpartition(".")[0] == parent and "._" not in k]
    where = f"of `{parent}` here" if parent else "of the configuration"
    remedies = [f"keys {where}: {', '.join(siblings)}"] if siblings else []
    is_component = parent and OmegaConf.select(configuration.config, f"{parent}._target_")
    if is_component or parent.startswith("heads."):
        remedies.append(f"+{key}=VALUE where its class has that option")
    return f"`{key}` is not a key; {', or '.join(remedies)}."


def _close(key: str, keys: Sequence[str]) -> str | None:
    """Return the key that was probably meant."""
    parent, _, leaf = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == parent}
    near = difflib.get_close_matches(leaf, siblings, n=1)
    if near:
        return siblings[near[0]]
    # a key without its section, epochs for train.epochs
    below = [] if parent else [name for name in keys if name.rpartition(".")[2] == leaf]
    result = below or difflib.get_close_matches(key, keys, n=1, cutoff=0.85)
    return result[0] if result else None


def _wrong_value(config: DictConfig, override: Override) -> str | None:
    """Try the values on a copy of the configuration, as Hydra merges them."""
    key = override.key_or_group
    values = {str(override.input_line).partition("=")[2]: override.value()}
    if override.is_sweep_override():
        several = override.sweep_iterator() if override.is_discrete_sweep() else ()
        values = {str(value): value for value in several}
    for shown, value in values.items():
        try:
            OmegaConf.update(config.copy(), key, value, merge=True)
        except (OmegaConfBaseException, AssertionError) as error:
            reason = _needed(config, key, value) or first_line(error)
            return f"`{key}` has a wrong value: {reason}, got {shown!r}."
    return None


def _needed(config: DictConfig, key: str, value: Any) -> str | None:
    """Return what a key takes, for a value that it does not take."""
    if value is None:
        return "a value is needed"
    parent, _, leaf = key.rpartition(".")
    section = OmegaConf.select(config, parent) if parent else config
    requirement = NEEDED.get(type(section._get_node(leaf)))
    return requirement and requirement.format(key=key)


def _refusal_of_file(configuration: _Configuration, error: Exception) -> str | None:
    """Return what a file of the user has that the configuration has not."""
    place = _place(error)
    _, is_of_group, rest = str(error).removeprefix(place).partition("Could not override '")
    cause = error.__cause__ or error.__context__
    key = getattr(cause, "full_key", None)
    if place and is_of_group:  # an entry `override /GROUP: NAME` of its defaults list
        return place + _unknown_group(configuration, rest.partition("'")[0])
    if not place or cause is None or key is None:
        return None
    if str(key) in configuration.keys:
        return f"{place}`{key}` has a wrong value: {first_line(cause)}; correct it there."
    return place + _unknown_key(configuration, str(key))


def _in_hydras_words(error: Exception) -> str:
    """Return Hydra's own line: what the arguments do not explain."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, RotogradError):  # of a resolver
        return str(cause)
    text = first_line(error).strip()
    key = getattr(error, "full_key", None)
    if key and str(key) not in text:
        text = f"`{key}`: {text}"
    return f"{text.rstrip('.?')}; check the command and the files that it names."
