"""What ``rotograd --help`` prints, and what a misspelt command is told."""

import difflib

from rotograd_cli import commands

_HELP = """rotograd: train and compare RotoGrad and its rivals from YAML.

usage: rotograd COMMAND [KEY=VALUE ...] [Hydra's options]

commands:
{commands}

examples:
  rotograd train                                      RotoGrad on embedded real digits
  rotograd train method=rotogradnorm seed=1           another method, another seed
  rotograd train -m method=vanilla,rotograd seed=0,1  a sweep: every combination
  rotograd train --cfg job                            the composed configuration
  rotograd evaluate run=outputs/...                   metrics of a finished run
  rotograd data check celeba                          are the files there? where to get them
  rotograd table runs='multirun/*' output=DIR         a table of finished runs, and its files
  rotograd reproduce table=multimnist plan=true       what the paper's table would take
  rotograd bench workload=lenet                       what a step costs, beside plain autograd

options: -h, --help; --version. rotograd COMMAND --help lists what can be set.
Exit codes: 0 done, 1 a cell of a sweep failed, 2 wrong input, 4 the run failed after it had begun,
128 + the number of the signal that stopped it.
Completion: eval "$(rotograd -sc install=bash)\""""


def overview() -> str:
    """Return the help of the program."""
    lines = [f"  {name:10s} {commands.load(name).SUMMARY}" for name in commands.names()]
    return _HELP.format(commands="\n".join(lines))


def suggestion(command: str) -> str:
    """Return the remedy for a command that does not exist."""
    if "=" in command or command.startswith("-"):
        return f"put it after a command: rotograd train {command}"
    names = commands.names()
    matches = difflib.get_close_matches(command, names, n=1)
    return f"did you mean {matches[0]}?" if matches else f"choose from {', '.join(names)}."
