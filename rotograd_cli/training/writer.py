"""A thread that writes files beside training."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

_MOST = 2  # waiting at once, each with its bytes: those of one evaluation


class Writer:
    """Writes one file after the other; after one that failed, none."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._newest: list[Future[None]] = []  # each fails if the one before it did

    def submit(self, write: Callable[[], object]) -> None:
        """Have something written after all before it; waits while too much is to be written.

        Raises:
            Exception: What became of something before it.
        """
        self.check()
        for future in self._newest[:-_MOST]:
            future.result()
        before = self._newest[-1:]

        def in_turn() -> None:
            for future in before:
                future.result()
            write()

        self._newest = [*self._newest[-_MOST:], self._thread.submit(in_turn)]

    def check(self) -> None:
        """Raise what became of anything that is done; waits for nothing."""
        for future in self._newest:
            if future.done():
                future.result()

    def wait(self) -> None:
        """Wait for everything; raise what became of it."""
        for future in self._newest:
            future.result()
