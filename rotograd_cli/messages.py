"""Hydra's and OmegaConf's errors in one line: thing, requirement, value found, remedy."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.config import config_dir
from rotograd_cli.errors import RotogradError


def explain(error: Exception, command: str, words: Sequence[str]) -> str:
    """One line for an error of a run that was wrongly asked for.

    Args:
        error: What was raised.
        command: Sub-command, whose configuration holds the known names.
        words: Its overrides.

    Returns:
        The line.
    """
    if isinstance(error, RotogradError):
        return " ".join(str(error).split())
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text, cause = lines[0] if lines else type(error).__name__, str(error.__cause__ or "")
    if match := re.search(r"Could not (?:find|load) '(?:([\w/]+)/)?([\w.-]+)'", text):
        return _unknown_choice(str(match.group(1)), match.group(2), lines)
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match.group(1), command, words)
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return (
            f"`{match.group(1)}` has several values; add -m to run them all, or write "
            f"{match.group(1).replace('=', '=[', 1)}] for a list."
        )
    if match := re.search(r"Error merging override ([^=]+)=?(.*)", text):
        return _wrong_value(match.group(1), match.group(2), cause.splitlines())
    if "override_grammar" in str(error) or "Error parsing override" in text:
        wrong = getattr(error, "override", None) or _without_value(words)
        return f"An override must read KEY=VALUE, got {wrong!r}; check brackets and quotes."
    if match := re.search(r"Override (\S+?)=", text):
        return f"`{match.group(1)}` is not a group; rotograd {command} --help lists them."
    return " ".join([text.rstrip("."), *([cause.splitlines()[0]] if cause else [])])


def _unknown_choice(group: str, value: str, lines: Sequence[str]) -> str:
    options = []
    if any(line.startswith("Available options") for line in lines):
        start = next(i for i, line in enumerate(lines) if line.startswith("Available options"))
        end = next((i for i, x in enumerate(lines) if x.startswith("Config search path")), None)
        options = list(lines[start + 1 : end])
    close = difflib.get_close_matches(value, options, n=1)
    remedy = f" Did you mean {close[0]}?" if close else ""
    choices = f"one of {', '.join(options)}" if options else "one of its group's files"
    return f"`{group}` must be {choices}, got {value!r}.{remedy}"


def _unknown_key(key: str, command: str, words: Sequence[str]) -> str:
    known = known_keys(command, words)
    parent, _, leaf = key.rpartition(".")
    siblings = [k for k in known if k.rpartition(".")[0] == parent and "._" not in k]
    near = difflib.get_close_matches(leaf, [k.rpartition(".")[2] for k in siblings], n=1)
    close = [f"{parent}.{near[0]}" if parent else near[0]] if near else []
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.85)
    if close:
        return f"`{key}` is not a key; did you mean {close[0]}?"
    where = f"of `{parent}` here" if parent else "of the configuration"
    choices = f"keys {where}: {', '.join(siblings) or 'none'}"
    new = f", or +{key}=VALUE to add an option" if parent else ""
    return f"`{key}` is not a key; {choices}{new}."


def _wrong_value(key: str, value: str, cause: Sequence[str]) -> str:
    reason = cause[0] if cause else "it does not fit"
    if "could not be converted to Integer" in reason:
        reason = "a whole number is needed"
    elif "could not be converted to Float" in reason:
        reason = "a number is needed"
    elif "is not a valid bool" in reason:
        reason = "true or false is needed"
    elif "is not a ListConfig" in reason:
        reason = f"a list is needed, {key}=[{value}]"
    elif "is not Optional" in reason:
        reason = "a value is needed"
    return f"`{key}` has a wrong value: {reason}, got {value or 'none'!r}."


def _without_value(words: Sequence[str]) -> str:
    wrong = [word for word in words if "=" not in word and not word.startswith(("-", "~", "+"))]
    return (wrong or list(words))[0]


def known_keys(command: str, words: Sequence[str]) -> list[str]:
    """Dotted names of all keys of a command's configuration, with the groups that were chosen.

    Args:
        command: Sub-command.
        words: Its overrides.

    Returns:
        The names.
    """
    groups = [word for word in words if re.fullmatch(r"[\w/]+(@\w+)?=\w+", word)]
    for overrides in (groups, []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                return list(_walk(compose(command, overrides=list(overrides)), ""))
        except (HydraException, OmegaConfBaseException):
            continue
    return []


def _walk(node: DictConfig, prefix: str) -> list[str]:
    names: list[str] = []
    for key in map(str, node):
        names.append(f"{prefix}{key}")
        child: Any = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            names += _walk(child, f"{prefix}{key}.")
    return names
