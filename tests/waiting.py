"""Waiting for what other processes and threads do: until it is so, never for a length of time."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE_S = 600.0
"""After that many seconds something hangs; what is right ends long before, however busy it is."""


def wait_for(condition: Callable[[], Any], process: Any = None) -> None:
    """Waits until a condition holds.

    Args:
        condition: Asked every few milliseconds.
        process: Must not have ended before the condition holds: a ``Popen`` or a ``Forked``.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        ended = process is not None and process.poll() is not None  # asked first: it may act last
        if condition():
            return
        assert not ended, process.communicate()
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)
