"""Data set, networks and method of a run, built from its configuration and tried together."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rotograd_cli.config.components import Constructors
from rotograd_cli.config.schema import TrainConfig
from rotograd_cli.data.base import MultiTaskDataset
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.models.heads import share_layers
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.runs.initial_weights import load_initial_weights
from rotograd_cli.runs.optimizers import described, optimizer_groups
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.loss_options import with_all_loss_options
from rotograd_cli.training.averaging import WeightAverage
from rotograd_cli.training.batch_checks import check_predictions, where
from rotograd_cli.training.batches import check_batch_size, num_steps
from rotograd_cli.training.dry_pass import dry_pass
from rotograd_cli.training.freezing import freeze, frozen
from rotograd_cli.training.precision import AUTOCAST, compile_networks
from rotograd_cli.training.run_state import RunState
from rotograd_cli.training.schedules import RunLength
from rotograd_cli.training.seeding import seed_everything, set_deterministic, unchanged_generators
from rotograd_cli.trees import Inputs, call, like_parameters, shape_of_one, shown, tensors
from rotograd_cli.user_code import blamed, is_out_of_memory

_SMALLER = (
    "The run does not fit into memory; lower train.batch_size, train.eval_batch_size, "
    "rotation.shape or the sizes of the networks, or raise train.accumulate_steps."
)


@dataclass(frozen=True)
class Parts:
    """Networks before a method joins them, on the CPU."""

    example: Inputs
    """Inputs of one example, first axis 1."""
    backbone: nn.Module
    heads: list[nn.Module]
    feature_shape: tuple[int, ...]
    """Shape of one example's features."""
    task_names: tuple[str, ...]


@dataclass(frozen=True)
class Networks(Parts):
    """Networks, and the data set that they fit."""

    dataset: MultiTaskDataset
    device: torch.device


def build_run(
    config: TrainConfig, ranks: Ranks = ONE, *, is_saved: bool = False
) -> tuple[RunState, MultiTaskDataset]:
    """Build what a run trains and what it trains on, and try both.

    Args:
        config: Checked configuration.
        ranks: The processes that train together.
        is_saved: A checkpoint with all weights will be loaded: no other file is read.

    Returns:
        Model and optimisers before the first step, and the data.

    Raises:
        RotogradError: If a component is refused, or two do not fit.
    """
    config = without_weights(config) if is_saved else config
    constructors = Constructors(config)
    model, dataset = _build(config, constructors)
    origin = load_initial_weights(model, config, dataset.tasks, ranks)
    length = RunLength(config.train.epochs, num_steps(dataset, config.train))
    make_groups = partial(optimizer_groups, config, constructors, length)
    ranks.broadcast(lambda: dry_pass(model, dataset, make_groups, config.train))
    decay = config.train.ema_decay
    average = None if decay is None else _average(model, decay, config.compile)
    ranks.attach(model, dataset.example_inputs())
    for each in (model, *([average.model] if average else [])):
        each.join(ranks)
    run = RunState(model, make_groups(model), average)
    run.origin = origin
    of_model = (*frozen(model, config.freeze), *described(run.groups), *rotated_maps(model))
    run.remarks = [*dataset.remarks, *of_model]
    return run, dataset


def rotated_maps(model: MultiTaskMethod) -> list[str]:
    """Return a line where all entries of maps are rotated together, which takes long."""
    axes = model.rotated and model.rotated.axes
    if not axes or len(axes.rotation_shape) < 3:
        return []
    return [
        f"All {axes.size:,} entries of features {list(axes.rotation_shape)} are rotated together; "
        "add 'rotation.post_shape=[-1,-1]' to rotate the channels of maps, which is faster."
    ]


def without_weights(config: TrainConfig) -> TrainConfig:
    """Return a configuration that reads no file of weights: a checkpoint has all of them."""
    backbone = config.backbone
    if isinstance(backbone, Mapping):
        off = {"pretrained": False, "weights": None}
        backbone = {**backbone, **{key: off[key] for key in off if key in backbone}}
    return dataclasses.replace(config, backbone=backbone, init_from=None)


def _average(model: MultiTaskMethod, decay: float, is_compiled: bool) -> WeightAverage:
    """Return the average of the weights; before ranks are attached, whose layers have no copy."""
    average = WeightAverage(model, decay)
    if is_compiled:
        compile_networks((average.model.backbone, *average.model.heads))
    return average


def build(config: TrainConfig) -> tuple[MultiTaskMethod, MultiTaskDataset]:
    """Build data set, backbone, heads and method, in this order, from the seed.

    Networks are drawn before the method draws its rotations, so all methods start from the same
    networks for the same seed.

    Args:
        config: Checked configuration.

    Returns:
        The model and the data, on the device.

    Raises:
        RotogradError: If a component is refused, or two do not fit.
    """
    return _build(config, Constructors(config))


def build_model(config: TrainConfig, example: Inputs, tasks: Sequence[Task]) -> MultiTaskMethod:
    """Build what :func:`build` does for a data set that is not there.

    Args:
        config: Checked configuration.
        example: Inputs of one example, first axis 1, on the CPU; values do not matter.
        tasks: The K tasks, of whose losses and metrics nothing is asked.

    Raises:
        RotogradError: If a component is refused, or two do not fit.
    """
    constructors = Constructors(config)
    device = resolve_device(config.device)
    parts = _build_parts(config, constructors, example, tasks)
    return _joined(parts, config, constructors).to(device)


def _build(
    config: TrainConfig, constructors: Constructors
) -> tuple[MultiTaskMethod, MultiTaskDataset]:
    networks = build_networks(config, constructors)
    model = _joined(networks, config, constructors)
    return model.to(networks.device), networks.dataset


def _joined(parts: Parts, config: TrainConfig, constructors: Constructors) -> MultiTaskMethod:
    model = join(parts, constructors)
    model.held = freeze(model, config.freeze)
    model.autocast_dtype = AUTOCAST[config.precision]
    if config.compile:
        compile_networks((model.backbone, *model.heads))
    return model


def build_networks(config: TrainConfig, constructors: Constructors) -> Networks:
    """Build everything but the method.

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
    dataset = build_dataset(config, constructors, device)
    # before networks that may take a minute to build
    with blamed("the data set fails", "correct its `num_examples`", where(dataset, "train")):
        if dataset.num_examples("train") > 0:  # an empty split is refused by the dry pass
            check_batch_size(dataset, config.train)
        example = dataset.example_inputs()
    parts = _build_parts(config, constructors, example, dataset.tasks)
    return Networks(**vars(parts), dataset=dataset, device=device)


def _build_parts(
    config: TrainConfig,
    constructors: Constructors,
    example: Inputs,
    tasks: Sequence[Task],
) -> Parts:
    constructors.check_heads(tasks)
    seed_everything(config.seed)
    example = like_parameters(example, torch.zeros(()))  # float32, like new networks
    backbone: nn.Module = constructors.backbone(input_shape=shape_of_one(example))
    features = _features(backbone, example)
    feature_shape = tuple(features.shape[1:])
    heads = [constructors.head(task, feature_shape) for task in tasks]
    share_layers(heads)
    _try_heads(heads, tasks, features)
    names = tuple(task.name for task in tasks)
    return Parts(example, backbone, heads, feature_shape, names)


def build_dataset(
    config: TrainConfig, constructors: Constructors, device: torch.device
) -> MultiTaskDataset:
    """Build the data set alone.

    Args:
        config: Checked configuration.
        constructors: Its checked constructors.
        device: Where its tensors are.

    Raises:
        RotogradError: If it is refused, or its files are missing or wrong.
    """
    data_dir = Path(config.paths.data_dir).expanduser()
    supplied = zip(constructors.data.supplied, (data_dir, config.tasks, device), strict=True)
    dataset: MultiTaskDataset = constructors.data(**dict(supplied))
    _check_attributes(dataset)
    if config.losses:
        dataset.tasks = with_all_loss_options(dataset.tasks, config.losses)
    return dataset


def join(networks: Parts, constructors: Constructors) -> MultiTaskMethod:
    """Build the method over the networks, and try it on one example.

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
    built = blamed("`method` cannot be built", "correct it or its values")
    with memory_errors(too_large), built:
        model: MultiTaskMethod = constructors.method(
            networks.backbone,
            networks.heads,
            feature_shape=shape,
            task_names=networks.task_names,
        )
    model.eval()
    with torch.no_grad(), blamed("`method` fails on one example", "correct it or choose another"):
        call(model, networks.example)
    return model


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


def _features(backbone: nn.Module, example: Inputs) -> torch.Tensor:
    """Features of one example, by trying."""
    backbone.eval()
    what = f"The backbone cannot take inputs of shape {shown(example)}"
    is_bytes = any(x.dtype == torch.uint8 for x in tensors(example))
    change = "write .float() / 255 in the data set" if is_bytes else "correct its layers"
    with torch.no_grad(), blamed(what, f"{change}, or choose another backbone or data set"):
        output: Any = call(backbone, example)
    features = _first(output)
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
    """Refuse heads that cannot take the features or do not fit their task."""
    predictions = []
    for task, head in zip(tasks, heads, strict=True):
        training = head.training
        head.eval()
        what = f"The head of task {task.name!r} cannot take features of {list(features.shape)}"
        remedy = f"check `head`, or set ++heads.{task.name}.KEY=VALUE for this task"
        with torch.no_grad(), unchanged_generators(), blamed(what, remedy):
            output: Any = head(features.clone())
        head.train(training)
        predictions.append(_first(output))
    check_predictions(tasks, predictions)


def _first(output: Any) -> Any:
    """Return the tensor of an output, or the first of several."""
    return output[0] if isinstance(output, (list, tuple)) and output else output


@contextmanager
def memory_errors(message: str = _SMALLER) -> Iterator[None]:
    """Turn running out of memory into an error that names the remedy.

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


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is CUDA where there is one.

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
