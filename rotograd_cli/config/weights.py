"""The file that a run's first weights come from, and its content as a part of the configuration."""

import functools
import hashlib
from pathlib import Path

from rotograd_cli.errors import ConfigError


def weights_file(name: str) -> Path:
    """Return the file that ``init_from`` means.

    Args:
        name: A file, or a run directory, whose best checkpoint is taken, else its last one.

    Raises:
        ConfigError: If there is no such file.
    """
    path = Path(name).expanduser()
    candidates = [path / "checkpoints" / f"{which}.pt" for which in ("best", "last")]
    for file in candidates if path.is_dir() else [path]:
        if file.is_file():
            return file
    found = "a folder without checkpoints" if path.is_dir() else "which does not exist"
    raise ConfigError(
        f"`init_from` must be a run directory or a file of weights, got {name}, {found}; rotograd "
        "runs lists runs."
    )


def fingerprint(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    stat = file.stat()
    return _sha256(file.resolve(), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache
def _sha256(file: Path, *version: int) -> str:
    del version  # a file that has changed is read again
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
