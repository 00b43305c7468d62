import io
import json
import pickle
import struct
import tarfile
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export import weights
from export.architectures import find
from export.architectures.googlenet import GoogLeNet
from service.errors import SetupError
from tests.networks import write_safetensors

build = partial(find("lenet5").build, 1, 10)


@pytest.fixture
def network() -> nn.Module:
    """Return a network whose weights are written and read."""
    torch.manual_seed(0)
    return build()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether two state_dicts hold the same numbers."""
    return list(first) == list(second) and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(network: nn.Module, tmp_path: Path, zipped: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Files of torch.save are read, those from before 1.6 too, which torchvision's older weights are."""
    torch.save(network.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert same(weights.read(tmp_path / "w.pth"), network.state_dict())


def test_parameters_instead_of_tensors(network: nn.Module, tmp_path: Path) -> None:
    """A file whose tensors are Parameters, as in the oldest published ones, is read."""
    torch.save(OrderedDict(network.named_parameters()), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert same(weights.read(tmp_path / "w.pth"), network.state_dict())


def test_safetensors(network: nn.Module, tmp_path: Path) -> None:
    """A safetensors file is read, whatever it is called."""
    write_safetensors(tmp_path / "weights", network.state_dict())
    assert same(weights.read(tmp_path / "weights"), network.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_safetensors_kinds(tmp_path: Path, dtype: torch.dtype) -> None:
    """Tensors of other kinds are read as they are, empty ones and those without dimensions too."""
    tensors = {"a": torch.arange(6).reshape(2, 3).to(dtype), "b": torch.ones((), dtype=dtype)}
    tensors["c"] = torch.empty((0, 4), dtype=dtype)
    write_safetensors(tmp_path / "w.safetensors", tensors)
    read = weights.read(tmp_path / "w.safetensors")
    assert same(read, tensors)
    assert {key: (value.dtype, value.shape) for key, value in read.items()} == {
        key: (value.dtype, value.shape) for key, value in tensors.items()
    }


@pytest.mark.parametrize("wrap", ["state_dict", "model"])
def test_wrapped(network: nn.Module, tmp_path: Path, wrap: str) -> None:
    """A state_dict that a training script keeps among other things, with DataParallel's prefix, is found."""
    prefixed = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 90, "best_acc1": torch.tensor(76.1), wrap: prefixed}, tmp_path / "w.pth")
    assert same(weights.read(tmp_path / "w.pth"), network.state_dict())


def test_prefixed_safetensors(network: nn.Module, tmp_path: Path) -> None:
    """DataParallel's prefix is taken off in a safetensors file too."""
    prefixed = {f"module.{key}": value for key, value in network.state_dict().items()}
    write_safetensors(tmp_path / "w.safetensors", prefixed)
    assert same(weights.read(tmp_path / "w.safetensors"), network.state_dict())


def header(entries: object, body: bytes = b"") -> bytes:
    """Return a safetensors file of any header."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


class Harmful:
    """What must not be run when a weight file is read."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("harm",))


def saved(contents: object) -> bytes:
    """Return the file that torch.save makes."""
    file = io.BytesIO()
    torch.save(contents, file)
    return file.getvalue()


def oldest() -> bytes:
    """Return a file in the form of torch's oldest format, a TAR archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no whole weight file"),
        (b"garbage, and more of it", "no whole weight file"),
        (b"PK\x03\x04", "no whole weight file"),
        (saved({"a": torch.ones(3)})[:-100], "no whole weight file"),
        (saved(Harmful()), "holds more than tensors"),
        (pickle.dumps(Harmful()), "no whole weight file"),
        (saved(nn.Linear(2, 2)), "holds more than tensors"),
        (oldest(), "oldest format"),
        (saved([1, 2]), "holds no state_dict but a list"),
        (saved({}), "holds no state_dict"),
        (saved({"epoch": 1}), "'epoch' is a int"),
        (saved({"a": torch.ones(1), "b": "text"}), "'b' is a str"),
        (saved({"a": torch.eye(2).to_sparse()}), "'a' as a quantised or sparse tensor"),
        (header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), "no whole safetensors file"),
        (header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678"), "no whole safetensors"),
        (header({"a": {"dtype": "F8", "shape": [8], "data_offsets": [0, 8]}}, b"12345678"), "no whole safetensors"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"12345678"), "no whole safetensors"),
        (header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"12345678"), "no whole safetensors"),
        (header({"a": {}}), "no whole safetensors file"),
        (header({"a": 1}), "no whole safetensors file"),
        (struct.pack("<Q", 1 << 60) + b'{"a"', "no whole safetensors file"),
        (struct.pack("<Q", 3) + b"{1}", "no whole safetensors file"),
    ],
)
def test_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str) -> None:
    """A file that is broken, or would run code, is an error with its name, and runs nothing."""
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=words) as caught:
        weights.read(path)
    assert str(path) in str(caught.value)
    assert not capsys.readouterr().out


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is an error with its name."""
    with pytest.raises(SetupError, match=r"nowhere\.pth cannot be read"):
        weights.read(tmp_path / "nowhere.pth")


def test_filled(network: nn.Module) -> None:
    """A network is filled with the weights, answers as the one that they come from, and is in evaluation mode."""
    filled = weights.fill(build, network.state_dict())
    pictures = torch.rand(2, 1, 28, 28)
    assert torch.equal(filled(pictures), network(pictures))
    assert not filled.training


def test_half_precision_becomes_single(network: nn.Module) -> None:
    """Weights in half precision fill a network in single precision."""
    filled = weights.fill(build, {key: value.half() for key, value in network.state_dict().items()})
    assert {parameter.dtype for parameter in filled.parameters()} == {torch.float32}


def test_counters_may_be_missing() -> None:
    """Weights without the counters of batch normalisation, older than these, fill a network."""
    resnet = partial(find("resnet18-small").build, 3, 10)
    state = {key: value for key, value in resnet().state_dict().items() if not key.endswith("num_batches_tracked")}
    assert weights.fill(resnet, state).get_buffer("bn1.num_batches_tracked") == 0


@pytest.mark.parametrize("heads", [True, False])
def test_auxiliary_heads(heads: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """GoogLeNet's weights fill it with the auxiliary heads and without; what is filled has none and answers."""
    state = {key: value for key, value in GoogLeNet(3, 10).state_dict().items() if heads or not key.startswith("aux")}
    filled = weights.fill(partial(GoogLeNet, 3, 10), state, training_only=("aux1", "aux2"))
    assert not [key for key in filled.state_dict() if key.startswith("aux")]
    assert filled(torch.rand(1, 3, 64, 64)).shape == (1, 10)


def changed(state: dict[str, Tensor], key: str, value: Tensor | None) -> dict[str, Tensor]:
    """Return weights with one key of the last layer replaced, or taken away."""
    others = {name: tensor for name, tensor in state.items() if name != f"classifier.5.{key}"}
    return others if value is None else others | {f"classifier.5.{key}": value}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("weight", None, "9 of 10 keys are there; 1 missing (classifier.5.weight (10, 84))"),
        ("extra", torch.ones(2), "10 of 10 keys are there; 1 not expected (classifier.5.extra (2,))"),
        ("weight", torch.ones(7, 84), "1 of another shape (classifier.5.weight: expected (10, 84), got (7, 84))"),
        ("bias", torch.full((10,), torch.nan), "1 not finite (classifier.5.bias (10,))"),
        ("bias", torch.ones(10, dtype=torch.int64), "1 of another kind (classifier.5.bias (10,))"),
    ],
)
def test_weights_that_do_not_fit(network: nn.Module, key: str, value: Tensor | None, words: str) -> None:
    """A key that is missing, not expected, of another shape or not finite is named, with what was expected and got."""
    with pytest.raises(SetupError) as caught:
        weights.fill(build, changed(network.state_dict(), key, value))
    assert words in str(caught.value)


def test_only_the_first_keys_are_named(network: nn.Module) -> None:
    """Of many keys that do not fit, three of each kind are named and all are counted."""
    with pytest.raises(SetupError) as caught:
        weights.fill(build, {f"net.{key}": value for key, value in network.state_dict().items()})
    assert str(caught.value) == (
        "0 of 10 keys are there; "
        "10 missing (features.0.weight (6, 1, 5, 5), features.0.bias (6,), features.3.weight (16, 6, 5, 5), ...); "
        "10 not expected (net.features.0.weight (6, 1, 5, 5), net.features.0.bias (6,), "
        "net.features.3.weight (16, 6, 5, 5), ...)"
    )
