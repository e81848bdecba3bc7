"""The command line: which command. Heavy imports happen inside the commands."""

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from rotograd_cli import __version__, commands
from rotograd_cli.commands.support import completion, session
from rotograd_cli.errors import WRONG_INPUT, exit_code, one_line
from rotograd_cli.printing.streams import enduring_output
from rotograd_cli.ranks import launch
from rotograd_cli.training import interrupts

_INTERRUPTED = "Interrupted; a run that had begun keeps its last checkpoint."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows the program's name; None takes the process's.

    Returns:
        Exit code: 0 done, 1 a cell of a sweep failed, 2 wrong input, 4 the run failed after it had
        begun, 128 + the signal's number after a signal (130 after Ctrl-C).
    """
    if arguments is None:  # the process is the command's own
        atexit.register(gc.freeze)  # it ends without a search for cycles: a second less
    given = list(sys.argv[1:] if arguments is None else arguments)
    with enduring_output(), interrupts.quitting(_farewell):
        try:
            code = _dispatch(given)
        except KeyboardInterrupt as interrupt:
            _farewell(is_reported=getattr(interrupt, "is_reported", False))
            code = interrupts.exit_code(interrupt)
    launch.end_process(code)
    return code


def _farewell(is_reported: bool = False) -> None:
    continuing = session.stop_launcher()
    session.remove_unused_folders()
    if launch.job_rank() == 0:
        interrupted = [] if is_reported else [_INTERRUPTED]
        lines = [*session.how_to_continue(), " ".join([*interrupted, *continuing])]
        for line in filter(None, lines):
            print(line, file=sys.stderr)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return _print(commands.overview())
    if "--version" in arguments:
        return _print(f"rotograd-cli {__version__}")
    command, *rest = arguments
    if command in ("-sc", "--shell-completion"):
        return _complete(arguments)
    if command not in commands.names():
        return _fail(f"{command!r} is not a command; {commands.suggestion(command)}")
    return _run(command, rest)


def _run(command: str, arguments: list[str]) -> int:
    """Run a command: wrong input is one line, exit code 2 and no folder left behind."""
    try:
        if "-h" in arguments or "--help" in arguments:
            return _print(commands.usage(command, arguments))
        code: int = commands.load(command).run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # the disk that it goes to may be full
        return code
    except Exception as error:
        session.remove_unused_folders()
        return _failed(error)


def _failed(error: Exception) -> int:
    """Say in one line what went wrong; raise what is a bug."""
    from rotograd_cli.config.messages import explain

    message = explain(error)
    if message is not None:
        return _fail(message, exit_code(error))
    if launch.job_size() == 1:
        raise error
    launch.say_death(error)
    return 1


def _complete(arguments: list[str]) -> int:
    """Complete the command or what follows it: by what this package knows, else as Hydra does."""
    line = os.environ.get("COMP_LINE", "")
    program, *given = line.split(" ") if line else ("rotograd",)
    if line and len(given) <= 1:
        return _print("\n".join(n for n in commands.names() if n.startswith("".join(given))))
    command = given[0] if given and given[0] in commands.names() else "train"
    os.environ["COMP_LINE"] = " ".join([program, *given[1:]])
    if "COMP_POINT" in os.environ:
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    with suppress(Exception):  # half a word is no mistake: nothing to suggest, nothing to say
        words = completion.suggestions(command, given[1:]) if line else []
        if words or command in completion.PLAIN:
            return _print("\n".join(words))
        commands.load("train" if command == "reproduce" else command).run(arguments)
    return 0


def _print(text: str) -> int:
    print(text)
    return 0


def _fail(message: str, code: int = WRONG_INPUT) -> int:
    launch.say_failure(f"rotograd: {one_line(message)}")
    return code
