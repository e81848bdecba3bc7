"""Ctrl-C that is never lost.

Libraries swallow ``KeyboardInterrupt`` while they are imported (a bare ``except`` around an
optional import is enough), and a checkpoint that is being written turns it into another error. So
an interrupt ends the process at once as long as nothing has begun; while a run is under way it is
remembered, and raised between two batches.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

EXIT_CODE = 130
_seen = False


@contextmanager
def quitting(farewell: Callable[[], None]) -> Iterator[None]:
    """Inside, an interrupt calls ``farewell`` and ends the process with exit code 130.

    Args:
        farewell: Leaves things tidy and tells the user.
    """

    def handle(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        farewell()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_CODE)

    with _handling(handle):
        yield


@contextmanager
def deferring() -> Iterator[None]:
    """Inside, an interrupt waits for :func:`check`; a second one raises at once."""
    global _seen
    _seen = False

    def handle(signum: int, frame: FrameType | None) -> None:
        global _seen
        del signum, frame
        if _seen:
            raise KeyboardInterrupt
        _seen = True

    with _handling(handle):
        yield


def request() -> None:
    """The same as one Ctrl-C inside :func:`deferring`; any thread may call it."""
    global _seen
    _seen = True


def check() -> None:
    """Raises the interrupt that :func:`deferring` holds back. Called where stopping is safe.

    Raises:
        KeyboardInterrupt: If an interrupt came.
    """
    if _seen:
        raise KeyboardInterrupt


@contextmanager
def _handling(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
