"""One cell of a sweep."""

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from rotograd_cli.commands.support import session
from rotograd_cli.commands.sweeps.folder import is_search
from rotograd_cli.errors import RUN_FAILED, OccupiedError, Refusal, RotogradError, exit_code
from rotograd_cli.ranks.launch import job_rank
from rotograd_cli.runs.directory import record_failure
from rotograd_cli.runs.messages import describe_failure
from rotograd_cli.runs.summary import RunSummary


def run_cell(
    train: Callable[[], RunSummary], overrides: Sequence[str], hydra: DictConfig
) -> RunSummary:
    """Train a cell; its failure is recorded in its directory, and the others run.

    Args:
        train: Trains it and returns its summary.
        overrides: The cell's overrides.
        hydra: Hydra's own node.

    Returns:
        The summary; empty after a failure.

    Raises:
        Refusal: If a search meets another run in the folder of a trial, which ends the search.
    """
    number = hydra.job.num
    if job_rank() == 0:
        print(f"cell {number}: {' '.join(overrides)}", file=sys.stderr)
    try:
        return train()
    except Exception as error:  # whatever it is, the other cells must run
        if job_rank() > 0:
            raise
        if isinstance(error, OccupiedError) and is_search(hydra):
            raise Refusal(error) from error  # a sweeper may go on after an exception
        if not isinstance(error, RotogradError):
            traceback.print_exc()
        reason = describe_failure(error)
        print(f"cell {number} failed: {reason}", file=sys.stderr)
        if exit_code(error) != RUN_FAILED:  # else the run has recorded it
            run_dir = Path(hydra.runtime.output_dir)
            session.refused[run_dir] = record_failure(run_dir, overrides, reason)
        return RunSummary()
