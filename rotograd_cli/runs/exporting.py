"""``rotograd export``: tasks of a run as a file that needs nothing of this package."""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.config.schema import ExportConfig, TrainConfig
from rotograd_cli.data.base import Batch, MultiTaskDataset
from rotograd_cli.errors import ConfigError
from rotograd_cli.files import replace_file
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.folding import fold_tasks
from rotograd_cli.runs.description import package_versions
from rotograd_cli.runs.export_formats import FORMATS, INPUTS, Format, NamedTasks
from rotograd_cli.runs.loading import load
from rotograd_cli.runs.saved import key
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.runs.trust import Trust, user_folders
from rotograd_cli.tasks import select_tasks
from rotograd_cli.training.blame import silence
from rotograd_cli.training.objective import predict
from rotograd_cli.trees import shown
from rotograd_cli.user_code import blamed

TOLERANCE = 1e-5
"""Largest difference that is allowed, in units of the task's largest prediction.

float32 rounds every term of a sum by up to 6e-8 of the term, and a folded layer, like another
runtime, adds the terms up in another order. The errors are relative to the terms, not to their sum,
which may be near zero: hence one scale for all predictions of a task.
"""

BATCH_SIZES = (1, 8)
"""Sizes of the batches that are compared, of different examples."""

Predictions = Mapping[str, Sequence[Tensor]]
"""By task, one for every batch."""


@dataclass(frozen=True)
class Agreement:
    """How a task's predictions by the file compare with those of the run."""

    task: str
    shape: tuple[int, ...]
    """Of one example's prediction."""
    largest: float
    """Largest magnitude of the run's predictions."""
    difference: float
    """Largest difference between two predictions."""
    rotation: str
    """``folded``, ``a matrix`` where it could not be folded, ``none`` where there is none."""

    @property
    def ratio(self) -> float:
        """The difference in units of the largest prediction: at most :data:`TOLERANCE`."""
        # without a difference the largest may be 0 too
        return self.difference / self.largest if self.difference else 0.0


@dataclass(frozen=True)
class Export:
    """A file that was written, and what it was checked for."""

    path: Path
    input_shape: tuple[int, ...]
    """Of one example."""
    input_kind: str
    """Type of the inputs, such as float32."""
    agreements: list[Agreement]
    precision: str
    """Of the run; the file computes in the type of the parameters."""


def export_run(config: ExportConfig) -> Export:
    """Write tasks of a run to a file, once it is known to predict what the run does.

    Args:
        config: Checked configuration.

    Returns:
        The file, and how its predictions compare with the run's.

    Raises:
        RotogradError: If the run cannot be loaded or exported, or the file would predict something
            else. Nothing is written then.
    """
    form = FORMATS[config.format]()
    run_dir = Path(config.run).expanduser()
    path = _path(config, run_dir, form)
    model, dataset, run_config = _load(config, run_dir)
    names = [task.name for task in select_tasks(dataset.tasks, config.tasks)]
    batches = _batches(dataset)
    examples = _inputs(batches)
    expected = _predictions(model, dataset, batches)
    indices = [list(expected).index(name) for name in names]
    folded = fold_tasks(model, examples[0], indices)
    metadata = _metadata(config, run_config, dataset, model, {n: expected[n] for n in names})
    content, found = _exported(form, NamedTasks(folded, names), examples, json.dumps(metadata))
    kinds = [_rotation(model, is_folded) for is_folded in folded.is_folded]
    agreements = [
        _agreement(name, expected[name], found[name], kind, form)
        for name, kind in zip(names, kinds, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda file: file.write(content))
    kind = str(examples[0].dtype).removeprefix("torch.")
    return Export(path, dataset.input_shape, kind, agreements, run_config.precision)


def _load(
    config: ExportConfig, run_dir: Path
) -> tuple[MultiTaskMethod, MultiTaskDataset, TrainConfig]:
    run = load(
        run_dir,
        checkpoint=config.checkpoint,
        device="cpu",
        data_dir=config.data_dir,
        trust=Trust(config.trust, user_folders()),
        compile=False,
    )
    return run.model, run.data, run.recorded


def _path(config: ExportConfig, run_dir: Path, form: Format) -> Path:
    if config.output is None:
        name = "-".join([config.checkpoint, *(config.tasks or ())])
        return run_dir / "export" / f"{name}{form.suffix}"
    path = Path(config.output).expanduser()
    if path.suffix != form.suffix or path.is_dir():
        raise ConfigError(
            f"`output` must name a file with the suffix {form.suffix} for format={config.format}, "
            f"got {path}; write output={path.with_suffix(form.suffix)}."
        )
    return path


def _batches(dataset: MultiTaskDataset) -> list[Batch]:
    """Return real examples, repeated where the split has too few."""
    num = dataset.num_examples("val")
    if num == 0:
        raise ConfigError(
            f"The val split of {dataset.name} must have examples to check the file with, got 0; "
            "name other data with data_dir=DIR."
        )
    rows = torch.arange(sum(BATCH_SIZES)) % num
    return list(dataset.batches("val", torch.split(rows, list(BATCH_SIZES))))


def _inputs(batches: Sequence[Batch]) -> list[Tensor]:
    inputs = [batch.inputs for batch in batches if isinstance(batch.inputs, Tensor)]
    if len(inputs) < len(batches):
        raise ConfigError(
            "`run` cannot be exported: its backbone must take one tensor, got "
            f"{shown(batches[0].inputs)}; give torch.export rotograd_cli.load_run(DIR).task(NAME), "
            "which is a plain module."
        )
    return inputs


def _predictions(
    model: MultiTaskMethod, dataset: MultiTaskDataset, batches: Sequence[Batch]
) -> Predictions:
    """Return what the run itself predicts, in the type of its parameters."""
    model.autocast_dtype = None
    with torch.no_grad(), model.evaluating():
        by_batch = [predict(model, batch) for batch in batches]
    names = [task.name for task in dataset.tasks]
    return dict(zip(names, zip(*by_batch, strict=True), strict=True))


def _metadata(
    config: ExportConfig,
    run_config: TrainConfig,
    dataset: MultiTaskDataset,
    model: MultiTaskMethod,
    expected: Predictions,
) -> dict[str, Any]:
    """Return what the file says of itself."""
    summary = RunSummary.read(Path(config.run).expanduser()) or RunSummary()
    is_best = config.checkpoint == "best"
    losses = {task.name: task.loss for task in dataset.tasks}
    return {
        "inputs": {INPUTS: ["batch", *dataset.input_shape]},
        "outputs": {name: ["batch", *y[0].shape[1:]] for name, y in expected.items()},
        "losses": {name: _name(losses[name]) for name in expected},
        "run": {
            "key": key(asdict(run_config)),
            "method": model.method_name,
            "data": dataset.name,
            "data_fingerprint": summary.data_fingerprint,
            "seed": run_config.seed,
            "checkpoint": config.checkpoint,
            "epoch": summary.selected_epoch if is_best else summary.epochs,
        },
        "versions": package_versions(),
    }


def _name(loss: Any) -> str:
    name: str = getattr(loss, "__name__", type(loss).__name__)
    return name


def _exported(
    form: Format, network: NamedTasks, examples: Sequence[Tensor], metadata: str
) -> tuple[bytes, Predictions]:
    """Return the content of the file, and what it predicts.

    Raises:
        ConfigError: If the network cannot be exported, or the file cannot be run.
    """
    what = f"`run` cannot be exported to {form.title}"
    remedy = "backbone and heads must be one graph that looks at no value and at no batch size"
    unheard = io.StringIO()  # torch prints the graph where it fails
    with redirect_stdout(unheard), redirect_stderr(unheard), silence(), blamed(what, remedy):
        content = form.write(network, examples[-1], metadata)
        by_batch = [form.predict(content, inputs) for inputs in examples]
    return content, {name: [batch[name] for batch in by_batch] for name in network.names}


def _rotation(model: MultiTaskMethod, is_folded: bool) -> str:
    if model.rotated is None:
        return "none"
    return "folded" if is_folded else "a matrix"


def _agreement(
    task: str, expected: Sequence[Tensor], found: Sequence[Tensor], rotation: str, form: Format
) -> Agreement:
    """Compare a task's predictions by the file with those of the run.

    Raises:
        ConfigError: If they do not agree.
    """
    y = torch.cat([prediction.double().flatten() for prediction in expected])
    errors = torch.cat([prediction.double().flatten() for prediction in found]) - y
    largest = float(y.abs().max())
    difference = float(errors.abs().max())
    if not torch.isfinite(y).all():
        raise ConfigError(
            f"The predictions of task {task!r} must be finite, to be compared with those of the "
            "file, got infinite or NaN values; export another checkpoint."
        )
    if not difference <= TOLERANCE * largest:  # a NaN agrees with nothing
        raise ConfigError(
            f"The {form.title} file must predict what the run does, to {TOLERANCE:.0e} of the "
            f"largest prediction, but task {task!r} is off by {difference:.1e} where that is "
            f"{largest:.3g}; {form.remedy}."
        )
    return Agreement(task, tuple(expected[0].shape[1:]), largest, difference, rotation)
