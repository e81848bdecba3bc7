"""The composition root: the only place that builds components and joins them."""

import logging
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from torch import nn

from rotograd_cli import __version__, interrupts
from rotograd_cli.components import constructor
from rotograd_cli.config import EvaluateConfig, TrainConfig, suggest, to_train_config
from rotograd_cli.data.base import MultiTaskDataset
from rotograd_cli.errors import CheckpointError, ConfigError, RotogradError
from rotograd_cli.methods.base import MultiTaskMethod
from rotograd_cli.report import read_summary, write_summary
from rotograd_cli.seeding import seed_everything, set_deterministic
from rotograd_cli.tasks import Task
from rotograd_cli.tracking.base import Tracker
from rotograd_cli.tracking.console import ConsoleTracker
from rotograd_cli.tracking.jsonl import JsonlTracker
from rotograd_cli.training.checkpoint import load_checkpoint, load_weights
from rotograd_cli.training.loop import LoopOptions, OptimizerGroup, Trainer, evaluation_batches
from rotograd_cli.training.state import TrainState
from rotograd_cli.training.step import check_predictions, evaluate

logger = logging.getLogger(__name__)
PROTOCOL = "selection on validation; test measured once at the selected epoch"


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Running out of memory, as an error that names the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and "allocate memory" not in str(error):
            raise
        raise ConfigError(
            "The run does not fit into memory; lower train.batch_size, train.eval_batch_size or "
            "the sizes of the networks, or raise train.accumulate_steps."
        ) from error


@dataclass(frozen=True)
class Experiment:
    """A data set and a model on a device, ready to train or evaluate."""

    dataset: MultiTaskDataset
    model: MultiTaskMethod
    device: torch.device


@_memory_errors()
def train(config: TrainConfig, run_dir: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Trains one run and writes its directory.

    Nothing is written before every component has been built and found to fit.

    Args:
        config: Checked configuration.
        run_dir: Run directory; created if absent.
        overrides: What the user changed, recorded in the summary.

    Returns:
        The content of ``summary.json``.

    Raises:
        RotogradError: If the input is wrong.
    """
    start = time.monotonic()
    constructors = _Constructors(config)
    experiment = build(config, constructors)
    groups = _optimizer_groups(experiment.model, constructors)
    recorder = _Recorder()
    plain = asdict(config)
    trainer = Trainer(
        experiment.model,
        experiment.dataset,
        groups,
        LoopOptions(**asdict(config.train)),
        recorder,
        checkpoint_dir=run_dir / "checkpoints",
        seed=config.seed,
        device=experiment.device,
        config=plain,
    )
    summary = _summary(config, experiment, overrides)
    _open_run_directory(run_dir, plain)
    with _log_file(run_dir / "train.log"):
        logger.info(
            "%s on %s, %d tasks, seed %d, %s: %s",
            type(experiment.model).__name__,
            experiment.dataset.name,
            len(experiment.dataset.tasks),
            config.seed,
            experiment.device,
            run_dir,
        )
        try:
            with interrupts.deferring():
                recorder.add(JsonlTracker(run_dir / "metrics.jsonl"))
                recorder.add(constructors.logger(run_dir=run_dir, config=plain, tags=config.tags))
                recorder.add(
                    ConsoleTracker(num_epochs=config.train.epochs, select=config.train.select)
                )
                metrics = trainer.fit()
            summary |= {"status": "finished", "metrics": metrics}
        except BaseException as error:
            summary |= {"status": _status(error), "error": f"{type(error).__name__}: {error}"}
            logger.debug("%s", traceback.format_exc())
            raise
        finally:
            summary |= _progress(trainer.state, time.monotonic() - start)
            write_summary(run_dir, summary)
            recorder.finish(summary)
    return summary


def build(config: TrainConfig, constructors: "_Constructors | None" = None) -> Experiment:
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
    constructors = constructors or _Constructors(config)
    device = resolve_device(config.device)
    set_deterministic(config.deterministic)
    dataset = constructors.data(
        data_dir=Path(config.paths.data_dir).expanduser(), tasks=config.tasks, device=device
    )
    constructors.check_heads(dataset.tasks)
    seed_everything(config.seed)
    backbone = constructors.backbone(input_shape=dataset.input_shape)
    example = torch.zeros(1, *dataset.input_shape)
    feature_shape = _feature_shape(backbone, example)
    heads = [constructors.head(task, feature_shape) for task in dataset.tasks]
    model = constructors.method(backbone, heads, feature_shape=feature_shape)
    model.eval()
    with torch.no_grad():
        predictions = model(example)
    check_predictions(
        dataset.tasks, predictions[0] if isinstance(predictions, tuple) else predictions
    )
    return Experiment(dataset, model.to(device), device)


@_memory_errors()
def evaluate_run(config: EvaluateConfig) -> tuple[dict[str, float], dict[str, float]]:
    """Evaluates a checkpoint of a run.

    Args:
        config: Checked configuration.

    Returns:
        Metrics measured now, and those that the run recorded for the same split and checkpoint
        (empty where it recorded none).

    Raises:
        RotogradError: If the run, its configuration or its checkpoint is missing or does not fit.
    """
    run_dir = Path(config.run).expanduser()
    run_config = load_run_config(run_dir)
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
    options = LoopOptions(**asdict(run_config.train))
    split: Any = config.split
    batches = evaluation_batches(experiment.dataset, split, options, experiment.device)
    measured = evaluate(experiment.model, experiment.dataset.tasks, batches, split)
    recorded: Mapping[str, float] = {}
    if config.checkpoint == "best":
        recorded = (read_summary(run_dir) or {}).get("metrics", {})
    return measured, {key: value for key, value in recorded.items() if key in measured}


def load_run_config(run_dir: Path) -> TrainConfig:
    """Reads the configuration that a run wrote.

    Args:
        run_dir: Run directory.

    Returns:
        The checked configuration.

    Raises:
        ConfigError: If the folder is not a run directory or its configuration is unreadable.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"`run` must be a run directory, got {run_dir} without a config.yaml; rotograd "
            "train prints the directory of every run."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(content).__name__}.")
    try:
        return to_train_config(content)
    except ConfigError as error:
        raise ConfigError(f"{path} is not a run's configuration: {error}") from error


def resolve_device(name: str) -> torch.device:
    """The device that a name means; ``auto`` is CUDA where there is one.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.

    Returns:
        The device.

    Raises:
        ConfigError: If the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
    return device


class _Constructors:
    """All component nodes of a configuration, checked before data is touched."""

    def __init__(self, config: TrainConfig) -> None:
        self.data = constructor(config.data, "data", data_dir=0, tasks=0, device=0)
        self.backbone = constructor(config.backbone, "backbone", input_shape=0)
        self.method = constructor(config.method, "method", backbone=0, heads=0, feature_shape=0)
        self.logger = constructor(config.logger, "logger", run_dir=0, config=0, tags=0)
        self.optimizers = {
            name: constructor(node, f"{name}_optimizer", params=0)
            for name, node in (
                ("model", config.model_optimizer),
                ("method", config.method_optimizer),
            )
        }
        self.schedulers = {
            name: _schedule(node, f"{name}_scheduler")
            for name, node in (
                ("model", config.model_scheduler),
                ("method", config.method_scheduler),
            )
        }
        self._head, self._heads = config.head, config.heads
        constructor(config.head, "head", feature_shape=0, num_outputs=0)

    def head(self, task: Task, feature_shape: Sequence[int]) -> nn.Module:
        """Head of a task: ``head`` with what ``heads.<task>`` changes."""
        where = f"heads.{task.name}" if task.name in self._heads else "head"
        changes = self._heads.get(task.name) or {}
        if not isinstance(changes, Mapping):
            raise ConfigError(
                f"`{where}` must be options of the head, got {changes!r}; write +{where}.KEY=VALUE."
            )
        node = OmegaConf.to_container(OmegaConf.merge(self._head, changes))
        make = constructor(node, where, feature_shape=0, num_outputs=0)
        head: nn.Module = make(feature_shape=feature_shape, num_outputs=task.num_outputs)
        return head

    def check_heads(self, tasks: Sequence[Task]) -> None:
        """Refuses head options of tasks that are not trained."""
        names = [task.name for task in tasks]
        for name in self._heads:
            if name not in names:
                raise ConfigError(
                    f"`heads.{name}` is not a task of this run; {suggest(name, names, 'heads.')}"
                )


def _schedule(node: Any, where: str) -> tuple[Any, str]:
    if not isinstance(node, Mapping) or set(node) != {"interval", "scheduler"}:
        raise ConfigError(f"`{where}` must have the keys interval and scheduler, got {node!r}.")
    if node["interval"] not in ("step", "epoch"):
        raise ConfigError(f"`{where}.interval` must be step or epoch, got {node['interval']!r}.")
    make = constructor(node["scheduler"], f"{where}.scheduler", optimizer=0)
    return make, str(node["interval"])


def _optimizer_groups(model: MultiTaskMethod, constructors: _Constructors) -> list[OptimizerGroup]:
    parameters = {
        "model": list(model.model_parameters()),
        "method": list(model.mtl_parameters()),
    }
    groups = []
    for name, params in parameters.items():
        make_scheduler, interval = constructors.schedulers[name]
        if params:  # vanilla has no parameters of its own
            optimizer = constructors.optimizers[name](params)
            groups.append(OptimizerGroup(name, optimizer, make_scheduler(optimizer), interval))
    return groups


def _feature_shape(backbone: nn.Module, example: torch.Tensor) -> tuple[int, ...]:
    """Shape of one example's features, by trying."""
    backbone.eval()
    try:
        with torch.no_grad():
            features = backbone(example)
    except RuntimeError as error:
        raise ConfigError(
            f"The backbone cannot take inputs of shape {['N', *example.shape[1:]]} "
            f"({str(error).splitlines()[0]}); choose another backbone or data set."
        ) from error
    features = features[0] if isinstance(features, (list, tuple)) else features
    return tuple(features.shape[1:])


class _Recorder:
    """Hands the loop's records to all trackers."""

    def __init__(self) -> None:
        self.trackers: list[Tracker] = []

    def add(self, tracker: Tracker) -> None:
        self.trackers.append(tracker)

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


def _open_run_directory(run_dir: Path, config: Mapping[str, Any]) -> None:
    try:
        (run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        (run_dir / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The run directory {run_dir} cannot be written ({error.strerror}); set "
            "paths.output_dir (or hydra.run.dir) to a writable folder."
        ) from error


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Logs of this package: all to a file, INFO and up to standard error, while a run lasts."""
    package = logging.getLogger("rotograd_cli")
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.INFO)
    handlers = (file, terminal)
    before = package.level, package.propagate
    package.setLevel(logging.DEBUG)
    package.propagate = False
    for handler in handlers:
        package.addHandler(handler)
    try:
        yield
    finally:
        package.setLevel(before[0])
        package.propagate = before[1]
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()


def _summary(
    config: TrainConfig, experiment: Experiment, overrides: Sequence[str]
) -> dict[str, Any]:
    model = experiment.model
    return {
        "status": "running",
        "method": type(model).__name__,
        "data": experiment.dataset.name,
        "tasks": [task.name for task in experiment.dataset.tasks],
        "metric_specs": {
            f"{task.name}/{spec.name}": {"better": spec.better, "percent": spec.percent}
            for task in experiment.dataset.tasks
            for spec in task.metrics
        },
        "seed": config.seed,
        "protocol": PROTOCOL,
        "select": config.train.select,
        "overrides": list(overrides),
        "data_fingerprint": experiment.dataset.fingerprint,
        "num_examples": {
            "train": experiment.dataset.num_examples("train"),
            "val": experiment.dataset.num_examples("val"),
            "test": experiment.dataset.num_examples("test"),
        },
        "num_parameters": {
            "backbone": _count(model.backbone),
            "heads": _count(model.heads),
            "method": sum(p.numel() for p in model.mtl_parameters()),
        },
        "device": _device_name(experiment.device),
        "num_threads": torch.get_num_threads(),
        "versions": _versions(),
        "commit": _commit(),
        "command": sys.argv,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _progress(state: TrainState, wall_s: float) -> dict[str, Any]:
    return {
        "selected_epoch": state.best_epoch,
        "epochs": state.epoch,
        "steps": state.step,
        "train_s": round(state.train_s, 3),
        "wall_s": round(wall_s, 3),
    }


def _status(error: BaseException) -> str:
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _device_name(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device} ({name})"


def _versions() -> dict[str, str]:
    packages = ("torch", "geotorch", "hydra-core", "omegaconf", "torchmetrics", "numpy")
    found = {"rotograd-cli": __version__, "python": platform.python_version()}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _commit() -> str | None:
    """Commit of the running source checkout, with ``+`` if it was changed; None for a wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
        return result.stdout.strip()

    return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "") or None


def describe_failure(error: BaseException) -> str:
    """One line for an error that is the user's, with its class name for any other."""
    text = " ".join(str(error).split())
    known = isinstance(error, (RotogradError, CheckpointError))
    return text if known and text else f"{type(error).__name__}: {text}"
