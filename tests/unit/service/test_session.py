import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from service import cores
from service.errors import ModelRejected, SetupError
from service.providers import Provider
from service.session import Session, buckets, candidates, check_runtime
from service.tensors import Expected
from tests.foreign_models import layer, samples, write_foreign
from tests.onnx_models import LABELS, pictures, probabilities, weights, write_model

CPU, CUDA, OPENVINO = "CPUExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider"


class _Port(NamedTuple):
    name: str
    type: str
    shape: list[int | str]


IMAGE = _Port("image", "tensor(uint8)", ["N", 8, 8, 1])
SCORES = _Port("probabilities", "tensor(float)", ["N", len(LABELS)])


class _Fake:
    """ONNX Runtime's session as `Session` uses it, and what makes it; records the sizes of its batches."""

    def __init__(self, *providers: str, inputs: Sequence[_Port] = (IMAGE,), output: _Port = SCORES) -> None:
        self.get_providers = lambda: list(providers)
        self.get_inputs = lambda: list(inputs)
        self.get_outputs = lambda: [output]
        self.sizes: list[int] = []
        self.asked: dict[str, Any] = {}

    def __call__(self, _: str, **asked: Any) -> "_Fake":  # noqa: ANN401 - as ONNX Runtime takes it
        self.asked = asked
        return self

    def run(self, names: list[str], feed: dict[str, npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.float32]]:
        assert (names, list(feed)) == (["probabilities"], ["image"])
        self.sizes.append(len(feed["image"]))
        return [probabilities(feed["image"], weights())]


def make(fake: Callable[..., Any], provider: Provider = "openvino", max_batch_size: int = 8) -> Session:
    """Return a session on a fake of ONNX Runtime's."""
    return Session(Path("secret/model.onnx"), provider, intra_op_threads=2, max_batch_size=max_batch_size, create=fake)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Return a session of ONNX Runtime on the CPU."""
    path = write_model(tmp_path_factory.mktemp("models"))
    return Session(path, "cpu", intra_op_threads=1, max_batch_size=9)


@pytest.mark.parametrize(
    ("largest", "expected"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_buckets(largest: int, expected: list[int]) -> None:
    """Buckets are the powers of two up to the largest batch, and that one."""
    assert buckets(largest) == expected


@pytest.mark.parametrize(
    ("choice", "available", "expected"),
    [
        ("auto", [CPU], ["cpu"]),
        ("auto", ["AzureExecutionProvider", CPU, CUDA], ["cuda", "cpu"]),
        ("auto", [CPU, OPENVINO, CUDA, "TensorrtExecutionProvider"], ["tensorrt", "cuda", "openvino", "cpu"]),
        ("auto", [], []),
        ("cpu", [CUDA, CPU], ["cpu"]),
        ("cuda", [CUDA, CPU], ["cuda"]),
        ("cuda", [CPU], ["cuda"]),  # tried, so that it fails with the reason
    ],
)
def test_candidates(choice: str, available: list[str], expected: list[str]) -> None:
    """`auto` tries all that this ONNX Runtime has, the best first; a provider by its name is the only one tried."""
    assert candidates(choice, available) == expected


def installed(*names: str) -> Callable[[str], str]:
    """Return a fake of importlib.metadata.version that knows these distributions, each as 1.22.0."""

    def version(name: str) -> str:
        if name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.22.0"

    return version


def test_one_runtime() -> None:
    """One ONNX Runtime is named with its version."""
    assert check_runtime(installed("onnxruntime-gpu")) == "onnxruntime-gpu 1.22.0"


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "pip install '.[cpu]'` in a clone of Saccade"),
        (["onnxruntime", "onnxruntime-gpu"], "pip uninstall onnxruntime onnxruntime-gpu"),
    ],
    ids=["none", "two"],
)
def test_wrong_runtimes(names: list[str], text: str) -> None:
    """No ONNX Runtime, or two, is a SetupError that gives the command."""
    with pytest.raises(SetupError) as caught:
        check_runtime(installed(*names))
    assert text in str(caught.value)


@pytest.mark.parametrize("size", range(1, 10))
def test_right_answers(size: int, real: Session) -> None:
    """ONNX Runtime on the CPU gives numpy's answer at every batch size."""
    batch = pictures(size, seed=size)
    np.testing.assert_allclose(real.run(batch), probabilities(batch, weights()), atol=1e-6)


def test_facts(real: Session) -> None:
    """A session knows its input, its classes and that any thread may run it on the CPU."""
    assert (real.input_shape, real.classes, real.on_own_thread) == ((8, 8, 1), 4, False)


@pytest.mark.parametrize(("provider", "name"), [("cpu", CPU), ("openvino", OPENVINO)])
def test_one_provider(provider: Provider, name: str) -> None:
    """ONNX Runtime is given the one provider that was asked for, none to fall back to."""
    fake = _Fake(name)
    make(fake, provider)
    assert [asked for asked, _ in fake.asked["providers"]] == [name]


@pytest.mark.parametrize(("given", "expected"), [(3, 3), (0, cores.count())])
def test_threads(given: int, expected: int) -> None:
    """As many threads share a batch as was said, for 0 as many as there are cores."""
    fake = _Fake(CPU)
    Session(Path("m"), "cpu", intra_op_threads=given, max_batch_size=1, create=fake)
    assert fake.asked["sess_options"].intra_op_num_threads == expected


def test_fallback() -> None:
    """A session that ONNX Runtime put on the CPU without a word is refused, and both providers are named."""
    with pytest.raises(ModelRejected, match="openvino was asked for, ONNX Runtime fell back to CPUExecutionProvider"):
        make(_Fake(CPU, OPENVINO))


def test_creation_fails() -> None:
    """A session that cannot be made is refused without ONNX Runtime's words: they hold paths."""

    def create(*_: object, **__: object) -> None:
        raise RuntimeError("secret words")

    with pytest.raises(ModelRejected) as caught:
        make(create)
    assert "openvino" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"This is a text.\n"])
def test_no_model(content: bytes, tmp_path: Path) -> None:
    """A file that ONNX Runtime cannot load is refused."""
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelRejected, match="cannot load it on cpu"):
        Session(tmp_path / "model.onnx", "cpu", intra_op_threads=1, max_batch_size=1)


@pytest.mark.parametrize(
    ("inputs", "output", "text"),
    [
        ([IMAGE._replace(shape=["N", 64])], SCORES, "'image' is tensor(uint8) [N, 64]"),
        ([IMAGE], SCORES._replace(type="tensor(int64)"), "'probabilities' tensor(int64)"),
    ],
)
def test_no_classifier(inputs: list[_Port], output: _Port, text: str) -> None:
    """A graph whose input or output is no classifier's is refused, and what it has is said."""
    with pytest.raises(ModelRejected) as caught:
        make(_Fake(OPENVINO, inputs=inputs, output=output))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("size", "ran"), [(1, [1]), (2, [2]), (3, [4]), (5, [8]), (8, [8]), (9, [12]), (12, [12]), (13, [12, 1])]
)
@pytest.mark.parametrize("provider", [CPU, OPENVINO])
def test_padding(size: int, ran: list[int], provider: str) -> None:
    """On OpenVINO a batch is padded to its bucket, one beyond all buckets is divided; on the CPU none is."""
    fake = _Fake(provider)
    make(fake, "cpu" if provider == CPU else "openvino", max_batch_size=12).run(pictures(size))
    assert fake.sizes == ([size] if provider == CPU else ran)


def test_padding_cut() -> None:
    """What was padded is cut off the answer, and the rest is right."""
    batch = pictures(5)
    np.testing.assert_array_equal(make(_Fake(OPENVINO)).run(batch), probabilities(batch, weights()))


@pytest.mark.parametrize("provider", [CPU, OPENVINO])
def test_warm_up_runs_all(provider: str) -> None:
    """Warm-up runs every bucket twice, the first run being the slow one of a provider that builds for a shape."""
    fake = _Fake(provider)
    make(fake, "cpu" if provider == CPU else "openvino", max_batch_size=6).warm_up()
    assert fake.sizes == [1, 1, 2, 2, 4, 4, 6, 6]


def test_warm_up_times() -> None:
    """Warm-up gives the seconds of each bucket's second run."""
    clock = iter([0.0, 9.0, 10.0, 11.0, 20.0, 29.0, 30.0, 33.0, 40.0, 49.0, 50.0, 55.0])
    assert make(_Fake(OPENVINO), max_batch_size=4).warm_up(clock.__next__) == {1: 1.0, 2: 3.0, 4: 5.0}


def test_warm_up_of_long_batches() -> None:
    """On the CPU a batch that takes long is run once: its first run takes no longer than the next."""
    clock, fake = iter([0.0, 0.09, 1.0, 1.08, 2.0, 2.11, 3.0, 3.5]), _Fake(CPU)
    seconds = make(fake, "cpu", max_batch_size=4).warm_up(clock.__next__)
    assert seconds == pytest.approx({1: 0.08, 2: 0.11, 4: 0.5})
    assert fake.sizes == [1, 1, 2, 4]


@pytest.mark.parametrize("options", [{"bias": float("nan")}, {"softmax": False}], ids=["NaN", "logits"])
def test_warm_up_refuses(options: dict[str, Any], tmp_path: Path) -> None:
    """A real model whose outputs are no probabilities does not pass warm-up."""
    session = Session(write_model(tmp_path, **options), "cpu", intra_op_threads=1, max_batch_size=2)
    with pytest.raises(ModelRejected, match="its output"):
        session.warm_up()


UNKNOWN = Expected(scores=lambda _: None, probe=True)


def foreign(path: Path, largest: int = 8, expected: Expected = UNKNOWN) -> Session:
    """Return a session of ONNX Runtime of a file of which nothing is known."""
    return Session(path, "cpu", intra_op_threads=1, max_batch_size=largest, expected=expected)


@pytest.mark.parametrize("fixed", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_fixed_batch(fixed: int, size: int, tmp_path: Path) -> None:
    """Where the graph fixes its batch any number of samples is right: run so many at a time, filled up, cut."""
    session = foreign(write_foreign(tmp_path, batch=fixed))
    np.testing.assert_allclose(session.run(samples(size)), probabilities(samples(size), layer()), atol=1e-6)


@pytest.mark.parametrize(("batch", "buckets"), [(3, [3]), (40, [40]), ("N", [1, 2, 4, 8])])
def test_fixed_bucket(batch: int | str, buckets: list[int], tmp_path: Path) -> None:
    """A batch that the graph fixes is the only bucket, whatever the largest batch was to be."""
    session = foreign(write_foreign(tmp_path, batch=batch))
    assert session.buckets == buckets
    assert list(session.warm_up()) == buckets


def test_fixed_batch_is_not_padded_to_buckets() -> None:
    """With padding too a fixed batch is run as it is."""
    fake = _Fake(OPENVINO, inputs=[IMAGE._replace(shape=[3, 8, 8, 1])])
    make(fake, max_batch_size=8).run(pictures(5))
    assert fake.sizes == [3, 3]


def test_batch_fixed_inside(tmp_path: Path) -> None:
    """A graph whose shapes leave the batch free and which takes one all the same is run one at a time, and says so."""
    session = foreign(write_foreign(tmp_path, batch="N", inside=1))
    np.testing.assert_allclose(session.run(samples(5)), probabilities(samples(5), layer()), atol=1e-6)
    assert "one picture at a time since its graph answers two together wrongly" in session.assumed


@pytest.mark.parametrize(
    ("last", "gives"), [([], "logits"), (["Softmax"], "probabilities"), (["LogSoftmax"], "logits")]
)
@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("batch", [1, "N"])
def test_what_it_gives(last: list[str], gives: str, ones: bool, batch: int | str, tmp_path: Path) -> None:  # noqa: FBT001 - parametrized
    """Whether a graph gives logits or probabilities is found by what it gives; rows of probabilities come of both."""
    session = foreign(write_foreign(tmp_path, last=last, ones=ones, batch=batch))
    assert session.gives == gives
    assert session.assumed == (f"its scores are {gives} by what it gives for generated samples",)
    np.testing.assert_allclose(session.run(samples(3)), probabilities(samples(3), layer()), atol=1e-6)


def test_known_logits(tmp_path: Path) -> None:
    """Logits that are known as such are not guessed at."""
    known = Expected(scores=lambda _: "logits")
    session = foreign(write_foreign(tmp_path, batch="N"), expected=known)
    assert (session.gives, session.assumed, session.classes) == ("logits", (), 4)


def test_nothing_known(tmp_path: Path) -> None:
    """Without a word about it what the graph gives is passed on as it is."""
    given = Session(write_foreign(tmp_path), "cpu", intra_op_threads=1, max_batch_size=1).run(samples(1))
    np.testing.assert_allclose(given, samples(1).reshape(1, -1) @ layer(), rtol=1e-5)
