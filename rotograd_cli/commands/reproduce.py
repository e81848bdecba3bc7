"""Train what a table needs, then print it: rotograd reproduce table=NAME.

usage: rotograd reproduce table=NAME [seeds=N] [methods=[...]] [KEY=VALUE ...]

Plans the runs of a paper's table, trains those that are missing, chooses learning rates on
validation, and prints the table beside the paper's numbers. Stop it at any time: the same command
continues, and trains only what is missing. A changed setting is another run.

table=NAME       rows, columns, seeds, grid of learning rates, printed numbers
seeds=5          seeds 0 to 4; seeds=[0,3] only these two; by default the table's
methods=[...]    rows to train and show; single-task networks are added where gains need them
statistic=...    median_std | mean_std | mean_ci95
plan=true        show which runs are needed and which are finished, and train nothing; hours come
                 from finished runs, and no data are needed
plan=timed       the same, with hours from a few timed steps for rows without a finished run
output=DIR       folder of table.md, .tex, .csv, .json and grid.csv
latex=...        auto | table | table* | resizebox | split: how table.tex fits a page
--verbose        all footnotes (the files always have them)
table.grid=null  every row with its own defaults instead of the best of the grid
table.grid.select=KEY  choose by another validation metric, such as val/loss
launcher=local   several runs at once; hydra/launcher=NAME for Hydra's own (docs/sweeps.md)
KEY=VALUE        any override of rotograd train, for all runs: train.epochs=2 device=cuda
--config-dir     a folder of your own YAML files: DIR/table/mine.yaml

Examples:
  rotograd reproduce table=multimnist plan=true
  rotograd reproduce table=multimnist seeds=5 methods=[vanilla,rotograd] launcher=local
"""

import sys
from collections.abc import Sequence

from rotograd_cli.errors import CELL_FAILED

GROUPS = ("table",)


def run(arguments: Sequence[str]) -> int:
    """Print the plan, train, and print the table.

    Returns:
        Exit code: ``CELL_FAILED`` if a run did not finish.
    """
    from rotograd_cli.commands.reproduction.estimate import plan_notes
    from rotograd_cli.commands.reproduction.reproduction import Reproduction
    from rotograd_cli.commands.reproduction.settings import parse
    from rotograd_cli.printing.grid import print_grid

    reproduction = Reproduction(parse("reproduce", arguments))
    only_plans = bool(reproduction.config.plan)
    if not only_plans:
        reproduction.check()
    plan = reproduction.plan()
    print_grid(plan)
    for line in plan_notes(plan, reproduction.searches, reproduction.cells):
        print(line)
    if only_plans:
        return 0
    from rotograd_cli.commands.table import print_files, print_results

    reproduction.run()
    table = reproduction.table()
    print_results(table, reproduction.config.verbose)
    print_files(reproduction.write(table))
    failures = reproduction.failures()
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return CELL_FAILED if failures else 0
