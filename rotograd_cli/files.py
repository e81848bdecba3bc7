"""Files that are either complete or absent, whatever ends the process that writes them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO


def replace_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file under a temporary name beside its place, then move it there.

    A reader sees the old content or the new one, never a part. Several processes may write the same
    path at once; the last one wins. If writing fails, the old file stays and the temporary one is
    removed; a process that is killed leaves the temporary one (see :func:`remove_temporaries`).

    Args:
        path: The file; its folder exists.
        write: Writes the content to an open binary file.

    Raises:
        OSError: If the file cannot be written, or what ``write`` raises.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # "x" never writes through a link that someone left under the temporary name
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            write(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 as :func:`replace_file` does."""
    replace_file(path, lambda file: file.write(text.encode()))


def replace_folder(new: Path, path: Path) -> None:
    """Move a folder to a place where another one may be, which is removed.

    A folder cannot be moved onto one that has files, so between two moves there is none: a process
    that is killed there leaves the old one beside its place, as ``.NAME.PROCESS.old``.

    Args:
        new: The complete folder, beside its place.
        path: Its place.

    Raises:
        OSError: If it cannot be moved; the old folder stays.
    """
    if not path.exists():
        new.rename(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed processes left of :func:`replace_file`, while nobody else writes there."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
