"""Hydra's and OmegaConf's errors in one line: thing, requirement, value found, remedy."""

import difflib
import errno
import pkgutil
import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.errors import RotogradError, one_line
from rotograd_cli.ranks.launch import lost_other
from rotograd_cli.runs.config import config_dir
from rotograd_cli.runs.words import choices_of, config_dirs, search_path

EXTRAS = {
    "joblib": "local",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "ray": "ray",
    "optuna": "optuna",
}
"""Extra of this package that installs a launcher or sweeper of Hydra."""


NETWORK = ("socket", "ssl", "urllib", "http", "requests", "urllib3")
"""Packages whose own errors tell of a connection."""

SYSTEM = {
    errno.ENOSPC: "free space or choose another folder.",
    errno.EDQUOT: "free space or choose another folder.",
    errno.EROFS: "choose another folder.",
    errno.EMFILE: "allow more open files (ulimit -n) or use fewer workers.",
}
"""Remedies for errors that name no file."""


def explain(error: Exception, command: str, words: Sequence[str]) -> str | None:
    """One line for an error of a run that was wrongly asked for.

    Args:
        error: What was raised.
        command: Sub-command, whose configuration holds the known names.
        words: Its overrides.

    Returns:
        The line; None if the error is not the input's fault and deserves its traceback.
    """
    if isinstance(error, RotogradError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _composition(error, command, words)
    if isinstance(error, yaml.MarkedYAMLError):
        return _unreadable(error)
    if isinstance(error, AssertionError) and "Unexpected type for root" in str(error):
        return _below_null(command, words)
    if isinstance(error, RuntimeError) and 'Could not detect "srun"' in str(error):
        return "launcher=slurm needs SLURM's commands (srun, sbatch); run it on a login node."
    if isinstance(error, OSError):
        return _refused_by_system(error)
    return _refused_by_hydra(error, words) if _raised_by_hydra(error) else None


def _refused_by_system(error: OSError) -> str:
    reason = error.strerror or str(error)
    if isinstance(error, (ConnectionError, TimeoutError)) or _package(error) in NETWORK:
        return f"A connection failed ({reason}); check the network and the address, and try again."
    if error.filename is not None:
        return f"{error.filename} cannot be used ({reason}); choose another path."
    remedy = SYSTEM.get(error.errno or 0, "the cause is outside of this program.")
    return f"The system refused ({reason}); {remedy}"


def _package(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _composition(error: Exception, command: str, words: Sequence[str]) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text, cause = lines[0] if lines else type(error).__name__, str(error.__cause__ or "")
    file = match.group(0) if (match := re.match(r"In '[^']+': ", text)) else ""
    match = re.search(r"'hydra/(?:launcher|sweeper)/(\w+)'", text)
    if match and (extra := EXTRAS.get(match.group(1))):
        return f"{match.group(1)} is not installed; run pip install 'rotograd-cli[{extra}]'."
    if match := re.search(r"Could not (?:find|load) '(?:([\w/]+)/)?([\w.-]*)'", text):
        return file + _unknown_choice(match.group(1) or "", match.group(2), lines)
    if match := re.search(r"Could not (?:override|delete from config\.) '([^']+)'", text):
        return file + _unknown_key(match.group(1), command, words)
    if match := re.search(r"full_key: (\S+)", str(error) if "composing config" in text else ""):
        return file + _unknown_key(match.group(1), command, words)
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        several = "choose one" if command in ("bench", "table") else "add -m to run them all"
        return (
            f"`{match.group(1)}` has several values; {several}, or write "
            f"{match.group(1).replace('=', '=[', 1)}] for a list."
        )
    if match := re.search(r"Error merging override ([^=]+)=?(.*)", text):
        return _wrong_value(match.group(1), match.group(2), cause.splitlines())
    if "override_grammar" in str(error) or "Error parsing override" in text:
        wrong = getattr(error, "override", None) or _without_value(words)
        hint = "check brackets and quotes."
        if command == "evaluate":
            hint = f"did you mean {shlex.quote(f'run={wrong}')}?"
        return f"An override must read KEY=VALUE, got {wrong!r}; {hint}"
    if match := re.search(r"Override (\S+?)=", text):
        return f"`{match.group(1)}` is not a group; rotograd {command} --help lists them."
    if match := re.search(r"ConfigError raised while resolving interpolation: (.*)", text):
        return match.group(1)
    key = getattr(error, "full_key", None)
    named = f"`{key}`: {text}" if key and str(key) not in text else text
    return " ".join([named.rstrip("."), *([cause.splitlines()[0]] if cause else [])])


def _below_null(command: str, words: Sequence[str]) -> str:
    """A key of a section that is null."""
    known = known_keys(command, words)
    keys = [word.lstrip("+").partition("=")[0] for word in words]
    below = [k for k in keys if k not in known and k.rpartition(".")[0] in known]
    key = below[0] if below else keys[0]
    parent = key.rpartition(".")[0]
    if (config_dir() / parent).is_dir():
        return f"`{key}` needs a `{parent}` that has it; choose one with {parent}=NAME."
    return f"`{key}` cannot be set while `{parent}` is null; add {parent}=VALUE."


def _unreadable(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}" if mark else "A file"
    return f"{where}, is not valid YAML: {error.problem}; correct it or leave the file out."


def _raised_by_hydra(error: Exception) -> bool:
    """Whether Hydra refused something without a type of its own for it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__")) if trace else ""
    return isinstance(error, (ValueError, AssertionError)) and module.startswith("hydra.")


def _refused_by_hydra(error: Exception, words: Sequence[str]) -> str:
    if str(error).startswith("Config group override"):
        plain = [w for w in words if re.search(r"^[\w/@]+=(null|true|false|[\d.]+)$", w, re.I)]
        groups = [word for word in plain if (config_dir() / _group(word)).is_dir()]
        if groups:
            group = groups[0].partition("=")[0]
            return (
                f"`{group}` must name a file of its group, got {groups[0]!r}; choose "
                f"{choices_of(group)}."
            )
    return f"{error}; check the command."


def _group(word: str) -> str:
    return re.split("[@=]", word)[0]


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
    if key.startswith("hydra."):
        return f"`{key}` is not a key; rotograd {command} --cfg hydra prints Hydra's."
    if key.startswith("table.grid.values."):  # its keys have dots, an override's path too
        name = key.removeprefix("table.grid.values.")
        return f"`{key}` cannot be written so; write 'table.grid.values={{{name}:[VALUE,...]}}'."
    known = known_keys(command, words)
    if pairs := _group_pairs(key, known):
        return f"`{key}` is not the name of a choice; write {' or '.join(pairs)}."
    parent, _, leaf = key.rpartition(".")
    siblings = [k for k in known if k.rpartition(".")[0] == parent and "._" not in k]
    near = difflib.get_close_matches(leaf, [k.rpartition(".")[2] for k in siblings], n=1)
    close = [f"{parent}.{near[0]}" if parent else near[0]] if near else []
    if not parent:  # a key without its section, epochs for train.epochs
        close = close or [name for name in known if name.rpartition(".")[2] == leaf]
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.85)
    if close:
        return f"`{key}` is not a key; did you mean {close[0]}?"
    where = f"of `{parent}` here" if parent else "of the configuration"
    choices = f"keys {where}: {', '.join(siblings)}" if siblings else ""
    new = f"+{key}=VALUE adds an option" if _can_be_added(parent, leaf, command, words) else ""
    return f"`{key}` is not a key; {', or '.join(filter(None, (choices, new)))}."


def _can_be_added(parent: str, leaf: str, command: str, words: Sequence[str]) -> bool:
    """Whether a component takes an option that its file leaves out."""
    from rotograd_cli.runs.components import accepted_parameters  # loads torch

    if parent.startswith("heads."):
        return True
    config = _composed(command, words)
    target = None if config is None else OmegaConf.select(config, f"{parent}._target_")
    if not parent or target is None:
        return False
    try:
        accepted = accepted_parameters(pkgutil.resolve_name(str(target)))
    except (ImportError, ValueError, AttributeError):
        return False
    return accepted is None or leaf in accepted


def _group_pairs(key: str, known: Sequence[str]) -> list[str]:
    """How to choose what two nodes share, asked for by the name of the group or of the node."""
    group = key.rpartition("_")[2]
    if not (config_dir() / group).is_dir() or group in known:
        return []
    nodes = [key] if key in known else [name for name in known if name.endswith(f"_{group}")]
    return [f"{group}@{node}=NAME" for node in nodes]


def _wrong_value(key: str, value: str, cause: Sequence[str]) -> str:
    if key.startswith("~"):
        return f"`{key[1:]}` cannot be removed; give it a value: {key[1:]}=VALUE."
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
    elif "Invalid type assigned" in reason:
        reason = f"it holds keys, set them one by one with {key}.KEY=VALUE"
    return f"`{key}` has a wrong value: {reason}, got {value!r}."


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
    config = _composed(command, words)
    return [] if config is None else list(_walk(config, ""))


def _composed(command: str, words: Sequence[str]) -> DictConfig | None:
    """A command's configuration with the groups that were chosen, or without if they are wrong."""
    groups = [word for word in words if re.fullmatch(r"[\w/]+(@\w+)?=\w+", word)]
    groups += [search_path(folder.resolve()) for folder in config_dirs(words)]
    for overrides in (groups, []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(config_dir()), version_base="1.3"):
                return compose(command, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException):
            continue
    return None


def _walk(node: DictConfig, prefix: str) -> list[str]:
    names: list[str] = []
    for key in map(str, node):
        names.append(f"{prefix}{key}")
        child: Any = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            names += _walk(child, f"{prefix}{key}.")
    return names


def describe_failure(error: BaseException) -> str:
    """One line for an error that is the user's, with its class name for any other."""
    text = lost_other(error) or one_line(str(error))
    if isinstance(error, RotogradError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
