"""rotograd: train and compare RotoGrad and other methods from YAML.

usage: rotograd COMMAND [KEY=VALUE ...] [Hydra's options]

commands:
{commands}

Examples:
  rotograd train                                      RotoGrad on embedded real digits
  rotograd train method=rotogradnorm seed=1           another method, another seed
  rotograd train -m method=vanilla,rotograd seed=0,1  a sweep: every combination
  rotograd train --cfg job                            the composed configuration
  rotograd explain train.select                       what a key means, accepts and defaults to
  rotograd evaluate run=outputs/...                   metrics of a finished run
  rotograd export run=outputs/... format=onnx         its networks for inference, in a file
  rotograd predict run=outputs/... split=val          its predictions, in a file
  rotograd report run=outputs/...                     a page on it: results, curves, examples
  rotograd plot runs='multirun/*'                     learning curves of several runs
  rotograd data check celeba                          are the files there? where to get them
  rotograd table runs='multirun/*' output=DIR         a table of finished runs, and its files
  rotograd runs                                       which runs there are, and their status
  rotograd reproduce table=multimnist plan=true       what the paper's table would take
  rotograd bench workload=lenet                       what a step costs, beside plain autograd

options: -h, --help; --version. rotograd COMMAND --help lists what can be set.
Exit codes: 0 done, 1 a cell of a sweep failed, 2 wrong input, 4 the run failed after it had begun,
128 + the number of the signal that stopped it.
Completion: eval "$(rotograd -sc install=bash)"
"""

# Every module of this package is a command; packages hold what commands have in common.
# Its docstring is its help, as the one above is the help of the program; the first line of it is
# what that says of the command. GROUPS names the groups of YAML files that the help lists, and
# run(arguments) returns the exit code. Heavy libraries are imported inside of run only.

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from rotograd_cli.config.arguments import config_dirs
from rotograd_cli.config.files import choices

TRAINING_GROUPS = (
    *("method", "data", "backbone", "head", "optimizer", "scheduler"),
    *("experiment", "debug", "logger"),
)
"""Groups of a training configuration."""


def names() -> list[str]:
    """Return the names of all commands."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def load(name: str) -> ModuleType:
    """Return the module of a command."""
    return importlib.import_module(f"{__name__}.{name}")


def run_by_hydra(name: str, task: Callable[[Any], Any]) -> Callable[[Sequence[str]], int]:
    """Return the ``run`` of a command that only composes its configuration and calls a task."""

    def run(arguments: Sequence[str]) -> int:
        from rotograd_cli.commands.support.hydra_app import run_app

        run_app(name, arguments, task)
        return 0

    return run


def overview() -> str:
    """Return the help of the program."""
    summaries = {name: (load(name).__doc__ or "").partition(".\n")[0] for name in names()}
    lines = [f"  {name:10s} {summary}" for name, summary in summaries.items()]
    return (__doc__ or "").strip().format(commands="\n".join(lines))


def usage(name: str, arguments: Sequence[str]) -> str:
    """Return the help of a command, with the files of its groups, the user's included.

    Args:
        name: Name of the command.
        arguments: What follows it.
    """
    module = load(name)
    folders = config_dirs(arguments)
    groups = [f"  {group:12s} {' | '.join(choices(group, folders))}" for group in module.GROUPS]
    heading = ["", "groups:"] if groups else []
    return "\n".join([(module.__doc__ or "").strip(), *heading, *groups])


def suggestion(command: str) -> str:
    """Return the remedy for a command that does not exist."""
    if "=" in command or command.startswith("-"):
        return f"put it after a command: rotograd train {command}"
    matches = difflib.get_close_matches(command, names(), n=1)
    return f"did you mean {matches[0]}?" if matches else f"choose from {', '.join(names())}."
