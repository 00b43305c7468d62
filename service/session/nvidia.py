"""NVIDIA's driver and runtime, asked directly: why a GPU cannot be used, and host memory that is page-locked.

ONNX Runtime says why CUDA did not load on standard error only, and its Python has no page-locked memory of the CUDA
provider's: `OrtDevice.make` of 1.31 knows no `cuda_pinned`. Both are a few calls of C functions that have not changed
in ten years.
"""

import contextlib
import ctypes
import io
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service import logs
from service.session import runtime

Library = Callable[[str], Any]
"""Loads a shared library by its name; raises OSError."""

_PORTABLE = 1  # cudaHostAllocPortable: page-locked for every GPU
_NEEDS = ("libcudart.so.{cuda}", "libcublas.so.{cuda}", "libcublasLt.so.{cuda}", "libcurand.so.10", "libcudnn.so.9")
_TENSORRT = ("libnvinfer.so.10", "libnvonnxparser.so.10")
_TENSORRT_REMEDY = "TensorRT 10: `pip install 'tensorrt-cu{cuda}<11'` with its folder tensorrt_libs on LD_LIBRARY_PATH"
_FAILURES = (
    (("out of memory", "failed to allocate memory", "cudaerrormemoryallocation"), "the GPU has too little memory"),
    (
        ("no kernel image",),
        "this ONNX Runtime has no code for this GPU: it is older or newer than what it was built for",
    ),
    (("cudnn_status_not_initialized",), "cuDNN could not start: is there GPU memory left, and does the driver fit it?"),
    (("driver version is insufficient",), "the NVIDIA driver is older than this ONNX Runtime's CUDA: update it"),
    (("cudnn",), "cuDNN failed; its words are in the log"),
)


def preload() -> None:
    """Load the CUDA and cuDNN that pip installed; what is missing is found out when a session is made without them."""
    onnxruntime = runtime.load()
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


def explain(device: int, *, tensorrt: bool, library: Library = ctypes.CDLL) -> str:
    """Return in one sentence why a GPU cannot be used; empty where nothing is found."""
    cuda = _cuda_major()
    needs = [name.format(cuda=cuda) for name in _NEEDS]
    return (
        _explain_driver(device, cuda, library)
        or _explain_missing(needs, "CUDA and cuDNN: `pip install '.[gpu]'` in a clone of Saccade", library)
        or (tensorrt and _explain_missing(_TENSORRT, _TENSORRT_REMEDY.format(cuda=cuda), library))
        or ""
    )


def _explain_driver(device: int, cuda: int, library: Library) -> str:
    try:
        driver = library("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver here (libcuda.so.1): containers want `--gpus all` or a GPU resource"
    if code := driver.cuInit(0):
        return f"the NVIDIA driver finds no GPU that it can use (CUDA error {code})"
    count, version = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDriverGetVersion(ctypes.byref(version))
    if version.value // 1000 < cuda:
        supports = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return f"the NVIDIA driver supports CUDA {supports}, this ONNX Runtime needs CUDA {cuda}: update the driver"
    if device >= count.value:
        return f"there is no GPU {device}: the driver shows {count.value}, numbered from 0"
    return ""


def explain_failure(error: BaseException) -> str:
    """Return in one sentence what a GPU's error means; empty where it is none that is known."""
    text = str(error).lower()
    return next((said for words, said in _FAILURES if any(word in text for word in words)), "")


class HostMemory:
    """Makes host buffers, page-locked where that is possible: copies from them need no copy in between.

    Args:
        pinned: whether to try.
        library: see Library.
    """

    def __init__(self, *, pinned: bool = True, library: Library = ctypes.CDLL) -> None:
        self._runtime: Any = None
        if pinned:
            try:
                self._runtime = library(f"libcudart.so.{_cuda_major()}")
            except OSError:
                logs.warning("host buffers are not page-locked", reason="the CUDA runtime library is not found")

    def empty(self, shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an array with nothing in it yet; its memory is given back when nobody has it any more."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self._runtime is None:
            return np.empty(shape, dtype)
        address = ctypes.c_void_p()
        if code := self._runtime.cudaHostAlloc(ctypes.byref(address), ctypes.c_size_t(size), _PORTABLE):
            logs.warning("host buffers are not page-locked", reason=f"CUDA error {code}", bytes=size)
            return np.empty(shape, dtype)
        block = (ctypes.c_char * size).from_address(address.value or 0)
        free = weakref.finalize(block, self._runtime.cudaFreeHost, ctypes.c_void_p(address.value))
        free.atexit = False  # CUDA is gone by then, and the memory with the process
        return np.asarray(block).view(dtype).reshape(shape)


def _cuda_major() -> int:
    """Return the CUDA that this ONNX Runtime was built for; 13 where it does not say."""
    said = getattr(runtime.load(), "cuda_version", "") or "13"
    return int(said.split(".")[0])


def _explain_missing(names: Sequence[str], remedy: str, library: Library) -> str:
    missing = []
    for name in names:
        try:
            library(name)
        except OSError:
            missing.append(name)
    return f"{', '.join(missing)} cannot be loaded; install {remedy}" if missing else ""
