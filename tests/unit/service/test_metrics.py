import socket
import threading
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import Histogram, generate_latest

from service.errors import RefusalReason, SetupError
from service.metrics import Metrics, VersionMetrics
from service.model import Facts

FACTS = Facts("lenet5", 3, "cuda", "fp16", True, "abc")
FACTS_SHOWN = 'precision="fp16",provider="cuda",sha256="abc",verified="true",version="3"'
LABELS = [f"class {index}" for index in range(103)]


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics of their own."""
    return Metrics()


@pytest.fixture
def version(metrics: Metrics) -> VersionMetrics:
    """Return the metrics of a version in whose queue seven pictures wait."""
    return metrics.version(FACTS, LABELS, lambda: 7)


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Return what a metric of the version's model says."""
    return metrics.registry.get_sample_value(f"saccade_{name}", {"model": "lenet5", **labels})


def test_a_model_that_nobody_wants(metrics: Metrics) -> None:
    """Of a model that was let go on purpose nothing is said any more: 0 would call somebody at night."""
    metrics.model_ready("lenet5", ready=True)
    metrics.model_gone("lenet5")
    assert value(metrics, "model_ready") is None
    metrics.model_gone("never there")
    metrics.model_ready("lenet5", ready=True)
    assert value(metrics, "model_ready") == 1


@pytest.mark.parametrize(
    "sample",
    [
        'saccade_requests_total{code="OK",method="Classify",model="lenet5"} 1.0',
        'saccade_request_seconds_count{method="Classify",model="lenet5"} 1.0',
        'saccade_stage_seconds_count{model="lenet5",stage="decode"} 1.0',
        'saccade_stage_seconds_count{model="lenet5",stage="queue"} 1.0',
        'saccade_stage_seconds_count{model="lenet5",stage="inference"} 1.0',
        'saccade_batch_size_count{model="lenet5"} 1.0',
        'saccade_queue_depth{model="lenet5",version="3"} 7.0',
        'saccade_images_total{model="lenet5"} 2.0',
        'saccade_refused_total{model="lenet5",reason="deadline"} 1.0',
        'saccade_predictions_total{label="class 1",model="lenet5"} 2.0',
        'saccade_confidence_count{model="lenet5"} 2.0',
        f'saccade_model_info{{model="lenet5",{FACTS_SHOWN}}} 1.0',
        'saccade_model_ready{model="lenet5"} 1.0',
        'saccade_model_load_failures_total{model="lenet5",version="2"} 1.0',
    ],
)
def test_exposition(sample: str, metrics: Metrics, version: VersionMetrics) -> None:
    """The metrics have the names and labels that other programs depend on."""
    metrics.call("lenet5", "Classify", "OK", 0.01)
    metrics.refused("lenet5", "deadline")
    metrics.model_ready("lenet5", ready=True)
    metrics.load_failed("lenet5", 2)
    version.served(now=True)
    version.batch(2, 0.001)
    version.answer(decode=0.1, queue=0.2, inference=0.3, classes=[1, 1], confidences=[0.9, 0.8])
    assert sample in generate_latest(metrics.registry).decode().splitlines()


@pytest.mark.parametrize(("stage", "seconds"), [("decode", 0.1), ("queue", 0.2), ("inference", 0.3)])
def test_stages(stage: str, seconds: float, metrics: Metrics, version: VersionMetrics) -> None:
    """The seconds of each stage are recorded under its own name."""
    version.answer(decode=0.1, queue=0.2, inference=0.3, classes=[], confidences=[])
    assert value(metrics, "stage_seconds_sum", stage=stage) == seconds


@pytest.mark.parametrize(("index", "label"), [(0, "class 0"), (99, "class 99"), (100, "other"), (102, "other")])
def test_labels(index: int, label: str, metrics: Metrics, version: VersionMetrics) -> None:
    """Predictions of the first 100 labels are counted by name, those beyond as `other`."""
    version.answer(decode=0, queue=0, inference=0, classes=[index], confidences=[0.5])
    assert value(metrics, "predictions_total", label=label) == 1


@pytest.mark.usefixtures("version")
def test_series(metrics: Metrics) -> None:
    """A model of 103 labels has 101 series of predictions, each there from the start."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    assert len([line for line in lines if line.startswith("saccade_predictions_total{")]) == 101


def test_confidence(metrics: Metrics, version: VersionMetrics) -> None:
    """The probability of each picture's best label is recorded."""
    version.answer(decode=0, queue=0, inference=0, classes=[0, 1], confidences=[0.25, 0.5])
    assert value(metrics, "confidence_sum") == 0.75


@pytest.mark.parametrize("reason", ["queue_full", "pool_full", "deadline", "draining"])
def test_refused(reason: RefusalReason, metrics: Metrics) -> None:
    """Refusals are counted by reason."""
    metrics.refused("lenet5", reason)
    assert value(metrics, "refused_total", reason=reason) == 1


def test_calls(metrics: Metrics) -> None:
    """Calls are counted by status and timed all together."""
    for code, seconds in (("OK", 0.25), ("OK", 0.5), ("NOT_FOUND", 0.25)):
        metrics.call("lenet5", "Classify", code, seconds)
    assert value(metrics, "requests_total", method="Classify", code="OK") == 2
    assert value(metrics, "request_seconds_sum", method="Classify") == 1


@pytest.mark.parametrize("now", [True, False])
def test_served(now: bool, metrics: Metrics, version: VersionMetrics) -> None:  # noqa: FBT001 - parametrized
    """A version that is served is 1, one that is gone 0."""
    version.served(now=True)
    version.served(now=now)
    facts = {"version": "3", "provider": "cuda", "precision": "fp16", "verified": "true", "sha256": "abc"}
    assert value(metrics, "model_info", **facts) == now


@pytest.mark.parametrize("ready", [True, False])
def test_ready(ready: bool, metrics: Metrics) -> None:  # noqa: FBT001 - parametrized
    """A model with a served version is 1, one without 0."""
    metrics.model_ready("lenet5", ready=ready)
    assert value(metrics, "model_ready") == ready


def test_queue_depth_is_live(metrics: Metrics) -> None:
    """The queue's depth is asked for at each scrape."""
    waiting = [3]
    metrics.version(FACTS, LABELS, lambda: waiting[0])
    waiting[0] = 5
    assert value(metrics, "queue_depth", version="3") == 5


def test_reload(metrics: Metrics, version: VersionMetrics) -> None:
    """Another version of the same model goes on with its counts."""
    version.batch(2, 0.001)
    metrics.version(Facts("lenet5", 4, "cuda", "fp16", True, "def"), LABELS, lambda: 0).batch(3, 0.001)
    assert value(metrics, "images_total") == 5


def test_two_servers() -> None:
    """Two servers in one process do not share their metrics."""
    first, second = Metrics(), Metrics()
    first.refused("lenet5", "deadline")
    assert value(second, "refused_total", reason="deadline") is None


def test_process(metrics: Metrics) -> None:
    """The process's own metrics are there."""
    assert metrics.registry.get_sample_value("process_resident_memory_bytes")


def test_serve(metrics: Metrics) -> None:
    """On port 0 the metrics are served on a free port, and which is told."""
    metrics.model_ready("lenet5", ready=True)
    port, stop = metrics.serve("127.0.0.1", 0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    stop()
    assert 'saccade_model_ready{model="lenet5"} 1.0' in text


def test_stop(metrics: Metrics) -> None:
    """Once stopped, the port is free again."""
    port, stop = metrics.serve("127.0.0.1", 0)
    stop()
    socket.create_server(("127.0.0.1", port)).close()


def test_port_taken(taken: int, metrics: Metrics) -> None:
    """A port that is taken is a SetupError with the flag, the port and what to do."""
    with pytest.raises(
        SetupError, match=f"--metrics-port {taken} on 127.0.0.1: Address already in use; choose another"
    ):
        metrics.serve("127.0.0.1", taken)


def test_folding_equals_observing() -> None:
    """Values that are folded many at a time give the same buckets, count and sum as observed one by one."""
    values = [0.0, 0.0005, 0.00051, 0.003, 0.05, 9.9, 10.0, 11.0, 1e9]
    bounds = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
    expected = Histogram("expected", "", buckets=bounds, registry=None)
    metrics = Metrics()
    for value in values:
        expected.observe(value)
        metrics.call("linear", "Classify", "OK", value)
    [family] = expected.collect()
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            labels = {"model": "linear", "method": "Classify", **sample.labels}
            name = sample.name.replace("expected", "saccade_request_seconds")
            assert metrics.registry.get_sample_value(name, labels) == sample.value


def test_records_of_many_threads_are_all_counted() -> None:
    """Twenty thousand calls of eight threads are twenty thousand, while somebody looks at the metrics."""
    metrics = Metrics()

    def record() -> None:
        for _ in range(2500):
            metrics.call("linear", "Classify", "OK", 0.001)

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.registry.get_sample_value("saccade_requests_total", {})
    for thread in threads:
        thread.join()
    labels = {"model": "linear", "method": "Classify", "code": "OK"}
    assert metrics.registry.get_sample_value("saccade_requests_total", labels) == 20_000


@pytest.mark.parametrize(("sha256", "shown"), [("abc", 1), ("def", 0)])
def test_loaded_anew(sha256: str, shown: int, metrics: Metrics, version: VersionMetrics) -> None:
    """A version that was loaded anew stays when the one of its number goes, and shows 0 for another file only."""
    version.served(now=True)
    anew = metrics.version(Facts("lenet5", 3, "cuda", "fp16", True, sha256), LABELS, lambda: 5)
    anew.served(now=True)
    version.served(now=False)
    facts = {"version": "3", "provider": "cuda", "precision": "fp16", "verified": "true"}
    assert value(metrics, "queue_depth", version="3") == 5
    assert value(metrics, "model_info", **facts, sha256=sha256) == 1
    assert value(metrics, "model_info", **facts, sha256="abc") == shown
    anew.served(now=False)
    assert value(metrics, "queue_depth", version="3") == 0
    assert value(metrics, "model_info", **facts, sha256=sha256) == 0


def test_an_answer_after_its_version_is_gone(metrics: Metrics, version: VersionMetrics) -> None:
    """What a caller takes after its version was let go, as a slow one of a stream does, is counted."""
    version.served(now=True)
    version.served(now=False)
    version.answer(decode=0.5, queue=0.25, inference=1.0, classes=[1], confidences=[0.9])
    assert value(metrics, "predictions_total", label="class 1") == 1
    assert metrics.counts("lenet5", 3).queue.count == 1
