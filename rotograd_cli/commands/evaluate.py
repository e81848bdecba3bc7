"""Print metrics of a finished run's checkpoint: rotograd evaluate run=DIR [split=test].

usage: rotograd evaluate run=DIR [split=train|val|test] [checkpoint=best|last] [device=...]
           [data_dir=...] [trust=true] [--config-dir DIR]

Loads a checkpoint and prints its metrics beside those that the run recorded. A run with components
of your own needs the folder of your YAML files that name them, or trust=true.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GROUPS = ()


def run(arguments: Sequence[str]) -> int:
    """Evaluate a run."""
    from rotograd_cli.commands.support.hydra_app import run_app

    run_app("evaluate", arguments, _evaluate)
    return 0


def _evaluate(config: Any) -> float:
    from rotograd_cli.config.schema import EvaluateConfig, typed

    request = typed(config, EvaluateConfig)  # before torch is imported: a refusal comes at once
    from rotograd_cli.printing.grid import print_grid
    from rotograd_cli.runs.directory import unfinished
    from rotograd_cli.runs.evaluation import evaluate_run
    from rotograd_cli.runs.terminal import evaluation_table, remarks

    result = evaluate_run(request)
    table, verdict = evaluation_table(result.measured, result.recorded, result.other_data)
    if result.other_data is not None:
        print(f"Other data: {result.other_data}.")
    print(f"{os.path.normpath(request.run)}: {request.checkpoint}.pt on {request.split}")
    note = unfinished(Path(request.run).expanduser())
    if note is not None:
        print(note)
    print_grid(table)
    for line in (verdict, *remarks(result.notes)):
        print(line)
    return result.measured[f"{request.split}/geomean_loss"]
