"""``rotograd replay``: the step that ended a run, taken again from its dump."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import CheckpointError, ConfigError, NonFiniteError
from rotograd_cli.runs.building import memory_errors
from rotograd_cli.runs.config import suggest
from rotograd_cli.runs.dumps import Failure, config_of, failure_of, read_dump
from rotograd_cli.runs.experiment import make_trainer
from rotograd_cli.runs.trust import Trust
from rotograd_cli.training.compiling import compilation, eagerly
from rotograd_cli.training.diagnosis import Origin, find_origin, same_numbers
from rotograd_cli.training.loop import Trainer
from rotograd_cli.training.nonfinite import NAME, Silent

OPTIONS = ("device", "dtype", "data_dir", "trust", "--config-dir")
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Request:
    """What ``rotograd replay`` is asked for."""

    path: Path
    device: str | None = None
    """None: the device that the run was on."""
    dtype: str | None = None
    """None: as the run."""
    data_dir: str | None = None
    """None: as the run."""
    trust: Trust = field(default_factory=Trust)
    """What the dump may name besides components of this package and torch."""


@dataclass(frozen=True)
class Replay:
    """The step as the run met it and as it is here."""

    run: str
    then: Failure
    now: NonFiniteError | None
    """None if it is finite here."""
    losses: dict[str, float]
    origin: Origin
    differences: tuple[str, ...]
    """What is not as in the run, for instance the device."""

    @property
    def exact(self) -> bool:
        """Whether it fails with the same numbers, bit for bit."""
        return (
            self.now is not None
            and str(self.now) == self.then.message
            and same_numbers(self.now.losses, self.then.losses)
            and same_numbers(self.now.gradients, self.then.gradients)
        )


def parse(words: Sequence[str]) -> Request:
    """The words after ``rotograd replay``.

    Args:
        words: A path, ``KEY=VALUE`` and ``--config-dir DIR``.

    Returns:
        The request.

    Raises:
        ConfigError: If a word is wrong.
    """
    paths: list[str] = []
    options: dict[str, str] = {}
    folders, others = _config_dirs(words)
    for word in others:
        key, equals, value = word.partition("=")
        if Path(word).exists() or not (equals or word.startswith("-")) or "/" in key:
            paths.append(word)
        elif key not in OPTIONS:
            remedy = suggest(key.lstrip("-"), list(OPTIONS))
            raise ConfigError(f"`{key}` is not an option of rotograd replay; {remedy}")
        else:
            options[key] = value
    if len(paths) != 1:
        found = f"{len(paths)} paths" if paths else "none"
        raise ConfigError(
            f"`rotograd replay` needs the path of one dump, got {found}; a run that stops at a "
            f"loss that is not finite leaves RUN/checkpoints/{NAME}."
        )
    dtype, trust = options.get("dtype"), options.get("trust", "false")
    if dtype is not None and dtype not in _DTYPES:
        raise ConfigError(f"`dtype` must be {' or '.join(_DTYPES)}, got {dtype!r}.")
    if trust not in ("true", "false"):
        raise ConfigError(f"`trust` must be true or false, got {trust!r}.")
    return Request(
        Path(paths[0]).expanduser(),
        options.get("device"),
        dtype,
        options.get("data_dir"),
        Trust(trust == "true", folders),
    )


def _config_dirs(words: Sequence[str]) -> tuple[tuple[Path, ...], list[str]]:
    """The user's folders of YAML files, and the other words."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; rotograd replay --help shows the options.")

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("--config-dir", "-cd", action="append", default=[])
    options, others = parser.parse_known_args(list(words))
    folders = tuple(Path(name).expanduser() for name in options.config_dir)
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"`--config-dir` must name a folder, got {str(folder)!r}.")
    return folders, others


@memory_errors()
def replay(request: Request) -> Replay:
    """Takes the step of a dump again, then apart.

    Args:
        request: The dump, and what is to be different from the run.

    Returns:
        What happened.

    Raises:
        RotogradError: If the dump is missing, damaged, not to be trusted or does not fit.
    """
    content = read_dump(request.path)
    then = failure_of(content, request.path)
    config = config_of(content, request.path, request.trust)
    config.device = request.device or then.device
    if request.data_dir is not None:
        config.paths.data_dir = request.data_dir
    with _threads(then.num_threads), compilation(config.compile):
        trainer = make_trainer(config, Silent(), request.path.parent)
        batches = _batches(trainer, then, request)
        _restore(trainer, content, request)
        losses, now = _take_step(trainer, batches)
        _restore(trainer, content, request)
        with eagerly():
            origin = find_origin(trainer.model, trainer.dataset.tasks, batches)
    run = f"{trainer.model.method_name} on {trainer.dataset.name}"
    return Replay(run, then, now, losses, origin, _differences(then, trainer, request))


@contextmanager
def _threads(num: int) -> Iterator[None]:
    """As many threads as in the run, which rounding depends on."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _batches(trainer: Trainer, then: Failure, request: Request) -> list[Batch]:
    """Micro-batches on the device, after a look whether the networks can take them."""
    names = {task.name for task in trainer.dataset.tasks}
    shape = trainer.dataset.input_shape
    for batch in then.micro_batches:
        fits = tuple(batch.inputs.shape[1:]) == tuple(shape) and set(batch.targets) <= names
        if not fits or any(len(x) != len(batch.inputs) for x in batch.targets.values()):
            raise CheckpointError(
                f"{request.path} is a damaged dump: its batch must have inputs [N, "
                f"{', '.join(map(str, shape))}], got {list(batch.inputs.shape)}, and targets of "
                f"{', '.join(sorted(names))}, got {', '.join(sorted(batch.targets)) or 'none'}."
            )
    return [
        Batch(
            _converted(batch.inputs, trainer, request),
            {name: _converted(x, trainer, request) for name, x in batch.targets.items()},
        )
        for batch in then.micro_batches
    ]


def _converted(value: torch.Tensor, trainer: Trainer, request: Request) -> torch.Tensor:
    dtype = _DTYPES.get(request.dtype or "") if value.is_floating_point() else None
    return value.to(device=trainer.device, dtype=dtype or value.dtype)


def _restore(trainer: Trainer, content: dict[str, Any], request: Request) -> None:
    trainer.restore(content, request.path)
    if request.dtype is not None:
        trainer.model.to(_DTYPES[request.dtype])
    trainer.model.train()


def _take_step(
    trainer: Trainer, batches: Sequence[Batch]
) -> tuple[dict[str, float], NonFiniteError | None]:
    """Losses of the step, and how it fails; nothing is updated."""
    trainer.looks_at_every_step = True
    groups, trainer.groups = trainer.groups, []
    try:
        values = trainer.take_step(batches)[0].tolist()
    except NonFiniteError as error:
        return error.losses, error
    finally:
        trainer.groups = groups
        trainer.model.zero_grad()
    return dict(zip([task.name for task in trainer.dataset.tasks], values, strict=True)), None


def _differences(then: Failure, trainer: Trainer, request: Request) -> tuple[str, ...]:
    found = []
    if str(trainer.device) != then.device:
        found.append(f"{trainer.device} instead of {then.device}")
    if request.dtype is not None:
        found.append(f"dtype {request.dtype}")
    if then.num_ranks > 1:
        found.append(f"one process instead of {then.num_ranks}")
    return tuple(found)


def rows(result: Replay) -> list[tuple[str, str, str, str]]:
    """The table: task, loss in the run, loss here, norm of its gradient at the features.

    Args:
        result: The replay.

    Returns:
        A row per task.
    """
    return [
        (
            name,
            f"{then:.6g}",
            f"{result.losses.get(name, float('nan')):.6g}",
            f"{result.origin.gradient_norms.get(name, float('nan')):.6g}",
        )
        for name, then in result.then.losses.items()
    ]


def findings(result: Replay) -> list[str]:
    """What is said below the table, the verdict last.

    Args:
        result: The replay.

    Returns:
        Lines.
    """
    origin = result.origin
    found = [f"Not finite before the step: {what}." for what in origin.before]
    found.append(
        f"First output that is not finite: {origin.output}."
        if origin.output is not None
        else "The outputs of all modules are finite."
    )
    if origin.gradient is not None:
        found.append(f"First gradient that is not finite: {origin.gradient}.")
    else:
        found.append(f"The gradients of all parameters are finite{_largest(result.now)}.")
    return [*found, _verdict(result)]


def _largest(failure: NonFiniteError | None) -> str:
    """The largest gradient, for a norm over all of them that overflowed."""
    if failure is None or not failure.gradients:
        return ""
    name, norm = max(failure.gradients.items(), key=lambda item: item[1])
    return f", the largest that of {name}: {norm:.6g}"


def _verdict(result: Replay) -> str:
    then = f"{result.then.message} in step {result.then.step}"
    other = f" ({', '.join(result.differences)})" if result.differences else ""
    if result.exact:
        return f"Reproduced bit for bit: {then}."
    if result.now is None:
        return f"Not reproduced: the step is finite here{other}. In the run: {then}."
    if str(result.now) == result.then.message:
        return f"Reproduced, but not bit for bit{other}: {then}."
    return f"Not reproduced: {result.now} here{other}. In the run: {then}."
