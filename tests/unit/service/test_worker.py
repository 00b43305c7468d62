"""What a worker asks the others by way of its supervisor, when the supervisor is gone or does not answer."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection, Pipe

import pytest

from service.control import Ask, Replies
from service.errors import Unavailable
from service.worker import Colleagues
from tests.fakes import WAIT

Call = Callable[[Colleagues], object]
CALLS: list[Call] = [
    lambda colleagues: colleagues.counts([("linear", 1)]),
    lambda colleagues: colleagues.change("load", "linear"),
]


@pytest.fixture
def pipe() -> Iterator[tuple[Connection, Connection]]:
    """Return the ends of a pipe, the supervisor's first."""
    here, there = Pipe()
    yield here, there
    here.close()
    there.close()


def called(call: Call, colleagues: Colleagues) -> Future[object]:
    """Return what a call will come to, in a thread that keeps nobody from ending."""
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(call(colleagues))
        except Unavailable as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


@pytest.mark.parametrize("call", CALLS, ids=["counts", "change"])
def test_asked_before_the_supervisor_went(pipe: tuple[Connection, Connection], call: Call) -> None:
    """Who waits for an answer when the supervisor goes hears that it is gone."""
    supervisor, worker = pipe
    colleagues = Colleagues(worker, 0)
    outcome = called(call, colleagues)
    assert supervisor.poll(WAIT)
    assert isinstance(supervisor.recv(), Ask)
    supervisor.close()
    colleagues.gone()
    with pytest.raises(Unavailable, match="supervisor"):
        outcome.result(WAIT)


@pytest.mark.parametrize("call", CALLS, ids=["counts", "change"])
def test_asked_after_the_supervisor_went(pipe: tuple[Connection, Connection], call: Call) -> None:
    """Who asks when the supervisor is gone already hears so too, instead of waiting for ever."""
    supervisor, worker = pipe
    colleagues = Colleagues(worker, 0)
    supervisor.close()
    colleagues.gone()
    with pytest.raises(Unavailable, match="supervisor"):
        called(call, colleagues).result(WAIT)


def test_counts_that_never_come(pipe: tuple[Connection, Connection]) -> None:
    """Who asks what the others counted is told in time that one of them does not say it."""
    colleagues = Colleagues(pipe[1], 0, patience=0.01)
    with pytest.raises(Unavailable, match=r"not every worker said within 0\.01 s what it counted"):
        called(CALLS[0], colleagues).result(WAIT)


def test_counts_that_come_too_late(pipe: tuple[Connection, Connection]) -> None:
    """An answer for which nobody waits any more is let go, and the next one is taken."""
    supervisor, worker = pipe
    colleagues = Colleagues(worker, 0, patience=0.0)
    with pytest.raises(Unavailable):
        colleagues.counts([("linear", 1)])
    colleagues.answered(Replies(supervisor.recv().number, {}))
    outcome = called(CALLS[1], colleagues)
    assert supervisor.poll(WAIT)
    colleagues.answered(Replies(supervisor.recv().number, {}))
    assert outcome.result(WAIT) is None


def test_counts_are_not_asked_for_twice(pipe: tuple[Connection, Connection]) -> None:
    """While an answer is late nobody asks again, which would fill the pipe of one that hangs; after it one does."""
    supervisor, worker = pipe
    colleagues = Colleagues(worker, 0, patience=0.0)
    for _ in range(3):
        with pytest.raises(Unavailable, match="what it counted"):
            colleagues.counts([("linear", 1)])
    asked = supervisor.recv()
    assert not supervisor.poll()
    colleagues.answered(Replies(asked.number, {}))
    with pytest.raises(Unavailable):
        colleagues.counts([("linear", 1)])
    assert isinstance(supervisor.recv(), Ask)
