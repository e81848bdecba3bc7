"""What a run records of itself when it begins and ends: ``summary.json``.

Every reader and writer of the file goes through this module. It may be damaged or somebody else's,
so types are checked.
"""

import dataclasses
import json
import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen
from pydantic import ConfigDict, Strict, StringConstraints
from pydantic.dataclasses import dataclass

from rotograd_cli.config.labels import class_label
from rotograd_cli.errors import ConfigError
from rotograd_cli.files import replace_text
from rotograd_cli.runs.history import evaluations

SCHEMA_VERSION = 1
"""Version of ``summary.json``; files of before have none."""

UNRECORDED = "unrecorded"
"""Protocol of a metric in the summary of a version that did not record it."""

_STRICT = ConfigDict(strict=True)
_RESULTS = ("method", "data", "tasks", "metric_specs", "metrics")
"""Keys without which a finished run has no results to show."""


# fields are strict, the record itself is made of an object of JSON
@dataclass(frozen=True)
class MetricDisplay:
    """How a metric is shown."""

    better: Literal["higher", "lower"] | None
    percent: Annotated[bool, Strict()]
    protocol: str | None = UNRECORDED
    """How it averages, if there are several ways whose values are not comparable."""


_Size = Annotated[int, Ge(1)]
_Shape = Annotated[list[_Size], MinLen(1)]
_TaskAndMetric = Annotated[str, StringConstraints(pattern="^[^/]*/[^/]*$")]


@dataclass(frozen=True, config=_STRICT)
class RunSummary:
    """What is known of a run; None where it is not known.

    A version that did not record a key leaves it at its default, which is what that version did.
    """

    status: str = "no status"
    """``running``, ``finished``, ``failed`` or ``interrupted``."""
    method: str | None = None
    """Class of the method, of a plain rule that of the rule."""
    label: str | None = None
    """Name of the method for readers; None where an earlier version did not record it."""
    data: str | None = None
    tasks: list[str] = field(default_factory=list)
    metric_specs: dict[_TaskAndMetric, MetricDisplay] = field(default_factory=dict)
    """By ``task/metric``."""
    statistic_specs: dict[str, MetricDisplay] = field(default_factory=dict)
    """Statistics over tasks."""
    seed: int | None = None
    protocol: str | None = None
    averaged_epochs: int | None = None
    """Number of last epochs whose mean the metrics are; None where an epoch was selected."""
    select: str | None = None
    """Metric by which the epoch was selected, never ``split/auto``."""
    overrides: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    initial_weights: list[str] = field(default_factory=list)
    """What was loaded before the first step, of what, in words; empty without ``init_from``."""
    data_fingerprint: str | None = None
    num_examples: dict[str, int] = field(default_factory=dict)
    """By split."""
    num_evaluated: dict[str, int] | None = None
    """By split that is evaluated; None where an earlier version did not count them."""
    input_shape: list[_Size] = field(default_factory=list)
    """Of one example; empty where an earlier version did not record it, or inputs are a tree."""
    inputs: Any = None
    """Types and shapes of one example (:func:`rotograd_cli.trees.recorded`) where inputs are
    something else than one float32 tensor, else None."""
    output_shapes: dict[str, _Shape] = field(default_factory=dict)
    """Shape of one example's prediction by task, in the order of the heads; likewise."""
    num_parameters: dict[str, int] = field(default_factory=dict)
    device: str | None = None
    num_threads: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    command: list[str] = field(default_factory=list)
    started: str | None = None
    resumed_at_steps: list[int] = field(default_factory=list)
    error: str | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Of the selected epoch, or means over the last ones, by ``split/task/metric`` or
    ``split/statistic``; None for a value that is not finite."""
    selected_epoch: int | None = None
    """The last one where epochs are averaged: that of ``best.pt``."""
    epochs: int | None = None
    """Finished epochs."""
    planned_epochs: int | None = None
    extended_at_epochs: list[int] = field(default_factory=list)
    """Finished epochs whenever the run was made longer."""
    steps: int | None = None
    skipped_steps: int = 0
    train_s: float | None = None
    data_s: float | None = None
    """Part of ``train_s`` in which steps waited for data."""
    wall_s: float | None = None
    num_ranks: int = 1
    collectives_per_step: float | None = None
    collective_bytes_per_step: int | None = None
    schema_version: int = 0

    @property
    def outcome(self) -> str:
        """What became of the run: its status, or why a finished one has nothing to show.

        An earlier version that compared no epochs tested the first, and called the run finished.
        """
        if self.status == "finished" and self.select is not None and self.selected_value is None:
            return f"no finite {self.select}"
        return self.status

    @property
    def displays(self) -> dict[str, MetricDisplay]:
        """How metrics and statistics over tasks are shown, by key without the split."""
        return {**self.metric_specs, **self.statistic_specs}

    @property
    def tested_epochs(self) -> str:
        """Epochs that its test metrics are of, in words that runs alike share."""
        if self.averaged_epochs is None:
            return "selected epoch"
        return f"last {self.averaged_epochs} epochs"

    @property
    def measured_at(self) -> str:
        """Epochs that its metrics are of: ``epoch 14 of 15``."""
        if self.averaged_epochs is not None:
            return f"mean of the last {self.averaged_epochs} of {self.epochs} epochs"
        if self.stopped_early:
            return (
                f"epoch {self.selected_epoch}, stopped after {self.epochs} of {self.planned_epochs}"
            )
        return f"epoch {self.selected_epoch} of {self.epochs}"

    @property
    def stopped_early(self) -> bool:
        """Whether it finished before the planned number of epochs (``train.patience``)."""
        is_short = (self.epochs or 0) < (self.planned_epochs or 0)
        return self.status == "finished" and is_short

    @property
    def method_label(self) -> str | None:
        """Name of the method for readers; of an earlier version, found by its class."""
        return self.label or (self.method and class_label(self.method))

    @property
    def is_finished(self) -> bool:
        """Whether the run has test metrics, of an epoch that was selected by a finite value."""
        return self.outcome == "finished"

    @property
    def is_complete(self) -> bool:
        """Whether the run is over and has recorded everything that is shown of it."""
        shown = (self.seed, self.protocol, self.selected_epoch, self.epochs, self.train_s)
        return self.status == "finished" and None not in (*shown, self.data_s, self.wall_s)

    @property
    def selected_value(self) -> float | None:
        """Value by which epochs and runs are compared; None if there is none that is finite."""
        if self.status != "finished" or self.select is None:
            return None
        return finite(self.metrics.get(self.select))

    def content(self) -> dict[str, Any]:
        """Return the values of ``summary.json``, without those that are not known."""
        values = dataclasses.asdict(self)
        return {key: value for key, value in values.items() if value is not None}

    def write(self, run_dir: Path) -> None:
        """Write ``summary.json`` in one piece. Infinite and NaN values become null."""
        content = {**self.content(), "schema_version": SCHEMA_VERSION}
        content["metrics"] = {key: finite(value) for key, value in self.metrics.items()}
        text = json.dumps(content, indent=2, allow_nan=False)
        replace_text(run_dir / "summary.json", text + "\n")

    @classmethod
    def read(cls, run_dir: Path) -> "RunSummary | None":
        """Read ``summary.json`` of a run.

        Returns:
            What it holds; None if it does not exist, cannot be read or holds what no run writes.

        Raises:
            ConfigError: If a newer version wrote it, whose keys may mean other things.
        """
        path = run_dir / "summary.json"
        try:
            content = dict(json.loads(path.read_text(encoding="utf-8")))
            _refuse_newer(content.get("schema_version"), path)
            summary = _without_class(cls(**content))
        except ConfigError:
            raise
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        if summary.status == "finished" and any(key not in content for key in _RESULTS):
            return dataclasses.replace(summary, status="summary.json lacks results")
        return summary


def _without_class(summary: RunSummary) -> RunSummary:
    """Leave out the name of a class that earlier versions wrote of an interrupt."""
    text = None if summary.error is None else summary.error.removeprefix("StopRequested: ")
    return dataclasses.replace(summary, error=text)


def _refuse_newer(version: object, path: Path) -> None:
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ConfigError(
            f"`schema_version` of {path} must be at most {SCHEMA_VERSION}, got {version}; read the "
            "run with a newer rotograd-cli, or leave it out."
        )


def finite(value: float | None) -> float | None:
    """Return a value as files have it: None if it is infinite or NaN."""
    return value if value is not None and math.isfinite(value) else None


def recorded_metrics(run_dir: Path, checkpoint: str) -> dict[str, float | None]:
    """Return the metrics that a run recorded of a checkpoint.

    Args:
        run_dir: Run directory.
        checkpoint: ``best``: the selected epoch, from ``summary.json``; ``last``: the last
            evaluation, of every split but test, from ``metrics.jsonl``. Of a run that averages its
            last epochs, both are its last evaluation, test included.

    Returns:
        Metrics by key; empty where the run recorded none.
    """
    summary = RunSummary.read(run_dir) or RunSummary()
    if checkpoint == "best" and summary.averaged_epochs is None:
        return summary.metrics
    return next(reversed(list(evaluations(run_dir))), {})
