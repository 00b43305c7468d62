"""A setting that runs: its sessions, each on a thread of its own, as a server's instances are."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import numpy.typing as npt

from service import foreign, logs
from service.errors import ModelRejected
from service.graph import external_files, read_graph
from service.loading import open_session, said_precision
from service.manifest import read_fields
from service.model import Options
from service.providers import parse_options
from service.session import Session, explain_failure
from service.tune.settings import Setting


class Running(Protocol):
    """What is asked of a setting that runs."""

    @property
    def buckets(self) -> Sequence[int]:
        """The batch sizes that it can run, the smallest first."""

    def rate(self, batch: int, seconds: float) -> float:
        """Return images a second with every instance busy, measured for so long; one batch at least."""

    def latency(self, seconds: float) -> float:
        """Return the median seconds of the smallest batch while nothing else runs; one at least."""


Open = Callable[[Setting], AbstractContextManager[Running]]
"""Makes a setting run; raises ModelRejected where it cannot."""


class Sessions:
    """The sessions of a setting.

    Args:
        sessions: at least one.
        clock: seconds.

    Raises:
        Exception: whatever a session raises that cannot run on a thread of its own.
    """

    def __init__(self, sessions: Sequence[Session], clock: Callable[[], float] = time.perf_counter) -> None:
        self._sessions = sessions
        self._clock = clock
        self._threads = [ThreadPoolExecutor(1, "tune") for _ in sessions]
        for thread, session in zip(self._threads, sessions, strict=True):
            thread.submit(session.take_over).result()
        self._warm: set[int] = set()

    @property
    def buckets(self) -> Sequence[int]:
        """See Running."""
        return self._sessions[0].buckets

    def rate(self, batch: int, seconds: float) -> float:
        """See Running."""
        samples = self._samples(batch)
        parts = [
            thread.submit(self._loop, session, samples, seconds)
            for thread, session in zip(self._threads, self._sessions, strict=True)
        ]
        return sum(batch * len(taken) / sum(taken) for taken in (part.result() for part in parts))

    def latency(self, seconds: float) -> float:
        """See Running."""
        samples = self._samples(self.buckets[0])
        return statistics.median(self._threads[0].submit(self._loop, self._sessions[0], samples, seconds).result())

    def close(self) -> None:
        """Let the threads end; the sessions go with them."""
        for thread in self._threads:
            thread.shutdown()

    def _samples(self, batch: int) -> npt.NDArray[Any]:
        """Return a batch that every session has run before: the first of its size costs more."""
        samples = self._sessions[0].input.generated(batch)
        if batch not in self._warm:
            for thread, session in zip(self._threads, self._sessions, strict=True):
                thread.submit(session.run, samples).result()
            self._warm.add(batch)
        return samples

    def _loop(self, session: Session, samples: npt.NDArray[Any], seconds: float) -> list[float]:
        """Run a batch again and again; return the seconds of each."""
        taken: list[float] = []
        started = before = self._clock()
        while not taken or before - started < seconds:
            session.run(samples)
            now = self._clock()
            taken.append(now - before)
            before = now
        return taken


def opener(max_batch_size: int, onnxruntime: Any = None) -> Open:  # noqa: ANN401 - onnxruntime has no types
    """Return what makes a setting run with buckets up to a largest batch.

    Args:
        max_batch_size: the largest batch.
        onnxruntime: a fake of the module; None: the real one.
    """

    @contextmanager
    def opened(setting: Setting) -> Iterator[Running]:
        kind = setting.kind
        options = Options(
            kind.provider,
            parse_options(kind.provider, kind.options),
            intra_op_threads=setting.threads,
            max_batch_size=max_batch_size,
            instances=setting.instances,
            onnxruntime=onnxruntime,
        )
        fields = read_fields(kind.path)
        graph = read_graph(kind.path)
        expected, external = foreign.expected(fields, graph), external_files(kind.path, graph)
        precision = said_precision(fields)
        try:
            running = Sessions(
                [
                    open_session(
                        kind.path,
                        kind.provider,
                        options,
                        expected,
                        precision=precision,
                        instance=number,
                        external=external,
                    )
                    for number in range(setting.instances)
                ]
            )
        except ModelRejected:
            raise
        except Exception as error:  # noqa: BLE001 - no memory for so many, most often
            raise _rejected(setting, error) from None
        try:
            yield running
        except ModelRejected:
            raise
        except Exception as error:  # noqa: BLE001 - no memory for a large batch, most often
            raise _rejected(setting, error) from None
        finally:
            running.close()

    return opened


def _rejected(setting: Setting, error: Exception) -> ModelRejected:
    """Return what a provider's own error means for a setting; its stack goes to the log."""
    logs.failure("provider failed", error, setting=str(setting))
    return ModelRejected(f"it cannot run the model; {explain_failure(setting.kind.provider, error)}")
