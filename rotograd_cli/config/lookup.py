"""The configuration that the overrides of a command are compared with, and what it lacks."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.config.arguments import FOLDER_OPTIONS
from rotograd_cli.config.compose import composing
from rotograd_cli.config.files import choices, is_group
from rotograd_cli.config.labels import GRADIENTS

SEARCH_PATH = "hydra.searchpath"
DOTTED = "table.grid.values."
"""Section whose keys have dots, as the path of an override has."""
ROWS = "table.rows."
"""Section to which Hydra adds no key by a path."""

PICTURES = ("logger.images", "logger.confusion")
"""Keys of loggers that take pictures."""
WITHOUT_PICTURES = {
    "rotograd_cli.tracking.csv.CsvTracker": "csv",
    "rotograd_cli.tracking.base.NullTracker": "none",
}
"""Names of the loggers that do not, by class."""


@dataclass(frozen=True)
class Configuration:
    """What the overrides of a command may name."""

    command: str
    config: DictConfig
    """Composed with the groups that were chosen."""
    keys: Sequence[str]
    groups: Sequence[str]
    """Groups in the defaults list, with their package: ``optimizer@model_optimizer``."""
    folders: Sequence[Path]
    """The user's folders of YAML files."""


def configuration_of(command: str, overrides: Sequence[Override]) -> Configuration | None:
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
        return Configuration(command, config, list(_walk(config, "")), groups, folders)
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


def no_such_group(configuration: Configuration, name: str) -> str:
    """Return the refusal of a name that is no group."""
    packages = [group for group in configuration.groups if group.startswith(f"{name}@")]
    close = packages or difflib.get_close_matches(name, configuration.groups, n=1)
    if close:
        return f"`{name}` is not a group here; did you mean {' or '.join(close)}?"
    return f"`{name}` is not a group; rotograd {configuration.command} --help lists them."


def no_such_key(configuration: Configuration, key: str) -> str:
    """Return the refusal of a name that is no key."""
    keys = configuration.keys
    parent = key.rpartition(".")[0]
    if key.startswith(DOTTED):
        name = key.removeprefix(DOTTED)
        return f"`{key}` cannot be written so; write '+{DOTTED[:-1]}={{{name}:[VALUE,...]}}'."
    target = OmegaConf.select(configuration.config, "logger._target_")
    if key in PICTURES and target in WITHOUT_PICTURES:
        return (
            f"`{key}` is not a key of logger={WITHOUT_PICTURES[target]}, which takes no pictures; "
            "choose logger=tensorboard or logger=wandb."
        )
    if key == f"method.{GRADIENTS}":
        target = str(OmegaConf.select(configuration.config, "method._target_"))
        is_built_in = target.startswith("rotograd_cli.")
        own = f"write +{key}=VALUE for a rule of your own"
        another = "choose a method that takes them and does not rotate, such as method=pcgrad"
        return (
            f"`{key}` is not a key of this method, which takes no task gradients or rotates the "
            f"features; leave it out, or {another if is_built_in else own}."
        )
    if f"--{key}" in FOLDER_OPTIONS:
        return f"`{key}` is not a key; did you mean --{key} DIR?"
    close = _close(key, keys)
    if close is not None:
        return f"`{key}` is not a key; did you mean {close}?"
    siblings = [k for k in keys if k.rpartition(".")[0] == parent and "._" not in k]
    where = f"of `{parent}` here" if parent else "of the configuration"
    remedies = [f"keys {where}: {', '.join(siblings)}"] if siblings else []
    is_component = parent and OmegaConf.select(configuration.config, f"{parent}._target_")
    if parent.startswith("heads.") or (is_component and _is_option(key, str(is_component))):
        remedies.append(f"+{key}=VALUE where its class has that option")
    if not remedies and not is_component and (parent in keys or parent.startswith("losses.")):
        remedies.append(f"add it with +{key}=VALUE")
    if not remedies:
        remedies.append(f"rotograd {configuration.command} --cfg job lists the keys")
    return f"`{key}` is not a key; {', or '.join(remedies)}."


def _is_option(key: str, target: str) -> bool:
    """Return whether the class of a component may take a key of its section."""
    from rotograd_cli.config.components import accepted_parameters, import_target  # torch is slow

    accepted = accepted_parameters(import_target(target, key.rpartition(".")[0]))
    return accepted is None or key.rpartition(".")[2] in accepted


def is_null(configuration: Configuration, section: str) -> bool:
    """Return whether a section has no value, so that it takes no keys."""
    return OmegaConf.select(configuration.config, section) is None


def null_section(key: str, section: str) -> str:
    """Return the refusal of a key of a section that has no value."""
    remedy = f"add it with +{key}=VALUE"
    if is_group(section):
        remedy = f"choose one with {section}=NAME"
    return f"`{key}` cannot be set while `{section}` is null; {remedy}."


def key_like(command: str, name: str) -> str | None:
    """Return the key of a command's configuration that was probably meant by a name."""
    configuration = configuration_of(command, [])
    return None if configuration is None else _close(name, configuration.keys)


def _close(key: str, keys: Sequence[str]) -> str | None:
    """Return the key that was probably meant."""
    parent, _, leaf = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in keys if k.rpartition(".")[0] == parent}
    near = difflib.get_close_matches(leaf, siblings, n=1)
    if near:
        return siblings[near[0]]
    # a key without its section, epochs for train.epochs, or in another: train.lr
    is_plain = "." not in parent and not is_group(parent)
    is_lost = is_plain or key.partition(".")[0] not in keys
    others = [name for name in keys if is_lost and name.rpartition(".")[2] == leaf]
    result = others or difflib.get_close_matches(key, keys, n=1, cutoff=0.85)
    return result[0] if result else None


def node_at(config: DictConfig, key: str) -> Any:
    """Return the node of a key, whatever its value."""
    parent, _, leaf = key.rpartition(".")
    section = OmegaConf.select(config, parent) if parent else config
    return section._get_node(leaf)
