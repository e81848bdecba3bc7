"""What ``evaluate`` and ``predict`` print of a checkpoint that was measured again."""

import os
from pathlib import Path

from rotograd_cli.config.schema import EvaluateConfig
from rotograd_cli.printing.grid import print_grid
from rotograd_cli.runs.directory import unfinished
from rotograd_cli.runs.evaluation import Evaluation
from rotograd_cli.runs.terminal import evaluation_table, remarks


def print_measured(request: EvaluateConfig, result: Evaluation) -> None:
    """Print metrics beside those that the run recorded, with what is to be known of both.

    Args:
        request: What was asked for.
        result: What was measured.
    """
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
