"""What is wrong with overrides that Hydra refused: found by its parser, in the configuration."""

import difflib
import pkgutil
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.errors import ConfigError, RotogradError, first_line
from rotograd_cli.runs.arguments import no_choice
from rotograd_cli.runs.config_files import choices, config_dir, is_group

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
    except RotogradError:
        raise
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
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__")) if trace else ""
    refuses = isinstance(error, (ValueError, AssertionError))
    return refuses and module.startswith(("hydra.", "omegaconf."))


@dataclass(frozen=True)
class _Configuration:
    """What the overrides of a command may name."""

    command: str
    config: DictConfig
    """Composed with the groups that were chosen."""
    keys: Sequence[str]
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
    refusals = [_refusal(override, configuration, is_sweep) for override in parsed]
    refusals.append(_refusal_of_file(error, configuration))
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
    """The file below a group that an error is about, as Hydra names it; empty for none."""
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
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                config = compose(command, lines)
        except (HydraException, OmegaConfBaseException):
            continue
        return _Configuration(command, config, list(_walk(config, "")), folders)
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


def _refusal(override: Override, configuration: _Configuration, is_sweep: bool) -> str | None:
    """Return why an override cannot be taken; None if nothing speaks against it."""
    key = override.key_or_group
    several = override.is_sweep_override()
    if several and not is_sweep:
        return _several_values(override, configuration.command)
    if key.startswith(("hydra/", "hydra.")):
        return None  # Hydra's own line names it
    if override.package is not None or is_group(key, configuration.folders):
        return _refusal_of_choice(override, configuration)
    if override.is_add() or override.is_force_add():
        return None  # added keys are checked with the configuration
    if key not in configuration.keys or key.startswith(DOTTED):
        return _unknown_key(key, configuration)
    if override.is_delete():
        return f"`{key}` cannot be removed; give it a value: {key}=VALUE."
    return _wrong_value(override, configuration.config)


def _several_values(override: Override, command: str) -> str:
    key, _, values = str(override.input_line).partition("=")
    several = "add -m to run them all" if command in ("train", "evaluate") else "choose one"
    return f"`{key}={values}` has several values; {several}, or write {key}=[{values}] for a list."


def _refusal_of_choice(override: Override, configuration: _Configuration) -> str | None:
    group = override.key_or_group
    name = group if override.package is None else f"{group}@{override.package}"
    if not is_group(group, configuration.folders):
        return f"`{name}` is not a group; rotograd {configuration.command} --help lists them."
    if override.is_sweep_override() or isinstance(override.value(), str):
        return None
    return str(no_choice(name, str(override.input_line)))


def _unknown_key(key: str, configuration: _Configuration) -> str:
    keys = configuration.keys
    parent, _, leaf = key.rpartition(".")
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
    if _can_be_added(parent, leaf, configuration.config):
        remedies.append(f"+{key}=VALUE adds an option")
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


def _can_be_added(parent: str, leaf: str, config: DictConfig) -> bool:
    """Whether a component takes an option that its file leaves out."""
    from rotograd_cli.runs.components import accepted_parameters  # loads torch

    if parent.startswith("heads."):
        return True
    target = OmegaConf.select(config, f"{parent}._target_") if parent else None
    if target is None:
        return False
    with suppress(ImportError, ValueError, AttributeError):
        accepted = accepted_parameters(pkgutil.resolve_name(str(target)))
        return accepted is None or leaf in accepted
    return False


def _wrong_value(override: Override, config: DictConfig) -> str | None:
    """Try the values on a copy of the configuration, as Hydra merges them."""
    key = override.key_or_group
    text = str(override.input_line).partition("=")[2]
    values = [override.value()]
    if override.is_sweep_override():
        values = list(override.sweep_iterator()) if override.is_discrete_sweep() else []
    for value in values:
        shown = str(value) if override.is_sweep_override() else text
        try:
            OmegaConf.update(config.copy(), key, value, merge=True)
        except (OmegaConfBaseException, AssertionError) as error:
            reason = _needed(config, key, value, shown) or first_line(error)
            return f"`{key}` has a wrong value: {reason}, got {shown!r}."
    return None


def _needed(config: DictConfig, key: str, value: Any, shown: str) -> str | None:
    """Return what a key takes, for a value that it does not take."""
    parent, _, leaf = key.rpartition(".")
    section = OmegaConf.select(config, parent) if parent else config
    node = section._get_node(leaf)
    if value is None:
        return "a value is needed"
    if isinstance(node, ListConfig):
        return f"a list is needed, {key}=[{shown}]"
    if isinstance(node, DictConfig):
        return f"it holds keys, set them one by one with {key}.KEY=VALUE"
    return NEEDED.get(type(node))


def _refusal_of_file(error: Exception, configuration: _Configuration) -> str | None:
    """Return what a file of the user has that the configuration has not."""
    place = _place(error)
    cause = error.__cause__ or error.__context__
    key = getattr(cause, "full_key", None)
    if not place or key is None:
        return None
    if str(key) in configuration.keys:
        reason = str(cause).splitlines()[0]
        return f"{place}`{key}` has a wrong value: {reason}; correct it there."
    return place + _unknown_key(str(key), configuration)


def _in_hydras_words(error: Exception) -> str:
    """Return Hydra's own line: what the arguments do not explain."""
    cause = error.__cause__ or error.__context__
    if isinstance(cause, RotogradError):  # of a resolver
        return str(cause)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    suggestions = [line for line in lines[1:2] if line.startswith("Did you mean")]
    text = " ".join([*lines[:1], *suggestions]) or type(error).__name__
    key = getattr(error, "full_key", None)
    if key and str(key) not in text:
        text = f"`{key}`: {text}"
    return f"{text.rstrip('.?')}; check the command and the files that it names."
