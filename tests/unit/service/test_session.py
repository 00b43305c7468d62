import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from service.errors import ModelRejected, SetupError
from service.scores import check_probabilities
from service.session import Provider, Session, buckets, candidates, check_runtime, cores
from tests.onnx_models import LABELS, pictures, probabilities, weights, write_model

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


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


def make(fake: Callable[..., Any], provider: Provider = "cuda", max_batch_size: int = 8) -> Session:
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
        ([], "pip install 'saccade[cpu]'"),
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


@pytest.mark.parametrize(("provider", "name"), [("cpu", CPU), ("cuda", CUDA)])
def test_one_provider(provider: Provider, name: str) -> None:
    """ONNX Runtime is given the one provider that was asked for, none to fall back to."""
    fake = _Fake(name)
    make(fake, provider)
    assert [asked for asked, _ in fake.asked["providers"]] == [name]


@pytest.mark.parametrize(("given", "expected"), [(3, 3), (0, cores())])
def test_threads(given: int, expected: int) -> None:
    """As many threads share a batch as was said, for 0 as many as there are cores."""
    fake = _Fake(CPU)
    Session(Path("m"), "cpu", intra_op_threads=given, max_batch_size=1, create=fake)
    assert fake.asked["sess_options"].intra_op_num_threads == expected


def test_fallback() -> None:
    """A session that ONNX Runtime put on the CPU without a word is refused, and both providers are named."""
    with pytest.raises(ModelRejected, match="cuda was asked for, ONNX Runtime fell back to CPUExecutionProvider"):
        make(_Fake(CPU, CUDA))


def test_creation_fails() -> None:
    """A session that cannot be made is refused without ONNX Runtime's words: they hold paths."""

    def create(*_: object, **__: object) -> None:
        raise RuntimeError("secret words")

    with pytest.raises(ModelRejected) as caught:
        make(create)
    assert "cuda" in str(caught.value)
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
        ([IMAGE._replace(type="tensor(float)")], SCORES, "input is tensor(float)"),
        ([IMAGE._replace(shape=["N", 64])], SCORES, "['N', 64]; it must be tensor(uint8) [N, height, width, channels]"),
        ([IMAGE._replace(shape=["N", "H", "W", 3])], SCORES, "['N', 'H', 'W', 3]"),
        ([IMAGE._replace(shape=[4, 8, 8, 1])], SCORES, "fixed at 4"),
        ([IMAGE], SCORES._replace(type="tensor(int64)"), "output is tensor(int64)"),
        ([IMAGE], SCORES._replace(shape=["N", 4, 1, 1]), "['N', 4, 1, 1]; it must be tensor(float) [N, classes]"),
        ([IMAGE], SCORES._replace(shape=["N", "classes"]), "['N', 'classes']"),
        ([IMAGE, IMAGE._replace(name="mask")], SCORES, "2 inputs"),
        ([], SCORES, "0 inputs"),
    ],
)
def test_no_classifier(inputs: list[_Port], output: _Port, text: str) -> None:
    """A graph whose input and output are no classifier's is refused, and what it has is said."""
    with pytest.raises(ModelRejected) as caught:
        make(_Fake(CUDA, inputs=inputs, output=output))
    assert text in str(caught.value)


@pytest.mark.parametrize(("size", "ran"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 12), (12, 12), (13, 13)])
@pytest.mark.parametrize("provider", [CPU, CUDA])
def test_padding(size: int, ran: int, provider: str) -> None:
    """On CUDA a batch is padded to its bucket, one beyond all buckets is not; on the CPU none is."""
    fake = _Fake(provider)
    make(fake, "cpu" if provider == CPU else "cuda", max_batch_size=12).run(pictures(size))
    assert fake.sizes == [size if provider == CPU else ran]


def test_padding_cut() -> None:
    """What was padded is cut off the answer, and the rest is right."""
    batch = pictures(5)
    np.testing.assert_array_equal(make(_Fake(CUDA)).run(batch), probabilities(batch, weights()))


@pytest.mark.parametrize("provider", [CPU, CUDA])
def test_warm_up_runs_all(provider: str) -> None:
    """Warm-up runs every bucket twice, the first run being the slow one."""
    fake = _Fake(provider)
    make(fake, "cpu" if provider == CPU else "cuda", max_batch_size=6).warm_up()
    assert fake.sizes == [1, 1, 2, 2, 4, 4, 6, 6]


def test_warm_up_times() -> None:
    """Warm-up gives the seconds of each bucket's second run."""
    clock = iter([0.0, 1.0, 10.0, 13.0, 20.0, 25.0])
    assert make(_Fake(CUDA), max_batch_size=4).warm_up(clock.__next__) == {1: 1.0, 2: 3.0, 4: 5.0}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[np.nan, 1]], "not finite"),
        ([[np.inf, 0]], "not finite"),
        ([[0.5, 0.5], [0.5, 0.5]], "1 pictures gave an output of shape (2, 2); expected (1, 2)"),
        ([[1.0]], "shape (1, 1)"),
        ([[0.6, 0.5]], "outputs sum to 1.100 to 1.100"),
        ([[3.0, 7.0]], "outputs sum to 10.000"),
        ([[1.5, -0.5]], "-0.5"),
    ],
)
def test_no_probabilities(rows: list[list[float]], text: str) -> None:
    """Outputs that are no probabilities are refused, and why is said."""
    with pytest.raises(ModelRejected) as caught:
        check_probabilities(np.array(rows, np.float32), 1, 2)
    assert text in str(caught.value)


@pytest.mark.parametrize("options", [{"bias": float("nan")}, {"softmax": False}], ids=["NaN", "logits"])
def test_warm_up_refuses(options: dict[str, Any], tmp_path: Path) -> None:
    """A real model whose outputs are no probabilities does not pass warm-up."""
    session = Session(write_model(tmp_path, **options), "cpu", intra_op_threads=1, max_batch_size=2)
    with pytest.raises(ModelRejected, match="its output"):
        session.warm_up()
