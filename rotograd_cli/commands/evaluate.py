"""Print metrics of a finished run's checkpoint: rotograd evaluate run=DIR [split=test].

usage: rotograd evaluate run=DIR [split=train|val|test] [checkpoint=best|last] [device=...]
           [data_dir=...] [trust=true] [--config-dir DIR]

Loads a checkpoint and prints its metrics beside those that the run recorded. A run with components
of your own needs --config-dir with the YAML files that name them, or trust=true.
"""

from typing import Any

from rotograd_cli.commands import run_by_hydra

GROUPS = ()


def _evaluate(config: Any) -> float:
    from rotograd_cli.config.schema import EvaluateConfig, typed

    request = typed(config, EvaluateConfig)  # before torch is imported: a refusal comes at once
    from rotograd_cli.commands.support.measured import print_measured
    from rotograd_cli.runs.evaluation import evaluate_run

    result = evaluate_run(request)
    print_measured(request, result)
    return result.measured[f"{request.split}/geomean_loss"]


run = run_by_hydra("evaluate", _evaluate)
