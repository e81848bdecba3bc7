"""A benchmark from its configuration to its result."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from rotograd_cli.bench import measure
from rotograd_cli.bench.contenders import DTYPES, PLAIN, REFERENCE, Builder, Contender
from rotograd_cli.bench.reference import ReferenceUnavailableError
from rotograd_cli.bench.report import describe_machine
from rotograd_cli.bench.rotations import rotation_part, rotations_of
from rotograd_cli.config.schema import BenchConfig
from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError, first_line
from rotograd_cli.runs.building import Networks, memory_errors
from rotograd_cli.training.batches import EpochBatches
from rotograd_cli.training.precision import compilation
from rotograd_cli.trees import map_tensors

NUM_BATCHES = 4
"""Batches that every contender goes through again and again."""
PART = "rotation part of "
Say = Callable[[str], None]


@memory_errors()
def bench(config: BenchConfig, command: str, say: Say) -> dict[str, Any]:
    """Measure all contenders of a configuration.

    Args:
        config: Checked configuration; Hydra must be running.
        command: What the user typed, for the record.
        say: Reports a line of progress.

    Returns:
        Plain values: settings, machine, raw times and statistics, the content of ``bench.json``.

    Raises:
        RotogradError: If the input is wrong.
    """
    with measure.num_threads(config.bench.threads), compilation(config.compile):
        builder = Builder(config)
        device = builder.networks.device
        batches = first_batches(config, builder.networks)
        contenders, left_out = _contenders(config, builder, batches)
        for name, reason in left_out.items():
            say(f"{name} is left out: {reason}.")
        blocks = _time(config, contenders, batches, device, say)
        peaks = {c.name: _peak(c, batches[0], device) for c in contenders}
        times = measure.step_times(blocks)
        settings = _settings(config, builder, contenders)
        base = next((c.name for c in contenders if c.name in PLAIN), None)
        return {
            "name": config.bench.name,
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": settings,
            "machine": describe_machine(device),
            "base": base,
            "contenders": [_result(c, times, peaks, base, settings) for c in contenders],
            "left_out": left_out,
            "blocks": [asdict(block) for block in blocks],
        }


def first_batches(config: BenchConfig, networks: Networks) -> list[Batch]:
    """Return the first batches of the first epoch, not augmented, in the type of the benchmark.

    Args:
        config: Checked configuration.
        networks: What it builds.

    Raises:
        ConfigError: If the training split has fewer examples than a batch.
    """
    options = dataclasses.replace(
        config.train, accumulate_steps=1, shuffle=True, limit_batches=NUM_BATCHES, augment=False
    )
    epoch = EpochBatches(networks.dataset, options, config.seed, networks.device).steps(0)
    return [_converted(batch, DTYPES[config.bench.dtype]) for (batch,) in epoch]


def _converted(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return a batch with its floating-point tensors in the type of the benchmark."""

    def convert(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    targets = {name: convert(target) for name, target in batch.targets.items()}
    return Batch(map_tensors(convert, batch.inputs), targets)


def _contenders(
    config: BenchConfig, builder: Builder, batches: Sequence[Batch]
) -> tuple[list[Contender], dict[str, str]]:
    """All that can take part, after one step each, and why others cannot."""
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    for name in config.bench.contenders:
        try:
            contender = builder.build(name)
            _first_step(contender, batches)
            contenders.append(contender)
        except ReferenceUnavailableError as error:
            left_out[name] = str(error)
    if not contenders:
        reasons = "; ".join(f"{name} is left out: {text}" for name, text in left_out.items())
        raise ConfigError(f"`bench.contenders` leaves nobody to measure ({reasons}); add ideal.")
    return contenders, left_out


def _first_step(contender: Contender, batches: Sequence[Batch]) -> None:
    """One step, so that what a contender cannot do is known before anything is timed."""
    if contender.name == REFERENCE and len({len(batch.targets) for batch in batches}) > 1:
        raise ReferenceUnavailableError("it needs a loss of every task in every batch")
    if contender.name == REFERENCE and not isinstance(batches[0].inputs, Tensor):
        raise ReferenceUnavailableError("its networks take one tensor")
    try:
        contender.step(batches[0])
    except RuntimeError as error:
        reason = first_line(error).rstrip(".")
        if contender.name != REFERENCE:
            raise
        raise ReferenceUnavailableError(f"it fails with these settings ({reason})") from error


def _time(
    config: BenchConfig,
    contenders: Sequence[Contender],
    batches: Sequence[Batch],
    device: torch.device,
    say: Say,
) -> list[measure.Block]:
    subjects = []
    for contender in contenders:
        step = _cycling(contender.step, batches)
        subjects.append(measure.Subject(contender.name, step, contender.reset))
        part = rotation_part(contender.model, batches[0])
        if part is not None:
            subjects.append(measure.Subject(PART + contender.name, part))

    def progress(rounds: int) -> None:
        say(f"round {rounds} of {config.bench.rounds}")

    return measure.blocks(subjects, config.bench, config.seed, device, progress)


def _cycling(step: Callable[[Batch], None], batches: Sequence[Batch]) -> Callable[[], None]:
    endless = itertools.cycle(batches)
    return lambda: step(next(endless))


def _peak(contender: Contender, batch: Batch, device: torch.device) -> int:
    contender.reset()
    contender.step(batch)
    return measure.peak_bytes(lambda: contender.step(batch), device)


def _settings(
    config: BenchConfig, builder: Builder, contenders: Sequence[Contender]
) -> dict[str, Any]:
    networks = builder.networks
    configured = type(builder.configured)
    takes_part = any(c.name == REFERENCE or type(c.model) is configured for c in contenders)
    stacks = rotations_of(builder.configured)
    itemsize = DTYPES[config.bench.dtype].itemsize
    return {
        "data": networks.dataset.name,
        "backbone": type(networks.backbone).__name__,
        "head": type(networks.heads[0]).__name__,
        "method": configured.__name__ if takes_part else None,
        "device": str(networks.device),
        "K": len(networks.heads),
        "N": config.train.batch_size,
        "input_shape": list(networks.dataset.input_shape),
        "feature_shape": list(networks.feature_shape),
        "m": stacks[0].size if stacks else None,
        "rotation_stack_bytes": sum(stack.base.numel() for stack in stacks) * itemsize or None,
        "seed": config.seed,
        "compile": config.compile,
        **{key: value for key, value in asdict(config.bench).items() if key != "name"},
    }


def _result(
    contender: Contender,
    times: Mapping[str, Sequence[float]],
    peaks: Mapping[str, int],
    base: str | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """A contender's row of the table; what is relative to the base is None without one."""
    name = contender.name
    stack_bytes = settings["rotation_stack_bytes"]
    ratio = over = None
    if base is not None:
        ratio = measure.spread(measure.paired_ratios(times[name], times[base]))
        over = peaks[name] - peaks[base]
    return {
        "name": name,
        "label": contender.label,
        "options": contender.options,
        "ratio": ratio,
        "step_ms": _milliseconds(times[name]),
        "rotation_part_ms": _milliseconds(times.get(PART + name)),
        "peak_bytes": peaks[name],
        "peak_over_base_bytes": over,
        "peak_over_base_stacks": over / stack_bytes if over is not None and stack_bytes else None,
    }


def _milliseconds(times: Sequence[float] | None) -> dict[str, float] | None:
    return measure.spread([1000 * seconds for seconds in times]) if times else None
