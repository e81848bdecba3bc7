"""Runs that are there: their configurations, which of them are the same, which ``resume`` means.

Nothing that a saved configuration names is resolved or imported here.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.config.labels import identity
from rotograd_cli.config.schema import COMMAND_KEYS, TrainConfig, to_train_config
from rotograd_cli.errors import ConfigError, OccupiedError, first_line, suggested
from rotograd_cli.runs.directory import is_used
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.training.options import END

if TYPE_CHECKING:
    from rotograd_cli.runs.trust import Trust

MAX_BYTES = 1_000_000
"""Size of a saved configuration beyond which it is none; a run's has some thousand bytes."""

ADDED_KEYS: Mapping[str, Any] = {
    "precision": "fp32",
    "compile": False,
    "diagnostics": "basic",
    "rotation.normalize_losses": False,
    "train.on_nonfinite": "stop",
    "train.max_skipped_steps": 100,
    "checkpoints.every_epochs": 1,
    "checkpoints.every_minutes": 10.0,
    "checkpoints.keep_epochs": 0,
    "train.average_last_epochs": None,
    "init_from": None,
    "init_what": "backbone",
    "init_sha256": None,
    "freeze": (),
    "train.patience": None,
    "train.ema_decay": None,
    "parameter_groups": None,
    "model_scheduler.warmup_epochs": None,
    "model_scheduler.warmup_steps": None,
    "method_scheduler.warmup_epochs": None,
    "method_scheduler.warmup_steps": None,
}
"""Keys that earlier versions did not have, with the value that does what those versions did."""

_LEFT_OUT_OF_KEYS = (
    "train.average_last_epochs",
    "init_from",
    "init_what",
    "init_sha256",
    "freeze",
    "train.patience",
    "train.ema_decay",
    "parameter_groups",
    "model_scheduler.warmup_epochs",
    "model_scheduler.warmup_steps",
    "method_scheduler.warmup_epochs",
    "method_scheduler.warmup_steps",
)
"""Keys of :data:`ADDED_KEYS` that count in :func:`key` only with another value.

So folders that are named by their key keep their names.
"""

UNCOUNTED = ("paths", "logger", "tags", "device", "deterministic", "checkpoints", "diagnostics")
"""Sections that are no part of a run's identity.

They say where a run reads and writes, who is told and of what, on which machine it happens and how
often it is saved. A result does not depend on them, but for rounding on another device or with
other kernels, which the footnotes of a table name.
"""

UNCOUNTED_OPTIONS = ("data.num_workers", "data.pin_memory")
"""Options of the same kind in other sections: how torch's loader reads."""

EXTENDING = ("train.epochs", "train.patience")
"""Keys whose values a run may raise when it goes on: it trains longer."""

_AUTO = ("geomean_loss", "relative_loss")
"""Metrics that ``train.select=SPLIT/auto`` stands for, depending on the data set's losses."""

_NO_CHANGE = ("debug=nonfinite", "~debug", "~experiment", "~sweep")
"""Overrides that leave a run as it is; ``GROUP=null`` is read as ``~GROUP``."""


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
        interpolation = re.search(r'[^"]*\$\{[^"]*', json.dumps(content, default=str))
        if interpolation is not None:
            raise ConfigError(f"{interpolation[0]!r} is an interpolation, which no run saves")
        return to_train_config(content)
    except (OmegaConfBaseException, TypeError, ValueError, KeyError, RecursionError) as error:
        raise ConfigError(f"{source} is not a run's configuration: {first_line(error)}") from error


def key(config: Mapping[str, Any]) -> str:
    """Return the short name of a configuration; runs with equal names have equal results.

    Args:
        config: Content of a run's ``config.yaml``.

    Returns:
        Sixteen hexadecimal digits.
    """
    counted = {**setting(config), "seed": config.get("seed"), "tasks": config.get("tasks")}
    for name in _LEFT_OUT_OF_KEYS:
        if counted.get(name) == ADDED_KEYS[name]:
            counted.pop(name, None)
    text = json.dumps(counted, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def setting(config: Mapping[str, Any], select: str | None = None) -> dict[str, Any]:
    """Return what runs of one row of a table share: the identity without seed and tasks.

    Args:
        config: Content of a run's ``config.yaml``.
        select: Metric that the run selected by, which says what its ``train.select=SPLIT/auto``
            stood for. Without it, ``auto`` is ``geomean_loss`` for the data sets of this package,
            none of which has negative losses, and stays ``auto`` for others.

    Returns:
        Values by dotted key.
    """
    uncounted = (*UNCOUNTED, "seed", "tasks")
    counted = {name: value for name, value in config.items() if name not in uncounted}
    leaves = flat(identity(counted))
    result = {name: value for name, value in leaves.items() if name not in UNCOUNTED_OPTIONS}
    split, _, metric = str(result.get("train.select")).partition("/")
    if metric == "auto":
        candidates = [f"{split}/{name}" for name in _AUTO]
        if select in candidates:
            result["train.select"] = select
        elif str(result.get("data._target_")).startswith("rotograd_cli.data."):
            result["train.select"] = candidates[0]
    return result | _ends(result)


def _ends(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of epochs for schedules that go on to the ``end``, as runs had it before.

    A warm-up makes the number another one.
    """
    result = {}
    for name, value in values.items():
        section, _, rest = name.partition(".scheduler.")
        warmups = [values.get(f"{section}.warmup_{unit}") for unit in ("epochs", "steps")]
        if rest and value == END and values.get(f"{section}.interval") == "epoch":
            result[name] = values.get("train.epochs") if warmups == [None, None] else END
    return result


def holds_run(run_dir: Path, config: TrainConfig) -> bool:
    """Return whether a folder holds a run of a configuration, finished or not."""
    return _saved_key(run_dir) == key(asdict(config))


def folders_by_key(parent: Path) -> dict[str | None, Path]:
    """Return the run directories in a folder by the key of their configuration."""
    return {_saved_key(path.parent): path.parent for path in parent.glob("*/config.yaml")}


def _saved_key(run_dir: Path) -> str | None:
    try:
        return key(read_saved(run_dir / "config.yaml"))
    except (ConfigError, TypeError):  # damaged, or of something else
        return None


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a configuration by dotted key, lists as tuples.

    Examples:
        >>> flat({"train": {"epochs": 3}, "tags": ["a"], "heads": {}})
        {'train.epochs': 3, 'tags': ('a',)}
    """
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = tuple(value) if isinstance(value, list) else value
    return leaves


@dataclass(frozen=True)
class Target:
    """A run to train."""

    config: TrainConfig
    run_dir: Path
    resumed: bool
    """Whether it is there already, so that its newest checkpoint is gone on from."""
    extended: bool = False
    """Whether it is to train longer than it was configured to."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        summary = RunSummary.read(self.run_dir) if self.resumed else None
        is_over = summary is not None and summary.is_finished and summary.is_complete
        return is_over and not self.extended


def named_run(name: str, config: TrainConfig, overrides: Sequence[str], trust: "Trust") -> Target:
    """Return the run of ``resume=DIR``, as it was configured.

    Args:
        name: Its directory.
        config: What the command line composes.
        overrides: The command line's overrides; those that change no result count, and those that
            make it train longer.
        trust: What the user vouches for.

    Returns:
        The run.

    Raises:
        ConfigError: If it is no run directory, an override would make it another run, or it would
            run or send what the user has not vouched for.
    """
    run_dir = Path(name).expanduser()
    result = load_run_config(run_dir, "resume")
    saved = asdict(result)
    extended = False
    for word in overrides:
        path = word.partition("=")[0].lstrip("+~").replace("@", ".")
        key = path.split(".")[0]
        if path in EXTENDING:
            extended |= _extend(result, config, path.partition(".")[2], run_dir)
            continue
        if path in UNCOUNTED_OPTIONS and path in flat(saved):
            option = path.rpartition(".")[2]
            result.data[option] = config.data[option]
            continue
        if key in COMMAND_KEYS or word in _NO_CHANGE:
            continue
        if key not in UNCOUNTED:
            raise ConfigError(
                f"`resume` goes on with {name} as it was configured, got {word} too; leave that "
                f"out (only {', '.join(UNCOUNTED)} may change, and {' and '.join(EXTENDING)} be "
                "raised) or start a new run."
            )
        setattr(result, key, getattr(config, key))
        saved.pop(key, None)
    trust.check(saved, run_dir / "config.yaml", run_dir)
    trust.check_destination(saved.get("logger"), run_dir / "config.yaml")
    return Target(result, run_dir, resumed=True, extended=extended)


def _extend(result: TrainConfig, config: TrainConfig, name: str, run_dir: Path) -> bool:
    """Raise a limit of training; return whether that changes it.

    Args:
        result: Configuration of the run, which is changed.
        config: What the command line composes.
        name: Option of the section ``train``; null is no limit.
        run_dir: Directory of the run, for the message.
    """
    before = getattr(result.train, name)
    now = getattr(config.train, name)
    limits = [math.inf if value is None else value for value in (before, now)]
    if limits[1] < limits[0]:
        least = "null" if before is None else f"at least {before}"
        raise ConfigError(
            f"`train.{name}` of a run that goes on must be {least}, as in "
            f"{run_dir / 'config.yaml'}, got {now}; leave it out or start a new run."
        )
    setattr(result.train, name, now)
    if name == "epochs":
        for schedule in (result.model_scheduler, result.method_scheduler):
            _end_with_run(schedule, before)
    return bool(now != before)


def _end_with_run(schedule: dict[str, Any], epochs: int) -> None:
    """Let a cosine over all epochs end with the run, as earlier versions did not write."""
    options = schedule["scheduler"]
    is_cosine = options["_target_"] == "torch.optim.lr_scheduler.CosineAnnealingLR"
    if is_cosine and schedule["interval"] == "epoch" and options.get("T_max") == epochs:
        options["T_max"] = END


def same_run(config: TrainConfig, run_dir: Path, folders: Sequence[Path]) -> Target:
    """Return the run of ``resume=auto``: the newest of this configuration, else a new one.

    Args:
        config: What was asked for.
        run_dir: Where a new run would go; if a run is there, it is the one.
        folders: Other run directories.

    Returns:
        An unfinished run before a finished one, before a new one.

    Raises:
        OccupiedError: If ``run_dir`` holds the run of another configuration.
    """
    if is_used(run_dir):
        if not holds_run(run_dir, config):
            raise OccupiedError(
                f"{run_dir} holds a run of another configuration; choose another folder, or "
                f"{suggested('train', f'resume={run_dir}')} goes on with that one."
            )
        return Target(config, run_dir, resumed=True)
    targets = [Target(config, f, resumed=True) for f in folders if holds_run(f, config)]
    new = Target(config, run_dir, resumed=False)
    return max(targets, key=_preference, default=new)


def _preference(target: Target) -> tuple[bool, int]:
    """Unfinished before finished, then the newest."""
    return not target.finished, (target.run_dir / "config.yaml").stat().st_mtime_ns
