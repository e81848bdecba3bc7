"""What the commands share to parse their arguments."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from rotograd_cli.errors import ConfigError

TRAINING_GROUPS = (
    *("method", "data", "backbone", "head", "optimizer", "scheduler"),
    *("experiment", "debug", "logger"),
)
"""Groups of a training configuration."""


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
        raise refusal(command, message)

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
