"""The command in a process of its own that need not import torch again.

A server that has imported everything forks the processes, which saves most of their time. They are
as real as any: with a session, signals, files and a death of their own.
"""

import multiprocessing
import multiprocessing.context
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.waiting import PATIENCE_S

_PRELOADED = "tests.preloaded"


def forkserver() -> multiprocessing.context.ForkServerContext:
    """Processes that start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    return context


class Forked:
    """One run of the command, with the methods of ``subprocess.Popen`` that tests use.

    Args:
        words: What follows ``rotograd``.
        cwd: Working directory.
        env: Variables beside those of this process.
    """

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        context = forkserver()
        folder = Path(tempfile.mkdtemp())
        self._out, self._err = folder / "out", folder / "err"
        arguments = (list(words), str(cwd), dict(env), str(self._out), str(self._err))
        self._process = context.Process(target=_run, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As Popen's: None while it runs, minus the signal that killed it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def said(self) -> str:
        """What it has written to its errors so far."""
        return self._err.read_text() if self._err.exists() else ""

    def communicate(self, timeout: float = PATIENCE_S) -> tuple[str, str]:
        """Waits for the end; output and errors."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("rotograd", timeout)
        return self._out.read_text(), self._err.read_text()


def _run(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.pop("ROTOGRAD_DATA", None)  # of the shell that the tests run in
    os.environ.update(env)
    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
    import torch

    from rotograd_cli.cli import main

    torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
    sys.exit(main(words))
