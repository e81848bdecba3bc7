"""Write a run's predictions for a split to a file: rotograd predict run=DIR [split=test].

usage: rotograd predict run=DIR [split=train|val|test] [checkpoint=best|last]
           [output=FILE.npz|FILE.parquet|DIR] [device=...] [data_dir=...] [trust=true]
           [--config-dir DIR]

Writes the predictions for every example (as the losses take them), the targets, and the position of
the example: a .npz file, or for dense tasks a folder with a .npy file per column. The metrics that
are printed are computed from the file. An earlier file in its place is replaced.
docs/python.md says how to read it.
"""

import os
from typing import Any

from rotograd_cli.commands import run_by_hydra

GROUPS = ()


def _predict(config: Any) -> None:
    from rotograd_cli.config.schema import PredictConfig, typed

    request = typed(config, PredictConfig)  # before torch is imported: a refusal comes at once
    from rotograd_cli.commands.support.measured import print_measured
    from rotograd_cli.runs.prediction import predict_run

    result = predict_run(request)
    print_measured(request, result)
    path = os.path.relpath(result.path)
    print(f"File: {path} ({result.num_examples:,} examples), which gave the metrics above")


run = run_by_hydra("predict", _predict)
