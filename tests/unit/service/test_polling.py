"""Something done every so many seconds."""

import os
import threading

import pytest

from service.polling import Polling

TEST_SECONDS = 10


def test_goes_on_after_a_round_that_raises() -> None:
    """What a round raises is logged, and the next round comes."""
    rounds: list[int] = []
    done = threading.Event()

    def work() -> None:
        rounds.append(1)
        if len(rounds) == 1:
            raise RuntimeError("the first round fails")
        done.set()

    polling = Polling(work, 0.001, name="test")
    polling.start()
    try:
        assert done.wait(TEST_SECONDS)
    finally:
        polling.stop()


def test_cores_that_were_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that the system does not let run on the cores that the process began with goes on all the same."""

    def refuse(_: int, mask: set[int]) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    done = threading.Event()
    polling = Polling(done.set, 0.001, name="test")
    polling.start()
    try:
        assert done.wait(TEST_SECONDS)
    finally:
        polling.stop()


def test_nothing_after_stop() -> None:
    """Once a round that runs is over, a stopped one begins no other, and its thread ends."""
    began, may_end = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        began.set()
        may_end.wait(TEST_SECONDS)

    polling = Polling(work, 0.001, name="test")
    polling.start()
    assert began.wait(TEST_SECONDS)
    polling.stop()
    may_end.set()
    threads[0].join(TEST_SECONDS)
    assert not threads[0].is_alive()
    assert len(threads) == 1


def test_zero_is_never() -> None:
    """With 0 seconds no thread is started."""
    polling = Polling(lambda: None, 0, name="polling that never is")
    polling.start()
    assert "polling that never is" not in {thread.name for thread in threading.enumerate()}
    polling.stop()
