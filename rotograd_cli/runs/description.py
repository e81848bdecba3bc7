"""The parts of a run's summary: what is known when it begins, is resumed, and ends."""

import dataclasses
import logging
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli import __version__
from rotograd_cli.config.labels import method_label
from rotograd_cli.data.base import SPLITS, Split
from rotograd_cli.runs.saved import EXTENDING
from rotograd_cli.runs.summary import MetricDisplay, RunSummary
from rotograd_cli.tasks.task import task_statistics
from rotograd_cli.training.batches import cut_notes, num_evaluated
from rotograd_cli.training.loop import Trainer
from rotograd_cli.training.run_state import RunState
from rotograd_cli.trees import Inputs, recorded

logger = logging.getLogger(__name__)

_PACKAGES = ("torch", "geotorch", "hydra-core", "omegaconf", "numpy")
"""Packages that results depend on."""


def begun(trainer: Trainer, overrides: Sequence[str]) -> RunSummary:
    """Return what is known of a run before its first step.

    Args:
        trainer: The loop.
        overrides: What the user changed.
    """
    dataset = trainer.dataset
    model = trainer.run.model
    selection = trainer.selection
    example = dataset.example_inputs()
    evaluated: tuple[Split, ...] = (*trainer.options.evaluated_splits, "test")
    tasks = dataset.tasks
    statistics = task_statistics(tasks) if len(tasks) > 1 else ()
    return RunSummary(
        status="running",
        method=model.method_name,
        label=method_label(trainer.config["method"]),
        data=dataset.name,
        tasks=[task.name for task in tasks],
        metric_specs={
            f"{task.name}/{spec.name}": MetricDisplay(spec.better, spec.percent, spec.protocol)
            for task in tasks
            for spec in task.metrics
        },
        statistic_specs={
            s.name: MetricDisplay(s.better, s.percent, s.protocol) for s in statistics
        },
        seed=trainer.config["seed"],
        protocol=_protocol(trainer),
        averaged_epochs=trainer.options.average_last_epochs,
        select=selection.key,
        planned_epochs=trainer.options.epochs,
        overrides=list(overrides),
        notes=[
            *dataset.notes,
            *_method_notes(trainer),
            *cut_notes(dataset, evaluated, trainer.options),
            *_extension_notes(trainer.run),
        ],
        initial_weights=trainer.run.origin,
        data_fingerprint=dataset.fingerprint,
        num_examples={split: dataset.num_examples(split) for split in SPLITS},
        num_evaluated={
            split: num_evaluated(dataset, split, trainer.options) for split in evaluated
        },
        input_shape=list(example.shape[1:]) if isinstance(example, Tensor) else [],
        inputs=None if _is_plain(example) else recorded(example),
        output_shapes={task.name: [task.num_outputs, *task.map_shape] for task in tasks},
        num_parameters={
            "backbone": _count(model.backbone.parameters()),
            "heads": _count(model.heads.parameters()),
            "method": _count(model.mtl_parameters()),
        },
        device=_device_name(trainer.run.device),
        num_threads=torch.get_num_threads(),
        versions=package_versions(),
        commit=source_commit(),
        command=list(sys.argv),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _is_plain(example: Inputs) -> bool:
    return isinstance(example, Tensor) and example.dtype == torch.float32


def _method_notes(trainer: Trainer) -> list[str]:
    model = trainer.run.model
    notes = list(model.rule.notes(trainer.options.epochs))
    if model.over_parameters is not None:
        notes.append("task gradients over the parameters of the backbone, not at the features")
    label = method_label(trainer.config["method"])
    return [f"{label}: {note}." for note in notes]


def _extension_notes(run: RunState) -> list[str]:
    """Say that learning rates were another run's, where schedules end with the run."""
    if not run.state.extended_at or not any(group.ends_with_run for group in run.groups):
        return []
    epochs = " and ".join(f"epoch {epoch}" for epoch in run.state.extended_at)
    return [f"made longer after {epochs}; until then the learning rate was that of a shorter run"]


def _protocol(trainer: Trainer) -> str:
    num_averaged = trainer.options.average_last_epochs
    if num_averaged is not None:
        return f"mean of test over the last {num_averaged} epochs; nothing selected on validation"
    selection = trainer.selection
    return f"epoch selected by {selection.key} ({selection.mode}), test measured once at that epoch"


def resumed(summary: RunSummary, before: RunSummary | None, step: int) -> RunSummary:
    """Return the summary of a run that goes on: its start is that of the first attempt.

    Args:
        summary: What is known of it now.
        before: What it recorded until it was interrupted; None if that is lost.
        step: Step from which it goes on.
    """
    if before is None:
        return dataclasses.replace(summary, resumed_at_steps=[step])
    if before.num_threads not in (None, summary.num_threads):
        logger.warning(
            "%d threads before, %d now: the result may differ in rounding from a run in one go.",
            before.num_threads,
            summary.num_threads,
        )
    return dataclasses.replace(
        summary,
        started=before.started or summary.started,
        overrides=_overrides(before.overrides, summary.overrides),
        initial_weights=before.initial_weights or summary.initial_weights,
        command=before.command,
        resumed_at_steps=[*before.resumed_at_steps, step],
    )


def _overrides(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Return what the user changed of a run, with what makes it longer in place of what it was."""
    longer = {word.partition("=")[0].lstrip("+"): word for word in now}
    longer = {key: word for key, word in longer.items() if key in EXTENDING}
    return [*(w for w in before if w.partition("=")[0].lstrip("+") not in longer), *longer.values()]


def progress(run: RunState) -> dict[str, Any]:
    """Return how far a run came, by key of its summary.

    Of several ranks, what this one has exchanged is recorded, evaluations included.

    Args:
        run: The run, however it ended.
    """
    state = run.state
    values: dict[str, Any] = {
        "selected_epoch": state.best_epoch,
        "epochs": state.epoch,
        "steps": state.step,
        "extended_at_epochs": state.extended_at,
        "skipped_steps": state.skipped_steps,
        "train_s": round(state.train_s, 3),
        "data_s": round(state.data_s, 3),
        "wall_s": round(run.wall_s, 3),
        "num_ranks": run.ranks.size,
    }
    if run.ranks.size > 1:
        num_steps = max(1, state.step)
        traffic = run.ranks.traffic
        values["collectives_per_step"] = round(traffic.calls / num_steps, 2)
        values["collective_bytes_per_step"] = round(traffic.num_bytes / num_steps)
    return values


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def package_versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the packages results depend on."""
    versions = {"rotograd-cli": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def source_commit() -> str | None:
    """Return the commit of the source checkout, with ``+`` if it was changed; None for a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = result.stdout.splitlines()
    changed = "" if all(line.startswith("#") for line in lines) else "+"
    commits = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    return f"{commits[0]}{changed}" if commits else None


def _device_name(device: torch.device) -> str:
    """Return a device with the name of its hardware: ``cuda:0 (NVIDIA H100)``."""
    is_gpu = device.type == "cuda"
    return f"{device} ({torch.cuda.get_device_name(device) if is_gpu else platform.machine()})"
