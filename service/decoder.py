"""The threads that decode pictures, as many as cores, and how long new pictures would take. Standard library only.

Decoders drop the GIL, so more threads than cores only wait for each other; and gRPC's own threads stay free meanwhile.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Generic, TypeVar

from service.errors import raising

Decoded = TypeVar("Decoded")

_WEIGHT = 0.1
"""Weight of the newest picture in the seconds of its size class."""
_FORGET_SECONDS = 5.0
"""After so long without a picture a size class counts nothing again: a small file may be a large picture, and after one
of them all of its size could be refused, so that none would ever be decoded and learned from."""


class Decoder:
    """Runs the decoding of pictures on threads of its own.

    Args:
        threads: as many as cores.
        initializer: called first by each thread.
        clock: seconds.
    """

    def __init__(
        self, threads: int, initializer: Callable[[], None] = lambda: None, clock: Callable[[], float] = monotonic
    ) -> None:
        self._threads = threads
        self._clock = clock
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode", initializer=initializer)
        self._lock = threading.Lock()
        self._ahead = 0.0  # predicted seconds of all that was handed in and is not done
        # By the bit length of a picture's bytes: the seconds that it takes, and when the last one was decoded.
        self._seconds: dict[int, tuple[float, float]] = {}

    def predict(self, sizes: Sequence[int]) -> float:
        """Return the seconds until pictures of so many bytes would be decoded; a size never seen counts nothing."""
        now = self._clock()
        own = sum(self._cost(size, now) for size in sizes)
        return self._ahead / self._threads + own / min(self._threads, max(1, len(sizes)))

    def submit(
        self,
        sizes: Sequence[int],
        decode: Callable[[int], Decoded],
        on_done: "Callable[[Work[Decoded]], None]",
    ) -> None:
        """Decode the pictures of one request side by side and return at once.

        Args:
            sizes: bytes of each picture.
            decode: returns the picture of that number, or raises.
            on_done: told once, by the thread that ended last: this one where no thread can be had, and all failed.
        """
        work = Work[Decoded](len(sizes))
        now = self._clock()
        costs = [self._cost(size, now) for size in sizes]
        with self._lock:
            self._ahead += sum(costs)

        def one(number: int, decode: Callable[[int], Decoded]) -> None:
            if not work.begin(number):
                return
            started = self._clock()
            last = work.run(number, decode)
            self._learn(sizes[number], costs[number], None if work.failed else self._clock() - started)
            if last:
                on_done(work)

        try:
            for number in range(len(sizes)):
                self._pool.submit(one, number, decode)
        except RuntimeError as error:
            failed = raising(error)
            for number in range(len(sizes)):
                one(number, lambda _: failed())

    def close(self) -> None:
        """Let the threads go when they have done what was handed in."""
        self._pool.shutdown(wait=False)

    def _cost(self, size: int, now: float) -> float:
        seconds, when = self._seconds.get(size.bit_length(), (0.0, now))
        return seconds if now - when < _FORGET_SECONDS else 0.0

    def _learn(self, size: int, predicted: float, seconds: float | None) -> None:
        with self._lock:
            self._ahead = max(0.0, self._ahead - predicted)
            if seconds is not None:
                now = self._clock()
                known, when = self._seconds.get(size.bit_length(), (seconds, now))
                if now - seconds - when >= _FORGET_SECONDS:  # before this one began
                    known = seconds
                self._seconds[size.bit_length()] = known + _WEIGHT * (seconds - known), now


class Work(Generic[Decoded]):
    """The pictures of one request that are being decoded."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._left = count
        self._begun: set[int] = set()
        self._started: float | None = None
        self._decoded: dict[int, Decoded] = {}
        self._failures: dict[int, Exception] = {}

    @property
    def failed(self) -> bool:
        """Whether a picture failed; those that come after it are not decoded."""
        return bool(self._failures)

    def begin(self, number: int) -> bool:
        """Return whether nobody began this picture yet: a pool keeps what it could start no thread for."""
        with self._lock:
            begun = number in self._begun
            self._begun.add(number)
            return not begun

    def run(self, number: int, decode: Callable[[int], Decoded]) -> bool:
        """Decode one picture unless another one failed; return whether it was the last."""
        if self._started is None:
            self._started = monotonic()
        if not self._failures:
            try:
                self._decoded[number] = decode(number)
            except Exception as error:  # noqa: BLE001 - raised again where the request is answered
                self._failures[number] = error
        with self._lock:
            self._left -= 1
            return not self._left

    def results(self) -> list[Decoded]:
        """Return the decoded pictures in order, once all are done, or raise what the first bad one raised."""
        if self._failures:
            raise self._failures[min(self._failures)]
        return [self._decoded[number] for number in range(len(self._decoded))]

    @property
    def seconds(self) -> float:
        """Seconds since the first of them began."""
        return 0.0 if self._started is None else monotonic() - self._started
