"""The threads that decode pictures, as many as cores, and how long new pictures would take. Standard library only.

Decoders drop the GIL, so more threads than cores only wait for each other; and gRPC's own threads stay free meanwhile.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Generic, TypeVar

Decoded = TypeVar("Decoded")

_WEIGHT = 0.1
"""Weight of the newest picture in the seconds of its size class."""


class Decoder:
    """Runs the decoding of pictures on threads of its own.

    Args:
        threads: as many as cores.
        initializer: called first by each thread.
    """

    def __init__(self, threads: int, initializer: Callable[[], None] = lambda: None) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode", initializer=initializer)
        self._lock = threading.Lock()
        self._ahead = 0.0  # predicted seconds of all that was handed in and is not done
        self._seconds: dict[int, float] = {}  # a picture, by the bit length of its bytes

    def predict(self, sizes: Sequence[int]) -> float:
        """Return the seconds until pictures of so many bytes would be decoded; a size never seen counts nothing."""
        own = sum(self._cost(size) for size in sizes)
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
            on_done: told once, by the thread that ended last.
        """
        work = Work[Decoded](len(sizes))
        costs = [self._cost(size) for size in sizes]
        with self._lock:
            self._ahead += sum(costs)

        def one(number: int) -> None:
            started = monotonic()
            last = work.run(number, decode)
            self._learn(sizes[number], costs[number], None if work.failed else monotonic() - started)
            if last:
                on_done(work)

        for number in range(len(sizes)):
            self._pool.submit(one, number)

    def close(self) -> None:
        """Let the threads go when they have done what was handed in."""
        self._pool.shutdown(wait=False)

    def _cost(self, size: int) -> float:
        return self._seconds.get(size.bit_length(), 0.0)

    def _learn(self, size: int, predicted: float, seconds: float | None) -> None:
        with self._lock:
            self._ahead = max(0.0, self._ahead - predicted)
            if seconds is not None:
                known = self._seconds.setdefault(size.bit_length(), seconds)
                self._seconds[size.bit_length()] = known + _WEIGHT * (seconds - known)


class Work(Generic[Decoded]):
    """The pictures of one request that are being decoded."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._left = count
        self._started: float | None = None
        self._decoded: dict[int, Decoded] = {}
        self._failures: dict[int, Exception] = {}

    @property
    def failed(self) -> bool:
        """Whether a picture failed; those that come after it are not decoded."""
        return bool(self._failures)

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
