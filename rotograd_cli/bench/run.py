"""A benchmark from its configuration to its result."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import torch

from rotograd_cli.bench import measure
from rotograd_cli.bench.contenders import DTYPES, IDEAL, REFERENCE, Builder, Contender, method_nodes
from rotograd_cli.bench.reference import ReferenceUnavailableError
from rotograd_cli.bench.report import describe_machine
from rotograd_cli.bench.rotations import rotation_part, rotations_of
from rotograd_cli.bench.workload import converted, first_batches, loading
from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError, first_line
from rotograd_cli.runs.building import Networks, build_networks, memory_errors
from rotograd_cli.runs.components import Constructors
from rotograd_cli.runs.config import BenchConfig
from rotograd_cli.training.precision import compilation

PART = "rotation part of "
Say = Callable[[str], None]


@memory_errors()
def bench(config: BenchConfig, command: str, say: Say = lambda _: None) -> dict[str, Any]:
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
    nodes = method_nodes(config)
    constructors = Constructors(config)
    with measure.num_threads(config.bench.threads), compilation(config.compile):
        networks = build_networks(config, constructors)
        batches = first_batches(config, networks)
        builder = Builder(config, constructors, networks)
        contenders, left_out = _contenders(config, builder, nodes, batches)
        for name, reason in left_out.items():
            say(f"{name} is left out: {reason}.")
        blocks = _time(config, contenders, batches, networks.device, say)
        loads = _loading(config, builder, networks, say)
        peaks = {c.name: _peak(c, batches[0], networks.device) for c in contenders}
        settings = _settings(config, builder, networks)
        return {
            "name": config.bench.name,
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": settings,
            "machine": describe_machine(networks.device),
            "contenders": _results(contenders, nodes, blocks, peaks, settings),
            "left_out": left_out,
            "loading": loads,
            "blocks": [asdict(block) for block in blocks],
        }


def _contenders(
    config: BenchConfig,
    builder: Builder,
    nodes: Mapping[str, Mapping[str, Any]],
    batches: Sequence[Batch],
) -> tuple[list[Contender], dict[str, str]]:
    """All that can take part, after one step each, and why others cannot."""
    contenders: list[Contender] = []
    left_out: dict[str, str] = {}
    for name in config.bench.contenders:
        try:
            contender = builder.build(name, nodes.get(name))
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
        subject = measure.Subject(contender.name, step)
        if config.bench.optimizers:  # nothing else moves the rotations
            subject = replace(subject, reset=contender.reset)
        subjects.append(subject)
        part = rotation_part(contender.model, batches[0])
        if part is not None:
            subjects.append(measure.Subject(PART + contender.name, part))

    def progress(rounds: int) -> None:
        say(f"round {rounds} of {config.bench.rounds}")

    return measure.blocks(subjects, config.bench, config.seed, device, progress)


def _cycling(step: Callable[[Batch], None], batches: Sequence[Batch]) -> Callable[[], None]:
    endless = itertools.cycle(batches)
    return lambda: step(next(endless))


def _loading(
    config: BenchConfig, builder: Builder, networks: Networks, say: Say
) -> dict[str, Any] | None:
    """Examples per second of the loader, and of the configured method's step fed by it."""
    num = config.bench.loading_batches
    if num is None:
        return None
    say("loading")
    contender = builder.build("configured", config.method)

    def step(batch: Batch) -> None:
        contender.step(converted(batch, config.bench.dtype))

    return loading(config, networks, num, step)


def _peak(contender: Contender, batch: Batch, device: torch.device) -> int:
    contender.reset()
    contender.step(batch)
    return measure.peak_bytes(lambda: contender.step(batch), device)


def _settings(config: BenchConfig, builder: Builder, networks: Networks) -> dict[str, Any]:
    stacks = rotations_of(builder.configured)
    itemsize = DTYPES[config.bench.dtype].itemsize
    return {
        "data": networks.dataset.name,
        "backbone": type(networks.backbone).__name__,
        "head": type(networks.heads[0]).__name__,
        "method": type(builder.configured).__name__,
        "device": str(networks.device),
        "K": len(networks.heads),
        "N": config.train.batch_size,
        "input_shape": list(networks.dataset.input_shape),
        "feature_shape": list(networks.feature_shape),
        "m": stacks[0].base.shape[-1] if stacks else None,
        "rotation_stack_bytes": sum(stack.base.numel() for stack in stacks) * itemsize or None,
        "seed": config.seed,
        "compile": config.compile,
        **{key: value for key, value in asdict(config.bench).items() if key != "name"},
    }


def _results(
    contenders: Sequence[Contender],
    nodes: Mapping[str, Mapping[str, Any]],
    blocks: Sequence[measure.Block],
    peaks: Mapping[str, int],
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    times = measure.times_by_round(blocks)
    stack = settings["rotation_stack_bytes"]
    results = []
    for contender in contenders:
        name = contender.name
        node = nodes.get(name)
        over = peaks[name] - peaks[IDEAL] if IDEAL in peaks else None
        ratios = measure.paired_ratios(times[name], times[IDEAL]) if IDEAL in times else None
        part = times.get(PART + name)
        results.append(
            {
                "name": name,
                "label": contender.label,
                "options": None if node is None else dict(node),
                "ratio_to_ideal": None if ratios is None else measure.spread(ratios),
                "step_ms": _milliseconds(times[name]),
                "rotation_part_ms": None if part is None else _milliseconds(part),
                "peak_bytes": peaks[name],
                "peak_over_ideal_bytes": over,
                "peak_over_ideal_stacks": None if over is None or not stack else over / stack,
            }
        )
    return results


def _milliseconds(times: Mapping[int, float]) -> dict[str, float]:
    return measure.spread([1000 * seconds for seconds in times.values()])
