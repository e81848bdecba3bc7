"""Parts of the messages of all data sets: commands to paste, sizes."""

import os
from pathlib import Path

from rotograd_cli.errors import hydra_value, suggested


def data_command(action: str, name: str, data_dir: Path, *options: str) -> str:
    """Return a ``rotograd data`` command, quoted for the shell.

    Args:
        action: ``check`` or ``prepare``.
        name: Data set; empty for all of them.
        data_dir: Data root; left out where it is the default.
        options: Further arguments, as Hydra or the command reads them.
    """
    arguments = ["data", action, *filter(None, [name]), *options]
    if data_dir != Path(os.environ.get("ROTOGRAD_DATA", "data")).expanduser():
        arguments.append(f"paths.data_dir={hydra_value(str(data_dir))}")
    return suggested(*arguments)


def readable(num_bytes: int) -> str:
    """Return a size in the unit that shows its first digits, as in 18 kB or 2.49 GB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes} bytes"
