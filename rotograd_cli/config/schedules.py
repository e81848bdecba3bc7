"""A schedule of learning rates from YAML: lengths in steps or epochs become what it counts."""

import re
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rotograd_cli.errors import ConfigError
from rotograd_cli.training.options import END
from rotograd_cli.training.schedules import RunLength

_LENGTH = re.compile(rf"{END}|([1-9]\d*) (step|epoch)s?")
_KEYS = {"interval", "scheduler"}
_WARMUP = ("warmup_epochs", "warmup_steps")
_ON_PLATEAU = "evaluation"


class Schedule:
    """Checked constructor of a schedule.

    Args:
        node: Its section: ``interval``, ``scheduler``, and the length of a warm-up or None.
        where: Name of the section in messages, e.g. ``model_scheduler``.
        constructor: Class that makes a checked constructor of ``scheduler``.

    Raises:
        ConfigError: If a key or value is wrong.
    """

    def __init__(self, node: Any, where: str, constructor: Any) -> None:
        if not isinstance(node, Mapping) or set(node) - set(_WARMUP) != _KEYS:
            raise ConfigError(f"`{where}` must have the keys interval and scheduler, got {node!r}.")
        self.where = where
        self.interval = str(node["interval"])
        self._options = node["scheduler"]
        self._constructor = constructor
        self._warmup = {key: node[key] for key in _WARMUP if node.get(key) is not None}
        self._check_warmup()
        self.ends_with_run = isinstance(self._options, Mapping) and any(
            value == END or (isinstance(value, list) and END in value)
            for value in self._options.values()
        )
        make = self._make(RunLength(1, 1), 0)  # names and types, before anything is built
        self._check_interval(make.target)

    def _check_warmup(self) -> None:
        for key, value in self._warmup.items():
            if type(value) is not int or value < 1:
                raise ConfigError(
                    f"`{self.where}.{key}` must be a whole number of at least 1 or null, got "
                    f"{value!r}."
                )
        if len(self._warmup) > 1:
            raise ConfigError(
                f"`{self.where}` must have one warm-up, got warmup_epochs and warmup_steps; set "
                f"{self.where}.warmup_epochs=null."
            )

    def _check_interval(self, target: Any) -> None:
        on_plateau = isinstance(target, type) and issubclass(target, ReduceLROnPlateau)
        choices = (_ON_PLATEAU,) if on_plateau else ("step", "epoch")
        if self.interval not in choices:
            raise ConfigError(
                f"`{self.where}.interval` must be {' or '.join(choices)} for {target.__name__}, "
                f"got {self.interval!r}; set {self.where}.interval={choices[-1]}."
            )

    def warmup_steps(self, length: RunLength) -> int:
        """Return the steps of the warm-up.

        Raises:
            ConfigError: If the run ends before it.
        """
        epochs = self._warmup.get("warmup_epochs", 0)
        num: int = self._warmup.get("warmup_steps", epochs * length.steps_per_epoch)
        if num >= length.steps:
            key, value = next(iter(self._warmup.items()))
            raise ConfigError(
                f"`{self.where}.{key}` must leave steps to train after the warm-up, got {value} "
                f"for a run of {length.epochs} epochs of {length.steps_per_epoch} steps; lower it, "
                f"or set {self.where}.{key}=null."
            )
        return num

    def __call__(self, optimizer: Optimizer, length: RunLength, select_mode: str) -> Any:
        """Build the schedule.

        Args:
            optimizer: Whose rates it sets.
            length: That of the run.
            select_mode: ``min`` or ``max``: which selection value is the best.

        Raises:
            ConfigError: If it refuses its options, or waits for the worst selection value.
        """
        scheduler = self._make(length, self.warmup_steps(length))(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode != select_mode:
            raise ConfigError(
                f"`{self.where}.scheduler.mode` must be train.select_mode ({select_mode}), got "
                f"{scheduler.mode!r}; set {self.where}.scheduler.mode={select_mode}."
            )
        return scheduler

    def _make(self, length: RunLength, warmup_steps: int) -> Any:
        where = f"{self.where}.scheduler"
        options = self._options
        if isinstance(options, Mapping):
            options = {
                key: self._intervals(value, f"{where}.{key}", length, warmup_steps)
                for key, value in options.items()
            }
        return self._constructor(options, where, "optimizer")

    def _intervals(self, value: Any, name: str, length: RunLength, warmup_steps: int) -> Any:
        """Return a length (``end``, ``20 epochs``, ``500 steps``) in intervals, other values as is.

        A list holds several.
        """
        if isinstance(value, list):
            return [self._intervals(each, name, length, warmup_steps) for each in value]
        match = _LENGTH.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            if isinstance(value, str) and value[:1].isdigit():
                raise ConfigError(
                    f"`{name}` must be a number of intervals, or a length such as '20 epochs', "
                    f"'500 steps' or {END}, got {value!r}."
                )
            return value
        if self.interval == _ON_PLATEAU:
            raise ConfigError(f"`{name}` must be a number of evaluations, got {value!r}.")
        if value == END:
            return length.num_advances(self.interval, warmup_steps)
        unit = match[2]
        if unit == "step" and self.interval == "epoch":
            raise ConfigError(
                f"`{name}` must be in epochs where the schedule advances by epochs, got {value!r}; "
                f"set {self.where}.interval=step."
            )
        return int(match[1]) * (1 if unit == self.interval else length.steps_per_epoch)
