import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from service import decoder as module
from service.decoder import Decoder, Work
from tests.fakes import WAIT

SMALL, LARGE = 100, 1000  # bytes of two size classes

Decode = Callable[[int], int]
MakeDecoder = Callable[..., Decoder]


class Told:
    """What is told when the pictures of a request are done."""

    def __init__(self) -> None:
        self.times, self._work = 0, Future[Work[int]]()

    def __call__(self, work: Work[int]) -> None:
        """Take note."""
        self.times += 1
        if self.times == 1:
            self._work.set_result(work)

    def work(self) -> Work[int]:
        """Return the pictures."""
        return self._work.result(WAIT)


class Held:
    """Decoding that waits until the test lets it go on."""

    def __init__(self) -> None:
        self.began, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, number: int) -> int:
        """Say that it began, wait, decode."""
        self.began.release()
        assert self.go.wait(WAIT), "the test never let it go on"
        return number

    def wait(self) -> None:
        """Return when another one has begun."""
        assert self.began.acquire(timeout=WAIT), "none began"


@pytest.fixture
def make() -> Iterator[MakeDecoder]:
    """Return what makes a decoder of so many threads; all are closed in the end."""
    decoders = []

    def make_one(threads: int, clock: Callable[[], float] = time.monotonic) -> Decoder:
        decoders.append(Decoder(threads, clock=clock))
        return decoders[-1]

    yield make_one
    for each in decoders:
        each.close()


@pytest.fixture
def held() -> Iterator[Held]:
    """Return decoding that is held until the test lets it go on, at the latest in its end."""
    held = Held()
    yield held
    held.go.set()


def submit(decoder: Decoder, decode: Decode, count: int = 1, size: int = SMALL) -> Told:
    """Hand in one request of pictures of one size."""
    told = Told()
    decoder.submit([size] * count, decode, told)
    return told


def learned(decoder: Decoder, size: int = SMALL) -> float:
    """Let the decoder learn what a picture of a size takes; return it."""
    submit(decoder, lambda number: number, size=size).work()
    return decoder.predict([size])


def nothing_ahead(decoder: Decoder) -> None:
    """Return when nothing is predicted to be ahead, but for what adding and taking away leaves of floats."""
    late = time.monotonic() + WAIT  # who is not the last of its request may take its time off after that was told
    while not 0 <= decoder.predict([1 << 40]) < 1e-12:
        assert time.monotonic() < late, "something stays ahead"
        time.sleep(0.001)


def settled(decoder: Decoder, threads: int) -> None:
    """Return when the threads have nothing to do."""
    together = threading.Barrier(threads + 1)
    for _ in range(threads):
        submit(decoder, lambda number: together.wait(WAIT) * 0)
    together.wait(WAIT)


@pytest.mark.parametrize("threads", [1, 4])
def test_results_in_order(make: MakeDecoder, threads: int) -> None:
    """The decoded pictures of a request are given in its order, whichever thread had them."""
    told = [submit(make(threads), lambda number, times=times: number * times, 50) for times in (1, 2, 3)]  # type: ignore[misc]
    assert [each.work().results() for each in told] == [[*range(50)], [*range(0, 100, 2)], [*range(0, 150, 3)]]


def test_results_in_order_of_the_last_first(make: MakeDecoder, held: Held) -> None:
    """The order is the request's also where the first picture is decoded last."""
    told = submit(make(2), lambda number: number or held(number), 5)
    held.wait()
    held.go.set()
    assert told.work().results() == [0, 1, 2, 3, 4]


def test_side_by_side(make: MakeDecoder) -> None:
    """As many pictures as there are threads are decoded at the same time, of one request or of several."""
    decoder, together = make(3), threading.Barrier(3)

    def meet(_: int) -> int:
        together.wait(WAIT)
        return threading.get_ident()

    assert len(set(submit(decoder, meet, 3).work().results())) == 3
    apart = [submit(decoder, meet) for _ in range(3)]
    assert len({each.work().results()[0] for each in apart}) == 3


def test_no_more_threads(make: MakeDecoder, held: Held) -> None:
    """No more pictures are decoded at once than there are threads."""
    told = submit(make(2), held, 3)
    held.wait()
    held.wait()
    assert not held.began.acquire(timeout=0.05)
    held.go.set()
    assert told.work().results() == [0, 1, 2]


def test_initializer() -> None:
    """Each thread calls the initializer before it decodes."""
    ready = set[int]()
    decoder = Decoder(2, initializer=lambda: ready.add(threading.get_ident()))
    idents = submit(decoder, lambda _: threading.get_ident(), 20).work().results()
    decoder.close()
    assert set(idents) <= ready


def test_failure_is_raised(make: MakeDecoder) -> None:
    """What the decoding of a picture raised is raised where the results are asked for, each time."""
    work = submit(make(1), lambda number: number // 0).work()
    assert work.failed
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            work.results()


def test_first_failure_wins(make: MakeDecoder) -> None:
    """Of several failures that of the first picture is raised, not that which came first."""
    late, began = threading.Event(), threading.Barrier(2)

    def decode(number: int) -> int:
        began.wait(WAIT)
        if number == 0:
            assert late.wait(WAIT)
        else:
            late.set()
        raise ValueError(f"picture {number}")

    with pytest.raises(ValueError, match="picture 0"):
        submit(make(2), decode, 2).work().results()


def test_failure_ends_the_request(make: MakeDecoder) -> None:
    """Pictures that follow a failed one are not decoded; those of another request are."""
    decoder, tried = make(1), []

    def decode(number: int) -> int:
        tried.append(number)
        return 6 // (2 - number)

    told, other = submit(decoder, decode, 5), submit(decoder, lambda number: number, 3)
    assert told.work().failed
    assert other.work().results() == [0, 1, 2]
    assert tried == [0, 1, 2]


@pytest.mark.parametrize("fails", [False, True])
def test_told_once(make: MakeDecoder, *, fails: bool) -> None:
    """A request is told once, when its last picture is done, whether or not pictures failed."""
    decoder, done = make(4), []

    def decode(number: int) -> int:
        done.append(number)
        return number // (not fails)

    for _ in range(50):
        done.clear()
        told = submit(decoder, decode, 8)
        told.work()
        assert fails or sorted(done) == [*range(8)]
        settled(decoder, 4)
        assert told.times == 1


def test_caller_that_raises(make: MakeDecoder) -> None:
    """Who raises when it is told harms nobody: the threads go on."""
    decoder = make(1)
    decoder.submit([SMALL], lambda number: number, lambda work: [][len(work.results())])
    assert submit(decoder, lambda number: number).work().results() == [0]


def test_unknown_sizes_count_nothing(make: MakeDecoder) -> None:
    """A size that was never seen is predicted to take no time, also while others of it are decoded."""
    decoder = make(2)
    assert decoder.predict([SMALL, LARGE]) == 0
    learned(decoder, SMALL)
    assert decoder.predict([LARGE] * 3) == 0


@pytest.mark.parametrize(("count", "share"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 4 / 3), (6, 2)])
def test_prediction_shares_threads(make: MakeDecoder, count: int, share: float) -> None:
    """The pictures of a request are predicted to share the threads, no more of them than there are pictures."""
    decoder = make(3)
    known = learned(decoder)
    assert decoder.predict([SMALL] * count) == pytest.approx(share * known)


def test_prediction_by_size_class(make: MakeDecoder) -> None:
    """Pictures of as many bits of bytes are predicted alike, by what such a picture took and no other."""
    now = [0.0]
    decoder = make(1, lambda: now[0])

    def take(seconds: float) -> Decode:
        def decode(number: int) -> int:
            now[0] += seconds
            return number

        return decode

    submit(decoder, take(1.0), size=64).work()
    submit(decoder, take(2.0), size=128).work()
    assert [decoder.predict([size]) for size in (63, 64, 127, 128, 255, 256)] == [0, 1, 1, 2, 2, 0]
    assert decoder.predict([64, 128, 256]) == 3


def test_learning(make: MakeDecoder) -> None:
    """A size class takes what its first picture took, moved by a tenth of the difference by each later one."""
    now, seconds = [0.0], iter([2.0, 12.0, 3.0])
    decoder = make(1, lambda: now[0])

    def decode(number: int) -> int:
        now[0] += next(seconds)
        return number

    predicted = []
    for _ in range(3):
        submit(decoder, decode).work()
        predicted.append(decoder.predict([SMALL]))
    assert predicted == pytest.approx([2.0, 3.0, 3.0])


def test_forgetting(make: MakeDecoder) -> None:
    """A size class of which none came for five seconds counts nothing: one slow picture refuses no others for good."""
    now = [0.0]
    decoder = make(1, lambda: now[0])

    def decode(number: int) -> int:
        now[0] += 2.0
        return number

    submit(decoder, decode).work()
    now[0] += 4.9
    assert decoder.predict([SMALL]) == 2
    now[0] += 0.1
    assert decoder.predict([SMALL]) == 0


def test_one_of_many_first_ones(make: MakeDecoder) -> None:
    """Of pictures that were handed in together, the first of their class, a slow one weighs a tenth."""
    now, seconds = [0.0], iter([1.0, 1.0, 2.0])
    decoder = make(1, lambda: now[0])

    def decode(number: int) -> int:
        now[0] += next(seconds)
        return number

    submit(decoder, decode, 3).work()
    assert decoder.predict([SMALL]) == pytest.approx(1.1)


def test_failures_teach_nothing(make: MakeDecoder) -> None:
    """A picture that failed says nothing about the time that others take."""
    decoder = make(1)
    submit(decoder, lambda number: number // 0, size=LARGE).work()
    assert decoder.predict([LARGE]) == 0
    known = learned(decoder)
    submit(decoder, lambda number: number // 0).work()
    assert decoder.predict([SMALL]) == known


def test_prediction_counts_what_is_ahead(make: MakeDecoder, held: Held) -> None:
    """What was handed in and is not done counts, shared by all threads, and counts no more when it is done."""
    decoder = make(2)
    known = learned(decoder)
    told = submit(decoder, held, 3)
    assert decoder.predict([LARGE]) == pytest.approx(3 * known / 2)
    assert decoder.predict([SMALL]) == pytest.approx(3 * known / 2 + known)
    held.go.set()
    told.work()
    nothing_ahead(decoder)


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_failed_request_is_ahead_no_more(make: MakeDecoder, bad: int) -> None:
    """A request of which a picture failed counts no more when it is done, that which was not decoded included."""
    decoder = make(1)
    known = learned(decoder)
    assert submit(decoder, lambda number: 1 // (number - bad), 3).work().failed
    nothing_ahead(decoder)
    assert known > 0


def test_nothing_stays_ahead(make: MakeDecoder) -> None:
    """However many pictures of changing cost come and go, nothing of them stays ahead, and never less than nothing."""
    decoder = make(4)
    told = [submit(decoder, lambda number: number, 7, size=1 << number % 12) for number in range(300)]
    for each in told:
        each.work()
    nothing_ahead(decoder)


def test_seconds_since_the_first(make: MakeDecoder, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seconds of a request are counted from its first picture's begin, not from when it was handed in."""
    decoder, now = make(1), [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    first = submit(decoder, held)
    held.wait()

    def decode(number: int) -> int:
        now[0] += 2.0
        return number

    second = submit(decoder, decode, 3)
    now[0] += 50.0
    held.go.set()
    first.work()
    assert second.work().seconds == 6


def test_nothing_began() -> None:
    """Pictures of which none has begun have taken no time."""
    assert Work[int](1).seconds == 0


def test_close_finishes(make: MakeDecoder, held: Held) -> None:
    """A close returns at once; what was handed in before is decoded and told."""
    decoder = make(1)
    told = [submit(decoder, held) for _ in range(3)]
    held.wait()
    decoder.close()
    held.go.set()
    assert [each.work().results() for each in told] == [[0]] * 3


def test_no_thread_to_be_had(make: MakeDecoder, held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request for which no thread can be started fails, is told once and is ahead no more, whoever is free later."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    decoder = make(2)
    learned(decoder)
    submit(decoder, held)
    held.wait()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        told = submit(decoder, lambda number: number, 3)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        told.work().results()
    held.go.set()
    settled(decoder, 2)
    assert told.times == 1
    nothing_ahead(decoder)
