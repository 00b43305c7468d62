import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from service import image
from service.errors import InferenceFailed, InvalidInput, ModelRejected
from service.image import Pixels
from service.manifest import Manifest, Precision, golden_sample, sha256
from service.metrics import Metrics
from service.model import TOLERANCE, Facts, Model, Options, load_model, self_test
from tests.onnx_models import LABELS, SPEC, pictures, probabilities, weights, write_model

Answer = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
Load = Callable[..., Model]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
MANY = [f"class {index}" for index in range(7)]
PNGS = [image.encode_png(picture) for picture in pictures(9, seed=3)]
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


def fakes(answer: Answer, cuda: Answer | None = None, classes: int = len(LABELS)) -> Callable[..., _Fake]:
    """Return what makes sessions that answer so, on CUDA maybe otherwise."""
    answers = {CPU: answer, CUDA: cuda or answer}
    return lambda _, providers, **__: _Fake(providers[0][0], answers[providers[0][0]], classes)


@pytest.fixture
def metrics() -> Metrics:
    """Return metrics of their own."""
    return Metrics()


@pytest.fixture
def load(tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Return what writes a model and loads it, by an ONNX Runtime that says it has CUDA; all are drained in the end."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    models = []

    def write_and_load(create: Callable[..., Any] | None = None, provider: str = "cpu", **written: Any) -> Model:  # noqa: ANN401
        options = Options(provider, intra_op_threads=1, max_batch_size=4, queue_size=9, create_session=create)
        models.append(load_model(write_model(tmp_path, **written), "linear", 2, options, metrics))
        return models[-1]

    yield write_and_load
    for model in models:
        model.drain(0)


def test_verified(load: Load, tmp_path: Path) -> None:
    """A right file with golden samples is verified, and says what it is."""
    assert load().facts == Facts("linear", 2, "cpu", "fp32", True, sha256(tmp_path / "model.onnx"))


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
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_tolerance(precision: Precision, share: float, outcome: AbstractContextManager[object]) -> None:
    """Golden samples may differ by the precision's tolerance and no more."""
    off = TOLERANCE[precision] * share
    sample = golden_sample(PNGS[0], 0, [0.5 + off, 0.5 - off, 0, 0])
    manifest = Manifest(labels=LABELS, preprocessing=SPEC, golden_samples=(sample,), precision=precision)
    with outcome:
        assert self_test(lambda _: np.array([[0.5, 0.5, 0, 0]], np.float32), manifest, Options())


@pytest.mark.parametrize(("cuda", "taken"), [(right, "cuda"), (wrong, "cpu"), (fail, "cpu")])
def test_auto(cuda: Answer, taken: str, load: Load) -> None:
    """`auto` takes CUDA where it passes the self-test, else the CPU, and the model says which."""
    assert load(fakes(right, cuda), "auto").facts.provider == taken


def test_auto_says_why(load: Load, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where `auto` passes over a provider, the log says which and why."""
    monkeypatch.setattr(logging.getLogger("saccade"), "propagate", True)
    load(fakes(right, wrong), "auto")
    (fields,) = [record.__dict__["fields"] for record in caplog.records if record.msg == "provider passed over"]
    assert fields["reasons"].startswith("cuda: self-test: golden sample")


def test_no_provider_passes(load: Load) -> None:
    """Where no provider passes, the reason of each is given."""
    with pytest.raises(ModelRejected, match=r"cuda: self-test: .*; cpu: self-test: "):
        load(fakes(wrong), "auto")


@pytest.mark.parametrize(("top_k", "expected"), [(0, 5), (1, 1), (5, 5), (7, 7), (8, 7), (2**32 - 1, 7)])
def test_top_k(top_k: int, expected: int, load: Load) -> None:
    """As many categories as asked for are given, 5 for 0, and all where more are asked for than there are."""
    (categories,) = load(labels=MANY).classify(PNGS[:1], top_k=top_k).classifications
    assert len(categories) == expected


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


def test_not_finite_harms_its_caller_only(load: Load) -> None:
    """Of two calls in one batch only that with the values that are not finite fails."""
    began, go_on = threading.Event(), threading.Event()
    answers: list[Answer] = [right]

    def held(batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        began.set()
        assert go_on.wait(20)
        rows = right(batch)
        rows[batch.reshape(len(batch), -1).max(axis=1) == 0] = np.nan
        return rows

    model = load(fakes(lambda batch: answers[0](batch)))  # noqa: PLW0108 - the answer changes
    answers[:] = [held]
    black = Pixels(8, 8, 1, bytes(64))
    with ThreadPoolExecutor(3) as callers:
        first = callers.submit(model.classify, PNGS[:1])
        assert began.wait(20)
        others = [callers.submit(model.classify, pictures) for pictures in ([black], PNGS[1:2])]
        go_on.set()
        assert first.result(20).classifications
        with pytest.raises(InferenceFailed):
            others[0].result(20)
        assert others[1].result(20).classifications


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
