"""Typed schema of the runner's own keys, and the checks that types cannot express."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from annotated_types import Ge, Lt
from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rotograd_cli.bounds import AtLeastOne, check_fields
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.config_files import config_dir as config_dir
from rotograd_cli.runs.config_files import is_group
from rotograd_cli.runs.packing import register_resolvers
from rotograd_cli.training.options import CheckpointOptions, TrainOptions

T = TypeVar("T")

_NotNegative = Annotated[float, Ge(0), Lt(math.inf)]

COMMAND_KEYS = ("diagnose", "launcher", "resume", "trust")
"""Keys of ``rotograd train`` that are no part of a run: where it happens, what it goes on from."""


@dataclass
class RotationOptions:
    """What methods with rotations rotate; ``conf/training.yaml`` says what each key means."""

    shape: Any = MISSING
    post_shape: list[int] = MISSING


@dataclass
class Paths:
    """Folders."""

    data_dir: str = MISSING
    output_dir: str = MISSING
    sweep_dir: str = MISSING


@dataclass
class TrainConfig:
    """Everything of ``rotograd train``. Component nodes are checked against their targets."""

    method: Any = MISSING
    data: Any = MISSING
    backbone: Any = MISSING
    head: Any = MISSING
    rotation: RotationOptions = field(default_factory=RotationOptions)
    heads: dict[str, Any] = field(default_factory=dict)
    model_optimizer: Any = MISSING
    method_optimizer: Any = MISSING
    model_scheduler: Any = MISSING
    method_scheduler: Any = MISSING
    logger: Any = MISSING
    paths: Paths = field(default_factory=Paths)
    seed: Annotated[int, Ge(0), Lt(2**32)] = MISSING
    device: str = MISSING
    deterministic: bool = MISSING
    precision: str = MISSING
    compile: bool = MISSING
    tasks: list[str] | None = MISSING
    tags: list[str] = MISSING
    train: TrainOptions = MISSING
    checkpoints: CheckpointOptions = MISSING


@dataclass
class LauncherOptions:
    """How a sweep's runs share a machine; ``conf/launcher`` says what each key means."""

    jobs_per_device: int | None = MISSING


@dataclass
class TrainCommand(TrainConfig):
    """What ``rotograd train`` composes: a run, what it goes on from, how a sweep is launched."""

    resume: str | None = None
    trust: bool = False
    diagnose: bool = False
    launcher: LauncherOptions | None = None


@dataclass
class BenchOptions:
    """The measurement; ``conf/bench.yaml`` says what each key means."""

    name: str = MISSING
    contenders: list[str] = MISSING
    rounds: AtLeastOne = MISSING
    block_s: _NotNegative = MISSING
    max_steps_per_block: AtLeastOne | None = MISSING
    warmup_steps: AtLeastOne = MISSING
    threads: AtLeastOne | None = MISSING
    dtype: str = MISSING
    rotation_norm: _NotNegative = MISSING
    loading_batches: AtLeastOne | None = MISSING
    optimizers: bool = MISSING


@dataclass
class BenchConfig(TrainConfig):
    """Everything of ``rotograd bench``: a training configuration and how to measure it."""

    bench: BenchOptions = field(default_factory=BenchOptions)


@dataclass
class EvaluateConfig:
    """Everything of ``rotograd evaluate``."""

    run: str = MISSING
    split: str = MISSING
    checkpoint: str = MISSING
    device: str | None = MISSING
    data_dir: str | None = MISSING
    trust: bool = MISSING


def register_schemas() -> None:
    """Makes the schemas and resolvers known to Hydra under the names that the YAML files use."""
    register_resolvers()
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainCommand)
    store.store(name="bench_schema", node=BenchConfig)
    store.store(name="evaluate_schema", node=EvaluateConfig)


def to_train_config(config: DictConfig | Mapping[str, Any]) -> TrainConfig:
    """Typed, resolved and checked configuration of a training run.

    Args:
        config: Composed configuration, or the content of a run's ``config.yaml``.

    Returns:
        The configuration; components are plain dictionaries.

    Raises:
        ConfigError: If a key is unknown, missing, of a wrong type or out of range.
    """
    run = _container(config)
    for key in COMMAND_KEYS:
        run.pop(key, None)
    result = typed(run, TrainConfig)
    _check_train(result)
    return result


def check_added_keys(words: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuses ``+KEY=VALUE`` for a key that no run can have, before a sweep begins.

    Args:
        words: Overrides of ``rotograd train``, sweeps included.
        folders: The user's folders of YAML files, whose groups may be added.

    Raises:
        ConfigError: If the runner's own keys do not include one. Options of components are left to
            each run, which knows its component.
    """
    for word in words:
        key = word.partition("=")[0].lstrip("+")
        is_key = not is_group(key, folders) and not key.startswith("hydra")
        if word.startswith("+") and is_key:
            added = OmegaConf.create({})
            OmegaConf.update(added, key, {})
            _check_keys(added, TrainConfig, "")


def to_bench_config(config: DictConfig | Mapping[str, Any]) -> BenchConfig:
    """Typed, resolved and checked configuration of a benchmark; see :func:`to_train_config`."""
    result = typed(config, BenchConfig)
    _check_train(result)
    _check_bench(result.bench)
    if result.precision != "fp32":
        raise ConfigError(
            f"`precision` must be fp32 in a benchmark, got {result.precision!r}; choose the type "
            "with bench.dtype."
        )
    return result


def component_node(group: str, name: str, **context: Any) -> dict[str, Any]:
    """Content of a file of a group, the built-in ones' or the user's (``--config-dir``).

    Args:
        group: Group, e.g. ``method``.
        name: File, without its suffix.
        **context: Keys of the configuration that the file refers to, with plain values.

    Returns:
        The node as a plain dictionary. Hydra must be running.

    Raises:
        ConfigError: If there is no such file.
    """
    config = OmegaConf.merge(_without_types(compose(f"{group}/{name}")), context)
    assert isinstance(config, DictConfig)
    return _container(config[group])


def _without_types(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return dict(plain)


def component_names(group: str) -> list[str]:
    """Files of a group, without their suffix, sorted; see :func:`component_node`."""
    names: list[str] = sorted(GlobalHydra.instance().config_loader().get_group_options(group))
    return names


def to_evaluate_config(config: DictConfig) -> EvaluateConfig:
    """Typed and checked configuration of an evaluation; see :func:`to_train_config`."""
    result = typed(config, EvaluateConfig)
    _check_choice("split", result.split, ("train", "val", "test"))
    _check_choice("checkpoint", result.checkpoint, ("best", "last"))
    return result


def typed(config: DictConfig | Mapping[str, Any], schema: type[T], prefix: str = "") -> T:
    """Fits a configuration to a dataclass; resolves interpolations.

    Args:
        config: Composed configuration, or plain values.
        schema: Dataclass; sections may be dataclasses, optional ones, or dictionaries of them.
        prefix: Put before every key in messages, e.g. ``table.``.

    Returns:
        An object of the dataclass.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has a wrong type.
    """
    plain = OmegaConf.create(_container(config))
    assert isinstance(plain, DictConfig)
    _check_missing(plain, prefix)
    _check_keys(plain, schema, prefix)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), plain)
        _check_missing(merged, prefix)
        result = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error, prefix)) from error
    assert isinstance(result, schema)
    check_fields(result, prefix)
    return result


def _container(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(config, DictConfig):
        return dict(config)
    try:
        _check_missing(config)
        container = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error)) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _check_missing(config: Any, prefix: str = "") -> None:
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        name = prefix + missing[0]
        raise ConfigError(f"`{name}` needs a value; add {name}=VALUE.")


def _first_line(error: Exception, prefix: str = "") -> str:
    key = getattr(error, "full_key", None)
    text = str(error).splitlines()[0].strip()
    return f"`{prefix}{key}`: {text}" if key and (prefix or str(key) not in text) else text


def _check_keys(config: DictConfig, schema: type, prefix: str) -> None:
    """Refuses keys that the schema does not have (``+train.epocs=3`` passes composition)."""
    known = {item.name: item for item in fields(schema)}
    for key in config:
        name = prefix + str(key)
        if key not in known:
            raise ConfigError(f"`{name}` is not a key; {suggest(str(key), list(known), prefix)}")
        _check_section(config[key], known[str(key)].type, name)


def _check_section(node: Any, kind: Any, name: str) -> None:
    """Keys of a section: of a dataclass, an optional one, or a dictionary of them."""
    schema = next(
        (k for k in (kind, *get_args(kind)) if isinstance(k, type) and is_dataclass(k)), None
    )
    if schema is None or not isinstance(node, DictConfig):
        return  # no section, or of a wrong type, as merging says
    if get_origin(kind) is not dict:
        _check_keys(node, schema, f"{name}.")
        return
    for key in node:
        _check_section(node[key], schema, f"{name}.{key!s}")


def suggest(wrong: str, known: list[str], prefix: str = "") -> str:
    """Closest known name as a remedy, or all of them.

    Args:
        wrong: What was written.
        known: What could have been written.
        prefix: Put before every name.

    Returns:
        A clause such as ``did you mean train.epochs?``.
    """
    close = difflib.get_close_matches(wrong, known, n=1)
    if close:
        return f"did you mean {prefix}{close[0]}?"
    if not known:
        return "leave it out, there are none."
    return f"choose from {', '.join(sorted(prefix + name for name in known))}."


def _check_train(config: TrainConfig) -> None:
    options = config.train
    if options.batch_size % options.accumulate_steps != 0:
        raise ConfigError(
            f"`train.accumulate_steps` must divide train.batch_size ({options.batch_size}), got "
            f"{options.accumulate_steps}."
        )
    for key, folder in vars(config.paths).items():
        if not folder.strip():
            raise ConfigError(f"`paths.{key}` must name a folder, got {folder!r}; . is this one.")
    _check_choice("precision", config.precision, ("fp32", "bf16", "fp16"))
    _check_choice("train.select_mode", options.select_mode, ("min", "max"))
    _check_choice("train.on_nonfinite", options.on_nonfinite, ("stop", "skip"))


def _check_bench(options: BenchOptions) -> None:
    _check_choice("bench.dtype", options.dtype, ("float32", "float64", "bfloat16"))
    if not options.name.strip():
        raise ConfigError(f"`bench.name` must name a folder, got {options.name!r}; choose a word.")
    if len(options.contenders) == 0:
        raise ConfigError("`bench.contenders` must name at least one contender, got [].")
    if len(set(options.contenders)) < len(options.contenders):
        raise ConfigError(
            f"`bench.contenders` must name each contender once, got {options.contenders}."
        )


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"`{key}` must be one of {', '.join(choices)}, got {value!r}.")
