"""What the commands share: parsed arguments, and Hydra for configuration, sweeps, completion."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from rotograd_cli.config.arguments import ready, search_path
from rotograd_cli.config.compose import register_schemas
from rotograd_cli.config.files import config_dir, is_group
from rotograd_cli.config.lookup import key_like
from rotograd_cli.config.overrides import explaining
from rotograd_cli.config.schema import check_added_keys
from rotograd_cli.errors import ConfigError, Refusal
from rotograd_cli.ranks.launch import job_rank, job_size

COMPLETION = ("-sc", "--shell-completion")
SWEEPABLE = ("train", "evaluate")
_GET_MODE = Hydra.get_mode
_SETS_MODE = re.compile(r"hydra(=|\.mode|\.searchpath)")
Task = Callable[[DictConfig], float | None]


def run_app(command: str, arguments: Sequence[str], task: Task) -> None:
    """Compose the configuration of a command and run it, once or for every cell of a sweep.

    Args:
        command: Name of the command and of its YAML file.
        arguments: What follows the command.
        task: Given the configuration.

    Raises:
        ConfigError: If an option of Hydra is refused.
        Exception: Whatever else went wrong, which Hydra would print and hide.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing and exiting
    given = ready(arguments)
    options = parsed(get_args_parser(), command, given)
    _check_options(command, options)
    _check_groups(options)
    # Hydra registers the completion under this name
    program = "rotograd" if is_completion(arguments) else f"rotograd {command}"
    sys.argv = [program, *_of_this_rank(command, options, given)]
    register_schemas()
    # Hydra composes everything twice, first to see whether this is set
    may_set_mode = options.config_dir or any(map(_SETS_MODE.search, options.overrides))
    Hydra.get_mode = _GET_MODE if may_set_mode else _no_mode  # type: ignore[method-assign]
    carrier = _Carrier(task)
    decorate = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)
    folders = [search_path(Path(options.config_dir))] if options.config_dir else []
    try:
        with explaining(command, [*folders, *options.overrides], is_sweep=options.multirun):
            _call(decorate(carrier))
    finally:
        if carrier.error is not None:  # also where a sweeper stumbled over the missing value
            raise carrier.error


def _no_mode(*_: object, **__: object) -> None:
    """Return the value of ``hydra.mode`` where nothing has set it."""


def is_completion(arguments: Sequence[str]) -> bool:
    """Return whether a shell asks for completions."""
    return any(argument in COMPLETION for argument in arguments)


def _call(application: Callable[[], None]) -> None:
    try:
        application()
    except Refusal as refusal:
        raise refusal.error from None


class _Carrier:
    """A task that hands its error to the caller: Hydra would print about it first.

    A launcher's worker process has a copy, whose error Hydra must carry to the caller.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._process = os.getpid()
        self.error: Exception | None = None

    def __call__(self, config: DictConfig) -> float | None:
        try:
            return self._task(config)
        except Exception as error:  # raised again by the caller
            if os.getpid() != self._process:
                raise
            self.error = error
            return None


def _check_options(command: str, options: argparse.Namespace) -> None:
    sees_one = options.cfg or options.info
    refusals = {
        "-m cannot be combined with --cfg or --info; leave -m out to see one cell.": (
            options.multirun and sees_one
        ),
        f"rotograd {command} takes one configuration at a time, got -m; leave -m out and run it "
        "once for each.": options.multirun and command not in SWEEPABLE,
        "--experimental-rerun is not supported; give the run's overrides again.": (
            options.experimental_rerun
        ),
        "--config-path and --config-name cannot replace the built-in configuration; add your own "
        "files with --config-dir.": options.config_path or options.config_name,
    }
    for message, applies in refusals.items():
        if applies:
            raise ConfigError(message)


def _check_groups(options: argparse.Namespace) -> None:
    """Refuse what Hydra would take: a list of files of one group, added keys in a sweep."""
    for override in options.overrides:
        group, _, value = override.partition("=")
        if value.startswith("[") and is_group(group):
            names = value.strip("[]")
            raise ConfigError(
                f"`{group}` takes one file, got {value!r}; -m {group}={names} runs each."
            )
    if options.multirun:
        folders = [Path(options.config_dir)] if options.config_dir else []
        check_added_keys(options.overrides, folders)


def _of_this_rank(command: str, options: argparse.Namespace, arguments: Sequence[str]) -> list[str]:
    """Return the arguments of this process of a job: options first, as Hydra's own call needs them.

    Only rank 0 gets a run directory.
    """
    if job_size() > 1 and (command != "train" or options.multirun):
        what = "a sweep" if command == "train" else f"rotograd {command}"
        raise ConfigError(
            f"torchrun starts one training, got {what} in {job_size()} processes; start it "
            "without torchrun."
        )
    overrides = list(options.overrides)
    flags = [argument for argument in arguments if argument not in overrides]
    if job_rank() > 0:
        overrides = [word for word in overrides if not word.startswith("hydra.run.dir=")]
        overrides.append("hydra.run.dir=.")
    return [*flags, *overrides]


def parsed(
    parser: argparse.ArgumentParser, command: str, arguments: Sequence[str]
) -> argparse.Namespace:
    """Parse arguments; options and overrides may come in any order.

    Args:
        parser: The parser.
        command: Name of the command, for the message.
        arguments: What follows the command.

    Raises:
        ConfigError: If an argument is refused. By itself the parser would print a page and exit.
    """

    def refuse(message: str) -> NoReturn:
        option = re.match(r"unrecognized arguments: --([\w.]+)", message)
        key = option and key_like(command, option[1])
        raise ConfigError(f"{message}; write {key}=VALUE.") if key else refusal(command, message)

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(list(arguments))


def plain_parser() -> argparse.ArgumentParser:
    """Return a parser of overrides and ``--config-dir``, for commands that Hydra does not run."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("overrides", nargs="*")
    return parser


def refusal(command: str, message: str) -> ConfigError:
    """Return the error for an argument that a command cannot take."""
    return ConfigError(f"{message}; rotograd {command} --help shows the options.")
