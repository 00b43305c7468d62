import ctypes
import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.session.nvidia import HostMemory, explain, explain_failure

DRIVER, RUNTIME = "libcuda.so.1", "libcudart.so.13"
CUDA = {RUNTIME, "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libcudnn.so.9"}


class _Driver:
    """NVIDIA's driver."""

    def __init__(self, *, init: int = 0, gpus: int = 1, version: int = 13000) -> None:
        self._gpus, self._version = gpus, version
        self.cuInit = lambda _: init

    def cuDeviceGetCount(self, count: Any) -> None:  # noqa: ANN401, N802 - the library's name
        count._obj.value = self._gpus

    def cuDriverGetVersion(self, version: Any) -> None:  # noqa: ANN401, N802 - likewise
        version._obj.value = self._version


def libraries(*names: str, driver: _Driver | None = None) -> Callable[[str], Any]:
    """Return what loads these libraries and no others."""

    def load(name: str) -> Any:  # noqa: ANN401 - a library
        if name == DRIVER and driver is not None:
            return driver
        if name not in names:
            raise OSError(name)
        return object()

    return load


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (libraries(), "there is no NVIDIA driver here (libcuda.so.1): containers want `--gpus all`"),
        (libraries(driver=_Driver(init=100)), "the NVIDIA driver finds no GPU that it can use (CUDA error 100)"),
        (
            libraries(driver=_Driver(version=12040)),
            "the NVIDIA driver supports CUDA 12.4, this ONNX Runtime needs CUDA 13",
        ),
        (libraries(driver=_Driver(gpus=1)), "there is no GPU 1: the driver shows 1, numbered from 0"),
        (
            libraries(*CUDA - {"libcudnn.so.9"}, driver=_Driver(gpus=2)),
            "libcudnn.so.9 cannot be loaded; install CUDA and",
        ),
        (libraries(*CUDA, driver=_Driver(gpus=2)), "libnvinfer.so.10, libnvonnxparser.so.10 cannot be loaded; install"),
    ],
)
def test_explained(library: Callable[[str], Any], said: str) -> None:
    """No driver, no GPU, an old driver, another GPU, no cuDNN, no TensorRT: one sentence each."""
    assert explain(1, tensorrt=True, library=library).startswith(said)


def test_tensorrt_s_remedy() -> None:
    """The TensorRT that is asked for is the one that ONNX Runtime loads, 10, with its libraries where it finds them."""
    said = explain(0, tensorrt=True, library=libraries(*CUDA, driver=_Driver()))
    assert "`pip install 'tensorrt-cu13<11'` with its folder tensorrt_libs on LD_LIBRARY_PATH" in said


def test_nothing_found() -> None:
    """Where all is there nothing is said, and TensorRT is looked for only where it is wanted."""
    assert explain(0, tensorrt=False, library=libraries(*CUDA, driver=_Driver())) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", "the GPU has too little memory"),
        ("CUDNN_STATUS_NOT_INITIALIZED", "cuDNN could not start"),
        ("CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED", "cuDNN failed"),
        ("no kernel image is available for execution on the device", "no code for this GPU"),
        ("something else", ""),
    ],
)
def test_failures(text: str, said: str) -> None:
    """What a GPU fails with is one sentence where it is known."""
    found = explain_failure(RuntimeError(text))
    assert said in found
    assert bool(found) is bool(said)


class _Runtime:
    """The CUDA runtime's page-locked memory."""

    def __init__(self, *, code: int = 0) -> None:
        self._code = code
        self.blocks: dict[int, Any] = {}
        self.freed: list[int] = []

    def cudaHostAlloc(self, address: Any, size: ctypes.c_size_t, flags: int) -> int:  # noqa: ANN401, N802
        assert flags == 1
        if not self._code:
            block = ctypes.create_string_buffer(size.value)
            address._obj.value = ctypes.addressof(block)
            self.blocks[ctypes.addressof(block)] = block
        return self._code

    def cudaFreeHost(self, address: ctypes.c_void_p) -> int:  # noqa: N802 - the library's name
        self.freed.append(address.value or 0)
        return 0


def test_page_locked() -> None:
    """A buffer lies in page-locked memory, can be written to, and is given back when nobody has it any more."""
    runtime = _Runtime()
    buffer = HostMemory(library=lambda _: runtime).empty((2, 3), np.float32)
    buffer[:] = 7
    [(address, block)] = runtime.blocks.items()
    assert buffer.ctypes.data == address
    assert np.frombuffer(block, np.float32).tolist() == [7.0] * 6
    view = buffer[1:]
    del buffer
    gc.collect()
    assert not runtime.freed
    del view
    gc.collect()
    assert runtime.freed == [address]


@pytest.mark.parametrize("library", [libraries(), lambda _: _Runtime(code=2)], ids=["no runtime", "no memory"])
def test_not_page_locked(library: Callable[[str], Any]) -> None:
    """Where memory cannot be page-locked it is plain."""
    buffer = HostMemory(library=library).empty((4,), np.uint8)
    buffer[:] = 1
    assert buffer.sum() == 4


def test_not_wanted() -> None:
    """Nothing is loaded where no page-locked memory is wanted."""
    assert HostMemory(pinned=False, library=libraries()).empty((1, 2), np.uint8).shape == (1, 2)
