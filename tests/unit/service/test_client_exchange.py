"""What a stream of the client sends, when and where, and what it gives; by a clock that the test sets."""

import re

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, status_pb2
from google.rpc.error_details_pb2 import RetryInfo

from service.client.attempts import LONGEST_PAUSE, Link, Pool
from service.client.exchange import WINDOW, Exchange, OpenCall
from service.connection import Connection
from service.errors import DeadlineExceeded, Overloaded, SaccadeError, Unavailable
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb

SECONDS = 10.0


class Bench:
    """An exchange on links that lead nowhere, and its clock.

    Args:
        links: how many.
        seconds: of each item.
        ordered: as an exchange's.
        address: of every link.
    """

    def __init__(
        self, links: int = 1, *, seconds: float = SECONDS, ordered: bool = False, address: str = "host:1"
    ) -> None:
        self.now = 0.0
        self.links = [Link(address, None) for _ in range(links)]
        self.pool = Pool(self.links)
        self.exchange = Exchange(self.pool, Connection((address,)), seconds, ordered=ordered, clock=lambda: self.now)

    def take(self, count: int) -> None:
        """Take so many items."""
        for _ in range(count):
            self.exchange.take(pb.ClassifyRequest())

    def opened(self) -> OpenCall[None]:
        """Return the call that is to be opened."""
        call = self.exchange.call_to_open()
        assert call is not None
        return call

    def sent(self) -> list[int]:
        """Return what is sent now, all that is due."""
        indices = self.exchange.due()
        assert all(self.exchange.to_send(index) for index in indices)
        return indices


def answer(index: int) -> pb.ClassifyStreamResponse:
    """Return the answer to an item."""
    return pb.ClassifyStreamResponse(id=str(index), response=pb.ClassifyResponse())


def refusal(index: int, code: int = code_pb2.UNAVAILABLE) -> pb.ClassifyStreamResponse:
    """Return the message that an item has no answer."""
    return pb.ClassifyStreamResponse(id=str(index), error=status_pb2.Status(code=code, message="not here"))


def test_no_more_is_sent_than_servers_read() -> None:
    """Of more items than a server reads at once, those beyond are sent as others are answered."""
    bench = Bench()
    bench.take(WINDOW + 10)
    call = bench.opened()
    assert bench.sent() == list(range(WINDOW))
    assert bench.sent() == []
    bench.exchange.receive(call, answer(3))
    assert bench.sent() == [WINDOW]


def test_what_expired_unanswered_takes_its_place_still() -> None:
    """What was sent and expired here counts as sent until the server says something of it."""
    bench = Bench()
    bench.take(WINDOW)
    call = bench.opened()
    bench.sent()
    bench.now = SECONDS
    bench.exchange.expire()
    bench.take(1)
    assert bench.sent() == []
    bench.exchange.receive(call, refusal(0, code_pb2.DEADLINE_EXCEEDED))
    assert bench.sent() == [WINDOW]


def test_waiting_for_room_is_not_waiting_for_nothing() -> None:
    """While a call has no room for what is due, there is nothing to do before the first deadline."""
    bench = Bench()
    bench.take(WINDOW + 1)
    bench.opened()
    bench.sent()
    assert bench.exchange.wait() == SECONDS


def test_the_time_that_is_left_is_told_when_it_is_sent() -> None:
    """What waited for its turn to be sent tells the server what is left of its time then."""
    bench = Bench()
    bench.take(1)
    bench.opened()
    [index] = bench.exchange.due()
    bench.now = 4.0
    request = bench.exchange.to_send(index)
    assert request is not None
    assert request.timeout_ms == 6000


@pytest.mark.parametrize("expires", [True, False])
def test_what_expired_is_not_sent(*, expires: bool) -> None:
    """What expired before its turn to be sent came is not sent, whether that was noted or not."""
    bench = Bench()
    bench.take(1)
    bench.opened()
    [index] = bench.exchange.due()
    bench.now = SECONDS
    if expires:
        bench.exchange.expire()
    assert bench.exchange.to_send(index) is None


def test_what_was_not_sent_takes_no_place() -> None:
    """What expired before it was sent leaves its place to others."""
    bench = Bench()
    bench.take(WINDOW)
    call = bench.opened()
    indices = bench.exchange.due()
    bench.now = SECONDS
    bench.exchange.expire()
    bench.take(1)
    assert bench.sent() == []
    bench.exchange.skipped(call, indices[-1])
    assert bench.sent() == [WINDOW]


def test_a_server_that_does_not_answer_is_left() -> None:
    """With a second link what one answers UNAVAILABLE goes out on the other at once."""
    bench = Bench(2)
    bench.take(1)
    call = bench.opened()
    bench.sent()
    assert bench.exchange.receive(call, refusal(0))
    assert bench.opened().link is not call.link
    assert bench.sent() == [0]


def test_every_record_of_a_name_is_another_server() -> None:
    """So with the only link to a name that may have several records, once it has rested."""
    bench = Bench(address="dns:///host:1")
    bench.take(1)
    call = bench.opened()
    bench.sent()
    assert bench.exchange.receive(call, refusal(0))
    bench.now += LONGEST_PAUSE
    assert bench.opened() is not call


def test_the_only_server_is_not_left() -> None:
    """With one link what is answered UNAVAILABLE goes out again on the same call, after a pause."""
    bench = Bench()
    bench.take(1)
    call = bench.opened()
    bench.sent()
    assert not bench.exchange.receive(call, refusal(0))
    assert bench.sent() == []
    bench.now += LONGEST_PAUSE
    assert bench.sent() == [0]


def test_a_refused_item_waits_as_long_as_the_server_says() -> None:
    """What is refused goes out again on the same call, not before its server said."""
    bench = Bench()
    bench.take(1)
    call = bench.opened()
    bench.sent()
    message = refusal(0, code_pb2.RESOURCE_EXHAUSTED)
    message.error.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=2)))
    bench.exchange.receive(call, message)
    assert (bench.exchange.wait(), bench.sent()) == (2.0, [])
    bench.now = 1.99
    assert bench.sent() == []
    bench.now = 2.0
    assert bench.sent() == [0]


def test_a_refused_call_waits_as_long_as_the_server_says() -> None:
    """Where a call is refused the next is opened, and what was given to it goes out, not before its server said."""
    bench = Bench()
    bench.take(1)
    call = bench.opened()
    bench.sent()
    bench.exchange.lost(call, Overloaded("full", reason="queue_full", retry_after=2.0))
    assert (bench.exchange.wait(), bench.exchange.call_to_open()) == (2.0, None)
    bench.now = 1.99
    assert bench.exchange.call_to_open() is None
    bench.now = 2.0
    bench.opened()
    assert bench.sent() == [0]


def left_with_one_unanswered() -> tuple[Bench, OpenCall[None]]:
    """Return a bench of two links, and its call that was left for a refusal of item 0 while item 1 was under way."""
    bench = Bench(2)
    bench.take(2)
    call = bench.opened()
    bench.sent()
    bench.exchange.receive(call, refusal(0))
    return bench, call


def test_a_call_that_was_left_may_answer_still() -> None:
    """What was sent on a call before it was left is not sent elsewhere, and may be answered on it."""
    bench, call = left_with_one_unanswered()
    bench.opened()
    assert bench.sent() == [0]
    bench.exchange.receive(call, answer(1))
    given = bench.exchange.give()
    assert given is not None
    assert given.index == 1


def test_what_a_call_that_was_left_does_not_answer() -> None:
    """What a call that was left has not answered when it ends goes out on the one that is open."""
    bench, call = left_with_one_unanswered()
    bench.opened()
    bench.sent()
    bench.exchange.lost(call, None)
    assert bench.sent() == [1]


def test_what_waits_for_a_call_that_was_left() -> None:
    """What was given to a call and not sent on it before it was left goes out on the next."""
    bench, call = left_with_one_unanswered()
    bench.exchange.skipped(call, 1)
    bench.opened()
    assert bench.sent() == [0, 1]


def test_an_item_without_an_answer_is_no_sign_that_a_link_works() -> None:
    """A link that has failed is not taken for well because its server says UNAVAILABLE of an item."""
    bench = Bench(2)
    bench.take(1)
    bench.exchange.lost(bench.opened(), Unavailable("gone"))
    call = bench.opened()
    bench.sent()
    bench.exchange.receive(call, refusal(0))
    assert [link.failures for link in bench.links] == [1, 1]


def test_no_server_answers() -> None:
    """Where every link answers UNAVAILABLE the first rests before it is tried again."""
    bench = Bench(2)
    bench.take(1)
    for _ in bench.links:
        call = bench.opened()
        bench.sent()
        bench.exchange.receive(call, refusal(0))
    assert bench.exchange.call_to_open() is None
    wait = bench.exchange.wait()
    assert wait
    bench.now += wait
    assert bench.opened()


def test_what_was_answered_before_a_failure() -> None:
    """Of an ordered stream that has failed all that was answered is given, in order, though some is missing."""
    bench = Bench(ordered=True)
    bench.take(4)
    call = bench.opened()
    bench.sent()
    for index in (3, 1, 0):
        bench.exchange.receive(call, answer(index))
    assert [item.index for item in bench.exchange.rest()] == [0, 1, 3]


def expired(bench: Bench) -> SaccadeError:
    """Return why the only item expires."""
    bench.now = SECONDS
    bench.exchange.expire()
    given = bench.exchange.give()
    assert given is not None
    assert given.error is not None
    return given.error


def test_why_nobody_answered() -> None:
    """What could not be sent anew before its time passed, since no call is to be had, fails with the reason of that."""
    bench = Bench()
    bench.take(1)
    bench.exchange.lost(bench.opened(), Unavailable("nobody there"))
    error = expired(bench)
    assert isinstance(error, Unavailable)
    assert str(error) == "nobody there"


@pytest.mark.parametrize("ends", [True, False])
def test_what_failed_before_there_was_no_answer(*, ends: bool) -> None:
    """What was sent again and is not answered fails with its deadline and the failure before, its call's or its own."""
    bench = Bench()
    bench.take(1)
    call = bench.opened()
    bench.sent()
    if ends:
        bench.exchange.lost(call, Unavailable("not here"))
    else:
        bench.exchange.receive(call, refusal(0))
    bench.now = LONGEST_PAUSE
    bench.exchange.call_to_open()
    assert bench.sent() == [0]
    error = expired(bench)
    assert isinstance(error, DeadlineExceeded)
    assert re.fullmatch("no answer within 10 s; before that .*not here", str(error))


def test_a_last_attempt_that_had_hardly_a_chance() -> None:
    """What was sent again just before its deadline fails with the failure before."""
    bench = Bench()
    bench.take(1)
    call = bench.opened()
    bench.sent()
    bench.now = SECONDS - LONGEST_PAUSE / 2
    bench.exchange.receive(call, refusal(0))
    bench.now = SECONDS - LONGEST_PAUSE / 4
    assert bench.sent() == [0]
    assert isinstance(expired(bench), Unavailable)


def test_a_failure_that_is_over() -> None:
    """A call that failed is no reason for what was taken since another one is answered."""
    bench = Bench()
    bench.take(1)
    bench.exchange.lost(bench.opened(), Unavailable("nobody there"))
    bench.now = LONGEST_PAUSE
    call = bench.opened()
    bench.sent()
    bench.exchange.receive(call, answer(0))
    bench.exchange.give()
    bench.take(1)
    bench.sent()
    bench.now += SECONDS
    bench.exchange.expire()
    given = bench.exchange.give()
    assert given is not None
    assert str(given.error) == "no answer within 10 s"
