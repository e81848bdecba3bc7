"""A run, loaded: its networks, its data, and what it recorded.

Every command that takes up a trained model loads it here, and so does Python::

    import rotograd_cli

    run = rotograd_cli.load_run("outputs/...")
    left = run.task("left")
"""

import copy
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rotograd_cli.config.components import Constructors
from rotograd_cli.config.schema import TrainConfig
from rotograd_cli.data.base import SPLITS, MultiTaskDataset, Split
from rotograd_cli.data.examples import Examples
from rotograd_cli.errors import DATA_ROOT, CheckpointError, ConfigError, DatasetError, ShapeError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.folding import fold_task
from rotograd_cli.runs.building import (
    build_dataset,
    build_model,
    memory_errors,
    resolve_device,
    without_weights,
)
from rotograd_cli.runs.directory import CHECKPOINTS
from rotograd_cli.runs.history import read_history
from rotograd_cli.runs.saved import load_run_config
from rotograd_cli.runs.summary import RunSummary, recorded_metrics
from rotograd_cli.runs.trust import Trust, user_folders
from rotograd_cli.tasks import Task, select_tasks
from rotograd_cli.training.checkpoint import load_checkpoint
from rotograd_cli.training.checkpoint_content import load_weights
from rotograd_cli.training.seeding import unchanged_generators
from rotograd_cli.trees import Inputs, like_parameters, shown, zeros_of

NO_LOGGER = {"_target_": "rotograd_cli.tracking.base.NullTracker", "_partial_": True}
"""Section of a configuration: nothing that is loaded is reported to anybody."""
_IN_PYTHON = "pass trust=True to run it anyway."


@dataclass(frozen=True)
class LoadedRun:
    """A run with the weights of one checkpoint. :func:`load_run` makes it."""

    folder: Path
    """Run directory."""
    checkpoint: str
    """``best`` or ``last``."""
    model: MultiTaskMethod = field(repr=False)
    """Backbone, heads and method, in evaluation mode, on the device."""
    tasks: tuple[str, ...]
    """Names of the tasks, in the order of the model's predictions."""
    example: Inputs = field(repr=False)
    """Inputs like one example's, first axis 1, on the CPU: zeros of their types and shapes."""
    options: TrainConfig = field(repr=False)
    """What it was loaded with: the run's configuration, but for device, data root and compiling."""
    recorded: TrainConfig = field(repr=False)
    """The run's configuration: :attr:`config`, typed."""

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that the run was trained with, plain values."""
        return asdict(self.recorded)

    @cached_property
    def summary(self) -> RunSummary:
        """Content of ``summary.json``."""
        return RunSummary.read(self.folder) or RunSummary()

    @property
    def metrics(self) -> dict[str, float]:
        """What the run recorded of the checkpoint, by ``split/task/metric``; NaN if not finite.

        Of ``last``, and of a run that averages its last epochs, the last evaluation; it has test
        metrics only where epochs are averaged. Empty if there was none.
        """
        recorded = recorded_metrics(self.folder, self.checkpoint)
        return {key: math.nan if value is None else value for key, value in recorded.items()}

    @cached_property
    def history(self) -> Any:
        """All records, a row each: a pandas data frame, without pandas a dict of NumPy arrays.

        Raises:
            DatasetError: As :func:`rotograd_cli.runs.history.read_history`.
        """
        columns = read_history(self.folder)
        if find_spec("pandas") is None:
            return columns
        import pandas as pd

        return pd.DataFrame(columns)

    def task(self, name: str) -> nn.Module:
        """Return the network of one task, from input to prediction: an ordinary module.

        It is a copy of backbone and head, in evaluation mode and on the device of the model. The
        rotation is part of its weights where that is possible (:mod:`rotograd_cli.methods.folding`)
        so it predicts what the model does up to rounding. It computes in the type of its
        parameters, whatever precision the run was trained with.

        Raises:
            ConfigError: If the run has no such task.
        """
        index = self._index(name)
        example = like_parameters(self.example, next(self.model.parameters()))
        return fold_task(self.model, example, index)

    def dataset(self, split: Split) -> Examples:
        """Return a split as a data set of torch: ``(input, {task: target})`` by index.

        Raises:
            ConfigError: If there is no such split.
            DatasetError: If the data are not there.
        """
        if split not in SPLITS:
            raise ConfigError(f"`split` must be one of {', '.join(SPLITS)}, got {split!r}.")
        return Examples(self.data, split)

    @cached_property
    def data(self) -> MultiTaskDataset:
        """All splits with their tasks, on the device of the model; read when first asked for.

        Raises:
            DatasetError: If the files are not there, or hold other tasks than the run was for.
        """
        data = _data_of(self.options)
        recorded = (self.tasks, shown(self.example))
        here = (tuple(task.name for task in data.tasks), shown(data.example_inputs()))
        if here != recorded:
            raise DatasetError(
                f"{self.folder} was trained on data with tasks {', '.join(self.tasks)} and inputs "
                f"{recorded[1]}, those here have {', '.join(here[0])} and {here[1]}; name the "
                "right ones with data_dir."
            )
        return data

    def _index(self, name: str) -> int:
        select_tasks([Task(task, 1, _no_loss, ()) for task in self.tasks], [name])
        return self.tasks.index(name)


@memory_errors()
def load_run(
    run: str | Path,
    *,
    checkpoint: str = "best",
    device: str | None = None,
    data_dir: str | Path | None = None,
    trust: bool = False,
    compile: bool = False,
) -> LoadedRun:
    """Load a run: its networks at once, its data when they are asked for.

    The networks need no data: the run recorded their shapes. (One of an earlier version did not,
    and its data must be there.) Random generators are left alone.

    Args:
        run: Run directory.
        checkpoint: ``best``, the selected epoch, or ``last``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``; None takes the run's own.
        data_dir: Data root; None takes the run's own.
        trust: Whether components from outside of this package and torch, which the run's
            configuration may name, are run.
        compile: Whether backbone and heads are compiled if the run's were.

    Returns:
        The run; its directory is only read.

    Raises:
        RotogradError: If the run, its configuration or the checkpoint is missing or does not fit,
            or names components that are not trusted.
    """
    return load(
        Path(run).expanduser(),
        checkpoint=checkpoint,
        device=device,
        data_dir=data_dir,
        trust=Trust(trust, user_folders(), remedy=_IN_PYTHON),
        compile=compile,
    )


def load(
    folder: Path,
    *,
    checkpoint: str,
    device: str | None,
    data_dir: str | Path | None,
    trust: Trust,
    compile: bool,
) -> LoadedRun:
    """Load a run as :func:`load_run` does, for a command.

    Args:
        folder: Run directory.
        checkpoint: As there, like what follows.
        device: Likewise.
        data_dir: Likewise.
        trust: What the user vouches for.
        compile: Likewise.
    """
    if checkpoint not in ("best", "last"):
        raise ConfigError(f"`checkpoint` must be best or last, got {checkpoint!r}.")
    recorded = load_run_config(folder)
    options = copy.deepcopy(recorded)
    options.logger = NO_LOGGER
    trust.check(asdict(options), folder / "config.yaml", folder)
    options.device = options.device if device is None else device
    options.compile = options.compile and compile
    if data_dir is not None:
        options.paths.data_dir = str(data_dir)
    path = folder / CHECKPOINTS / f"{checkpoint}.pt"
    content = load_checkpoint(path, resolve_device(options.device))
    if "model" not in content:
        raise CheckpointError(f"{path} holds no model; train the run again.")
    example, tasks = _shapes(folder, options)
    with unchanged_generators():
        model = build_model(without_weights(options), example, tasks)
    load_weights(model, content["model"], path)
    names = tuple(task.name for task in tasks)
    return LoadedRun(folder, checkpoint, model, names, example, options, recorded)


def _shapes(folder: Path, options: TrainConfig) -> tuple[Inputs, tuple[Task, ...]]:
    """Return inputs like one example's, and tasks that have the shapes of the predictions."""
    summary = RunSummary.read(folder)
    if summary is not None and (summary.inputs or summary.input_shape) and summary.output_shapes:
        example = zeros_of(summary.inputs or " ".join(map(str, ("float32", *summary.input_shape))))
        return example, tuple(
            Task(name, shape[0], _no_loss, (), tuple(shape[1:]))
            for name, shape in summary.output_shapes.items()
        )
    try:
        data = _data_of(options)
    except DatasetError as error:
        raise DatasetError(
            f"{folder} is of an earlier version that did not record the shapes of its data, so "
            f"these must be there: {error}"
        ) from error
    return data.example_inputs(), data.tasks


def _data_of(options: TrainConfig) -> MultiTaskDataset:
    try:
        with unchanged_generators():
            return build_dataset(options, Constructors(options), resolve_device(options.device))
    except DatasetError as error:
        # the key of load_run and of every command that loads
        raise DatasetError(str(error).replace(DATA_ROOT, "data_dir")) from error


def _no_loss(prediction: Tensor, target: Tensor) -> Tensor:
    raise ShapeError("A task that was only recorded has no loss; take those of run.data.tasks.")
