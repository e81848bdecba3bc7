"""Standard output and error that end no run: closed pipes, lost terminals, few characters."""

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_CHARACTERS = "↑↓▲▼·\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{MULTIPLICATION SIGN}"
_SINGLE = dict(zip(_CHARACTERS, "^v^v.---x", strict=True))
_SEVERAL = {"→": "->", "≤": "<=", "≥": ">=", "±": "+-", "…": "...", "Δ": "Delta ", "°": " deg"}
PLAIN = _SINGLE | _SEVERAL
"""What stands for a character that an encoding lacks; a question mark for any other."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in characters), error.end


codecs.register_error("rotograd.plain", _plain)


def encodable(text: str, encoding: str) -> str:
    """Replace what an encoding lacks.

    Args:
        text: Any text.
        encoding: Name of the encoding.

    Returns:
        Text that it can encode.

    Examples:
        >>> encodable("accuracy % ↑, 2 ± 1", "ascii")
        'accuracy % ^, 2 +- 1'
    """
    return text.encode(encoding, "rotograd.plain").decode(encoding)


class _Enduring(io.FileIO):
    """A file descriptor that drops what is written once it cannot be.

    A closed pipe or a lost terminal is no error; any other reason, such as a full disk, is raised
    once.
    """

    lost = False

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        if self.lost:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self.lost = True
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            return memoryview(data).nbytes


@contextmanager
def enduring_output() -> Iterator[None]:
    """Inside, neither a closed pipe nor a lost terminal nor a character is an error."""
    before = (sys.stdout, sys.stderr)
    endure()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed by the shell
                stream.flush()
        sys.stdout, sys.stderr = before


def endure() -> None:
    """Do what :func:`enduring_output` does for the rest of this process."""
    sys.stdout = _enduring(sys.stdout)
    sys.stderr = _enduring(sys.stderr)


def _is_plain_locale() -> bool:
    """Whether the user asked for ASCII with ``LC_ALL=C``, for which Python itself writes UTF-8."""
    is_python_told = any(os.environ.get(name) for name in ("PYTHONIOENCODING", "PYTHONUTF8"))
    return os.environ.get("LC_ALL") in ("C", "POSIX") and not is_python_told


def _enduring(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper) or stream.errors == "rotograd.plain":
        return stream
    try:
        descriptor = stream.fileno()
    except OSError:  # in memory
        stream.reconfigure(errors="rotograd.plain")
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Enduring(descriptor, "w", closefd=False)),
        encoding="ascii" if _is_plain_locale() else stream.encoding,
        errors="rotograd.plain",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
