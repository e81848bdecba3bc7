"""Draw a figure of a table's runs: rotograd plot figure=NAME.

usage: rotograd plot figure=NAME [KEY=VALUE ...]

Draws a figure of a table's runs as PNG and PDF; rotograd reproduce trains them.

figure=rotation_lr   the paper's figure 3: RotoGrad's learning rate against the sum task's error
figure=gains         gains of every task against single-task networks, a bar per method
table=NAME           another table than the figure's own
output=DIR           folder of the files; that of the table's by default
KEY=VALUE            as for rotograd reproduce: seeds=5, and what the runs were trained with
"""

from collections.abc import Sequence

GROUPS = ("figure", "table")


def run(arguments: Sequence[str]) -> int:
    """Draw the figure and name its files."""
    from rotograd_cli.commands.reproduction.figures import plot
    from rotograd_cli.commands.reproduction.settings import parse
    from rotograd_cli.commands.table import print_files

    files, notes = plot(parse("plot", arguments))
    for line in notes:
        print(line)
    print_files(files)
    return 0
