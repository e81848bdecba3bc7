"""One line for an error: thing, requirement, value found, remedy."""

import errno

import yaml

from rotograd_cli.errors import RotogradError, one_line
from rotograd_cli.ranks.launch import lost_other

NETWORK = ("socket", "ssl", "urllib", "http", "requests", "urllib3")
"""Packages whose own errors tell of a connection."""

SYSTEM = {
    errno.ENOSPC: "free space or choose another folder.",
    errno.EDQUOT: "free space or choose another folder.",
    errno.EROFS: "choose another folder.",
    errno.EMFILE: "allow more open files (ulimit -n) or use fewer workers.",
}
"""Remedies for errors that name no file."""


def explain(error: Exception) -> str | None:
    """Return one line for an error that the input or the system caused.

    Args:
        error: What a command raised.

    Returns:
        The line; None if the error is a bug and deserves its traceback.
    """
    if isinstance(error, RotogradError):
        return str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        return _unreadable(error)
    if isinstance(error, RuntimeError) and 'Could not detect "srun"' in str(error):
        return "launcher=slurm needs SLURM's commands (srun, sbatch); run it on a login node."
    return _refused_by_system(error) if isinstance(error, OSError) else None


def _unreadable(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}" if mark else "A file"
    return f"{where}, is not valid YAML: {error.problem}; correct it or leave the file out."


def _refused_by_system(error: OSError) -> str:
    reason = error.strerror or str(error)
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, (ConnectionError, TimeoutError)) or package in NETWORK:
        return f"A connection failed ({reason}); check the network and the address, and try again."
    if error.filename is not None:
        return f"{error.filename} cannot be used ({reason}); choose another path."
    remedy = SYSTEM.get(error.errno or 0, "the cause is outside of this program.")
    return f"The system refused ({reason}); {remedy}"


def describe_failure(error: BaseException) -> str:
    """Return one line for the failure of a run: a message of ours, or any error with its class."""
    text = lost_other(error) or one_line(str(error))
    if isinstance(error, RotogradError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
