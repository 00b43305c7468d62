"""Every metric, declared once; the only importer of prometheus_client.

What concerns a call is put aside and folded into the metrics many records at a time, at the latest when somebody looks:
observing one by one cost 13 us a call (1.2 us an `observe`), which is more than the rest of a small call.
"""

import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, make_wsgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service import scrape
from service.counts import Counts
from service.errors import RefusalReason

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_MOST_RECORDS = 256
"""Records that are put aside: folding them takes about 0.1 ms, paid by one call in so many."""

Record = TypeVar("Record")


class _Call(NamedTuple):
    model: str
    method: str
    code: str
    seconds: float
    version: int


class _Batch(NamedTuple):
    size: int
    seconds: float
    ended: float


class _Answer(NamedTuple):
    decode: float
    queue: float
    inference: float
    top: Sequence[tuple[int, float]]


class _Aside(Generic[Record]):
    """Records that are folded many at a time; `add` costs 0.1 us and may be called by any thread."""

    def __init__(self, fold: Callable[[list[Record]], None]) -> None:
        self._fold = fold
        self._records: deque[Record] = deque()
        self._lock = threading.Lock()

    def add(self, record: Record) -> None:
        """Put a record aside."""
        self._records.append(record)
        if len(self._records) >= _MOST_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Fold all records that are there now."""
        with self._lock:
            records = [self._records.popleft() for _ in range(len(self._records))]
            if records:
                self._fold(records)


class _Flush(Collector):
    """Flushes when the registry is looked at. Registered first, so that what is collected after it is current."""

    def __init__(self) -> None:
        self.asides: list[_Aside[_Call] | _Aside[_Answer] | _Aside[_Batch]] = []

    def collect(self) -> Iterable[Metric]:
        """Flush; has no metrics of its own."""
        for aside in list(self.asides):
            aside.flush()
        return []


class Metrics:
    """The metrics of one server, in a registry of their own.

    Args:
        most_labels: predictions of classes beyond these are counted as `other`: 1,000 classes are not 1,000 series.
    """

    def __init__(self, *, most_labels: int = 100) -> None:
        self._most_labels = most_labels
        self.registry = CollectorRegistry()
        self._flush = _Flush()
        self.registry.register(self._flush)
        ProcessCollector(registry=self.registry)
        add = self.registry
        self._requests = Counter(
            "saccade_requests", "Calls by model, method and status.", ["model", "method", "code"], registry=add
        )
        self._request_seconds = Histogram(
            "saccade_request_seconds",
            "Seconds from a call's arrival to its answer.",
            ["model", "method"],
            buckets=_SECONDS,
            registry=add,
        )
        self._stage_seconds = Histogram(
            "saccade_stage_seconds",
            "Seconds of a call in each stage.",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=add,
        )
        self._batch_size = Histogram("saccade_batch_size", "Pictures a batch.", ["model"], buckets=_SIZES, registry=add)
        self._queue_depth = Gauge(
            "saccade_queue_depth", "Pictures admitted and not yet running.", ["model", "version"], registry=add
        )
        self._images = Counter("saccade_images", "Pictures classified.", ["model"], registry=add)
        self._refused = Counter(
            "saccade_refused", "Calls refused before any work, by reason.", ["model", "reason"], registry=add
        )
        self._predictions = Counter(
            "saccade_predictions", "Pictures by most probable label.", ["model", "label"], registry=add
        )
        self._confidence = Histogram(
            "saccade_confidence",
            "Probability of the most probable label.",
            ["model"],
            buckets=_CONFIDENCE,
            registry=add,
        )
        self._model_info = Gauge(
            "saccade_model_info",
            "1 for each served version, 0 for one that is gone.",
            ["model", "version", "provider", "precision", "verified", "sha256"],
            registry=add,
        )
        self._model_ready = Gauge(
            "saccade_model_ready", "1 where a version of the model is served.", ["model"], registry=add
        )
        self._load_failures = Counter(
            "saccade_model_load_failures",
            "Versions that could not be loaded or failed their self-test.",
            ["model", "version"],
            registry=add,
        )
        self._faults = Counter(
            "saccade_model_faults", "Calls that got values that are not finite.", ["model", "version"], registry=add
        )
        self._requests_child = cache(self._requests.labels)
        self._request_seconds_child = cache(self._request_seconds.labels)
        self._calls = _Aside(self._fold_calls)
        self._flush.asides.append(self._calls)
        self._counts: dict[tuple[str, int], Counts] = {}

    def call(self, model: str, method: str, code: str, seconds: float, version: int = 0) -> None:
        """Count and time one call; `model` is empty and `version` 0 where none was found, or none was run."""
        self._calls.add(_Call(model, method, code, seconds, version))

    def counts(self, model: str, version: int) -> Counts:
        """Return what was counted of a version until now."""
        self._flush.collect()
        return self._counts.get((model, version), Counts())

    def refused(self, model: str, reason: RefusalReason) -> None:
        """Count a refusal."""
        self._refused.labels(model, reason).inc()

    def model_ready(self, model: str, *, ready: bool) -> None:
        """Say whether a model has a served version."""
        self._model_ready.labels(model).set(ready)

    def load_failed(self, model: str, version: int) -> None:
        """Count a version that could not be loaded or failed its self-test."""
        self._load_failures.labels(model, str(version)).inc()

    def version(self, facts: "VersionFacts", labels: Sequence[str], waiting: Callable[[], int]) -> "VersionMetrics":
        """Return the metrics of one served version; `waiting` is asked for the queue's depth at each scrape."""
        name, version, verified = facts.name, str(facts.version), str(facts.verified).lower()
        info = self._model_info.labels(name, version, facts.provider, facts.precision, verified, facts.sha256)
        depth = self._queue_depth.labels(name, version)
        depth.set_function(waiting)
        shown = [label if index < self._most_labels else "other" for index, label in enumerate(labels)]
        version_metrics = VersionMetrics(
            info=info,
            faults=self._faults.labels(name, version),
            stages=[self._stage_seconds.labels(name, stage) for stage in ("decode", "queue", "inference")],
            batch_size=self._batch_size.labels(name),
            images=self._images.labels(name),
            confidence=self._confidence.labels(name),
            predictions=[self._predictions.labels(name, label) for label in shown],
            depth=depth,
            counts=self._counts.setdefault((name, facts.version), Counts()),
        )
        self._flush.asides += [version_metrics.answers, version_metrics.batches]
        return version_metrics

    def _fold_calls(self, calls: list[_Call]) -> None:
        for (model, method, code), count in Tally((call.model, call.method, call.code) for call in calls).items():
            self._requests_child(model, method, code).inc(count)
        for model, method in {(call.model, call.method) for call in calls}:
            seconds = [call.seconds for call in calls if (call.model, call.method) == (model, method)]
            _observe_all(self._request_seconds_child(model, method), seconds)
        for call in calls:
            counts = self._counts.get((call.model, call.version))
            if counts is not None:
                (counts.success if call.code == "OK" else counts.fail).add([call.seconds])

    def serve(self, host: str, port: int, context: scrape.Context = lambda: None) -> tuple[int, Callable[[], None]]:
        """Serve /metrics, see service.scrape; return the port and what stops it.

        Raises:
            SetupError: the port is taken.
        """
        return scrape.serve(make_wsgi_app(self.registry), host, port, context)


class VersionFacts(Protocol):
    """What is told of a served version beside its numbers."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def version(self) -> int: ...  # noqa: D102
    @property
    def provider(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def verified(self) -> bool: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102


class VersionMetrics:
    """The metrics that one served version records, every label child at hand."""

    def __init__(
        self,
        *,
        info: Gauge,
        faults: Counter,
        stages: list[Histogram],
        batch_size: Histogram,
        images: Counter,
        confidence: Histogram,
        predictions: list[Counter],
        depth: Gauge,
        counts: Counts,
    ) -> None:
        self._info = info
        self._faults = faults
        self.answers = _Aside(self._fold_answers)
        self.batches = _Aside(self._fold_batches)
        self._decode, self._queue, self._inference = stages
        self._batch_size = batch_size
        self._images = images
        self._confidence = confidence
        self._predictions = predictions
        self._depth = depth
        self._counts = counts

    def served(self, *, now: bool) -> None:
        """Say whether the version is served."""
        self._info.set(now)
        if not now:
            self._depth.set_function(lambda: 0.0)  # what it was asks the model, and would keep its session in memory

    def batch(self, size: int, seconds: float) -> None:
        """Record one batch that ran so many seconds and ends now."""
        self.batches.add(_Batch(size, seconds, time.time()))

    def fault(self) -> None:
        """Count a call that got values that are not finite."""
        self._faults.inc()

    def answer(self, *, decode: float, queue: float, inference: float, top: Sequence[tuple[int, float]]) -> None:
        """Record one answered call: seconds of its stages, and (index, probability) of each picture's best class."""
        self.answers.add(_Answer(decode, queue, inference, top))

    def _fold_answers(self, answers: list[_Answer]) -> None:
        counts = self._counts
        for histogram, counted, seconds in (
            (self._decode, counts.decode, [answer.decode for answer in answers]),
            (self._queue, counts.queue, [answer.queue for answer in answers]),
            (self._inference, counts.inference, [answer.inference for answer in answers]),
        ):
            _observe_all(histogram, seconds)
            counted.add(seconds)
        _observe_all(self._confidence, [probability for answer in answers for _, probability in answer.top])
        for index, count in Tally(index for answer in answers for index, _ in answer.top).items():
            self._predictions[index].inc(count)

    def _fold_batches(self, batches: list[_Batch]) -> None:
        sizes = [batch.size for batch in batches]
        _observe_all(self._batch_size, sizes)
        self._images.inc(sum(sizes))
        for batch in batches:
            self._counts.batch(*batch)


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """Do what `observe` does for every value, 0.1 us each; the library has no public way to add many at once."""
    bounds = histogram._upper_bounds
    histogram._sum.inc(float(np.sum(values)))
    for bucket, count in enumerate(np.bincount(np.searchsorted(bounds, values), minlength=len(bounds)).tolist()):
        if count:
            histogram._buckets[bucket].inc(count)
