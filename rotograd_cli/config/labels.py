"""Names of methods in tables and figures, and what of a method's YAML makes it another method."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rotograd_cli.config.files import config_dir
from rotograd_cli.errors import ConfigError

LABEL = "_label_"
"""Key of a method's YAML. No option of the method, and no part of a run's identity."""

GRADIENTS = "gradients"
"""Key of a rule's YAML, and no option of the rule: what the network differentiates by."""

FEATURES = "features"
"""Its value where nothing is said; runs of versions without the key have no other."""


def method_label(method: Mapping[str, Any]) -> str:
    """Return the name of a method for readers.

    Args:
        method: Content of a method's YAML, or the section ``method`` of a run's configuration.

    Returns:
        Its ``_label_``; without one, as in runs of earlier versions, that of the built-in method of
        its class, else the name of the class. A method with a rule of the user's choice
        is named with it, and one with ``gradients=parameters`` says so.

    Examples:
        >>> method_label({"_target_": "rotograd_cli.methods.imtlg.IMTLG"})
        'IMTL-G'
        >>> method_label({"_target_": "mine.Rule", "gradients": "parameters"})
        'Rule (parameters)'
        >>> method_label({"_target_": "mine.Mine", "rule": {"_target_": "mine.Rule"}})
        'Mine + Rule'
    """
    nodes = (method, method.get("rule"))
    return " + ".join(_label(node) for node in nodes if isinstance(node, Mapping))


def check_label(method: Mapping[str, Any], where: str = "method") -> None:
    """Refuse a name that ``methods=[NAME,...]`` cannot hold.

    Args:
        method: As in :func:`method_label`.
        where: Its place in the configuration, for the message.

    Raises:
        ConfigError: If its ``_label_`` or that of its rule has a comma.
    """
    label = str(method.get(LABEL, ""))
    if "," in label:
        raise ConfigError(
            f"`{where}.{LABEL}` must have no comma, as methods=[NAME,...] lists names, got "
            f"{label!r}; write {label.replace(',', '')!r}."
        )
    if isinstance(method.get("rule"), Mapping):
        check_label(method["rule"], f"{where}.rule")


def file_label(name: str) -> str | None:
    """Return the label of a built-in file of ``conf/method``; None if there is no such file."""
    file = config_dir() / "method" / f"{name}.yaml"
    return method_label(_content(file)) if file.is_file() else None


def class_label(name: str) -> str:
    """Return the label of the built-in method of that class, else the name of the class.

    Examples:
        >>> class_label("VanillaMTL"), class_label("Mine")
        ('Vanilla', 'Mine')
    """
    return _built_in().get(name, name)


def without_label(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a method's YAML, or of a configuration, without ``_label_``."""
    return {
        key: without_label(value) if isinstance(value, Mapping) else value
        for key, value in content.items()
        if key != LABEL
    }


def identity(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return content without ``_label_``, and as versions without the key ``gradients`` wrote it.

    Args:
        content: As in :func:`without_label`.
    """
    return {
        key: identity(value) if isinstance(value, Mapping) else value
        for key, value in without_label(content).items()
        if (key, value) != (GRADIENTS, FEATURES)
    }


@cache
def shipped_components() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    """Return name and content of the built-in files of networks, optimisers and schedules.

    Returns:
        By class; classes of several files are left out.
    """
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for group in ("backbone", "head", "optimizer", "scheduler"):
        for file in sorted((config_dir() / group).glob("*.yaml")):
            content = _content(file)
            target = content.get("scheduler", content).get("_target_")
            found.setdefault(target, []).append((file.stem, content))
    return {target: files[0] for target, files in found.items() if len(files) == 1}


def _label(node: Mapping[str, Any]) -> str:
    module, _, name = str(node.get("_target_", "?")).rpartition(".")
    is_built_in = module.startswith("rotograd_cli.")
    label = str(node.get(LABEL) or (class_label(name) if is_built_in else name))
    gradients = node.get(GRADIENTS, FEATURES)
    return label if gradients == FEATURES else f"{label} ({gradients})"


@cache
def _built_in() -> Mapping[str, str]:
    """Labels of the built-in methods by class."""
    files = sorted((config_dir() / "method").glob("*.yaml"))
    nodes = map(_content, files)
    return {node["_target_"].rpartition(".")[2]: node[LABEL] for node in nodes if LABEL in node}


def _content(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content
