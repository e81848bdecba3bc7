"""Refusals of Hydra in one line: what is wrong with an override or a file of the user."""

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
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
)
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from rotograd_cli.config.files import choices, is_group
from rotograd_cli.config.lookup import (
    DOTTED,
    ROWS,
    SEARCH_PATH,
    Configuration,
    configuration_of,
    is_null,
    no_such_group,
    no_such_key,
    node_at,
    null_section,
)
from rotograd_cli.config.schema import unknown_key
from rotograd_cli.errors import ConfigError, RotogradError, first_line
from rotograd_cli.extras import installing

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
    refuses = isinstance(error, (ValueError, AssertionError, AttributeError))
    return refuses and module.startswith(("hydra.", "omegaconf."))


def _diagnosis(error: Exception, command: str, overrides: Sequence[str], is_sweep: bool) -> str:
    if isinstance(error, MissingConfigException):
        has_folder = any(text.startswith(f"{SEARCH_PATH}=") for text in overrides)
        return _unknown_choice(error, has_folder)
    parsed = []
    for text in overrides:
        override = _parsed(text)
        if override is None:
            return _not_an_override(text, command)
        parsed.append(override)
    configuration = configuration_of(command, parsed)
    refusals = []
    if configuration is not None:
        refusals = [_refusal(configuration, override, is_sweep) for override in parsed]
    refusals.append(_refusal_of_file(configuration, error))
    return next(filter(None, refusals), None) or _in_hydras_words(error)


def _parsed(text: str) -> Override | None:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return None
    return override if override.key_or_group else None


def _unknown_choice(error: MissingConfigException, has_folder: bool) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper") and name in EXTRAS:
        return f"{name} is not installed; run {installing(EXTRAS[name])}."
    options = list(error.options or [])
    close = difflib.get_close_matches(name, options, n=1)
    remedy = f" Did you mean {close[0]}?" if close else ""
    rule = "stands below the DIR of" if has_folder else "needs"
    remedy += f" A file of yours, DIR/{group}/{name}.yaml, {rule} --config-dir DIR."
    required = f"one of {', '.join(options)}" if options else "one of its group's files"
    return f"{_place(error)}`{group}` must be {required}, got {name!r}.{remedy}"


def _place(error: Exception) -> str:
    """Return the file below a group that an error is about, as Hydra names it; empty for none."""
    start, quote, _ = str(error).partition("': ")
    is_file = quote and start.startswith("In '") and "/" in start
    return f"{start}': " if is_file else ""


def _not_an_override(override: str, command: str) -> str:
    hint = "check brackets and quotes."
    if command in ("evaluate", "export", "predict"):
        hint = f"did you mean {shlex.quote(f'run={override}')}?"
    return f"An override must read KEY=VALUE, got {override!r}; {hint}"


def _refusal(configuration: Configuration, override: Override, is_sweep: bool) -> str | None:
    """Return why an override cannot be taken; None if nothing speaks against it."""
    key = override.key_or_group
    text = str(override.input_line)
    if override.is_sweep_override() and not is_sweep:
        return _several_values(configuration, key, text)
    if key.startswith(("hydra/", "hydra.")):
        return None  # Hydra's own line names it
    is_added = override.is_add() or override.is_force_add()
    if override.package is not None or is_group(key, configuration.folders):
        name = text.partition("=")[0].lstrip("+~")
        if name not in configuration.groups and not is_added:
            return no_such_group(configuration, name)
        if name in configuration.groups and is_added:
            return f"`{name}` is chosen already; leave out the +: {text.lstrip('+')}."
        has_name = override.is_sweep_override() or isinstance(override.value(), str)
        return None if has_name else _no_choice(name, text)
    sections = [key.rpartition(".")[0], *([key] if isinstance(override.value(), dict) else [])]
    for section in sections:
        if section in configuration.keys and is_null(configuration, section):
            return null_section(key, section)
    if is_added:  # keys that are new are checked with the configuration
        return _refusal_of_added(configuration, override)
    if key not in configuration.keys or key.startswith(DOTTED):
        return no_such_key(configuration, key)
    if override.is_delete():
        return f"`{key}` cannot be removed; give it a value: {key}=VALUE."
    return _wrong_value(configuration, override)


def _refusal_of_added(configuration: Configuration, override: Override) -> str | None:
    """Return why Hydra adds no such key: it has a value that is not merged with another, or none.

    What a row lacks is taken from its schema, which Hydra does only where it is given as a whole.
    """
    key = override.key_or_group
    row = key.removeprefix(ROWS).partition(".")[0]
    if key.startswith(ROWS) and f"{ROWS}{row}" not in configuration.keys:
        remedy = f"'+{ROWS[:-1]}={{{row}:{{overrides:[\"method={row}\"]}}}}'"
        return f"A row cannot be added as `{key}`; write {remedy}."
    is_there = OmegaConf.select(configuration.config, key, throw_on_missing=False) is not None
    if not is_there or override.is_force_add() or isinstance(override.value(), (dict, list)):
        return None
    remedy = shlex.quote(str(override.input_line).lstrip("+"))
    return f"`{key}` is a key already; leave out the +: {remedy}."


def _several_values(configuration: Configuration, key: str, text: str) -> str:
    name, _, values = text.partition("=")
    can_sweep = configuration.command in ("train", "evaluate")
    several = "add -m to run them all" if can_sweep else "choose one"
    takes_list = key in configuration.keys and isinstance(
        node_at(configuration.config, key), ListConfig
    )
    a_list = f", or write {name}=[{values}] for a list" if takes_list else ""
    return f"`{text}` has several values; {several}{a_list}."


def _no_choice(group: str, argument: str) -> str:
    """Return the refusal of a value that names no file: how to switch it off, or its files."""
    names = choices(group)
    remedy = f"{group}=none" if "none" in names else f"one of {', '.join(names)}"
    return f"`{group}` must name a file of its group, got {argument!r}; choose {remedy}."


def _wrong_value(configuration: Configuration, override: Override) -> str | None:
    """Try the values on a copy of the configuration, as Hydra merges them."""
    config = configuration.config
    key = override.key_or_group
    values = {str(override.input_line).partition("=")[2]: override.value()}
    if override.is_sweep_override():
        several = override.sweep_iterator() if override.is_discrete_sweep() else ()
        values = {str(value): value for value in several}
    for shown, value in values.items():
        try:
            OmegaConf.update(config.copy(), key, value, merge=True)
        except ConfigKeyError as error:
            return _unknown_entry(configuration, override, error)
        except (OmegaConfBaseException, AssertionError) as error:
            reason = _needed(config, key, value) or first_line(error)
            return f"`{key}` has a wrong value: {reason}, got {shown!r}."
    return None


def _unknown_entry(configuration: Configuration, override: Override, error: ConfigKeyError) -> str:
    """Return the refusal of a key inside of a value in braces."""
    has_fixed_keys = OmegaConf.is_dict(error.parent_node) and is_dataclass(error.object_type)
    if has_fixed_keys:
        return no_such_key(configuration, str(error.full_key))
    return (
        f"`{override.key_or_group}` has no key {str(error.key)!r} yet; add it with "
        f"{shlex.quote(f'+{override.input_line}')}."
    )


def _needed(config: DictConfig, key: str, value: Any) -> str | None:
    """Return what a key takes, for a value that it does not take."""
    if value is None:
        return "a value is needed"
    requirement = NEEDED.get(type(node_at(config, key)))
    return requirement and requirement.format(key=key)


def _refusal_of_file(configuration: Configuration | None, error: Exception) -> str | None:
    """Return what a file of the user has that the configuration has not."""
    place = _place(error)
    cause = error.__cause__ or error.__context__
    if not place:
        return _second_choice(str(error))
    group = place.partition("'")[2].rpartition("/")[0]
    _, _, rest = str(error).removeprefix(place).partition("Could not override '")
    name = rest.partition("'")[0]  # of an entry `override /GROUP: NAME` of its defaults list
    if name.startswith(f"{group}/"):
        entry = name.removeprefix(f"{group}/").partition("@")[0]
        return f"{place}`override {entry}` needs a slash; write override /{entry}: NAME."
    if f"@{group}." in name or getattr(cause, "full_key", None) == group:
        return f"{place}its keys are read below `{group}`; begin it with # @package _global_."
    if name and configuration is not None:
        return place + no_such_group(configuration, name)
    if isinstance(cause, ConfigKeyError):
        return place + str(unknown_key(cause))
    if isinstance(cause, OmegaConfBaseException):
        key = cause.full_key or _section_of(configuration, str(cause))
        return f"{place}`{key}` has a wrong value: {first_line(cause)}; correct it there."
    return None


def _section_of(configuration: Configuration | None, text: str) -> str:
    """Return the section that an error of OmegaConf names by its schema alone."""
    config = {} if configuration is None else configuration.config
    for key in map(str, config):
        schema = getattr(OmegaConf.get_type(config, key), "__name__", "")
        if f"not a subclass of {schema}." in text:
            return key
    return "a section"


def _second_choice(text: str) -> str | None:
    entry = re.search(r"Multiple values for (\S+)\. .*'override (.*)'", text)
    return entry and (
        f"`{entry[1]}` is chosen twice; write override /{entry[2]} in the file that chooses it."
    )


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
