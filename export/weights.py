"""Weight files: a state_dict in torch's or the safetensors format, read without running code, put into a network."""

import json
import pickle
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from service.errors import SetupError

Weights = dict[str, Tensor]

SHOWN = 3
"""How many keys of each kind an error names."""
MAX_HEADER = 100_000_000
"""Bytes; the safetensors format's own bound."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_WRAPPED = ("state_dict", "model", "model_state_dict")
"""Where training scripts keep the state_dict among other things."""


def read(path: Path) -> Weights:
    """Return the tensors of a weight file by their keys; its content tells the format.

    Raises:
        SetupError: it is no such file, or holds more than tensors; says what to do.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
            # A safetensors file begins with eight bytes of length and a JSON object; torch's are ZIP files or pickles.
            if start[8:] == b"{":
                return _unprefixed(_safetensors(file, path.stat().st_size))
            return _unprefixed(_state_dict(_torch(file)))
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror}") from None
    except SetupError as error:
        raise SetupError(f"{path} {error}") from None


def _torch(file: BinaryIO) -> object:
    """Return what a file of torch.save holds; only tensors and plain containers are let in, never code."""
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, on its old storage classes
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises whatever the bytes lead it to
        if isinstance(error, pickle.UnpicklingError) and "Unsupported operand" not in str(error):
            reason = (
                "holds more than tensors, which could run code: if you trust it, load it in Python and save its "
                "state_dict() by torch.save"
            )
        elif ".tar format" in str(error):
            reason = "is in torch's oldest format, a TAR archive: if you trust it, load it in Python and save it again"
        else:
            reason = f"is no whole weight file of torch or safetensors ({type(error).__name__})"
        raise SetupError(reason) from None


def _state_dict(contents: object) -> Weights:
    """Return the state_dict of what was loaded, unwrapped."""
    if isinstance(contents, Mapping):  # whose other entries may be tensors too, as a best accuracy is
        contents = next((contents[key] for key in _WRAPPED if isinstance(contents.get(key), Mapping)), contents)
    if not isinstance(contents, Mapping) or not contents:
        raise SetupError(f"holds no state_dict but a {type(contents).__name__}")
    for key, value in contents.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise SetupError(f"holds no state_dict: {key!r} is a {type(value).__name__}, not a tensor")
        if value.is_quantized or value.layout != torch.strided:
            raise SetupError(f"holds {key!r} as a quantised or sparse tensor; give the weights in floating point")
    return dict(contents)


def _unprefixed(state: Weights) -> Weights:
    """Return a state_dict without the prefix that DataParallel gives to every key."""
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _safetensors(file: BinaryIO, size: int) -> Weights:
    """Return the tensors of a safetensors file: a length, a JSON header of that length, the tensors' bytes."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    try:
        if length > min(MAX_HEADER, size - 8):
            raise ValueError("header past the end")
        header: dict[str, Any] = json.loads(file.read(length))
        tensors = {}
        for key, entry in header.items():
            if key != "__metadata__":
                tensors[key] = _tensor(file, entry, first=8 + length, size=size)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise SetupError(f"is no whole safetensors file ({type(error).__name__})") from None
    return tensors


def _tensor(file: BinaryIO, entry: Mapping[str, Any], *, first: int, size: int) -> Tensor:
    start, end = entry["data_offsets"]
    if not 0 <= start <= end <= size - first:
        raise ValueError("tensor past the end")
    dtype = _DTYPES[entry["dtype"]]
    if start == end:
        return torch.empty(entry["shape"], dtype=dtype)
    file.seek(first + start)
    return torch.frombuffer(bytearray(file.read(end - start)), dtype=dtype).reshape(entry["shape"])


def fill(build: Callable[[], nn.Module], weights: Weights, *, training_only: Collection[str] = ()) -> nn.Module:
    """Return a network with these weights, in evaluation mode.

    Args:
        build: makes the network; it is called where its first weights cost neither memory nor time.
        weights: of all its parameters and statistics; counters of batches may be missing.
        training_only: modules that are left out of the network, whether the weights hold them or not.

    Raises:
        SetupError: a key is missing, not expected, of another shape or not of finite numbers; names the first few.
    """
    with torch.device("meta"):
        network = build().eval()
    for name in training_only:
        setattr(network, name, None)
    wanted = network.state_dict()
    given = {key: value for key, value in weights.items() if key.split(".")[0] not in training_only}
    counters = {key for key in wanted if key.endswith(".num_batches_tracked")}  # newer than some published weights
    _check(wanted, given, optional=counters)
    filled = {key: torch.zeros((), dtype=torch.int64) for key in counters}
    filled |= {key: value.to(wanted[key].dtype).contiguous() for key, value in given.items()}
    network.load_state_dict(filled, assign=True)
    return network


def _check(wanted: Mapping[str, Tensor], given: Weights, *, optional: Collection[str]) -> None:
    both = [key for key in wanted if key in given]
    faults = (
        ("missing", [_shown(key, wanted[key]) for key in wanted if key not in given and key not in optional]),
        ("not expected", [_shown(key, given[key]) for key in given if key not in wanted]),
        (
            "of another shape",
            [
                f"{key}: expected {tuple(wanted[key].shape)}, got {tuple(given[key].shape)}"
                for key in both
                if wanted[key].shape != given[key].shape
            ],
        ),
        ("of another kind", [_shown(key, given[key]) for key in both if _kind(wanted[key]) != _kind(given[key])]),
        ("not finite", [_shown(key, given[key]) for key in both if not given[key].isfinite().all()]),
    )
    found = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in faults if keys]
    if found:
        raise SetupError(f"{len(both)} of {len(wanted)} keys are there; {'; '.join(found)}")


def _kind(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def _shown(key: str, tensor: Tensor) -> str:
    return f"{key} {tuple(tensor.shape)}"


def _first(entries: Iterable[str]) -> str:
    entries = list(entries)
    return ", ".join(entries[:SHOWN]) + (", ..." if len(entries) > SHOWN else "")
