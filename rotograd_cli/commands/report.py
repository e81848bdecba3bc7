"""Write an HTML page on a run: rotograd report run=DIR [output=FILE].

usage: rotograd report run=DIR [KEY=VALUE ...]
       rotograd report runs=GLOB [KEY=VALUE ...]

Writes one file that opens from disk, without a network: results, learning curves, agreement of the
task gradients, confusion matrices, examples with predictions. runs=GLOB compares runs.

run=DIR                the run, finished or not
runs=GLOB              run directories, or folders that hold them: runs='multirun/*'
output=FILE            the page; report.html in the run's folder by default
split=train|val|test   split of predictions and examples, test by default
checkpoint=best|last   whose predictions; best by default
limit=N                number of examples to predict; 2000 by default, 100 where a task is dense
examples=N             number of examples to draw; 12 by default, 3 where a task is dense
device=, data_dir=     instead of the run's own
trust=true             run components of your own that the run names; or use --config-dir DIR

docs/report.md shows a page.
"""

import os
from typing import Any

from rotograd_cli.commands import run_by_hydra

GROUPS = ()


def _report(config: Any) -> None:
    from rotograd_cli.config.schema import ReportConfig, typed

    request = typed(config, ReportConfig)  # before torch is imported: a refusal comes at once
    from rotograd_cli.report.command import write_report

    path = write_report(request)
    print(f"Report: {os.path.relpath(path)} ({path.stat().st_size / 1e6:.2f} MB)")


run = run_by_hydra("report", _report)
