import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from service.errors import ModelRejected
from service.providers import CudaOptions, Provider, ProviderOptions, TensorRtOptions
from service.session import Session
from service.session.bound import Bound
from service.session.nvidia import HostMemory
from service.tensors import Tensor
from tests.fake_ort import CPU, CUDA, TENSORRT, Answer, FakeRuntime, FakeSession, Misuse, Port
from tests.fakes import Job
from tests.onnx_models import LABELS, pictures, probabilities, weights, write_model

IMAGE = Port("image", "tensor(uint8)", ["N", 8, 8, 1])
SCORES = Port("probabilities", "tensor(float)", ["N", len(LABELS)])


def right(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Answer as the linear model does."""
    return probabilities(batch, weights())


Make = Callable[..., FakeRuntime]


@pytest.fixture
def runtime() -> Iterator[Make]:
    """Return what makes a fake of ONNX Runtime; in the end nobody may have misused it."""
    made = list[FakeRuntime]()

    def make(**given: Any) -> FakeRuntime:  # noqa: ANN401 - what FakeRuntime takes
        made.append(FakeRuntime(right, **{"inputs": [IMAGE], "outputs": [SCORES], **given}))
        return made[-1]

    yield make
    assert [fake.misused for fake in made] == [[]] * len(made)


def open_on(
    fake: FakeRuntime,
    provider: Provider = "cuda",
    options: ProviderOptions | None = None,
    *,
    largest: int = 8,
    instance: int = 0,
) -> tuple[Session, FakeSession]:
    """Return a session on the fake, and the fake session under it."""
    session = Session(
        Path("secret/model.onnx"),
        provider,
        intra_op_threads=1,
        max_batch_size=largest,
        options=options,
        instance=instance,
        onnxruntime=fake,
    )
    return session, fake.sessions[-1]


@pytest.mark.parametrize("graphs", ["on", "off", "auto"])
@pytest.mark.parametrize("size", range(1, 10))
def test_right_answers(graphs: str, size: int, runtime: Make) -> None:
    """Every batch size gets its own answers, on the thread that serves and before, with graphs and without."""
    session, _ = open_on(runtime(), options=CudaOptions(graphs=graphs))
    for _ in range(2):
        batch = pictures(size, seed=size)
        np.testing.assert_allclose(session.run(batch), right(batch), atol=1e-6)
        session.take_over()


def test_graphs_are_of_the_serving_thread(runtime: Make) -> None:
    """Only the thread that took over records graphs, one a bucket, and replays them; others run without."""
    session, under = open_on(runtime(), largest=4)
    session.warm_up()
    assert {run.graph for run in under.runs} == {None}

    def serve() -> int:
        session.take_over()
        session.run(pictures(3))
        return threading.get_ident()

    thread = Job(serve).answer()
    assert {graph: recorded[0] for graph, recorded in under.recorded.items()} == {1: thread, 2: thread, 4: thread}
    assert under.runs[-1].graph == 4
    session.run(pictures(3))
    assert under.runs[-1].graph is None


def zeros(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Answer as memory does that nobody wrote to."""
    return np.zeros((len(batch), len(LABELS)), np.float32)


def missing(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Answer with no numbers."""
    return np.full((len(batch), len(LABELS)), np.nan, np.float32)


class Stale:
    """Answers every batch of a size as the first one."""

    def __init__(self) -> None:
        self._first = dict[int, npt.NDArray[Any]]()

    def __call__(self, batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Answer."""
        return self._first.setdefault(len(batch), right(batch))


@pytest.mark.parametrize("replayed", [zeros, missing, Stale()], ids=["zeros", "missing", "stale"])
def test_a_graph_that_is_wrong(replayed: Answer, runtime: Make) -> None:
    """A graph that gives something else than the work that was self-tested, or does not see its input, is refused."""
    session, _ = open_on(runtime(replayed=replayed))
    session.warm_up()
    with pytest.raises(ModelRejected, match=r"its CUDA graph of 1 pictures is .* the limit for fp32 is 0\.0001"):
        session.take_over()


def test_no_graph_to_be_wrong(runtime: Make) -> None:
    """Without graphs there is nothing to compare."""
    session, under = open_on(runtime(replayed=zeros), options=CudaOptions(graphs="off"))
    session.take_over()
    assert {run.graph for run in under.runs} == {None}


def test_addresses_stay(runtime: Make) -> None:
    """Batch after batch of any size reuses the buffers of its bucket: nothing else is made on the device."""
    fake = runtime()
    session, _ = open_on(fake, largest=4)
    session.take_over()
    made = fake.OrtValue.ortvalue_from_numpy
    fake.OrtValue.ortvalue_from_numpy = None
    for size in (1, 4, 2, 3, 4, 1):
        session.run(pictures(size))
    fake.OrtValue.ortvalue_from_numpy = made


def test_answers_are_kept(runtime: Make) -> None:
    """An answer does not change when the next batch runs in the same buffers."""
    session, _ = open_on(runtime())
    first = session.run(pictures(2, seed=1))
    kept = first.copy()
    session.run(pictures(2, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_a_batch_is_padded_with_zeros(runtime: Make) -> None:
    """What an earlier batch left in a bucket's buffer is not run again."""
    seen = list[npt.NDArray[Any]]()

    def answer(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        seen.append(batch.copy())
        return right(batch)

    fake = runtime(answers={CUDA: answer})
    session, _ = open_on(fake, largest=4)
    session.run(pictures(4))
    session.run(pictures(3))
    assert seen[-1][3].max() == 0


def test_more_than_the_largest_bucket(runtime: Make) -> None:
    """A batch beyond the largest bucket is run in parts: a shape that no engine was built for never reaches a GPU."""
    session, under = open_on(runtime(), largest=4)
    np.testing.assert_allclose(session.run(pictures(9)), right(pictures(9)), atol=1e-6)
    assert [run.size for run in under.runs[-3:]] == [4, 4, 1]


def test_nodes_on_the_cpu(runtime: Make) -> None:
    """Nodes left to the CPU are counted, and keep `auto` from recording graphs; `on` is refused then."""
    session, under = open_on(runtime(nodes={CUDA: 9, CPU: 2}))
    assert session.about.on_cpu == 2
    assert under.asked[CUDA]["enable_cuda_graph"] == "0"
    session.take_over()
    session.run(pictures(2))
    with pytest.raises(ModelRejected, match="CUDA graphs were asked for, and not all of its nodes can run on the GPU"):
        open_on(runtime(nodes={CUDA: 9, CPU: 2}), options=CudaOptions(graphs="on"))


def test_fallback(runtime: Make) -> None:
    """A session that ONNX Runtime put on the CPU without a word is refused; so is one on a GPU that is not there."""
    with pytest.raises(ModelRejected, match="cuda was asked for, ONNX Runtime fell back to CPUExecutionProvider; "):
        open_on(runtime(loads=[CPU]))
    with pytest.raises(ModelRejected, match="cuda was asked for, ONNX Runtime fell back"):
        open_on(runtime(gpus=1), options=CudaOptions(devices=(1,)))


def test_several_devices(runtime: Make) -> None:
    """Each instance has its device, and its buffers there."""
    fake = runtime(gpus=2)
    for instance in range(2):
        session, under = open_on(fake, options=CudaOptions(devices=(0, 1)), instance=instance)
        assert under.where == ("cuda", instance)
        assert session.about.device == f"cuda:{instance}"
        session.take_over()


def test_tensorrt(runtime: Make) -> None:
    """TensorRT is told the buckets' shapes, and CUDA stands behind it for what it cannot run."""
    fake = runtime(loads=[TENSORRT, CUDA, CPU], nodes={TENSORRT: 9, CUDA: 1})
    session, under = open_on(fake, "tensorrt", TensorRtOptions(precision="fp16"), largest=4)
    assert under.asked[TENSORRT]["trt_profile_max_shapes"] == "image:4x8x8x1"
    assert list(under.asked) == [TENSORRT, CUDA]
    assert (session.about.floats, session.about.on_cpu, session.about.elsewhere) == ("fp16", 0, {"cuda": 1})
    session.take_over()
    np.testing.assert_allclose(session.run(pictures(3)), right(pictures(3)), atol=1e-6)


def test_failure_is_one_sentence(runtime: Make) -> None:
    """A GPU without enough memory is said in one sentence, without ONNX Runtime's words: they hold paths."""
    fake = runtime()

    def create(*_: object, **__: object) -> None:
        raise RuntimeError("/secret/bfc_arena.cc Failed to allocate memory for requested buffer of size 9")

    with pytest.raises(ModelRejected) as caught:
        Session(Path("m"), "cuda", intra_op_threads=1, max_batch_size=1, create=create, onnxruntime=fake)
    assert str(caught.value) == "ONNX Runtime cannot load it on cuda; the GPU has too little memory"


# The fake itself must fail where the real one would.


@pytest.fixture
def misuse() -> FakeSession:
    """Return a fake session that records graphs; its runtime may be misused."""
    fake = FakeRuntime(right, inputs=[IMAGE], outputs=[SCORES], gpus=2)
    options = fake.SessionOptions()
    return fake.InferenceSession(
        "m", sess_options=options, providers=[(CUDA, {"enable_cuda_graph": "1"})], enable_fallback=0
    )


def bound(session: FakeSession, *, size: int = 2, device: int = 0, rows: int | None = None) -> Any:  # noqa: ANN401
    """Return a binding with new memory."""
    value = session.runtime.OrtValue
    binding = session.io_binding()
    binding.bind_ortvalue_input("image", value.ortvalue_from_numpy(pictures(size), "cuda", device))
    shape = [rows or size, len(LABELS)]
    binding.bind_ortvalue_output("probabilities", value.ortvalue_from_shape_and_type(shape, np.float32, "cuda", device))
    return binding


def test_fake_wrong_device(misuse: FakeSession) -> None:
    """Memory of another device cannot be bound."""
    with pytest.raises(Misuse, match="is bound on"):
        bound(misuse, device=1)


def test_fake_changed_address(misuse: FakeSession) -> None:
    """A recorded graph cannot be replayed with other memory."""
    misuse.run_with_iobinding(bound(misuse))
    with pytest.raises(Misuse, match="other addresses"):
        misuse.run_with_iobinding(bound(misuse))


def test_fake_other_thread(misuse: FakeSession) -> None:
    """A recorded graph cannot be replayed by another thread."""
    binding = bound(misuse)
    misuse.run_with_iobinding(binding)
    with pytest.raises(Misuse, match="another thread"):
        Job(lambda: misuse.run_with_iobinding(binding)).answer()


def test_fake_not_bound(misuse: FakeSession) -> None:
    """Every input and output must be bound, with memory of the right shape."""
    with pytest.raises(Misuse, match="is not bound"):
        misuse.run_with_iobinding(misuse.io_binding())
    with pytest.raises(Misuse, match="its memory"):
        misuse.run_with_iobinding(bound(misuse, rows=3))


def test_fake_on_the_host(misuse: FakeSession) -> None:
    """A graph cannot be recorded of a batch that lies on the host."""
    with pytest.raises(Misuse, match="lies on the host"):
        misuse.run(["probabilities"], {"image": pictures(1)})


def test_fake_after_release(misuse: FakeSession) -> None:
    """A released session cannot run."""
    misuse.released = True
    with pytest.raises(Misuse, match="after its release"):
        misuse.run_with_iobinding(bound(misuse))


# The same code on the real ONNX Runtime, whose CPU memory can be bound as well.


def test_bound_on_the_real_runtime(tmp_path: Path) -> None:
    """OrtValue, IOBinding and RunOptions are used as the real ONNX Runtime has them."""
    onnxruntime = pytest.importorskip("onnxruntime")
    real = onnxruntime.InferenceSession(str(write_model(tmp_path)), providers=[CPU])
    run = Bound(
        real,
        onnxruntime,
        taken=Tensor("image", "UINT8", (-1, 8, 8, 1), "NHWC"),
        output="probabilities",
        device=("cpu", 0),
        buckets=[1, 2, 4],
        graphs=False,
        memory=HostMemory(pinned=False),
    )
    run.take_over()
    for size in (1, 3, 2, 4):
        batch = pictures(size, seed=size)
        np.testing.assert_allclose(run(batch), right(batch), atol=1e-6)
