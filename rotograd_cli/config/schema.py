"""Typed schema of the runner's own keys, and the checks that types cannot express."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge, Gt, Lt
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from rotograd_cli.bounds import AtLeastOne, check_fields
from rotograd_cli.config.files import choices, is_group
from rotograd_cli.config.labels import check_label
from rotograd_cli.config.weights import fingerprint, weights_file
from rotograd_cli.errors import ConfigError, suggest
from rotograd_cli.training.options import CheckpointOptions, TrainOptions

T = TypeVar("T")

_NotNegative = Annotated[float, Ge(0), Lt(math.inf)]

COMMAND_KEYS = ("diagnose", "launcher", "resume", "trust")
"""Keys of ``rotograd train`` that are no part of a run: where it happens, what it goes on from."""


@dataclass
class RotationOptions:
    """Defaults for all methods with rotations; ``conf/training.yaml`` has the keys."""

    shape: Any = MISSING
    post_shape: list[int] = MISSING
    normalize_losses: bool = MISSING


@dataclass
class ParameterGroup:
    """Parameters with options of their own; ``conf/training.yaml`` has an example."""

    pattern: str = MISSING
    lr: _NotNegative | None = None
    lr_factor: _NotNegative | None = None
    weight_decay: _NotNegative | None = None


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
    losses: dict[str, Any] = field(default_factory=dict)
    model_optimizer: Any = MISSING
    method_optimizer: Any = MISSING
    parameter_groups: Any = MISSING
    """A list of :class:`ParameterGroup`, read by :func:`read_parameter_groups`; None for none."""
    model_scheduler: Any = MISSING
    method_scheduler: Any = MISSING
    logger: Any = MISSING
    paths: Paths = field(default_factory=Paths)
    seed: Annotated[int, Ge(0), Lt(2**32)] = MISSING
    device: str = MISSING
    deterministic: bool = MISSING
    precision: Annotated[str, Literal["fp32", "bf16", "fp16"]] = MISSING
    compile: bool = MISSING
    diagnostics: Annotated[str, Literal["off", "basic", "full"]] = MISSING
    tasks: list[str] | None = MISSING
    init_from: str | None = MISSING
    init_what: Annotated[str, Literal["backbone", "all"]] = MISSING
    init_sha256: str | None = MISSING
    freeze: list[str] = MISSING
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
    dtype: Annotated[str, Literal["float32", "float64", "bfloat16"]] = MISSING
    rotation_norm: _NotNegative = MISSING
    gaussian_rotations: bool = MISSING
    optimizers: bool = MISSING


@dataclass
class BenchConfig(TrainConfig):
    """Everything of ``rotograd bench``: a training configuration and how to measure it."""

    bench: BenchOptions = field(default_factory=BenchOptions)


@dataclass
class EvaluateConfig:
    """Everything of ``rotograd evaluate``."""

    run: str = MISSING
    split: Annotated[str, Literal["train", "val", "test"]] = MISSING
    checkpoint: Annotated[str, Literal["best", "last"]] = MISSING
    device: str | None = MISSING
    data_dir: str | None = MISSING
    trust: bool = MISSING


@dataclass
class PredictConfig(EvaluateConfig):
    """Everything of ``rotograd predict``."""

    output: str | None = MISSING


@dataclass
class ReportConfig:
    """Everything of ``rotograd report``; ``conf/report.yaml`` says what each key means."""

    run: str | None = MISSING
    runs: Any = None
    """A pattern or a list of them."""
    output: str | None = MISSING
    split: Annotated[str, Literal["train", "val", "test"]] = MISSING
    checkpoint: Annotated[str, Literal["best", "last"]] | None = MISSING
    limit: Annotated[int, Ge(1)] | None = MISSING
    examples: Annotated[int, Ge(0)] | None = MISSING
    device: str | None = MISSING
    data_dir: str | None = MISSING
    trust: bool = MISSING


@dataclass
class RunsConfig:
    """Everything of ``rotograd runs`` but the patterns, which stand alone."""

    sort: Annotated[str, Literal["age", "metric", "name", "status", "epoch", "method", "data"]] = (
        MISSING
    )


@dataclass
class PlotConfig:
    """Everything of ``rotograd plot``; ``conf/plot.yaml`` says what each key means."""

    figure: Any = MISSING
    """Component, checked against its target."""
    table: Any = None
    runs: Any = None
    """A pattern or a list of them."""
    x: Annotated[str, Literal["step", "epoch", "time"]] = MISSING
    y: Any = None
    """A key or a list of them."""
    smooth: Annotated[float, Gt(0), Lt(1)] | None = MISSING
    band: Annotated[str, Literal["minmax", "sem", "none"]] = MISSING
    output: str | None = None


@dataclass
class ExportConfig:
    """Everything of ``rotograd export``."""

    run: str = MISSING
    format: Annotated[str, Literal["torch", "onnx"]] = MISSING
    tasks: list[str] | None = MISSING
    checkpoint: Annotated[str, Literal["best", "last"]] = MISSING
    output: str | None = MISSING
    data_dir: str | None = MISSING
    trust: bool = MISSING


def to_train_config(config: DictConfig | Mapping[str, Any]) -> TrainConfig:
    """Typed, resolved and checked configuration of a training run.

    Args:
        config: Composed configuration, or the content of a run's ``config.yaml``.

    Returns:
        The configuration; components are plain dictionaries. ``init_sha256`` is filled in, if
        ``init_from`` names a file and it is null.

    Raises:
        ConfigError: If a key is unknown, missing, of a wrong type or out of range.
    """
    run = plain_values(config)
    for key in COMMAND_KEYS:
        run.pop(key, None)
    result = typed(_with_off(run), TrainConfig)
    _check_train(result)
    if result.init_from is not None and result.init_sha256 is None:  # a saved run's is there
        result.init_sha256 = fingerprint(weights_file(result.init_from))
    if isinstance(result.method, Mapping):
        check_label(result.method)
    return result


def check_added_keys(overrides: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuse ``+KEY=VALUE`` for a key that no run can have, before a sweep begins.

    Args:
        overrides: Overrides of ``rotograd train``, sweeps included.
        folders: The user's folders of YAML files, whose groups may be added.

    Raises:
        ConfigError: If the runner's own keys do not include one. Options of components are left to
            each run, which knows its component.
    """
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        is_key = not is_group(key, folders) and not key.startswith("hydra")
        if override.startswith("+") and is_key:
            added = OmegaConf.create({})
            OmegaConf.update(added, key, {})
            try:
                OmegaConf.merge(OmegaConf.structured(TrainConfig), added)
            except ConfigKeyError as error:
                raise unknown_key(error) from error
            except ValidationError:
                continue  # {} stands for any value


def _with_off(values: dict[str, Any]) -> dict[str, Any]:
    """Return values whose ``diagnostics: off`` in YAML, without quotes, is no boolean."""
    is_off = values.get("diagnostics") is False
    return {**values, "diagnostics": "off"} if is_off else values


def to_bench_config(config: DictConfig | Mapping[str, Any]) -> BenchConfig:
    """Typed, resolved and checked configuration of a benchmark; see :func:`to_train_config`."""
    result = typed(_with_off(plain_values(config)), BenchConfig)
    _check_train(result)
    _check_bench(result)
    return result


def typed(config: DictConfig | Mapping[str, Any], schema: type[T], prefix: str = "") -> T:
    """Resolve a configuration and convert it to a dataclass.

    Args:
        config: Composed configuration, or plain values.
        schema: Dataclass; sections may be dataclasses, optional ones, or dictionaries of them.
        prefix: Put before every key in messages, e.g. ``table.``.

    Returns:
        An object of the dataclass.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has a wrong type.
    """
    values = plain_values(config)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), values)
        _check_missing(merged, prefix)
        result = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise unknown_key(error, prefix) from error
    except OmegaConfBaseException as error:
        raise ConfigError(_first_line(error, prefix)) from error
    assert isinstance(result, schema)
    check_fields(result, prefix)
    return result


def plain_values(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved content of a configuration.

    Raises:
        ConfigError: If a value is missing or an interpolation cannot be resolved.
    """
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
        files = choices(name)
        values = f" ({', '.join(files)})" if files else ""
        raise ConfigError(f"`{name}` needs a value; add {name}=VALUE{values}.")


def _first_line(error: Exception, prefix: str = "") -> str:
    key = getattr(error, "full_key", None)
    text = str(error).splitlines()[0].strip()
    return f"`{prefix}{key}`: {text}" if key and (prefix or str(key) not in text) else text


def unknown_key(error: ConfigKeyError, prefix: str = "") -> ConfigError:
    """Return the refusal of a key that the schema does not have."""
    name = f"{prefix}{error.full_key}"
    key = str(error.key)
    siblings = sorted(str(sibling) for sibling in error.parent_node or ())
    return ConfigError(f"`{name}` is not a key; {suggest(key, siblings, name.removesuffix(key))}")


def read_parameter_groups(config: TrainConfig) -> list[ParameterGroup]:
    """Return the checked parameter groups of a configuration.

    Raises:
        ConfigError: If a key is unknown or missing, or a value has a wrong type.
    """
    values = config.parameter_groups or []
    if not isinstance(values, list) or not all(isinstance(each, Mapping) for each in values):
        raise ConfigError(
            f"`parameter_groups` must be a list of groups, got {values!r}; write "
            "'parameter_groups=[{pattern: \"*.bias\", weight_decay: 0}]'."
        )
    prefixes = (f"parameter_groups[{number}]." for number in range(len(values)))
    return [
        typed(each, ParameterGroup, prefix) for each, prefix in zip(values, prefixes, strict=True)
    ]


def _check_train(config: TrainConfig) -> None:
    read_parameter_groups(config)
    options = config.train
    if options.batch_size % options.accumulate_steps != 0:
        raise ConfigError(
            f"`train.accumulate_steps` must divide train.batch_size ({options.batch_size}), got "
            f"{options.accumulate_steps}."
        )
    if config.init_from is None and (config.init_what != "backbone" or config.init_sha256):
        raise ConfigError(
            "`init_what` and `init_sha256` need a file, got init_from=null; add init_from=RUN, or "
            "init_from=FILE."
        )
    for key, folder in vars(config.paths).items():
        _check_folder(f"paths.{key}", folder)


def _check_bench(config: BenchConfig) -> None:
    options = config.bench
    _check_folder("bench.name", options.name)
    if len(options.contenders) == 0 or len(set(options.contenders)) < len(options.contenders):
        raise ConfigError(
            f"`bench.contenders` must name at least one contender, each once, got "
            f"{options.contenders}; choose from ideal, bare, reference and methods."
        )
    if config.precision != "fp32":
        raise ConfigError(
            f"`precision` must be fp32 in a benchmark, got {config.precision!r}; choose the type "
            "with bench.dtype."
        )


def _check_folder(key: str, name: str) -> None:
    if not name.strip():
        raise ConfigError(f"`{key}` must name a folder, got {name!r}; . is this one.")
