import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from service.budget import PixelBudget
from service.errors import DeadlineExceeded, InvalidInput
from service.image import Pixels, decode, encode_png, from_pixels
from service.manifest import Preprocessing
from tests.fakes import WAIT
from tests.pictures import NOISE, png

PAST = 0.0
SPEC = Preprocessing(height=8, width=8, channels=3)
SMALLER = Preprocessing(height=4, width=4, channels=3)
PICTURE = encode_png(NOISE)  # of 64 pixels


class Taker:
    """Reserves on a thread of its own, and holds what it got until it is told to let go."""

    def __init__(self, budget: PixelBudget, pixels: int, deadline: float | None = None) -> None:
        self.has, self.let_go = threading.Event(), threading.Event()
        self._budget, self._pixels, self._deadline = budget, pixels, deadline

    def take(self) -> None:
        """Reserve, say so, hold."""
        with self._budget.reserve(self._pixels, self._deadline):
            self.has.set()
            assert self.let_go.wait(WAIT)


Take = Callable[..., tuple[Taker, "Future[None]"]]


@pytest.fixture
def take() -> Iterator[Take]:
    """Return what starts a taker and waits until it holds its pixels or stands in the queue."""
    takers: list[Taker] = []

    def start(budget: PixelBudget, pixels: int, deadline: float | None = None) -> tuple[Taker, "Future[None]"]:
        taker, before = Taker(budget, pixels, deadline), budget.waiting
        takers.append(taker)
        future = pool.submit(taker.take)
        until(lambda: taker.has.is_set() or budget.waiting > before or future.done())
        return taker, future

    with ThreadPoolExecutor(8) as pool:
        yield start
        for taker in takers:
            taker.let_go.set()


def until(happens: Callable[[], bool]) -> None:
    """Return when it is so."""
    never, end = threading.Event(), time.monotonic() + WAIT
    while not happens():
        assert time.monotonic() < end
        never.wait(0.001)


def test_room() -> None:
    """Those who fit together hold their pixels together, up to the last one."""
    budget = PixelBudget(10)
    with budget.reserve(4, PAST), budget.reserve(6, PAST):
        pass


def test_no_room() -> None:
    """One pixel more than there is room for waits, and is told when its deadline passed."""
    budget = PixelBudget(10)
    with (
        budget.reserve(4),
        pytest.raises(DeadlineExceeded, match="the picture's turn to be decoded"),
        budget.reserve(7, time.monotonic() + 0.01),
    ):
        pass
    assert budget.waiting == 0


def test_room_is_given_back(take: Take) -> None:
    """Who waits gets the pixels as soon as they are given back, with or without a deadline."""
    budget = PixelBudget(10)
    for deadline in (None, time.monotonic() + WAIT):
        holder, _ = take(budget, 10)
        waiter, future = take(budget, 10, deadline)
        assert not waiter.has.is_set()
        holder.let_go.set()
        assert waiter.has.wait(WAIT)
        waiter.let_go.set()
        future.result(WAIT)


def test_room_is_given_back_after_a_failure() -> None:
    """A failure gives the pixels back."""
    budget = PixelBudget(10)
    with pytest.raises(ZeroDivisionError), budget.reserve(10):
        raise ZeroDivisionError
    with budget.reserve(10, PAST):
        pass


def test_larger_than_the_budget(take: Take) -> None:
    """A picture larger than the whole budget waits until nobody else is there, and then keeps everybody out."""
    budget = PixelBudget(10)
    small, _ = take(budget, 1)
    large, _ = take(budget, 1000)
    assert not large.has.is_set()
    small.let_go.set()
    assert large.has.wait(WAIT)
    with pytest.raises(DeadlineExceeded), budget.reserve(1, PAST):
        pass


def test_nobody_overtakes(take: Take) -> None:
    """Small pictures that would fit do not overtake a large one that waits, or it might wait for ever."""
    budget = PixelBudget(10)
    holder, _ = take(budget, 5)
    large, _ = take(budget, 10)
    small, _ = take(budget, 1)
    assert not small.has.is_set()
    holder.let_go.set()
    assert large.has.wait(WAIT)
    assert not small.has.is_set()


def test_who_gives_up_lets_others_pass(take: Take) -> None:
    """When one who waits gives up, those behind get what room there is."""
    budget = PixelBudget(10)
    take(budget, 5)
    _, gave_up = take(budget, 10, time.monotonic() + 0.2)
    small, _ = take(budget, 1)
    with pytest.raises(DeadlineExceeded):
        gave_up.result(WAIT)
    assert small.has.wait(WAIT)


class Late:
    """The budget's lock, which lets something happen just before its second entry, when a wait is over."""

    def __init__(self, lock: threading.Lock, happens: Callable[[], object]) -> None:
        self._lock, self._happens, self._entered = lock, happens, 0

    def __enter__(self) -> bool:
        """Let it happen, without this lock, and take it."""
        self._entered += 1
        if self._entered == 2:
            self._happens()
        return self._lock.__enter__()

    def __exit__(self, *error: object) -> None:
        """Give it back."""
        self._lock.release()


def test_its_turn_comes_just_as_its_time_is_over() -> None:
    """Who gets his turn just as his deadline passed uses it, and gives it back."""
    budget = PixelBudget(10)
    holder = budget.reserve(10)
    holder.__enter__()
    budget._lock = Late(budget._lock, lambda: holder.__exit__(None, None, None))  # type: ignore[assignment]
    with budget.reserve(10, PAST):
        pass
    with budget.reserve(10, PAST):
        pass


def test_many_threads() -> None:
    """Never are more pixels held than the budget has, and in the end all are given back."""
    budget, lock, held, most = PixelBudget(100), threading.Lock(), 0, 0

    def work(seed: int) -> None:
        nonlocal held, most
        for pixels in np.random.default_rng(seed).integers(1, 60, 100).tolist():
            with budget.reserve(pixels, time.monotonic() + WAIT):
                with lock:
                    held += pixels
                    most = max(most, held)
                with lock:
                    held -= pixels

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(work, range(16))) == [None] * 16
    assert most <= 100
    with budget.reserve(100, PAST):
        pass


def test_decode_reserves() -> None:
    """A picture is decoded when its pixels could be reserved, and gives them back."""
    budget = PixelBudget(64)
    assert decode(PICTURE, SPEC, max_pixels=64, budget=budget, deadline=PAST).size
    with budget.reserve(64, PAST):
        pass
    with budget.reserve(1), pytest.raises(DeadlineExceeded):
        decode(PICTURE, SPEC, max_pixels=64, budget=budget, deadline=PAST)


def test_refused_before_it_reserves() -> None:
    """What the header refuses waits for no pixels."""
    budget = PixelBudget(64)
    with budget.reserve(64), pytest.raises(InvalidInput):
        decode(PICTURE, SPEC, max_pixels=63, budget=budget, deadline=PAST)


def test_broken_picture_gives_back() -> None:
    """A picture that turns out to be broken gives its pixels back."""
    budget, broken = PixelBudget(64), png(8, 8, 8, 2, (b"IDAT", b"no pixels"))
    with pytest.raises(InvalidInput):
        decode(broken, SPEC, max_pixels=64, budget=budget)
    with budget.reserve(64, PAST):
        pass


def test_raw_pixels() -> None:
    """Raw pixels of the model's size need none of the budget; those that are resized do."""
    budget, pixels = PixelBudget(64), Pixels(8, 8, 3, NOISE.tobytes())
    with budget.reserve(64):
        assert from_pixels(pixels, SPEC, max_pixels=64, budget=budget, deadline=PAST).size
        with pytest.raises(DeadlineExceeded):
            from_pixels(pixels, SMALLER, max_pixels=64, budget=budget, deadline=PAST)
    assert from_pixels(pixels, SMALLER, max_pixels=64, budget=budget, deadline=PAST).size
