"""Calls over a wire that is a fake: what is refused, what is answered, what is counted, in which order ever."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from service.errors import InvalidInput, Unavailable
from service.metrics import Metrics
from service.rpc import parts
from service.rpc.calls import Call, Calls, Handler, Make, UnaryCall
from service.rpc.deadlines import Deadlines, Entry
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.rpc.statuses import PUSHBACK
from tests.fake_wire import FakeWire
from tests.fakes import WAIT

CODE = grpc.StatusCode
REQUEST = pb.ClassifyRequest(id="mine").SerializeToString()


def own_deadline(call: Call) -> None:
    """Let the request give itself an hour."""
    call.deadline = time.monotonic() + 3600


class HeldDeadlines(Deadlines):
    """Deadlines that pass when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Callable[[], None]] = []
        self.on_watch: Callable[[], None] = lambda: None

    def at(self, deadline: float, callback: Callable[[], None]) -> Entry:
        """Keep it."""
        self.on_watch()
        self.kept.append(callback)
        self._heap.append((deadline, len(self.kept), entry := Entry(self, callback)))
        return entry


class Broken(Metrics):
    """Metrics that can count no call."""

    def call(self, *_: object) -> None:
        """Fail as a full disk does."""
        raise OSError(28, "No space left on device")


class Method:
    """A method whose calls the test answers; and the calls that it begins."""

    def __init__(
        self,
        limit: int = 10,
        *,
        deadlines: Deadlines | None = None,
        idle: float = 3600.0,
        metrics: Metrics | None = None,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.deadlines = deadlines or Deadlines()
        self.calls = Calls(limit, self.metrics, self.deadlines, idle=idle)
        self.on_begin: Callable[[UnaryCall], None] = lambda _: None
        self.begun: list[tuple[pb.ClassifyRequest, UnaryCall]] = []
        self.left: list[Call] = []
        self._handler = self.calls.unary(self._begin, pb.ClassifyRequest, "Classify")

    def _begin(self, request: pb.ClassifyRequest, call: Call, _: Callable[[Make], None]) -> Callable[[], None]:
        assert isinstance(call, UnaryCall)
        self.begun.append((request, call))
        self.on_begin(call)
        return lambda: self.left.append(call)

    def arrive(self, wire: FakeWire, handler: "Handler | None" = None) -> FakeWire:
        """Hand a call over as gRPC does."""
        wire.arrive(handler or self._handler)
        return wire

    @property
    def watched(self) -> int:
        """How many requests are kept for a deadline of their own."""
        return sum(entry.callback not in (None, self.calls._sweep) for _, _, entry in self.deadlines._heap)

    def begin(self, wire: FakeWire | None = None) -> tuple[FakeWire, UnaryCall]:
        """Let a call arrive with its message."""
        wire = self.arrive(wire or FakeWire())
        wire.say(REQUEST)
        return wire, self.begun[-1][1]

    def counted(self, code: str, model: str = "") -> float | None:
        """Return how many calls of that status were counted."""
        labels = {"model": model, "method": "Classify", "code": code}
        return self.metrics.registry.get_sample_value("saccade_requests_total", labels)


def test_a_call_is_answered() -> None:
    """The message reaches the method parsed; the answer leaves as bytes, and is counted under its model."""
    method = Method()
    wire, call = method.begin()
    assert method.begun[0][0].id == "mine"
    call.model = "linear"
    call.answer(lambda: pb.ClassifyResponse(id="yours"))
    assert wire.ends == [(pb.ClassifyResponse(id="yours").SerializeToString(), None)]
    assert method.counted("OK", "linear") == 1


def test_what_a_call_puts_off() -> None:
    """A call has its work looked at later on gRPC's own thread, by its own RPC."""
    wire, call = Method().begin()
    look = list[int]().clear
    assert call.later(look)
    assert wire.put_off == [look]


def test_the_first_answer_counts() -> None:
    """A second answer, and a failure after an answer, are nothing."""
    method = Method()
    wire, call = method.begin()
    call.answer(pb.ClassifyResponse)
    call.answer(pb.ClassifyResponse)
    call.fail(InvalidInput("images", "are late"))
    assert len(wire.ends) == 1


def test_what_raises_is_a_status() -> None:
    """What makes the answer, and the method itself, may raise: the table says what the caller gets."""
    method = Method()
    wire, call = method.begin()

    def make() -> pb.ClassifyResponse:
        raise InvalidInput("images", "is empty")

    call.answer(make)
    assert wire.code is CODE.INVALID_ARGUMENT

    def begin(_: pb.ClassifyRequest, __: Call, ___: Callable[[Make], None]) -> Callable[[], None]:
        raise ZeroDivisionError

    wire = method.arrive(FakeWire(), method.calls.unary(begin, pb.ClassifyRequest, "Classify"))
    wire.say(REQUEST)
    assert wire.code is CODE.INTERNAL


def test_a_reason_that_is_no_utf_8() -> None:
    """A failure whose text holds a byte of a file's name that is no UTF-8 is answered with it escaped, and counted."""
    method = Method()

    def begin(_: pb.ClassifyRequest, __: Call, ___: Callable[[Make], None]) -> Callable[[], None]:
        raise Unavailable("version 1 failed: \udcff is a pipe")

    wire = method.arrive(FakeWire(), method.calls.unary(begin, pb.ClassifyRequest, "Classify"))
    wire.say(REQUEST)
    [(_, status)] = wire.ends
    assert status is not None
    assert (status.code, status.details) == (CODE.UNAVAILABLE, "version 1 failed: \\udcff is a pipe")
    assert method.counted("UNAVAILABLE") == 1


def test_what_cannot_be_counted() -> None:
    """A call that cannot be counted is INTERNAL, and not left without an answer."""
    method = Method(metrics=Broken())
    wire, call = method.begin()
    call.answer(pb.ClassifyResponse)
    assert wire.code is CODE.INTERNAL


def test_no_thread_to_be_had() -> None:
    """A call that comes when no thread can be had to watch calls is INTERNAL; from the next one on they are."""
    deadlines = HeldDeadlines()
    method = Method(deadlines=deadlines)

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    deadlines.on_watch = fail
    wire = method.arrive(FakeWire())
    wire.say(REQUEST)
    assert (wire.code, deadlines.kept) == (CODE.INTERNAL, [])
    deadlines.on_watch = lambda: None
    method.begin()
    assert deadlines.kept == [method.calls._sweep]


@pytest.mark.parametrize("raw", [b"no message", None])
def test_no_message(raw: bytes | None) -> None:
    """Bytes that are no message, or none at all, are INVALID_ARGUMENT, and the method never hears of them."""
    method = Method()
    wire = method.arrive(FakeWire())
    wire.say(raw)
    assert (wire.code, method.begun) == (CODE.INVALID_ARGUMENT, [])


class Model:
    """A model that would take so many seconds."""

    def __init__(self, least_wait: float) -> None:
        self.least_wait = least_wait


@pytest.mark.parametrize(
    ("waits", "left", "refused"),
    [([5.0], 1.0, True), ([5.0, 9.0], 1.0, True), ([0.1], 1.0, False), ([5.0, 0.1], 1.0, False), ([], 1.0, False)],
)
def test_a_deadline_that_no_model_meets(waits: list[float], left: float, *, refused: bool) -> None:
    """A call that every model would answer too late is refused before its message is read, and told not to retry."""
    method = Method()
    method.calls.answerers = [Model(wait) for wait in waits]
    wire = method.arrive(FakeWire(time.monotonic() + left))
    assert (wire.on_message is None) is refused
    if refused:
        [(_, status)] = wire.ends
        assert status is not None
        assert (status.code, status.details) == (
            CODE.RESOURCE_EXHAUSTED,
            "an answer would take 5000 ms or more; the deadline is sooner",
        )
        assert (PUSHBACK, "-1") in status.trailing_metadata
        labels = {"model": "", "reason": "deadline"}
        assert method.metrics.registry.get_sample_value("saccade_refused_total", labels) == 1


def test_no_deadline_is_always_met() -> None:
    """A call without a deadline waits for a model however long it takes."""
    method = Method()
    method.calls.answerers = [Model(1e6)]
    assert method.arrive(FakeWire()).on_message is not None


def test_too_many() -> None:
    """Beyond the limit calls are refused, without their message being asked for, until one of the others is over."""
    method = Method(limit=2)
    first, second, third = method.begin()[0], method.begin()[0], method.arrive(FakeWire())
    assert (third.code, third.on_message) == (CODE.RESOURCE_EXHAUSTED, None)
    method.begun[0][1].answer(pb.ClassifyResponse)
    fourth = method.arrive(FakeWire())
    assert fourth.code is CODE.RESOURCE_EXHAUSTED
    first.finish()
    assert method.begin()[0].ends == second.ends == []


def test_limit_is_looked_at_again() -> None:
    """A call that arrived below the limit is refused if its message comes beyond it."""
    method = Method(limit=1)
    late = method.arrive(FakeWire())
    method.begin()
    late.say(REQUEST)
    assert late.code is CODE.RESOURCE_EXHAUSTED


def test_arrivals_without_a_message_do_not_count() -> None:
    """However many callers keep their message back, others are taken."""
    method = Method(limit=1)
    for _ in range(5):
        method.arrive(FakeWire())
    assert method.begin()[0].ends == []


def test_closed() -> None:
    """After `close` a call is UNAVAILABLE, also one whose message comes only now."""
    method = Method()
    waiting = method.arrive(FakeWire())
    method.calls.close()
    waiting.say(REQUEST)
    assert (waiting.code, method.arrive(FakeWire()).code) == (CODE.UNAVAILABLE, CODE.UNAVAILABLE)


def test_a_caller_who_leaves() -> None:
    """A call that is over before it was answered gives up its work once, and counts as CANCELLED."""
    method = Method()
    wire, call = method.begin()
    wire.finish()
    call.answer(pb.ClassifyResponse)
    assert (method.left, wire.ends, method.counted("CANCELLED")) == ([call], [], 1)


def test_an_answered_caller_does_not_leave() -> None:
    """The end of an answered call gives up nothing."""
    method = Method()
    wire, call = method.begin()
    call.answer(pb.ClassifyResponse)
    wire.finish()
    assert (method.left, method.counted("OK"), method.counted("CANCELLED")) == ([], 1, None)


def test_no_answer_after_the_deadline() -> None:
    """What is ready only after the deadline is DEADLINE_EXCEEDED, and is not even made."""
    method = Method()
    wire, call = method.begin(FakeWire(deadline=0.0))
    call.answer(lambda: pytest.fail("the answer was made"))
    assert wire.code is CODE.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("idle", "answered", "cancelled"), [(0.0, True, True), (3600.0, True, False), (0.0, False, False)]
)
def test_an_answer_that_nobody_takes(idle: float, *, answered: bool, cancelled: bool) -> None:
    """A call is cancelled whose answer was not taken for so long; one that waits for its answer is not."""
    deadlines = HeldDeadlines()
    method = Method(deadlines=deadlines, idle=idle)
    wire, call = method.begin()
    if answered:
        call.answer(pb.ClassifyResponse)
    deadlines.kept[0]()
    assert wire.is_cancelled is cancelled


def test_an_answer_that_is_taken_late() -> None:
    """A call whose answer was taken in the end is not cancelled."""
    deadlines = HeldDeadlines()
    method = Method(deadlines=deadlines, idle=0.0)
    wire, call = method.begin()
    call.answer(pb.ClassifyResponse)
    wire.finish()
    deadlines.kept[0]()
    assert not wire.is_cancelled


def test_no_more_is_looked_for_answers_that_nobody_takes() -> None:
    """After `close`, when gRPC ends what there is, nothing is looked at again."""
    deadlines = HeldDeadlines()
    method = Method(deadlines=deadlines)
    method.begin()
    method.calls.close()
    deadlines.kept[0]()
    assert len(deadlines.kept) == 1


def test_a_deadline_of_its_own_is_watched() -> None:
    """A request that gives itself a deadline is kept for it until it is answered."""
    method = Method()
    method.on_begin = own_deadline
    _, call = method.begin()
    before = method.watched
    call.answer(pb.ClassifyResponse)
    assert (before, method.watched) == (1, 0)


def test_a_deadline_of_its_own_answered_at_once() -> None:
    """A request that is answered while it is begun is not kept for its own deadline."""
    method = Method()

    def begin(call: UnaryCall) -> None:
        own_deadline(call)
        call.answer(pb.ClassifyResponse)

    method.on_begin = begin
    method.begin()
    assert method.watched == 0


def test_a_deadline_of_its_own_answered_by_another_thread() -> None:
    """A request that is answered just as its own deadline begins to be watched is not kept for it."""
    deadlines = HeldDeadlines()
    method = Method(deadlines=deadlines)

    def begin(call: UnaryCall) -> None:
        own_deadline(call)
        deadlines.on_watch = lambda: call.answer(pb.ClassifyResponse)

    method.on_begin = begin
    method.begin()
    assert (method.watched, method.counted("OK")) == (0, 1)


def test_a_deadline_of_its_own_of_who_left() -> None:
    """A request whose caller left is not kept for its own deadline."""
    method = Method()
    method.on_begin = own_deadline
    method.begin()[0].finish()
    assert method.watched == 0


def test_a_call_that_ended_as_its_message_came() -> None:
    """A call that gRPC is done with already is not begun."""
    method = Method()
    wire = method.arrive(FakeWire())
    wire.is_over = True
    wire.say(REQUEST)
    assert (method.begun, wire.ends, method.counted("CANCELLED")) == ([], [], 1)


@pytest.mark.parametrize(("deadline", "code"), [(None, "CANCELLED"), (0.0, "DEADLINE_EXCEEDED")])
@pytest.mark.parametrize("is_over", [False, True])
def test_a_caller_who_leaves_before_its_message(deadline: float | None, code: str, *, is_over: bool) -> None:
    """A call that ends before its message is there counts once, as CANCELLED or by its deadline."""
    method, wire = Method(), FakeWire(deadline)
    method.arrive(wire)
    wire.left, wire.is_over = True, is_over
    wire.say(None)
    if not is_over:
        wire.finish()
    assert {each.name: method.counted(each.name) for each in CODE if method.counted(each.name)} == {code: 1}


def test_no_message_is_counted() -> None:
    """A call whose caller sends no message and waits counts as what it is answered."""
    method = Method()
    wire = method.arrive(FakeWire())
    wire.say(None)
    wire.finish()
    assert method.counted("INVALID_ARGUMENT") == 1


@pytest.mark.parametrize(("gap", "alone"), [(10.0, True), (0.0, False)])
def test_alone(gap: float, *, alone: bool) -> None:
    """A call is alone if none is under way and the last one was a while ago."""
    method = Method()
    first, call = method.begin()
    call.answer(pb.ClassifyResponse)
    first.finish()
    assert method.begin(FakeWire(arrived=method.calls._last + gap))[1].alone is alone
    assert not method.begin()[1].alone


def test_idle_is_when_gRPC_is_done() -> None:  # noqa: N802 - its name
    """`wait_idle` waits for gRPC to be done with the last call, not for its answer only."""
    method = Method()
    wire, call = method.begin()
    method.calls.close()
    call.answer(pb.ClassifyResponse)
    assert not method.calls.wait_idle(0)
    with ThreadPoolExecutor(1) as waiter:
        idle = waiter.submit(method.calls.wait_idle, WAIT)
        wire.finish()
        assert idle.result(WAIT)


def test_blocking() -> None:
    """A blocking method runs on its pool, is refused only while draining, and is answered with what it returns."""
    method = Method(limit=0)
    with ThreadPoolExecutor(1) as pool:
        handler = method.calls.blocking(
            lambda request, _: pb.ClassifyResponse(id=request.id), pb.ClassifyRequest, "Lists", pool
        )
        wire = method.arrive(FakeWire(), handler)
        wire.say(REQUEST)
    assert wire.ends == [(pb.ClassifyResponse(id="mine").SerializeToString(), None)]
    method.calls.close()
    assert method.arrive(FakeWire(), handler).code is CODE.UNAVAILABLE


def test_blocking_work_for_nobody() -> None:
    """A blocking method whose caller left before its turn came is never run."""
    asked: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        held = threading.Event()
        pool.submit(held.wait, WAIT)
        method = Method()

        def answer(request: pb.ClassifyRequest, _: Call) -> pb.ClassifyResponse:
            asked.append(request.id)
            return pb.ClassifyResponse()

        handler = method.calls.blocking(answer, pb.ClassifyRequest, "ListModels", pool)
        wires = [FakeWire(), FakeWire()]
        for wire in wires:
            method.arrive(wire, handler)
            wire.say(REQUEST)
        wires[0].finish()
        held.set()
    assert asked == ["mine"]


class Blocking:
    """A call of a blocking method whose work has begun, and goes on until the test lets it."""

    def __init__(self) -> None:
        self.method = Method()
        self.works, self.go = threading.Event(), threading.Event()
        self.pool = ThreadPoolExecutor(1)
        handler = self.method.calls.blocking(self._answer, pb.ClassifyRequest, "Classify", self.pool)
        self.wire = self.method.arrive(FakeWire(), handler)
        self.wire.say(REQUEST)
        assert self.works.wait(WAIT)

    def _answer(self, _: pb.ClassifyRequest, __: Call) -> pb.ClassifyResponse:
        self.works.set()
        assert self.go.wait(WAIT)
        return pb.ClassifyResponse()

    def end(self) -> None:
        """Let the work end."""
        self.go.set()
        self.pool.shutdown()


def test_blocking_work_is_timed() -> None:
    """What a blocking method does is in the seconds of its call."""
    blocking = Blocking()
    began = time.monotonic()
    threading.Event().wait(0.02)  # of work
    worked = time.monotonic() - began
    blocking.end()
    labels = {"model": "", "method": "Classify"}
    seconds = blocking.method.metrics.registry.get_sample_value("saccade_request_seconds_sum", labels)
    assert seconds is not None
    assert seconds >= worked


def test_blocking_caller_leaves_amid_the_work() -> None:
    """A blocking call whose caller leaves while its work is done counts as CANCELLED, once."""
    blocking = Blocking()
    blocking.wire.finish()
    blocking.end()
    method = blocking.method
    assert (blocking.wire.ends, method.counted("CANCELLED"), method.counted("OK")) == ([], 1, None)


def test_blocking_work_after_the_deadline() -> None:
    """A blocking method whose turn comes after the deadline is not run."""
    method = Method()
    with ThreadPoolExecutor(1) as pool:
        handler = method.calls.blocking(lambda *_: pytest.fail("it was run"), pb.ClassifyRequest, "ListModels", pool)
        wire = method.arrive(FakeWire(deadline=0.0), handler)
        wire.say(REQUEST)
    assert wire.code is CODE.DEADLINE_EXCEEDED


def test_blocking_work_that_raises() -> None:
    """What a blocking method raises is the status of its call."""
    method = Method()

    def answer(*_: object) -> pb.ClassifyResponse:
        raise InvalidInput("model", "is none")

    with ThreadPoolExecutor(1) as pool:
        wire = method.arrive(FakeWire(), method.calls.blocking(answer, pb.ClassifyRequest, "ListModels", pool))
        wire.say(REQUEST)
    assert wire.code is CODE.INVALID_ARGUMENT


def test_too_many_fields() -> None:
    """A message of more fields than any needs is refused before it is parsed."""
    method, wire = Method(), FakeWire()
    method.arrive(wire)
    wire.say(b"\x1a\x00" * (parts.MOST + 1))
    assert wire.code is CODE.INVALID_ARGUMENT
    assert not method.begun
