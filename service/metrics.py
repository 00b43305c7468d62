"""Every metric, declared once; the only importer of prometheus_client.

What concerns a call is put aside and folded into the metrics many records at a time, at the latest when somebody looks:
observing one by one cost 13 us a call (1.2 us an `observe`), which is more than the rest of a small call.
"""

import math
import os
import resource
import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Protocol, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, make_wsgi_app, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from service import scrape
from service.counts import Counts
from service.errors import Ended, RefusalReason
from service.records import Answer, Aside, Batch, Call

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable by which prometheus_client learns, when it is imported, that numbers are kept in files, and where."""
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class _Flush(Collector):
    """Flushes when the registry is looked at. Registered first, so that what is collected after it is current."""

    def __init__(self) -> None:
        self.asides: list[Aside[Call] | Aside[Answer] | Aside[Batch]] = []

    def collect(self) -> Iterable[Metric]:
        """Flush; has no metrics of its own."""
        for aside in list(self.asides):
            aside.flush()
        return []


def share(folder: Path, worker: int) -> None:
    """Keep all numbers of this process in files, for its supervisor to merge; before any Metrics are made.

    The files are a worker's by its number and not by its process: the next process of that number counts on in them.
    So a counter never falls, and what crashes leaves nothing behind.
    """
    os.environ[FOLDER] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one server, in a registry of their own.

    Args:
        most_labels: predictions of classes beyond these are counted as `other`: 1,000 classes are not 1,000 series.
        shared: the numbers are in files, see `share`; the process's own are left to the supervisor.
    """

    def __init__(self, *, most_labels: int = 100, shared: bool = False) -> None:
        self._most_labels = most_labels
        self._shared = shared
        self._waiting: dict[Gauge, Callable[[], int]] = {}  # where they are shared
        self.registry = CollectorRegistry()
        self._flush = _Flush()
        self.registry.register(self._flush)
        if not shared:
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
            "saccade_queue_depth",
            "Pictures admitted and not yet running.",
            ["model", "version"],
            registry=add,
            multiprocess_mode="livesum",
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
            multiprocess_mode="livemax",
        )
        self._model_ready = Gauge(
            "saccade_model_ready",
            "1 where a version of the model is served, by every worker.",
            ["model"],
            registry=add,
            multiprocess_mode="livemin",
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
        self._calls = Aside(self._fold_calls)
        self._flush.asides.append(self._calls)
        self._counts: dict[tuple[str, int], Counts] = {}
        self._latest: dict[tuple[str, int], VersionMetrics] = {}

    def call(self, model: str, method: str, code: str, seconds: float, version: int = 0) -> None:
        """Count and time one call; `model` is empty and `version` 0 where none was found, or none was run."""
        self._calls.add(Call(model, method, code, seconds, version))

    def flush(self) -> None:
        """Bring what is shared up to date."""
        self._flush.collect()
        for depth, waiting in list(self._waiting.items()):
            depth.set(waiting())

    def counts(self, model: str, version: int) -> Counts:
        """Return what was counted of a version until now."""
        self._flush.collect()
        return self._counts.get((model, version), Counts()).snapshot()

    def refused(self, model: str, reason: RefusalReason) -> None:
        """Count a refusal."""
        self._refused.labels(model, reason).inc()

    def model_ready(self, model: str, *, ready: bool) -> None:
        """Say whether a model has a served version."""
        self._model_ready.labels(model).set(ready)

    def model_gone(self, model: str) -> None:
        """Say nothing more of a model that nobody wants served: 0 would stand for one that should be."""
        if self._shared:
            self._model_ready.labels(model).set(math.nan)  # nothing can be taken out of the files
        else:
            with suppress(KeyError):
                self._model_ready.remove(model)

    def load_failed(self, model: str, version: int) -> None:
        """Count a version that could not be loaded or failed its self-test."""
        self._load_failures.labels(model, str(version)).inc()

    def version(self, facts: "VersionFacts", labels: Sequence[str], waiting: Callable[[], int]) -> "VersionMetrics":
        """Return the metrics of one served version; `waiting` is asked for the queue's depth at each scrape."""
        name, version, verified = facts.name, str(facts.version), str(facts.verified).lower()
        info = self._model_info.labels(name, version, facts.provider, facts.precision, verified, facts.sha256)
        key = (name, facts.version)
        shown = [label if index < self._most_labels else "other" for index, label in enumerate(labels)]
        version_metrics = VersionMetrics(
            info=info,
            faults=self._faults.labels(name, version),
            stages=[self._stage_seconds.labels(name, stage) for stage in ("decode", "queue", "inference")],
            batch_size=self._batch_size.labels(name),
            images=self._images.labels(name),
            confidence=self._confidence.labels(name),
            predictions=[self._predictions.labels(name, label) for label in shown],
            counts=self._counts.setdefault(key, Counts()),
            gone=lambda: self._version_gone(key, version_metrics),
        )
        self._latest[key] = version_metrics
        self._watch(self._queue_depth.labels(name, version), waiting)
        self._flush.asides += [version_metrics.answers, version_metrics.batches]
        return version_metrics

    def _version_gone(self, key: tuple[str, int], version: "VersionMetrics") -> None:
        """Show a version no more. One that was loaded anew is there before the one of the same number is gone.

        Its answers may still come: those of a stream are counted when their caller takes them.
        """
        for aside in (version.answers, version.batches):
            aside.close()
            if aside in self._flush.asides:
                self._flush.asides.remove(aside)
        latest = self._latest.get(key, version)
        if latest is version or latest.info is not version.info:
            version.info.set(0)
        if latest is version:
            # What it was asks the model, and would keep it in memory.
            self._watch(self._queue_depth.labels(key[0], str(key[1])), None)
            self._latest.pop(key, None)

    def _watch(self, depth: Gauge, waiting: Callable[[], int] | None) -> None:
        """Ask for a queue's depth whenever somebody looks; None: it is gone, and nothing is waiting."""
        if not self._shared:
            depth.set_function(waiting or (lambda: 0))
        elif waiting:
            self._waiting[depth] = waiting  # what set_function takes shows as 0 in the files
        else:
            self._waiting.pop(depth, None)
            depth.set(0)

    def _fold_calls(self, calls: list[Call]) -> None:
        alike = defaultdict[tuple[str, str, str, int], list[float]](list)
        for model, method, code, seconds, version in calls:
            alike[model, method, code, version].append(seconds)
        for (model, method, code, version), taken in alike.items():
            self._requests_child(model, method, code).inc(len(taken))
            _observe_all(self._request_seconds_child(model, method), taken)
            counts = self._counts.get((model, version))
            if counts is not None:
                (counts.success if code == "OK" else counts.fail).add(taken)

    def serve(self, host: str, port: int, context: scrape.Context = lambda: None) -> tuple[int, Callable[[], None]]:
        """Serve /metrics, see service.scrape; return the port and what stops it.

        Raises:
            SetupError: the port is taken.
        """
        return scrape.serve(make_wsgi_app(self.registry), host, port, context)


class Merged:
    """The metrics of all workers together, and of their supervisor, who never counts in files.

    Args:
        folder: where the workers keep theirs; see `share`.
        flush: asks the workers to bring them up to date; at each scrape.
        processes: the ids of the workers' processes.
        listening: how many workers take calls.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush: Callable[[], None],
        processes: Callable[[], Iterable[int]],
        listening: Callable[[], int],
    ) -> None:
        self._folder = folder
        self.registry = CollectorRegistry()
        self.registry.register(_Before(flush))
        MultiProcessCollector(self.registry, str(folder))  # type: ignore[no-untyped-call]
        self.registry.register(_Processes(processes))
        self._restarts = Counter(
            "saccade_worker_restarts",
            "Workers that ended and were replaced: crashed, hung (killed for it), left (by a signal of their own).",
            ["reason"],
            registry=self.registry,
        )
        for reason in get_args(Ended):
            self._restarts.labels(reason)
        workers = Gauge("saccade_workers", "Workers that take calls.", registry=self.registry)
        workers.set_function(listening)

    def restarted(self, reason: Ended) -> None:
        """Count a worker that was replaced."""
        self._restarts.labels(reason).inc()

    def dead(self, worker: int) -> None:
        """Forget what only a living worker has: what it serves, what waits in its queues."""
        mark_process_dead(worker, str(self._folder))  # type: ignore[no-untyped-call]

    def serve(self, host: str, port: int, context: scrape.Context = lambda: None) -> tuple[int, Callable[[], None]]:
        """Serve /metrics; see `Metrics.serve`."""
        return scrape.serve(make_wsgi_app(self.registry), host, port, context)


class _Before(Collector):
    """Does something when the registry is looked at. Registered first."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def collect(self) -> Iterable[Metric]:
        """Act; has no metrics of its own."""
        self._act()
        return []


class _Processes(Collector):
    """The process metrics of supervisor and workers under their usual names: sums, and the oldest start."""

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        """Add them up. The CPU seconds of workers that are gone stay in, or the sum would fall."""
        gone = resource.getrusage(resource.RUSAGE_CHILDREN)
        found: dict[str, Metric] = {}
        for process in (os.getpid(), *self._processes()):
            for metric in ProcessCollector(pid=partial(int, process), registry=None).collect():
                if metric.name not in found:
                    found[metric.name] = metric
                    if metric.name == "process_cpu_seconds":
                        _change(metric, lambda value: value + gone.ru_utime + gone.ru_stime)
                elif metric.name not in {"process_start_time_seconds", "process_max_fds"}:
                    added = metric.samples[0].value
                    _change(found[metric.name], lambda value, added=added: value + added)  # type: ignore[misc]
        return found.values()


def _change(metric: Metric, change: Callable[[float], float]) -> None:
    metric.samples = [sample._replace(value=change(sample.value)) for sample in metric.samples]


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
        counts: Counts,
        gone: Callable[[], None],
    ) -> None:
        self.info = info
        self._faults = faults
        self.answers = Aside(self._fold_answers)
        self.batches = Aside(self._fold_batches)
        self._decode, self._queue, self._inference = stages
        self._batch_size = batch_size
        self._images = images
        self._confidence = confidence
        self._predictions = predictions
        self._gone = gone
        self._counts = counts

    def served(self, *, now: bool) -> None:
        """Say whether the version is served."""
        if now:
            self.info.set(1)
        else:
            self._gone()

    def batch(self, size: int, seconds: float) -> None:
        """Record one batch that ran so many seconds and ends now."""
        self.batches.add(Batch(size, seconds, time.time()))

    def fault(self) -> None:
        """Count a call that got values that are not finite."""
        self._faults.inc()

    def answer(
        self, *, decode: float, queue: float, inference: float, classes: Sequence[int], confidences: Sequence[float]
    ) -> None:
        """Record one answered call: seconds of its stages, each picture's best class and its probability."""
        self.answers.add(Answer(decode, queue, inference, classes, confidences))

    def _fold_answers(self, answers: list[Answer]) -> None:
        counts = self._counts
        decode, queue, inference, classes, confidences = zip(*answers, strict=True)
        for histogram, counted, seconds in (
            (self._decode, counts.decode, decode),
            (self._queue, counts.queue, queue),
            (self._inference, counts.inference, inference),
        ):
            _observe_all(histogram, seconds)
            counted.add(seconds)
        _observe_all(self._confidence, list(chain.from_iterable(confidences)))
        for index, count in Tally(chain.from_iterable(classes)).items():
            self._predictions[index].inc(count)

    def _fold_batches(self, batches: list[Batch]) -> None:
        sizes, seconds, ended = zip(*batches, strict=True)
        _observe_all(self._batch_size, sizes)
        self._images.inc(sum(sizes))
        alike = defaultdict[int, list[float]](list)
        for size, taken in zip(sizes, seconds, strict=True):
            alike[size].append(taken)
        for size, all_taken in alike.items():
            self._counts.batch(size, all_taken, max(ended))


def _observe_all(histogram: Histogram, values: Sequence[float]) -> None:
    """Do what `observe` does for every value, 0.1 us each; the library has no public way to add many at once."""
    import numpy as np  # late, as the supervisor of workers needs none

    array = np.array(values)
    histogram._sum.inc(float(array.sum()))
    for bucket, count in enumerate(np.bincount(np.searchsorted(histogram._upper_bounds, array)).tolist()):
        if count:
            histogram._buckets[bucket].inc(count)
