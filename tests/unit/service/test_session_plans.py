import json
from pathlib import Path
from typing import NamedTuple

import pytest

from service.errors import ModelRejected
from service.providers import CpuOptions, CudaOptions, OpenVinoOptions, TensorRtOptions
from service.session import cpu, cuda, openvino, tensorrt
from service.session.plan import Wanted, computed
from service.tensors import Expected, read_input

WANTED = Wanted(threads=3, buckets=[1, 2, 4, 8])
XEON = "avx512f avx512bw avx512dq avx512vl avx512_bf16 amx_bf16"


class _Port(NamedTuple):
    name: str = "image"
    type: str = "tensor(uint8)"
    shape: tuple[int | str, ...] = ("N", 28, 28, 1)


def cpuinfo(folder: Path, flags: str) -> Path:
    """Write what the kernel says of two cores."""
    (folder / "cpuinfo").write_text(f"model name\t: x\nflags\t\t: fpu {flags}\n" * 2)
    return folder / "cpuinfo"


def properties(options: OpenVinoOptions, path: Path = Path("nowhere")) -> dict[str, str]:
    """Return what OpenVINO itself is told."""
    [(_, given)] = openvino.plan(options, WANTED, path).providers
    [(_, told)] = json.loads(given["load_config"]).items()
    return dict(told)


@pytest.mark.parametrize("spinning", [True, False])
def test_cpu(spinning: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """On the CPU the wanted threads share a batch, and spin only where that was said."""
    plan = cpu.plan(CpuOptions(spinning=spinning), WANTED)
    assert (plan.threads, plan.pads, plan.gpu) == (3, False, None)
    assert plan.config == {"session.intra_op.allow_spinning": str(int(spinning))}


def test_openvino_says_its_precision() -> None:
    """OpenVINO is always told what to compute in: its own default may be bf16."""
    assert properties(OpenVinoOptions()) == {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": "3",
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",
    }


def test_openvino_options() -> None:
    """Threads, streams and the device reach OpenVINO by its own names."""
    told = properties(OpenVinoOptions(threads=5, streams=2))
    assert (told["INFERENCE_NUM_THREADS"], told["NUM_STREAMS"]) == ("5", "2")
    plan = openvino.plan(OpenVinoOptions(device="GPU.1", precision="fp16"), WANTED)
    assert plan.providers[0][1]["device_type"] == plan.device == "GPU.1"
    assert json.loads(plan.providers[0][1]["load_config"])["GPU"]["INFERENCE_PRECISION_HINT"] == "f16"
    assert plan.pads


def test_openvino_cache(tmp_path: Path) -> None:
    """The folder for compiled models is made; one that cannot be made is refused without its path."""
    folder = tmp_path / "new" / "cache"
    assert openvino.plan(OpenVinoOptions(cache=folder), WANTED).providers[0][1]["cache_dir"] == str(folder)
    assert folder.is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelRejected, match=r"^its option cache is no folder that can be written to: Not a directory$"):
        openvino.plan(OpenVinoOptions(cache=tmp_path / "file" / "cache"), WANTED)


def test_bf16_needs_a_cpu_that_has_it(tmp_path: Path) -> None:
    """bf16 is what a session computes in only on a CPU that can; on another OpenVINO would take fp32 in silence."""
    assert openvino.plan(OpenVinoOptions(precision="bf16"), WANTED, cpuinfo(tmp_path, XEON)).floats == "bf16"
    with pytest.raises(ModelRejected, match="precision=bf16 was asked for and this CPU has no avx512bw, "):
        openvino.plan(OpenVinoOptions(precision="bf16"), WANTED, cpuinfo(tmp_path, "avx avx2"))
    with pytest.raises(ModelRejected, match="this CPU has no avx512_fp16"):
        openvino.plan(OpenVinoOptions(precision="fp16"), WANTED, cpuinfo(tmp_path, XEON))


@pytest.mark.parametrize(
    ("options", "key", "value"),
    [
        (CudaOptions(), "use_tf32", "0"),
        (CudaOptions(tf32=True), "use_tf32", "1"),
        (CudaOptions(), "prefer_nhwc", "0"),
        (CudaOptions(tf32=True), "prefer_nhwc", "1"),
        (CudaOptions(nhwc="on"), "prefer_nhwc", "1"),
        (CudaOptions(), "cudnn_conv_algo_search", "EXHAUSTIVE"),
        (CudaOptions(search="heuristic"), "cudnn_conv_algo_search", "HEURISTIC"),
        (CudaOptions(workspace=False), "cudnn_conv_use_max_workspace", "0"),
        (CudaOptions(), "arena_extend_strategy", "kSameAsRequested"),
        (CudaOptions(arena="next-power-of-two"), "arena_extend_strategy", "kNextPowerOfTwo"),
        (CudaOptions(memory_limit_mb=2), "gpu_mem_limit", "2097152"),
        (CudaOptions(), "do_copy_in_default_stream", "1"),
        (CudaOptions(), "enable_cuda_graph", "1"),
        (CudaOptions(graphs="off"), "enable_cuda_graph", "0"),
        (CudaOptions(devices=(4,)), "device_id", "4"),
    ],
)
def test_cuda_options(options: CudaOptions, key: str, value: str) -> None:
    """Each option of CUDA reaches ONNX Runtime by its name there."""
    [(_, given)] = cuda.plan(options, WANTED).providers
    assert given[key] == value


def test_nhwc_for_fp16_files() -> None:
    """A file in fp16 runs its convolutions in NHWC, as tensor cores want them."""
    plan = cuda.plan(CudaOptions(), Wanted(1, [1], precision="fp16"))
    assert plan.providers[0][1]["prefer_nhwc"] == "1"


def test_devices_take_turns() -> None:
    """The instances of a model take the devices in turn."""
    plans = [cuda.plan(CudaOptions(devices=(0, 2)), Wanted(1, [1], instance=instance)) for instance in range(3)]
    assert [plan.device for plan in plans] == ["cuda:0", "cuda:2", "cuda:0"]


def test_tensorrt_profile() -> None:
    """An engine is built for all buckets at once; what it cannot run goes to CUDA on the same device."""
    plan = tensorrt.plan(TensorRtOptions(devices=(1,)), WANTED, read_input([_Port()], Expected()))
    (first, given), (second, others) = plan.providers
    assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert given["trt_profile_min_shapes"] == "image:1x28x28x1"
    assert given["trt_profile_opt_shapes"] == given["trt_profile_max_shapes"] == "image:8x28x28x1"
    assert (given["device_id"], others["device_id"]) == ("1", "1")


def test_tensorrt_fixed_batch() -> None:
    """A graph that fixes its batch gets an engine for just that."""
    plan = tensorrt.plan(TensorRtOptions(), WANTED, read_input([_Port(shape=(3, 28, 28, 1))], Expected()))
    assert plan.providers[0][1]["trt_profile_max_shapes"] == "image:3x28x28x1"


def test_tensorrt_cache(tmp_path: Path) -> None:
    """Engines and timings are kept in the folder that was named."""
    options = TensorRtOptions(cache=tmp_path / "engines", precision="fp16", workspace_mb=1, level=5)
    given = tensorrt.plan(options, WANTED, read_input([_Port()], Expected())).providers[0][1]
    assert given["trt_engine_cache_path"] == given["trt_timing_cache_path"] == str(tmp_path / "engines")
    assert (given["trt_engine_cache_enable"], given["trt_timing_cache_enable"], given["trt_fp16_enable"]) == ("1",) * 3
    assert (given["trt_max_workspace_size"], given["trt_builder_optimization_level"]) == ("1048576", "5")


def test_tensorrt_says_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT computes float32 in TF32 unless the environment forbids it, and says so."""
    taken = read_input([_Port()], Expected())
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert tensorrt.plan(TensorRtOptions(), WANTED, taken).floats == "tf32"
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert tensorrt.plan(TensorRtOptions(), WANTED, taken).floats == "fp32"


def test_computed() -> None:
    """What float32 becomes concerns float32 files only."""
    assert [computed(file, "bf16") for file in ("fp32", "fp16", "int8")] == ["bf16", "fp16", "int8"]
