"""What the messages of all data sets share: commands to paste, sizes."""

import os
from pathlib import Path

from rotograd_cli.errors import hydra_value, suggested


def data_command(action: str, name: str, data_dir: Path, *options: str) -> str:
    """A ``rotograd data`` command that does the same wherever it is pasted into the shell.

    Args:
        action: ``check`` or ``prepare``.
        name: Data set; empty for all of them.
        data_dir: Data root; named unless it is the default.
        options: Further words, as Hydra or the command reads them.

    Returns:
        The command, quoted for the shell.
    """
    arguments = ["data", action, *filter(None, [name]), *options]
    if data_dir != Path(os.environ.get("ROTOGRAD_DATA", "data")).expanduser():
        arguments.append(f"paths.data_dir={hydra_value(str(data_dir))}")
    return suggested(*arguments)


def readable(num_bytes: int) -> str:
    """A size in the unit that shows its first digits, as in 18 kB or 2.49 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes} bytes"
