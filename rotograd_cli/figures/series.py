"""One key of one row over training: where it was recorded, mean and band over the seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np

from rotograd_cli.errors import ConfigError
from rotograd_cli.tables.rows import Array, History, Row

Axis = Literal["step", "epoch", "time"]
Band = Literal["minmax", "sem", "none"]
AXIS_LABELS = {"step": "step", "epoch": "epoch", "time": "training time in s"}
BAND_LABELS = {"minmax": "band: min to max", "sem": "band: ± standard error", "none": ""}


@dataclass(frozen=True)
class LineOptions:
    """How lines over training are drawn."""

    x: Axis = "step"
    """Horizontal axis: steps, epochs with their fractions, or seconds of training."""
    smooth: float | None = None
    """Weight of the past in exponential smoothing of every seed; None draws what was recorded."""
    band: Band = "minmax"
    """Over the seeds: extremes, the mean plus and minus its standard error, or none."""


RECORDED = LineOptions()


@dataclass(frozen=True)
class Series:
    """Values of a key at the steps at which every seed of a row has one."""

    steps: Array
    """Shape ``[N]``."""
    x: Array
    """Where they are drawn, shape ``[N]``; times are the mean over the seeds."""
    values: Array
    """Shape ``[S, N]``, a row per seed."""

    @property
    def mean(self) -> Array:
        """Mean over the seeds, shape ``[N]``."""
        result: Array = self.values.mean(0)
        return result

    def edges(self, kind: Band) -> tuple[Array, Array]:
        """Return lower and upper edge of the band; both are the mean for one seed or ``none``."""
        if kind == "none" or len(self.values) < 2:
            return self.mean, self.mean
        if kind == "minmax":
            return self.values.min(0), self.values.max(0)
        error = self.values.std(0, ddof=1) / np.sqrt(len(self.values))
        return self.mean - error, self.mean + error


def series_of(row: Row, key: str, options: LineOptions = RECORDED) -> Series:
    """Return the values of a key that a row has.

    Args:
        row: Row; at least one of its runs has the key.
        key: Key of the records.
        options: Which horizontal axis, and whether to smooth.

    Raises:
        ConfigError: If the records do not tell epoch or time.
    """
    histories = row.with_key(key)
    recorded = [_recorded(history, key) for history in histories]
    steps = reduce(np.intersect1d, [each for each, _ in recorded])
    values = [known[np.searchsorted(each, steps)] for each, known in recorded]
    if options.smooth is not None:
        values = [smoothed(each, options.smooth) for each in values]
    positions = [_positions(history, steps, options.x) for history in histories]
    return Series(steps, np.mean(positions, 0), np.array(values))


def _recorded(history: History, key: str) -> tuple[Array, Array]:
    """Return the steps at which a run recorded a key, ascending, and the values."""
    column = history.columns[key]
    is_there = np.isfinite(column)
    steps, first = np.unique(history.columns["step"][is_there], return_index=True)
    return steps, column[is_there][first]


def smoothed(values: Array, weight: float) -> Array:
    r"""Return an exponential moving average without the bias towards its start.

    Entry t is :math:`(1 - w) \sum_{i \le t} w^{t-i} v_i / (1 - w^{t+1})`.

    Args:
        values: Shape ``[N]``.
        weight: w, in (0, 1).
    """
    result = np.empty_like(values)
    total = 0.0
    for index, value in enumerate(values):
        total = weight * total + (1 - weight) * value
        result[index] = total / (1 - weight ** (index + 1))
    return result


def _positions(history: History, steps: Array, axis: Axis) -> Array:
    if axis == "step":
        return steps
    if axis == "epoch":
        return _epochs(history, steps)
    if not history.has("seconds"):
        raise ConfigError(
            f"`x`=time needs `seconds` in the records, which {history.run.folder} of an earlier "
            "version lacks; use x=step or x=epoch, or train it again."
        )
    all_steps, seconds = _recorded(history, "seconds")
    result: Array = seconds[np.searchsorted(all_steps, steps)]
    return result


def _epochs(history: History, steps: Array) -> Array:
    """Return how many epochs are done by a step, from the steps of the evaluations."""
    evaluated = _evaluated_steps(history)
    if len(evaluated) == 0:
        raise ConfigError(
            f"`x`=epoch needs an evaluated epoch, which {history.run.folder} has not yet; "
            "use x=step."
        )
    ends, first = np.unique(history.columns["step"][evaluated], return_index=True)
    epochs = history.columns["epoch"][evaluated][first]
    # beyond the last evaluation an epoch takes as many steps as before
    per_step = epochs[-1] / ends[-1]
    result: Array = np.where(
        steps > ends[-1],
        epochs[-1] + (steps - ends[-1]) * per_step,
        np.interp(steps, [0, *ends], [0, *epochs]),
    )
    return result


def _evaluated_steps(history: History) -> Sequence[int]:
    """Return which records are evaluations of the validation split."""
    columns = [c for key, c in history.columns.items() if key.startswith("val/")]
    if not columns:
        return []
    is_evaluation = np.isfinite(columns).any(0)
    return [int(index) for index in np.flatnonzero(is_evaluation)]
