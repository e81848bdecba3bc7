"""The composition root: the only place that builds components and joins them."""

import logging
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rotograd_cli.data.base import MultiTaskDataset
from rotograd_cli.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteError,
    run_under_way,
    suggested,
)
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.models.heads import share_layers
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.runs.claims import claimed
from rotograd_cli.runs.components import Constructors
from rotograd_cli.runs.config import EvaluateConfig, TrainConfig
from rotograd_cli.runs.directory import (
    describe_progress,
    describe_ranks,
    describe_run,
    described_before,
    log_file,
    other_data,
    recorded_metrics,
    refuse_other_data,
)
from rotograd_cli.runs.messages import describe_failure
from rotograd_cli.runs.report import write_summary
from rotograd_cli.runs.saved import load_run_config
from rotograd_cli.runs.trust import Trust, without_extras, word_for
from rotograd_cli.tasks import Task
from rotograd_cli.tracking.base import Tracker
from rotograd_cli.tracking.console import ConsoleTracker
from rotograd_cli.tracking.jsonl import JsonlTracker
from rotograd_cli.training import interrupts
from rotograd_cli.training.batch_checks import check_predictions
from rotograd_cli.training.blame import blamed, is_out_of_memory
from rotograd_cli.training.checkpoint import load_checkpoint, load_weights
from rotograd_cli.training.compiling import compilation, compile_networks
from rotograd_cli.training.coverage import complete_batches, cut_notes, evaluation_parts
from rotograd_cli.training.dry_pass import dry_pass
from rotograd_cli.training.evaluation import evaluate
from rotograd_cli.training.loop import Trainer
from rotograd_cli.training.precision import AUTOCAST
from rotograd_cli.training.records import Recorder
from rotograd_cli.training.run_state import OptimizerGroup, RunState
from rotograd_cli.training.seeding import seed_everything, set_deterministic, unchanged_generators
from rotograd_cli.training.state import TrainState

logger = logging.getLogger(__name__)


_SMALLER = (
    "The run does not fit into memory; lower train.batch_size, train.eval_batch_size, "
    "rotation.shape or the sizes of the networks, or raise train.accumulate_steps."
)


@contextmanager
def memory_errors(message: str = _SMALLER) -> Iterator[None]:
    """Running out of memory, as an error that names the remedy.

    Args:
        message: The error's line.

    Raises:
        ConfigError: Where the body runs out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(message) from error


@dataclass(frozen=True)
class Experiment:
    """A data set and a model on a device, ready to train or evaluate."""

    dataset: MultiTaskDataset
    model: MultiTaskMethod
    device: torch.device


@dataclass(frozen=True)
class Networks:
    """A data set, and networks that fit it, before a method joins them; networks on the CPU."""

    dataset: MultiTaskDataset
    backbone: nn.Module
    heads: list[nn.Module]
    feature_shape: tuple[int, ...]
    device: torch.device


@memory_errors()
def train(
    config: TrainConfig,
    run_dir: Path,
    overrides: Sequence[str] = (),
    *,
    quiet: bool = False,
    resume: bool = False,
    ranks: Ranks = ONE,
) -> dict[str, Any]:
    """Trains one run and writes its directory.

    Nothing is written before every component has been built and found to fit.

    Args:
        config: Checked configuration.
        run_dir: Run directory; created if absent.
        overrides: What the user changed, recorded in the summary.
        quiet: Say nothing on the terminal below a warning.
        resume: Go on from the newest checkpoint in the directory, if there is one.
        ranks: The processes that train together; the first one writes, the others call this with
            the same arguments.

    Returns:
        The content of ``summary.json``; on other ranks, of its metrics alone.

    Raises:
        RotogradError: If the input is wrong.
    """
    constructors = Constructors(config)
    recorder = _Recorder()
    trainer = make_trainer(config, recorder, run_dir / "checkpoints", constructors, ranks)
    if resume:
        ranks.broadcast(lambda: refuse_other_data(run_dir, trainer.dataset, config.paths.data_dir))
    if not ranks.is_first:
        with compilation(config.compile):
            return _follow(trainer, resume=resume)
    dataset, model, plain = trainer.dataset, trainer.run.model, trainer.config
    state, device = trainer.run.state, trainer.run.device
    summary = describe_run(config, dataset, model, trainer.selection, device, overrides)
    with (
        claimed(run_dir) as claim,
        log_file(run_dir / "train.log", quiet=quiet),
    ):
        records = trainer.checkpoints.resume() if resume else None
        claim.begin(None if resume else plain)
        summary |= described_before(run_dir, state) if records is not None else {}
        write_summary(run_dir, summary)  # a run that is killed has said what it trained on
        logger.info(
            "%s on %s (%s), seed %d, %s: %s%s",
            model.method_name,
            dataset.name,
            ", ".join(task.name for task in dataset.tasks),
            config.seed,
            device,
            os.path.relpath(run_dir),
            "" if records is None else f", on from step {state.step}",
        )
        try:
            with interrupts.deferring(), run_under_way(), memory_errors():
                recorder.keep_file(run_dir / "metrics.jsonl", records or {})
                recorder.add(constructors.logger(run_dir=run_dir, config=plain, tags=config.tags))
                if not quiet:
                    recorder.add(
                        ConsoleTracker(num_epochs=config.train.epochs, select=trainer.selection.key)
                    )
                with compilation(config.compile):
                    metrics = _fit(trainer, config, run_dir)
            summary |= {"status": "finished", "metrics": metrics}
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            summary |= {"status": status, "error": describe_failure(error)}
            logger.debug("%s", traceback.format_exc())
            if isinstance(error, interrupts.StopRequested):
                logger.info(
                    "Stopped after step %d; continue with: %s%s",
                    state.step,
                    suggested("train", f"resume={os.path.relpath(run_dir)}"),
                    word_for(config),
                )
                interrupts.hand_on(error)
            raise
        finally:
            summary |= describe_progress(state, trainer.run.wall_s)
            summary |= describe_ranks(ranks, state.step)
            with run_under_way():
                write_summary(run_dir, summary)
                recorder.finish(summary)
    return summary


def _follow(trainer: Trainer, *, resume: bool) -> dict[str, Any]:
    """The part of a rank that writes nothing."""
    package = logging.getLogger("rotograd_cli")
    before = package.level
    package.setLevel(logging.ERROR)  # the first rank has said it
    try:
        if resume:
            trainer.checkpoints.resume()
        with interrupts.deferring(), run_under_way(), memory_errors():
            return {"metrics": trainer.fit()}
    except interrupts.StopRequested as error:
        interrupts.hand_on(error)
        raise
    finally:
        package.setLevel(before)


def _fit(trainer: Trainer, config: TrainConfig, run_dir: Path) -> dict[str, float]:
    """Train; a step that is not finite ends with the command that shows where it began."""
    try:
        return trainer.fit()
    except NonFiniteError as error:
        command = suggested("train", f"resume={os.path.relpath(run_dir)}", "debug=nonfinite")
        command += word_for(config)
        raise NonFiniteError(f"{error} {command} shows where it began.") from error


def make_trainer(
    config: TrainConfig,
    recorder: Recorder,
    checkpoint_dir: Path,
    constructors: Constructors | None = None,
    ranks: Ranks = ONE,
) -> Trainer:
    """Return the loop of a run over everything that it needs; nothing is written.

    Args:
        config: Checked configuration.
        recorder: Where records go.
        checkpoint_dir: Folder of the checkpoints, which need not exist yet.
        constructors: The configuration's checked constructors; made here if None.
        ranks: The processes that train together.

    Returns:
        The loop, before its first step.

    Raises:
        RotogradError: If a component is refused, or two do not fit.
    """
    run, dataset = build_run(config, constructors, ranks)
    return Trainer(
        run,
        dataset,
        config.train,
        recorder,
        checkpoint_dir=checkpoint_dir,
        checkpoints=config.checkpoints,
        seed=config.seed,
        config=asdict(config),
    )


def build_run(
    config: TrainConfig, constructors: Constructors | None = None, ranks: Ranks = ONE
) -> tuple[RunState, MultiTaskDataset]:
    """Build what a run trains and what it trains on, and try both.

    Args:
        config: Checked configuration.
        constructors: The configuration's checked constructors; made here if None.
        ranks: The processes that train together.

    Returns:
        Model and optimisers before the first step, and the data.

    Raises:
        RotogradError: If a component is refused, or two do not fit.
    """
    constructors = constructors or Constructors(config)
    experiment = build(config, constructors)

    def make_groups(model: MultiTaskMethod) -> list[OptimizerGroup]:
        return _optimizer_groups(model, constructors)

    model = experiment.model
    ranks.broadcast(lambda: dry_pass(model, experiment.dataset, make_groups, config.train))
    ranks.attach(model, experiment.dataset.input_shape)
    model.join(ranks)
    return RunState(model, make_groups(model)), experiment.dataset


def build(config: TrainConfig, constructors: Constructors | None = None) -> Experiment:
    """Builds data set, backbone, heads and method, in this order, from the seed.

    Networks are drawn before the method draws its rotations, so all methods start from the same
    networks for the same seed.

    Args:
        config: Checked configuration.
        constructors: Its checked constructors; made here if None.

    Returns:
        Everything on the device.

    Raises:
        RotogradError: If a component is refused, or two do not fit.
    """
    constructors = constructors or Constructors(config)
    networks = build_networks(config, constructors)
    model = join(networks, constructors)
    model.autocast_dtype = AUTOCAST[config.precision]
    if config.compile:
        compile_networks((model.backbone, *model.heads))
    return Experiment(networks.dataset, model.to(networks.device), networks.device)


def build_networks(config: TrainConfig, constructors: Constructors) -> Networks:
    """The first part of :func:`build`: everything but the method.

    Args:
        config: Checked configuration.
        constructors: Its checked constructors.

    Returns:
        The data set on the device, the networks on the CPU.

    Raises:
        RotogradError: If a component is refused, or two do not fit.
    """
    device = resolve_device(config.device)
    set_deterministic(config.deterministic)
    with _building("data"):
        dataset = constructors.data(
            data_dir=Path(config.paths.data_dir).expanduser(), tasks=config.tasks, device=device
        )
    _check_attributes(dataset)
    constructors.check_heads(dataset.tasks)
    seed_everything(config.seed)
    with _building("backbone"):
        backbone = constructors.backbone(input_shape=dataset.input_shape)
    features = _features(backbone, torch.zeros(1, *dataset.input_shape))
    feature_shape = tuple(features.shape[1:])
    with _building("head"):
        heads = [constructors.head(task, feature_shape) for task in dataset.tasks]
    share_layers(heads)
    _try_heads(heads, dataset.tasks, features)
    return Networks(dataset, backbone, heads, feature_shape, device)


def join(networks: Networks, constructors: Constructors) -> MultiTaskMethod:
    """The second part of :func:`build`: the method over the networks, tried on one example.

    Args:
        networks: What the method joins; the model holds these very modules.
        constructors: Checked constructors.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        RotogradError: If the method is refused, or does not fit the networks.
    """
    shape = networks.feature_shape
    too_large = (
        f"The method does not fit into memory: it may rotate features of shape {list(shape)} for "
        f"each of {len(networks.heads)} tasks; rotate fewer, for instance with rotation.shape=512."
    )
    with memory_errors(too_large), _building("method"):
        model: MultiTaskMethod = constructors.method(
            networks.backbone, networks.heads, feature_shape=shape
        )
    model.eval()
    with torch.no_grad(), blamed("`method` fails on one example", "correct it or choose another"):
        model(torch.zeros(1, *networks.dataset.input_shape))
    return model


@dataclass(frozen=True)
class Evaluation:
    """A checkpoint of a run, measured again."""

    measured: dict[str, float]
    recorded: dict[str, float]
    """What the run recorded for the same split and checkpoint; empty where it recorded nothing."""
    notes: tuple[str, ...]
    """Notes on the data."""
    other_data: str | None
    """That the run saw other data than these, in words; None if it saw these, or is too old."""


@memory_errors()
def evaluate_run(config: EvaluateConfig, folders: tuple[Path, ...] = ()) -> Evaluation:
    """Evaluates a checkpoint of a run.

    Args:
        config: Checked configuration.
        folders: The user's own folders of YAML files, whose components are trusted.

    Returns:
        What was measured, beside what the run recorded.

    Raises:
        RotogradError: If the run, its configuration or its checkpoint is missing or does not fit,
            or names components that are not trusted.
    """
    run_dir = Path(config.run).expanduser()
    run_config = without_extras(load_run_config(run_dir))
    Trust(config.trust, folders).check(asdict(run_config), run_dir / "config.yaml", run_dir)
    if config.device is not None:
        run_config.device = config.device
    if config.data_dir is not None:
        run_config.paths.data_dir = config.data_dir
    experiment = build(run_config)
    path = run_dir / "checkpoints" / f"{config.checkpoint}.pt"
    checkpoint = load_checkpoint(path, experiment.device)
    if "model" not in checkpoint:
        raise CheckpointError(f"{path} holds no model; train the run again.")
    load_weights(experiment.model, checkpoint["model"], path)
    options = run_config.train
    split: Any = config.split
    parts = evaluation_parts(experiment.dataset, split, options)
    batches = complete_batches(experiment.dataset, split, parts)
    with compilation(run_config.compile):
        measured = evaluate(experiment.model, experiment.dataset.tasks, batches, split)
    recorded = recorded_metrics(run_dir, config.checkpoint)
    known = {key: value for key, value in recorded.items() if key in measured}
    notes = (*experiment.dataset.notes, *cut_notes(experiment.dataset, (split,), options))
    return Evaluation(measured, known, notes, other_data(run_dir, experiment.dataset))


def resolve_device(name: str) -> torch.device:
    """The device that a name means; ``auto`` is CUDA where there is one.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.

    Returns:
        The device; with an index for CUDA, because a thread that loads data has a current device
        of its own.

    Raises:
        ConfigError: If the name is unknown or the device is not there.
    """
    if name == "auto":
        return resolve_device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"`device` must be auto, cpu, cuda or cuda:i, got {name!r}.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"`device` must be auto, cpu, cuda or cuda:i, got {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"`device` must exist, got {name!r} with {torch.cuda.device_count()} CUDA devices "
            "visible to torch; use device=auto or device=cpu."
        )
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _optimizer_groups(model: MultiTaskMethod, constructors: Constructors) -> list[OptimizerGroup]:
    parameters = {
        "model": list(model.model_parameters()),
        "method": list(model.mtl_parameters()),
    }
    groups = []
    for name, params in parameters.items():
        make_scheduler, interval = constructors.schedulers[name]
        if params:  # vanilla has no parameters of its own
            with _building(f"{name}_optimizer"):
                optimizer = constructors.optimizers[name](params)
            with _building(f"{name}_scheduler.scheduler"):
                scheduler = make_scheduler(optimizer)
            groups.append(OptimizerGroup(name, optimizer, scheduler, interval))
    return groups


def _building(component: str) -> AbstractContextManager[None]:
    return blamed(f"`{component}` cannot be built", "correct it or its values")


def _check_attributes(dataset: MultiTaskDataset) -> None:
    for name in ("name", "tasks", "input_shape"):
        if not hasattr(dataset, name):
            raise ConfigError(
                f"`data` must have the attributes name, tasks and input_shape, but "
                f"{type(dataset).__name__} has no {name}; set it in the class or its __init__."
            )
    names = [task.name for task in dataset.tasks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"`tasks` of data set {dataset.name!r} must have different names, got "
            f"{', '.join(repeated)} more than once."
        )


def _features(backbone: nn.Module, example: torch.Tensor) -> torch.Tensor:
    """Features of one example, by trying."""
    backbone.eval()
    shape = ", ".join(map(str, ("N", *example.shape[1:])))
    what = f"The backbone cannot take inputs of shape [{shape}]"
    with torch.no_grad(), blamed(what, "choose another backbone or data set"):
        output: Any = backbone(example)
    features = output[0] if isinstance(output, (list, tuple)) and output else output
    if not isinstance(features, torch.Tensor):
        raise ConfigError(
            "The backbone must return features, a tensor with a first axis N, or a tuple that "
            f"begins with them, got a {type(features).__name__}; return the tensor in its forward."
        )
    if features.dim() < 2 or len(features) != 1:
        raise ConfigError(
            f"The backbone must return features of shape [N, ...], got {list(features.shape)} for "
            "one example; keep the examples on the first axis."
        )
    return features


def _try_heads(heads: Sequence[nn.Module], tasks: Sequence[Task], features: torch.Tensor) -> None:
    """Refuses heads that cannot take the features or do not fit their task."""
    predictions = []
    for task, head in zip(tasks, heads, strict=True):
        training = head.training
        head.eval()
        what = f"The head of task {task.name!r} cannot take features of {list(features.shape)}"
        remedy = f"check `head` and `heads.{task.name}`"
        with torch.no_grad(), unchanged_generators(), blamed(what, remedy):
            output: Any = head(features.clone())
        head.train(training)
        predictions.append(output[0] if isinstance(output, (list, tuple)) and output else output)
    check_predictions(tasks, predictions)


class _Recorder:
    """Hands the loop's records to all trackers."""

    def __init__(self) -> None:
        self.trackers: list[Tracker] = []
        self.file: JsonlTracker | None = None

    def add(self, tracker: Tracker) -> None:
        self.trackers.append(tracker)

    def keep_file(self, path: Path, positions: Mapping[str, int]) -> None:
        """The record file, whose length checkpoints remember."""
        self.file = JsonlTracker(path, positions.get(path.name, 0))
        self.add(self.file)

    def position(self) -> dict[str, int]:
        return {} if self.file is None else {"metrics.jsonl": self.file.position()}

    def log(self, record: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(record)

    def progress(self, state: TrainState, num_batches: int, batch_index: int) -> None:
        for tracker in self.trackers:
            if isinstance(tracker, ConsoleTracker):
                tracker.progress(state, num_batches, batch_index)

    def poll(self) -> None:
        interrupts.check()

    def finish(self, summary: Mapping[str, Any]) -> None:
        for tracker in self.trackers:
            tracker.finish(summary)
