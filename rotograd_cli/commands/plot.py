"""Draw a figure of runs: rotograd plot runs=GLOB [figure=NAME].

usage: rotograd plot [runs=GLOB] [figure=NAME] [KEY=VALUE ...]

Draws a figure and writes it as PNG, PDF and CSV. It is drawn from runs=GLOB. A figure of a table
can also be drawn from the runs that rotograd reproduce trained.

runs=GLOB            run directories, or folders that hold them: runs='multirun/*'
figure=curves        learning curves; x=step|epoch|time, y=KEY or y=[KEY,KEY], 'train/*/loss' too
figure=conflicts     cosines between task gradients, before and after the rotations
figure=weights       weights of the tasks; norms: of their gradients; rotations: their angles
figure=toy           the paper's figure 1: the toy problems; trains what it draws
figure=gains         gains of every task against single-task networks, a bar per method
figure=rotation_lr   the paper's figure 3: RotoGrad's learning rate against the sum task's error
figure=sensitivity   validation value against learning rate, from the grid of a table
figure=ranks         mean ranks with critical differences over the metrics of table=[NAME,NAME]
band=minmax          band over seeds, around their mean: minmax | sem (standard error) | none
smooth=0.9           exponential smoothing; none by default
output=DIR           folder of the files; figures/ beside the runs by default
table=NAME           the table of the figure, instead of its default
KEY=VALUE            without runs=: seeds=5 and overrides of the runs, as in rotograd reproduce
--config-dir DIR     a folder of your own YAML files: DIR/figure/mine.yaml

docs/figures.md shows every figure and how to read it.
"""

from collections.abc import Sequence

GROUPS = ("figure", "table")


def run(arguments: Sequence[str]) -> int:
    """Draw the figure and name its files."""
    from rotograd_cli.commands.support.hydra_app import is_completion, run_app

    if is_completion(arguments):
        run_app("plot", arguments, lambda _: None)
        return 0
    from rotograd_cli.commands.reproduction.settings import parse
    from rotograd_cli.commands.support.plotting import plot
    from rotograd_cli.commands.table import print_files

    result = plot(parse("plot", arguments))
    for line in result.notes:
        print(line)
    print_files(result.files)
    return 0
