import pytest

from service.counts import Counts, Duration, together
from service.metrics import Metrics
from service.model import Facts
from service.rpc import described

FACTS = Facts("linear", 2, "cpu", "fp32", verified=True, sha256="")


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics that know of a version."""
    metrics = Metrics()
    metrics.version(FACTS, ("a", "b"), lambda: 0)
    return metrics


def test_duration() -> None:
    """A duration counts what it is given, and adds it up."""
    duration = Duration()
    duration.add([0.25, 0.5])
    duration.add([])
    assert duration == Duration(2, 0.75)


def test_batches() -> None:
    """Batches are counted by their size, and the last one's end is kept."""
    counts = Counts()
    for size, ended in ((4, 2.0), (1, 1.0), (4, 3.0), (4, 2.5)):
        counts.batch(size, [0.5], ended)
    assert (counts.batches, counts.last_batch) == ({4: Duration(3, 1.5), 1: Duration(1, 0.5)}, 3.0)


def test_calls(metrics: Metrics) -> None:
    """Calls are counted to the version that they mean, answered and failed ones apart."""
    for code, seconds, version in (
        ("OK", 0.5, 2),
        ("OK", 0.25, 2),
        ("INTERNAL", 1.0, 2),
        ("OK", 9.0, 1),
        ("OK", 9.0, 0),
    ):
        metrics.call("linear", "ModelInfer", code, seconds, version)
    counts = metrics.counts("linear", 2)
    assert (counts.success, counts.fail) == (Duration(2, 0.75), Duration(1, 1.0))


def test_stages(metrics: Metrics) -> None:
    """Answers and batches reach the counts with the same numbers as the metrics."""
    version = metrics.version(FACTS, ("a", "b"), lambda: 0)
    version.answer(decode=0.5, queue=0.25, inference=1.0, classes=[0], confidences=[0.9])
    version.batch(3, 0.75)
    counts = metrics.counts("linear", 2)
    assert (counts.decode, counts.queue, counts.inference) == (Duration(1, 0.5), Duration(1, 0.25), Duration(1, 1.0))
    assert counts.batches == {3: Duration(1, 0.75)}
    assert metrics.registry.get_sample_value("saccade_stage_seconds_sum", {"model": "linear", "stage": "queue"}) == 0.25


def test_batches_of_a_new_size_meanwhile(metrics: Metrics) -> None:
    """Statistics can be made of what was counted while batches of sizes that never came before are."""
    version = metrics.version(FACTS, ("a", "b"), lambda: 0)
    version.batch(1, 0.5)
    counts = metrics.counts("linear", 2)
    for size in counts.batches:  # as described.statistics goes through them
        version.batch(size + 1, 0.5)
        metrics.flush()
    assert described.statistics("linear", 2, counts).execution_count == 1


def test_unknown(metrics: Metrics) -> None:
    """Of a version that nobody knows nothing was counted."""
    assert metrics.counts("linear", 7) == Counts()


def test_loaded_again(metrics: Metrics) -> None:
    """A version that is loaded again goes on counting where it stopped."""
    metrics.call("linear", "ModelInfer", "OK", 0.5, 2)
    metrics.version(FACTS, ("a", "b"), lambda: 0)
    metrics.call("linear", "ModelInfer", "OK", 0.5, 2)
    assert metrics.counts("linear", 2).success == Duration(2, 1.0)


def test_gone() -> None:
    """The queue of a version that is gone is not asked for its depth any more."""
    metrics = Metrics()
    version = metrics.version(FACTS, ("a", "b"), lambda: 5)
    depth = {"model": "linear", "version": "2"}
    assert metrics.registry.get_sample_value("saccade_queue_depth", depth) == 5
    version.served(now=False)
    assert metrics.registry.get_sample_value("saccade_queue_depth", depth) == 0


def test_together() -> None:
    """What several processes counted of a version is added up; the last batch is the last of all."""
    first, second = Counts(), Counts()
    first.success.add([1.0, 2.0])
    second.success.add([4.0])
    second.fail.add([0.5])
    first.batch(2, [0.1], ended=5.0)
    second.batch(2, [0.2], ended=4.0)
    second.batch(8, [0.4], ended=3.0)
    whole = together([first, second])
    assert (whole.success, whole.fail) == (Duration(3, 7.0), Duration(1, 0.5))
    assert {size: runs.count for size, runs in whole.batches.items()} == {2: 2, 8: 1}
    assert whole.last_batch == 5.0
    assert together([]) == Counts()
