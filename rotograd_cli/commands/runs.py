"""List runs with status, epoch, selection value and age: rotograd runs [GLOB ...].

usage: rotograd runs [GLOB ...] [sort=age|metric|name|status|epoch|method|data]

GLOB    run directories, or folders that hold them at any depth: rotograd runs outputs/*/rotograd;
        ./outputs and ./multirun by default
sort=   age (newest first, the default), metric (best first), name (by folder), status, epoch,
        method, data

Prints a line per run, or two on a narrow terminal. The value is that of the selected epoch; while a
run is not finished, of the last evaluation. "What differs" are the overrides that not all listed
runs have. "stopped" means that the run was interrupted, or that its process is gone.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rotograd_cli.config.arguments import FOLDER_OPTIONS
from rotograd_cli.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

GROUPS = ()
DEFAULT = ("outputs", "multirun")
"""Folders of runs in the current directory."""


def run(arguments: Sequence[str]) -> int:
    """List runs."""
    from rotograd_cli.commands.support.hydra_app import run_app

    patterns: list[str] = []
    others: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_pattern = before not in FOLDER_OPTIONS and _is_pattern(argument)
        (patterns if is_pattern else others).append(argument)
    run_app("runs", others, lambda config: _list(config, patterns))
    return 0


def _is_pattern(argument: str) -> bool:
    """Whether an argument is no ``KEY=VALUE`` and no option; Hydra takes patterns for mistakes."""
    is_override = re.match(r"[+~]*[\w.@]+=", argument) is not None
    return os.path.lexists(argument) or not (is_override or argument.startswith("-"))


def _list(config: "DictConfig", patterns: Sequence[str]) -> None:
    from rotograd_cli.config.schema import RunsConfig, typed
    from rotograd_cli.tables.listing import find, listing
    from rotograd_cli.tables.narrow import fitted

    request = typed(config, RunsConfig)
    found = find(patterns or _default())
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(*fitted(listing(found.runs, request.sort), width), sep="\n")
    for line in found.problems:
        print(f"rotograd: {line}", file=sys.stderr)


def _default() -> list[str]:
    folders = [name for name in DEFAULT if Path(name).is_dir()]
    if not folders:
        raise ConfigError(
            f"`rotograd runs` looks into {' and '.join(DEFAULT)} of the current directory, which "
            "has neither; name a folder: rotograd runs DIR."
        )
    return folders
