"""The threads of the gRPC server: calls, control, streams and refusals.

What waits in grpcio's own executor queue is invisible to admission, so the pool of calls counts what it is given, and a
call that finds it full is answered by the pool of refusals, which never waits for anything.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_Work = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], "_Started"]


class _Started(Future[Any]):
    """What `submit` gives: told when the work has ended, and nothing else, which is all that grpcio asks of a future.

    A whole future has a condition of its own, which costs as much as the rest of `submit`.
    """

    def __init__(self) -> None:  # the base class is for the type only
        self._callbacks: list[Callable[[Any], object]] | None = []
        self._guard = threading.Lock()

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn` when the work has ended; at once if it has."""
        with self._guard:
            if self._callbacks is not None:
                self._callbacks.append(fn)
                return
        fn(self)

    def end(self) -> None:
        """Say that the work has ended."""
        with self._guard:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback(self)


class CallPool(ThreadPoolExecutor):
    """Threads for the calls that classify; counts those that it holds.

    grpcio wants a ThreadPoolExecutor by type; of that class only the type is used. Its own `submit` takes two global
    locks, a semaphore and a condition, a fifth of what a bare call costs.

    Args:
        size: the most calls; a thread is started for each when it is first needed.
        what: what it holds, for the refusal's text.
    """

    def __init__(self, size: int, what: str = "calls") -> None:
        super().__init__(max_workers=1)
        self.size = size
        self.what = what
        self._held = 0
        self._lock = threading.Lock()
        self._none_held = threading.Condition(self._lock)
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()
        self._started: list[threading.Thread] = []

    @property
    def full(self) -> bool:
        """Whether one call more would have to wait for a thread."""
        return self._held >= self.size

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Count and start a call. Counted here: grpcio never calls the handler of a call that ended while it waited."""
        with self._lock:
            self._held += 1
            if self._held > len(self._started) and len(self._started) < self.size:
                thread = threading.Thread(target=self._work, name=f"{self.what}-{len(self._started)}", daemon=True)
                self._started.append(thread)
                thread.start()
        started = _Started()
        self._waiting.put((fn, args, kwargs, started))
        return started

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no call is held; return whether that came to pass within `seconds`."""
        with self._lock:
            return self._none_held.wait_for(lambda: not self._held, seconds)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002
        """Let the threads go when they have done what was submitted."""
        for _ in self._started:
            self._waiting.put(None)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            fn, args, kwargs, started = work
            try:
                fn(*args, **kwargs)
            except Exception:
                logging.getLogger("saccade").exception("a call's thread failed. This is a bug.")
            finally:
                del work, fn, args, kwargs  # nothing of the call stays while the thread waits for the next one
                with self._lock:
                    self._held -= 1
                    if not self._held:
                        self._none_held.notify_all()
                started.end()


class Pools:
    """All threads of one gRPC server.

    Args:
        calls: how many calls may be under way; beyond that they are refused.
        streams: how many ClassifyStreams may be open; beyond that they are refused.
    """

    def __init__(self, calls: int, streams: int) -> None:
        self.calls = CallPool(calls)
        self.streams = CallPool(streams, "streams")
        self.repository = CallPool(4, "repository changes")  # one loads, which may take minutes; the others wait for it
        self.control = ThreadPoolExecutor(4, thread_name_prefix="control")  # health and lists: never kept waiting
        self.reflection = ThreadPoolExecutor(16, thread_name_prefix="reflection")  # one thread for each open stream
        self.refusals = ThreadPoolExecutor(2, thread_name_prefix="refusal")

    def shutdown(self) -> None:
        """Let the threads go; waits for none."""
        for pool in (self.calls, self.streams, self.repository, self.control, self.reflection, self.refusals):
            pool.shutdown(wait=False, cancel_futures=True)
