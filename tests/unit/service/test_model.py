import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from service import image
from service.budget import PixelBudget
from service.decoder import Decoder
from service.errors import DeadlineExceeded, InferenceFailed, InvalidInput, ModelRejected, Overloaded, Unavailable
from service.image import Pixels
from service.loading import load_model
from service.manifest import Manifest, golden_sample, sha256
from service.metrics import Metrics
from service.model import WHOLE_ROWS, Facts, Model, Options, Picture
from service.model import Answer as ModelAnswer
from service.providers import Computed, ProviderChoice
from service.scores import Best, best_of, joined
from service.selftest import self_test
from service.session import Session
from tests.fakes import WAIT, HeldSession, Job
from tests.onnx_models import LABELS, SPEC, pictures, probabilities, weights, write_model

Answer = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
Load = Callable[..., Model]
Done = SimpleQueue[Callable[[], ModelAnswer]]
Starts = Callable[..., Model]

CPU, OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"
MANY = [f"class {index}" for index in range(7)]
PNGS = [image.encode_png(picture) for picture in pictures(9, seed=3)]
RAW = [Pixels(8, 8, 1, picture.tobytes()) for picture in pictures(9, seed=3)]
LARGER = Pixels(16, 16, 1, bytes(256))
BEST = [LABELS[index] for index in probabilities(pictures(9, seed=3), weights()).argmax(axis=1)]


class _Fake:
    """ONNX Runtime's session as `Session` uses it, answering what it is told to."""

    def __init__(self, provider: str, answer: Answer, classes: int) -> None:
        self.get_providers = lambda: [provider]
        self.get_inputs = lambda: [SimpleNamespace(name="image", type="tensor(uint8)", shape=["N", 8, 8, 1])]
        self.get_outputs = lambda: [SimpleNamespace(name="probabilities", type="tensor(float)", shape=["N", classes])]
        self.run = lambda _, feed: [answer(feed["image"])]


def right(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Answer as the model must."""
    return probabilities(batch, weights())


def wrong(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Answer probabilities of the wrong classes, as a broken kernel does."""
    return right(batch)[:, ::-1]


def fail(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Fail as ONNX Runtime does where a GPU's library is missing or its memory is full."""
    raise RuntimeError(f"CUDNN_STATUS_ALLOC_FAILED at secret/path for {len(batch)}")


def fakes(answer: Answer, openvino: Answer | None = None, classes: int = len(LABELS)) -> Callable[..., _Fake]:
    """Return what makes sessions that answer so, on OpenVINO maybe otherwise."""
    answers = {CPU: answer, OPENVINO: openvino or answer}
    return lambda _, providers, **__: _Fake(providers[0][0], answers[providers[0][0]], classes)


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics of their own."""
    return Metrics()


@pytest.fixture
def load(tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Return what writes a model and loads it, by a runtime that says it has OpenVINO; all are drained in the end."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [OPENVINO, CPU])
    models = []

    def write_and_load(
        create: Callable[..., Any] | None = None,
        provider: ProviderChoice = "cpu",
        **written: Any,  # noqa: ANN401
    ) -> Model:
        options = Options(provider, intra_op_threads=1, max_batch_size=4, queue_size=9, create_session=create)
        models.append(load_model(write_model(tmp_path, **written), "linear", 2, options, metrics))
        return models[-1]

    yield write_and_load
    for model in models:
        model.drain(0)


class BusyDecoder:
    """A decoder of one thread, which is busy until the test frees it."""

    def __init__(self) -> None:
        self.decoder, self._go = Decoder(1), threading.Event()
        self.decoder.submit([1], lambda _: self._go.wait(WAIT), lambda _: None)

    def free(self) -> None:
        """Let it go on; return when all is done that it was given before."""
        self._go.set()
        settle(self.decoder)


def settle(decoder: Decoder) -> None:
    """Return when a decoder of one thread has done what it was given."""
    done = threading.Event()
    decoder.submit([1], lambda number: number, lambda _: done.set())
    assert done.wait(WAIT), "the decoder is still busy"


@pytest.fixture
def busy() -> Iterator[BusyDecoder]:
    """Return a busy decoder; in the end it is free."""
    busy = BusyDecoder()
    yield busy
    busy._go.set()


@pytest.fixture
def serve(metrics: Metrics) -> Iterator[Starts]:
    """Return what makes a model around held sessions, of batches of 4 and a queue of 9; all are drained in the end."""
    models, held = list[Model](), list[HeldSession]()

    def make(*sessions: HeldSession, seconds: float = 0.0, **options: Any) -> Model:  # noqa: ANN401 - those of Options
        model = Model(
            Facts("linear", 2, "cpu", "fp32", verified=True, sha256="0" * 64),
            Manifest(labels=LABELS, preprocessing=SPEC),
            [cast("Session", session) for session in sessions],
            costs={4: seconds},
            options=Options(queue_size=9, max_batch_size=4, **options),
            metrics=metrics,
        )
        models.append(model)
        held.extend(sessions)
        return model

    yield make
    for session in held:
        session.gate.set()
    for model in models:
        model.drain(WAIT)


def waiting(metrics: Metrics) -> float | None:
    """Return how many pictures are admitted and not yet running."""
    return metrics.registry.get_sample_value("saccade_queue_depth", {"model": "linear", "version": "2"})


def test_verified(load: Load, tmp_path: Path) -> None:
    """A right file with golden samples is verified, and says what it is."""
    facts = load().facts
    assert facts == Facts("linear", 2, "cpu", "fp32", True, sha256(tmp_path / "model.onnx"), device="CPU")


def test_wrong_samples(load: Load) -> None:
    """A file whose golden samples do not come out is rejected with provider, sample, difference and limit."""
    text = r"^cpu: self-test: golden sample \d is 0\.05 from its expected probabilities; the limit for fp32 is 0\.0001$"
    with pytest.raises(ModelRejected, match=text):
        load(wrong_by=0.05)


def test_unverified(load: Load) -> None:
    """A file without golden samples is served, unverified."""
    model = load(samples=0)
    assert (model.facts.verified, len(model.classify(PNGS[:1]).classifications)) == (False, 1)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"preprocessing": {"height": 9, "width": 8, "channels": 1}}, r"takes \(8, 8, 1\).*manifest says \(9, 8, 1\)"),
        ({"preprocessing": {"height": 8, "width": 8, "channels": 3}}, r"takes \(8, 8, 1\).*manifest says \(8, 8, 3\)"),
        ({"labels": ["a", "b", "c"]}, "the graph gives 4 classes, the manifest has 3 labels"),
        ({"golden_samples": [{"picture": "AAEC", "label": 0, "probabilities": [1, 0, 0, 0]}]}, "cannot be decoded"),
    ],
)
def test_manifest_of_another_graph(changed: dict[str, object], text: str, load: Load, tmp_path: Path) -> None:
    """A manifest that does not fit the graph is rejected, and both are told."""
    (tmp_path / "manifest.json").write_text(json.dumps({"golden_samples": [], **changed}))
    with pytest.raises(ModelRejected, match=text):
        load()


@pytest.mark.parametrize("sample", [0, 2, 5, 6])
def test_wrong_sample_number(sample: int) -> None:
    """The self-test names the sample that is wrong, in whichever batch it ran."""
    expected = right(pictures(7))
    expected[sample] = expected[sample, ::-1]
    rows = zip(pictures(7), expected.tolist(), strict=True)
    samples = tuple(golden_sample(image.encode_png(picture), 0, row) for picture, row in rows)
    manifest = Manifest(labels=LABELS, preprocessing=SPEC, golden_samples=samples)
    with pytest.raises(ModelRejected, match=f"golden sample {sample} is"):
        self_test(right, manifest, Options(max_batch_size=3))


@pytest.mark.parametrize(("share", "outcome"), [(0.9, nullcontext()), (1.1, pytest.raises(ModelRejected))])
@pytest.mark.parametrize(
    ("precision", "limit"), [("fp32", 1e-4), ("tf32", 5e-3), ("fp16", 5e-3), ("bf16", 3e-2), ("int8", 3e-2)]
)
def test_tolerance(precision: Computed, limit: float, share: float, outcome: AbstractContextManager[object]) -> None:
    """Golden samples may differ by the tolerance of what is computed in, and no more."""
    off = limit * share
    sample = golden_sample(PNGS[0], 0, [0.5 + off, 0.5 - off, 0, 0])
    manifest = Manifest(labels=LABELS, preprocessing=SPEC, golden_samples=(sample,))
    with outcome:
        assert self_test(lambda _: np.array([[0.5, 0.5, 0, 0]], np.float32), manifest, Options(), precision)


def test_golden_samples_that_give_nan() -> None:
    """A session that gives NaN for a golden sample is refused: NaN is over no limit."""
    sample = golden_sample(PNGS[0], 0, [0.5, 0.5, 0, 0])
    manifest = Manifest(labels=LABELS, preprocessing=SPEC, golden_samples=(sample,))
    with pytest.raises(ModelRejected, match="not finite"):
        self_test(lambda _: np.full((1, 4), np.nan, np.float32), manifest, Options())


@pytest.mark.parametrize(("wide", "outcome"), [(3, nullcontext()), (0, pytest.raises(ModelRejected, match="sample 3"))])
def test_a_tolerance_in_a_later_batch(wide: int, outcome: AbstractContextManager[object]) -> None:
    """A golden sample's own tolerance is that sample's, in whichever batch of the self-test it runs."""
    rows = np.tile(np.array([0.5, 0.5, 0, 0], np.float32), (4, 1))
    expected = rows.copy()
    expected[3] = [0.8, 0.2, 0, 0]
    samples = [golden_sample(png, 0, row) for png, row in zip(PNGS, expected.tolist(), strict=False)]
    samples[wide] = samples[wide].model_copy(update={"tolerance": 0.5})
    manifest = Manifest(labels=LABELS, preprocessing=SPEC, golden_samples=tuple(samples))
    with outcome:
        assert self_test(lambda batch: rows[: len(batch)], manifest, Options(max_batch_size=3))


@pytest.mark.parametrize(("openvino", "taken"), [(right, "openvino"), (wrong, "cpu"), (fail, "cpu")])
def test_auto(openvino: Answer, taken: str, load: Load) -> None:
    """`auto` takes OpenVINO where it passes the self-test, else the CPU, and the model says which."""
    assert load(fakes(right, openvino), "auto").facts.provider == taken


def test_auto_says_why(load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `auto` passes over a provider, the log and ListModels say which and why."""
    monkeypatch.setattr(logging.getLogger("saccade"), "propagate", True)
    model = load(fakes(right, wrong), "auto")
    (fields,) = [record.__dict__["fields"] for record in caplog.records if record.msg == "provider passed over"]
    assert fields["reasons"].startswith("openvino: self-test: golden sample")
    assert model.notice.startswith("passed over openvino: self-test: golden sample")


def test_no_provider_passes(load: Load) -> None:
    """Where no provider passes, the reason of each is given."""
    with pytest.raises(ModelRejected, match=r"openvino: self-test: .*; cpu: self-test: "):
        load(fakes(wrong), "auto")


@pytest.mark.parametrize(("top_k", "expected"), [(0, 5), (1, 1), (5, 5), (7, 7), (8, 7), (2**32 - 1, 7)])
def test_top_k(top_k: int, expected: int, load: Load) -> None:
    """As many categories as asked for are given, 5 for 0, and all where more are asked for than there are."""
    (categories,) = load(labels=MANY).classify(PNGS[:1], top_k=top_k).classifications
    assert len(categories) == expected


def test_top_k_of_each(serve: Starts) -> None:
    """Of calls in one batch each gets as many categories as it asked for."""
    session, done = HeldSession(right), [Done() for _ in range(4)]
    model = serve(session)
    for picture, top_k, each in zip(RAW, (2, 1, 3, 2), done, strict=False):
        model.start([picture], top_k=top_k, on_done=each.put)
        if each is done[0]:
            assert session.began.acquire(timeout=WAIT)
    session.gate.set()
    answers = [each.get(timeout=WAIT)() for each in done]
    assert [(len(answer.classifications[0]), answer.batch_size) for answer in answers] == [
        (2, 1),
        (1, 3),
        (3, 3),
        (2, 3),
    ]


def test_right(load: Load) -> None:
    """Each picture, encoded or raw, gets the model's probabilities with their labels, the greatest first."""
    raw = Pixels(8, 8, 1, pictures(9, seed=3)[8].tobytes())
    classifications = load(labels=MANY).classify([*PNGS[:8], raw], top_k=7).classifications
    expected = probabilities(pictures(9, seed=3), weights(classes=7))
    for categories, row in zip(classifications, expected, strict=True):
        order = np.argsort(-row)
        assert [(c.index, c.label) for c in categories] == [(index, MANY[index]) for index in order]
        np.testing.assert_allclose([c.probability for c in categories], row[order], atol=1e-6)


def test_ties(load: Load) -> None:
    """Equal probabilities are given by index."""
    create = fakes(lambda batch: np.tile(np.array([0.02, 0.08], np.float32), (len(batch), 10)), classes=20)
    model = load(create, samples=0, labels=[str(index) for index in range(20)])
    (categories,) = model.classify(PNGS[:1], top_k=20).classifications
    assert [category.index for category in categories] == [*range(1, 20, 2), *range(0, 20, 2)]


def test_company_makes_no_difference(load: Load) -> None:
    """What a picture gets does not depend on those it runs with."""
    model = load()
    together, alone = model.classify(PNGS).classifications, [model.classify([p]).classifications[0] for p in PNGS]
    pairs = zip(chain(*together), chain(*alone), strict=True)
    assert all(a.index == b.index and abs(a.probability - b.probability) <= 1e-6 for a, b in pairs)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ([], "images"),
        ([PNGS[0], PNGS[1], b"garbage"], "images[2]"),
        ([PNGS[0], b"", PNGS[1]], "images[1]"),
        ([Pixels(8, 8, 1, b"x")], "images[0].pixels.data"),
    ],
)
def test_bad_request(bad: list[bytes | Pixels], field: str, load: Load) -> None:
    """A picture that is none, or a request without pictures, is refused by its field."""
    with pytest.raises(InvalidInput) as caught:
        load().classify(bad)
    assert caught.value.field == field


def test_unverified_is_noticed(load: Load) -> None:
    """A version without golden samples is served with a notice that says so."""
    assert load(samples=0).notice == "unverified: the file carries no golden samples"


def test_run_fails(load: Load) -> None:
    """A run that fails is told without ONNX Runtime's words, and the model lives on."""
    answers: list[Answer] = [right]
    model = load(fakes(lambda batch: answers[0](batch)))  # noqa: PLW0108 - the answer changes
    answers[:] = [fail]
    with pytest.raises(InferenceFailed, match=r"^the batch failed$"):
        model.classify(PNGS[:1])
    answers[:] = [right]
    assert model.classify(PNGS[:1]).classifications


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(value: float, load: Load, metrics: Metrics) -> None:
    """A call that gets values that are not finite fails, is counted, and marks the version; the next is answered."""
    answers: list[Answer] = [right]
    model = load(fakes(lambda batch: answers[0](batch)))  # noqa: PLW0108 - the answer changes
    assert model.notice == ""
    answers[:] = [lambda batch: right(batch) * np.float32(value)]
    with pytest.raises(InferenceFailed, match="not finite"):
        model.classify(PNGS[:1])
    answers[:] = [right]
    assert model.classify(PNGS[:1]).classifications
    assert model.notice == "1 calls got values that are not finite"
    faults = metrics.registry.get_sample_value("saccade_model_faults_total", {"model": "linear", "version": "2"})
    assert faults == 1


@pytest.mark.parametrize("failing", [1, WHOLE_ROWS])
@pytest.mark.parametrize("fine", [1, WHOLE_ROWS])
def test_not_finite_harms_its_caller_only(failing: int, fine: int, serve: Starts) -> None:
    """Of two calls in one batch only that with the values that are not finite fails, whatever they ask for."""

    def answer(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        rows = right(batch)
        rows[batch.reshape(len(batch), -1).max(axis=1) == 0] = np.nan
        return rows

    session = HeldSession(answer)
    model, black, done = serve(session), Pixels(8, 8, 1, bytes(64)), [Done() for _ in range(3)]
    model.start(RAW[:1], on_done=done[0].put)
    assert session.began.acquire(timeout=WAIT)
    model.start([black], top_k=failing, on_done=done[1].put)
    model.start(RAW[1:2], top_k=fine, on_done=done[2].put)
    session.gate.set()
    first, failed, last = (each.get(timeout=WAIT) for each in done)
    assert first().batch_size == 1
    with pytest.raises(InferenceFailed):
        failed()
    assert last().batch_size == 2


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("saccade_images_total", {}, 9),
        ("saccade_batch_size_count", {}, 3),
        ("saccade_batch_size_sum", {}, 9),
        ("saccade_confidence_count", {}, 9),
        *(("saccade_stage_seconds_count", {"stage": stage}, 1) for stage in ("decode", "queue", "inference")),
        ("saccade_queue_depth", {"version": "2"}, 0),
        *(("saccade_predictions_total", {"label": label}, BEST.count(label)) for label in LABELS),
    ],
)
def test_recorded(name: str, labels: dict[str, str], expected: float, load: Load, metrics: Metrics) -> None:
    """What concerns a picture is counted once a picture, a batch once a batch, a request once a request."""
    load().classify(PNGS)
    assert metrics.registry.get_sample_value(name, {"model": "linear", **labels}) == expected


def test_info_recorded(load: Load, metrics: Metrics) -> None:
    """The version's facts are a metric: 1 while it is served, 0 when it is gone."""
    model = load()
    facts = {"provider": "cpu", "precision": "fp32", "verified": "true", "sha256": model.facts.sha256}
    info = "saccade_model_info", {"model": "linear", "version": "2", **facts}
    assert metrics.registry.get_sample_value(*info) == 1
    model.drain(0)
    assert metrics.registry.get_sample_value(*info) == 0


def test_rows_and_classes_in_one_batch(serve: Starts, metrics: Metrics) -> None:
    """Who asks for whole rows gets them, over all batches, and who shares a batch with them gets his best classes."""
    session, begun, whole, best = HeldSession(right), Done(), Done(), Done()
    model = serve(session)
    model.start(RAW[:1], on_done=begun.put)
    assert session.began.acquire(timeout=WAIT)
    model.start(RAW[1:3], top_k=2, on_done=best.put)
    model.start(RAW[3:9], top_k=WHOLE_ROWS, on_done=whole.put)  # two with those before, four after them
    session.gate.set()
    given, answer = whole.get(timeout=WAIT)(), best.get(timeout=WAIT)()
    expected = probabilities(pictures(9, seed=3), weights())
    assert given.probabilities is not None
    np.testing.assert_allclose(given.probabilities, expected[3:], rtol=1e-6)
    assert given.classifications == []
    assert answer.probabilities is None
    assert [[entry.label for entry in row] for row in answer.classifications] == [
        [LABELS[index] for index in order[:2]] for order in np.argsort(-expected[1:3], axis=1)
    ]
    begun.get(timeout=WAIT)()
    assert metrics.registry.get_sample_value("saccade_confidence_count", {"model": "linear"}) == 9


def test_rows_outlive_the_next_batch(serve: Starts) -> None:
    """Whole rows stay what they were when the session uses the same memory for its next batch."""
    output = np.empty((1, len(LABELS)), np.float32)

    def answer(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        output[:] = right(batch)
        return output

    session = HeldSession(answer)
    session.gate.set()
    model = serve(session)
    given = [model.classify([picture], top_k=WHOLE_ROWS).probabilities for picture in RAW[:2]]
    for rows, expected in zip(given, right(pictures(9, seed=3)[:2]), strict=True):
        assert rows is not None
        np.testing.assert_allclose(rows[0], expected, rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 10, 32, 33, 1000])
def test_best_of(classes: int) -> None:
    """The best classes are those of a stable sort, ties by index, however many there are and are asked for."""
    random = np.random.default_rng(classes)
    for different in (1, 2, 5, 50, 10**6) * 8:  # values: few make ties
        rows = (random.integers(0, different, (random.integers(1, 7), classes)) / different).astype(np.float32)
        for k in {1, 2, 5, max(1, classes - 1), classes, classes + 3}:
            order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
            best = best_of(rows, k)
            assert (len(best), best.k, best.finite) == (len(rows), min(k, classes), True)
            assert best.indices == order.ravel().tolist()
            assert best.probabilities == np.take_along_axis(rows, order, axis=1).ravel().tolist()


@pytest.mark.parametrize("classes", [10, 33, 1000])
@pytest.mark.parametrize("k", [1, 5, 1000])
def test_best_of_rows_that_are_not_finite(classes: int, k: int) -> None:
    """A row that holds a value which is not finite, wherever it stands, gets no probabilities; others get theirs."""
    random = np.random.default_rng(k)
    for values in ([np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [np.nan, np.inf]):
        rows = random.random((8, classes), np.float32)
        bad = random.random(8) < 0.5
        for row in np.flatnonzero(bad):
            rows[row, random.permutation(classes)[: len(values)]] = values
        best, good = best_of(rows, k), best_of(rows[~bad], k)
        assert [best[row : row + 1].finite for row in range(8)] == (~bad).tolist()
        given = np.reshape(best.probabilities, (8, best.k))
        assert np.isnan(given[bad]).all()
        assert (given[~bad].ravel().tolist(), good.finite) == (good.probabilities, True)
        assert np.reshape(best.indices, (8, best.k))[~bad].ravel().tolist() == good.indices


def test_best_of_some_pictures() -> None:
    """A slice has the classes and the rows of those pictures, and its first classes, or none, are theirs."""
    rows = np.random.default_rng(0).random((6, 7), np.float32)
    part = replace(best_of(rows, 5), rows=rows)[2:4]
    assert (len(part), part.k) == (2, 5)
    assert part.first(5) == best_of(rows[2:4], 5)
    assert part.first(3) == best_of(rows[2:4], 3)
    whole = part.first(0)
    assert (len(whole), whole.indices) == (2, [])
    assert whole.rows is not None
    assert whole.rows.tolist() == rows[2:4].tolist()


def test_best_of_parts_are_joined() -> None:
    """Parts of a request that ran in several batches make one, their whole rows too."""
    rows = np.random.default_rng(0).random((6, 7), np.float32)
    best = best_of(rows, 5)
    assert joined([best[0:1], best[1:4], best_of(rows[4:], 6)], 5) == best
    whole = Best(0, [], [], rows)
    found = joined([whole[0:1], whole[1:6]], 0)
    assert found.rows is not None
    assert found.rows.tolist() == rows.tolist()


def test_on_done_of_a_bad_request(load: Load) -> None:
    """A request that is refused at once raises and tells nobody; a picture that cannot be decoded is told."""
    model, done = load(), Done()
    for refused in ([], [Pixels(8, 8, 1, b"x")]):
        with pytest.raises(InvalidInput):
            model.start(refused, on_done=done.put)
    model.start([PNGS[0], b"garbage", b""], on_done=done.put)
    with pytest.raises(InvalidInput, match=r"^images\[1\]: "):
        done.get(timeout=WAIT)()
    assert done.empty()


@pytest.mark.parametrize("pictures", [[*PNGS[:8], b"garbage"], [*RAW[:8], Pixels(8, 8, 1, b"x")]])
def test_bad_picture_gives_back(pictures: Sequence[Picture], load: Load, metrics: Metrics) -> None:
    """A request with a bad picture gives its places back before its caller hears of it."""
    model = load()
    for _ in range(3):
        with pytest.raises(InvalidInput):
            model.classify(pictures)
        assert waiting(metrics) == 0
    assert len(model.classify(PNGS).classifications) == 9


@pytest.mark.parametrize(
    ("pictures", "seconds", "alone", "here"),
    [
        (RAW[:1], 0.0005, True, True),
        (RAW[:4], 0.0005, True, True),
        (RAW[:5], 0.0005, True, False),  # fills more than a batch
        (RAW[:1], 0.0005, False, False),
        (RAW[:1], 0.0006, True, False),
        (PNGS[:1], 0.0005, True, False),
        ([RAW[0], PNGS[0]], 0.0005, True, False),
        ([LARGER], 0.0005, True, False),  # must be resized
    ],
)
def test_runs_here(pictures: Sequence[Picture], seconds: float, serve: Starts, *, alone: bool, here: bool) -> None:
    """Raw pixels of the right size that come alone run on the calling thread if the model is fast; no others do."""
    threads, done = list[threading.Thread](), Done()

    def answer(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        threads.append(threading.current_thread())
        return right(batch)

    session = HeldSession(answer)
    session.on_own_thread = False
    session.gate.set()
    serve(session, seconds=seconds).start(pictures, alone=alone, on_done=done.put)
    assert len(done.get(timeout=WAIT)().classifications) == len(pictures)
    assert {thread.name for thread in threads} == {threading.current_thread().name if here else "linear/2"}


@pytest.mark.parametrize(
    ("pictures", "instances", "pin", "put_off"),
    [
        (RAW[:1], 1, False, True),
        (RAW[:2], 1, False, False),
        (RAW[:2], 1, True, True),
        (RAW[:1], 2, False, False),
        (RAW[:1], 2, True, False),
        (PNGS[:1], 1, True, False),
    ],
)
def test_put_off(pictures: Sequence[Picture], instances: int, serve: Starts, *, pin: bool, put_off: bool) -> None:
    """Raw pixels that come one by one, or to a model that has one core with gRPC, are put off on the calling thread."""
    done, looks = Done(), list[Callable[[], None]]()

    def later(look: Callable[[], None]) -> bool:
        looks.append(look)
        return True

    sessions = [HeldSession(right) for _ in range(instances)]
    for session in sessions:
        session.on_own_thread = False
        session.gate.set()
    core = min(os.sched_getaffinity(0)) if pin else None
    serve(*sessions, pin=core).start(pictures, later=later, on_done=done.put)
    assert bool(looks) is put_off
    for look in looks:
        look()
    assert len(done.get(timeout=WAIT)().classifications) == len(pictures)


@pytest.mark.parametrize("seconds", [0.0, 0.0001])
def test_own_thread(seconds: float, serve: Starts) -> None:
    """A session that only its own thread may run never runs on the calling one, however fast it is."""
    session, done = HeldSession(right), Done()
    serve(session, seconds=seconds).start(RAW[:1], alone=True, on_done=done.put)  # would never come back
    assert session.began.acquire(timeout=WAIT)
    session.gate.set()
    assert done.get(timeout=WAIT)().batch_size == 1


def test_raw_pixels_pass_the_decoder(serve: Starts, busy: BusyDecoder) -> None:
    """Raw pixels of the right size wait for no picture that is decoded, and take no time to decode."""
    session, done = HeldSession(right), Done()
    session.gate.set()
    model = serve(session, decoder=busy.decoder)
    model.start(PNGS[:1], on_done=done.put)
    assert model.classify(RAW[:2]).decode == 0
    assert done.empty()
    busy.free()
    assert done.get(timeout=WAIT)().decode > 0


def test_instances_run_side_by_side(serve: Starts) -> None:
    """Every session runs batches of its own, at the same time as the others."""
    sessions, done = [HeldSession(right), HeldSession(right)], Done()
    sessions[1].began = sessions[0].began
    model = serve(*sessions)
    for picture in RAW[:2]:
        model.start([picture], on_done=done.put)
        assert sessions[0].began.acquire(timeout=WAIT)
    assert [session.pictures for session in sessions] == [1, 1]
    sessions[0].gate.set()
    assert done.get(timeout=WAIT)().batch_size == 1


def test_instances_are_loaded(tmp_path: Path, metrics: Metrics) -> None:
    """A version is loaded as many times as it has instances; they share the cores unless threads are given."""
    threads = list[int]()

    def create(_: str, sess_options: Any, **__: Any) -> _Fake:  # noqa: ANN401 - onnxruntime's
        threads.append(sess_options.intra_op_num_threads)
        return _Fake(CPU, right, len(LABELS))

    for given in (0, 3):
        options = Options("cpu", instances=3, intra_op_threads=given, cores=5, create_session=create, available=[CPU])
        load_model(write_model(tmp_path), "linear", 2, options, metrics).drain(0)
    assert threads == [1, 1, 1, 3, 3, 3]


def test_every_instance_is_tested(tmp_path: Path, metrics: Metrics) -> None:
    """A version is refused where one of its instances answers wrongly, be it the last."""
    answers = iter([right, wrong])

    def create(*_: Any, **__: Any) -> _Fake:  # noqa: ANN401 - onnxruntime's
        return _Fake(CPU, next(answers), len(LABELS))

    options = Options("cpu", instances=2, intra_op_threads=1, create_session=create, available=[CPU])
    with pytest.raises(ModelRejected, match="golden sample"):
        load_model(write_model(tmp_path), "linear", 2, options, metrics)


@pytest.mark.parametrize(
    ("seconds", "cores", "given", "expected"),
    [(0.0, 4, 0, [4, 3]), (0.0, 2, 0, [2, 1]), (0.0, 1, 0, [1]), (0.0, 4, 4, [4]), (0.006, 4, 0, [4])],
)
def test_a_fast_model_leaves_a_core_to_grpc(  # noqa: PLR0917 - parametrized
    seconds: float, cores: int, given: int, expected: list[int], tmp_path: Path, metrics: Metrics
) -> None:
    """A model that answers a picture within 5 ms gets a thread less than there are cores, unless threads are given."""
    threads = list[int]()

    def answer(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        time.sleep(seconds)
        return right(batch)

    def create(_: str, sess_options: Any, **__: Any) -> _Fake:  # noqa: ANN401 - onnxruntime's
        threads.append(sess_options.intra_op_num_threads)
        return _Fake(CPU, answer, len(LABELS))

    options = Options("cpu", intra_op_threads=given, cores=cores, create_session=create, available=[CPU])
    load_model(write_model(tmp_path), "linear", 2, options, metrics).drain(0)
    assert threads == expected


def test_an_instance_that_cannot_begin(serve: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong as an instance's thread begins is raised where the version is loaded."""

    def refuse(_: int, mask: set[int]) -> None:
        raise RuntimeError("seccomp")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pytest.raises(RuntimeError, match="seccomp"):
        Job(lambda: serve(HeldSession(right))).answer()


def test_given_up_before_it_is_decoded(serve: Starts, busy: BusyDecoder, metrics: Metrics) -> None:
    """A request that is given up while its pictures wait is neither decoded nor run, and nobody is told."""
    session, done = HeldSession(right), Done()
    session.gate.set()
    leave = serve(session, decoder=busy.decoder).start(PNGS[:2], on_done=done.put)
    assert waiting(metrics) == 2
    leave()
    busy.free()
    assert (waiting(metrics), session.pictures, done.empty()) == (0, 0, True)
    assert busy.decoder.predict([len(PNGS[0])]) == 0  # it would know now what such a picture takes


def test_given_up_as_it_is_queued(serve: Starts, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is given up just when its decoded pictures are queued leaves the queue."""
    session, done, decoder = HeldSession(right), Done(), Decoder(1)
    model = serve(session, decoder=decoder)
    model.start(RAW[:1], on_done=done.put)
    assert session.began.acquire(timeout=WAIT)
    start, leaves = model._batcher._start, SimpleQueue[Callable[[], None]]()

    def left(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - as they come
        leaves.get(timeout=WAIT)()
        return start(*given, **named)

    monkeypatch.setattr(model._batcher, "_start", left)
    leaves.put(model.start(PNGS[:2], on_done=done.put))
    settle(decoder)
    assert waiting(metrics) == 0


def test_given_up_while_it_is_decoded(serve: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is given up while its pictures are decoded never runs, and nobody is told."""
    session, done, decoder, budget = HeldSession(right), Done(), Decoder(1), PixelBudget(64)
    session.gate.set()
    model = serve(session, decoder=decoder, budget=budget)
    leave_queue = model._batcher.leave

    def late(pending: Any) -> None:  # noqa: ANN401 - as it comes
        session.began.acquire(timeout=0.2)  # it must not be there to be run
        leave_queue(pending)

    monkeypatch.setattr(model._batcher, "leave", late)
    with budget.reserve(64):
        leave = model.start(PNGS[:1], on_done=done.put)
        late_by = time.monotonic() + WAIT
        while not budget.waiting:
            assert time.monotonic() < late_by, "the picture never came to the budget"
            time.sleep(0.001)
        leave()
    settle(decoder)
    assert (session.pictures, done.empty()) == (0, True)


def test_given_up_in_the_queue(serve: Starts, metrics: Metrics) -> None:
    """A request that is given up in the queue frees its places at once and never runs."""
    session, done = HeldSession(right), Done()
    model = serve(session)
    model.start(RAW[:1], on_done=done.put)
    assert session.began.acquire(timeout=WAIT)
    leave = model.start(RAW[:3], on_done=done.put)
    assert waiting(metrics) == 3
    leave()
    leave()
    assert waiting(metrics) == 0
    session.gate.set()
    assert done.get(timeout=WAIT)().batch_size == 1
    model.drain(WAIT)
    assert (session.pictures, done.empty()) == (1, True)


def test_given_up_after_its_end(serve: Starts) -> None:
    """To give up a request that is over does nothing: it was told once, and the next is answered."""
    session, done = HeldSession(right), Done()
    session.gate.set()
    model = serve(session)
    leave = model.start(PNGS[:1], on_done=done.put)
    answer = done.get(timeout=WAIT)
    leave()
    assert answer().batch_size == 1
    assert model.classify(RAW[:1]).batch_size == 1
    assert done.empty()


def test_deadline_before_it_is_decoded(serve: Starts, busy: BusyDecoder, metrics: Metrics) -> None:
    """A request whose deadline passes while its pictures wait for the decoder is told so, and they are not decoded."""
    session, done = HeldSession(right), Done()
    session.gate.set()
    deadline = time.monotonic() + 0.05
    serve(session, decoder=busy.decoder).start([b"garbage"], deadline=deadline, on_done=done.put)
    while time.monotonic() < deadline:
        time.sleep(0.005)
    busy.free()
    with pytest.raises(DeadlineExceeded, match="before the pictures were decoded"):
        done.get(timeout=WAIT)()
    assert (waiting(metrics), session.pictures, done.empty()) == (0, 0, True)


def test_deadline_while_it_runs(serve: Starts, metrics: Metrics) -> None:
    """Who waits with a deadline goes on when it passes, and what waits behind the batch that runs is given up."""
    session = HeldSession(right)
    model = serve(session)
    with pytest.raises(DeadlineExceeded, match="before the answer was there"):
        model.classify(RAW[:9], deadline=time.monotonic() + 0.5)
    assert waiting(metrics) == 0
    session.gate.set()
    model.drain(WAIT)
    assert session.pictures <= 4


@pytest.mark.parametrize("deadline", [threading.TIMEOUT_MAX * 2, float("inf")])
def test_deadline_as_good_as_none(deadline: float, load: Load) -> None:
    """A deadline that is further away than any clock counts is no deadline."""
    assert load().classify(PNGS[:1], deadline=deadline).batch_size == 1


def test_deadline_out_of_reach(serve: Starts) -> None:
    """A request is refused before it is decoded if its pictures and its batch would take longer than there is."""
    decoder, session = Decoder(1), HeldSession(right)
    session.gate.set()
    model = serve(session, decoder=decoder)
    model.classify(PNGS[:1])
    with pytest.raises(Overloaded) as refusal:
        model.classify(PNGS[:1], deadline=time.monotonic())
    assert refusal.value.retry_after >= decoder.predict([len(PNGS[0])]) > 0


def test_stopped_while_it_is_decoded(serve: Starts, busy: BusyDecoder) -> None:
    """A request whose pictures are decoded when the model has stopped is told Unavailable; so is every later one."""
    session, done = HeldSession(right), Done()
    model = serve(session, decoder=busy.decoder)
    model.start(PNGS[:1], on_done=done.put)
    model.drain(0)
    busy.free()
    with pytest.raises(Unavailable):
        done.get(timeout=WAIT)()
    for later in (PNGS, RAW):
        with pytest.raises(Unavailable):
            model.classify(later[:1])
    assert session.pictures == 0


def test_drain_waits_for_the_decoder(serve: Starts, busy: BusyDecoder) -> None:
    """A drain waits for requests whose pictures are being decoded."""
    session, done = HeldSession(right), Done()
    session.gate.set()
    model = serve(session, decoder=busy.decoder)
    model.start(PNGS[:1], on_done=done.put)
    drain, late = Job(lambda: model.drain(600)), time.monotonic() + WAIT
    with pytest.raises(Unavailable):
        while time.monotonic() < late:
            model.start(RAW[:1], on_done=Done().put)()
    assert drain.is_alive()
    busy.free()
    drain.answer()
    assert done.get_nowait()().batch_size == 1
