"""Signals that a run holds back."""

import os
import signal

import pytest

from rotograd_cli.errors import RUN_FAILED, WRONG_INPUT, ConfigError, exit_code, run_under_way
from rotograd_cli.training import interrupts


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_waits_for_a_safe_moment(
    signum: signal.Signals, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signum, signal.SIG_DFL)  # nohup would ignore SIGHUP
    request.addfinalizer(lambda: signal.signal(signum, before))
    with interrupts.deferring():
        os.kill(os.getpid(), signum)
        with pytest.raises(interrupts.StopRequested, match=signum.name) as caught:
            interrupts.check()
    assert interrupts.exit_code(caught.value) == 128 + signum


def test_a_signal_at_the_end_of_a_run_stops_the_next_one() -> None:
    with interrupts.deferring():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(interrupts.StopRequested, match="SIGTERM"):
        interrupts.check_late()
    interrupts.check_late()  # once


def test_a_signal_that_stopped_a_run_does_not_come_late_again() -> None:
    def stopped_run() -> None:
        with interrupts.deferring():
            os.kill(os.getpid(), signal.SIGTERM)
            interrupts.check()

    with pytest.raises(interrupts.StopRequested):
        stopped_run()
    interrupts.check_late()


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.deferring():
            os.kill(os.getpid(), signal.SIGHUP)
            interrupts.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_of_a_run_that_began_is_no_wrong_input() -> None:
    error = ConfigError("The run does not fit into memory.")
    assert exit_code(error) == WRONG_INPUT
    with pytest.raises(ConfigError), run_under_way():
        raise error
    assert exit_code(error) == RUN_FAILED
