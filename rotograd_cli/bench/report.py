"""The machine, and a benchmark's result as a table, as Markdown that stands alone, and as files."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from rotograd_cli.config.packing import available_cores
from rotograd_cli.files import replace_text
from rotograd_cli.printing.grid import Grid
from rotograd_cli.runs.description import package_versions, source_commit

_MIB = 2**20


def grid(result: Mapping[str, Any]) -> Grid:
    """Return a row per contender; ratios first.

    The rotation part has a column where a contender has a value.

    Args:
        result: What :func:`rotograd_cli.bench.run.bench` returned.
    """
    contenders: Sequence[Mapping[str, Any]] = result["contenders"]
    base = result["base"] or "ideal"
    columns = {
        "contender": [c["name"] for c in contenders],
        f"x {base}": [_median(c["ratio"], ".2f") for c in contenders],
        "10-90 %": [_interval(c["ratio"], ".2f") for c in contenders],
        "ms/step": [_median(c["step_ms"], ".4g") for c in contenders],
        "ms 10-90 %": [_interval(c["step_ms"], ".4g") for c in contenders],
        "peak MiB": [f"{c['peak_bytes'] / _MIB:.1f}" for c in contenders],
        f"over {base} MiB": [_number(c["peak_over_base_bytes"], 1 / _MIB) for c in contenders],
        "in stacks": [_number(c["peak_over_base_stacks"], 1) for c in contenders],
    }
    if any(c["rotation_part_ms"] for c in contenders):
        columns["rotation part ms"] = [_median(c["rotation_part_ms"], ".4g") for c in contenders]
    return Grid.of_texts(list(columns), zip(*columns.values(), strict=True), title(result))


def title(result: Mapping[str, Any]) -> str:
    """Return workload and settings in one line."""
    s = result["settings"]
    parts = [
        f"K = {s['K']}",
        f"N = {s['N']}",
        f"d = {' x '.join(map(str, s['feature_shape']))}",
        None if s["m"] is None else f"m = {s['m']}",
        s["dtype"],
        "compiled" if s["compile"] else None,
        None if s["m"] is None else f"|A| = {s['rotation_norm']:g}",
        "Gaussian A" if s["m"] is not None and s["gaussian_rotations"] else None,
        s["device"],
    ]
    return f"{result['name']}: {', '.join(filter(None, parts))}"


def markdown(result: Mapping[str, Any]) -> str:
    """Return the result as a section of a document, complete in itself."""
    labels = [f"`{c['name']}`: {c['label']}" for c in result["contenders"]]
    parts = [
        f"## {title(result)}",
        f"```\n{result['command']}\n```",
        f"{result['date'][:10]}; {_one_line(result['machine'])}.",
        grid(result).markdown(),
        note(result),
        f"Contenders: {'; '.join(labels)}.",
        *[f"Left out: `{name}` ({reason})." for name, reason in result["left_out"].items()],
    ]
    return "\n\n".join(parts) + "\n"


def note(result: Mapping[str, Any]) -> str:
    """Return how to read the table."""
    s = result["settings"]
    optimizers = ", the optimisers' steps." if s["optimizers"] else "; no optimiser."
    memory = "Memory is the peak of a step above what is held before it"
    method = "" if s["method"] is None else f", configured method {s['method']}"
    stack = s["rotation_stack_bytes"]
    if stack is not None:
        memory += f"; a stack is all K rotations, K*m*m numbers, {stack / _MIB:.3g} MiB"
    return (
        f"Data {s['data']}, backbone {s['backbone']}, heads {s['head']}{method}, seed "
        f"{s['seed']}. A step is forward, losses, backward, clearing of "
        f"gradients{optimizers} Medians over {s['rounds']} rounds, in each of which every "
        f"contender runs one block of steps ({s['block_s']:g} s, at least one step) in random "
        f"order; ratios are of blocks of the same round. {memory}."
    )


def write(result: Mapping[str, Any], config: Mapping[str, Any], folder: Path) -> None:
    """Write ``bench.json`` (with all raw times), ``bench.md`` and ``config.yaml``.

    Args:
        result: What :func:`rotograd_cli.bench.run.bench` returned.
        config: Resolved configuration.
        folder: Made if absent.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "config.yaml": yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True),
        "bench.md": markdown(result),
        "bench.json": json.dumps(result, indent=1) + "\n",
    }
    for name, text in files.items():
        replace_text(folder / name, text)


def _median(value: Mapping[str, float] | None, form: str) -> str:
    return "-" if value is None else format(value["median"], form)


def _interval(value: Mapping[str, float] | None, form: str) -> str:
    return "-" if value is None else f"{value['p10']:{form}}-{value['p90']:{form}}"


def _number(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{value * factor:+.1f}"


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what figures depend on besides the code, as far as it can be found out.

    Args:
        device: Where the benchmark runs.
    """
    is_gpu = device.type == "cuda"
    return {
        "cpu": cpu_model(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if is_gpu else None,
        "cuda": torch.version.cuda if is_gpu else None,
        "system": platform.system(),
        "versions": package_versions(),
        "commit": source_commit(),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor: the kernel's where it tells, else the platform's."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), "") or platform.processor() or platform.machine()


def _one_line(machine: Mapping[str, Any]) -> str:
    """Return the machine in one line, for tables."""
    versions = machine["versions"]
    parts = [
        machine["gpu"],
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads",
        f"torch {versions['torch']}",
        f"Python {versions['python']}",
    ]
    return "; ".join(filter(None, parts))
