import importlib.metadata
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from export import architectures, onnx_export, verify
from export.checkpoint import Checkpoint, Classifier
from export.data import Data
from service.errors import ModelRejected, SetupError
from service.manifest import KEY, read_manifest


def test_graph(exported: Path) -> None:
    """The graph takes `image` uint8 [N, 28, 28, 1] and gives `probabilities` float32 [N, 10], N free."""
    graph = onnx.load(exported).graph
    [image], [probabilities] = graph.input, graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [size.dim_value for size in image.type.tensor_type.shape.dim] == [0, 28, 28, 1]
    assert (probabilities.name, probabilities.type.tensor_type.elem_type) == ("probabilities", onnx.TensorProto.FLOAT)
    assert [size.dim_value for size in probabilities.type.tensor_type.shape.dim] == [0, 10]


def test_bytes_are_transposed_first(exported: Path) -> None:
    """The transposition comes before the cast and the normalisation, which costs a tenth of the other order."""
    operators = [node.op_type for node in onnx.load(exported).graph.node]
    assert operators[:4] == ["Transpose", "Cast", "Mul", "Add"]


def test_no_source_path_is_left(exported: Path) -> None:
    """The file names no source file and no folder of the machine that made it."""
    content = exported.read_bytes()
    folders = {
        str(Path.cwd()),
        str(Path.home()),
        str(Path(torch.__file__).parents[1]),
        str(Path(onnx_export.__file__).parent),
    }
    for words in (*folders, ".py", "site-packages", "stack_trace", "pkg.torch"):
        assert words.encode() not in content, words


def test_metadata_holds_the_manifest_only(exported: Path) -> None:
    """The only metadata is the manifest, and the producer is saccade."""
    model = onnx.load(exported)
    assert [entry.key for entry in model.metadata_props] == [KEY]
    assert model.producer_name == "saccade"


def test_manifest(exported: Path, trained: Checkpoint, digits: Data) -> None:
    """The manifest says what was trained, on what, how, how well, and by which versions."""
    manifest = read_manifest(exported)
    assert manifest.architecture == "lenet5"
    assert manifest.labels == digits.classes
    assert manifest.preprocessing == trained.spec
    assert manifest.accuracy == trained.accuracy
    assert manifest.recipe == trained.recipe.fields()
    assert manifest.versions["torch"] == importlib.metadata.version("torch")
    assert re.match(r"digits, 1,258 pictures", manifest.data)


def test_other_metadata_stay(exported: Path, tmp_path: Path) -> None:
    """Writing a manifest leaves what other tools wrote into the metadata."""
    model, path = onnx.load(exported), tmp_path / "model.onnx"
    onnx.helper.set_model_props(model, {"author": "somebody"})
    onnx.save(model, path)
    onnx_export.write_manifest(path, read_manifest(exported))
    assert {entry.key for entry in onnx.load(path).metadata_props} == {"author", KEY}


def test_a_manifest_that_cannot_be_written(exported: Path, tmp_path: Path) -> None:
    """Where the new file cannot be written the old one stays as it was, and the error names it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    (tmp_path / ".model.onnx.partial").mkdir()
    with pytest.raises(SetupError, match=r"model\.onnx cannot be written"):
        onnx_export.write_manifest(path, read_manifest(exported).model_copy(update={"data": "other"}))
    assert path.read_bytes() == exported.read_bytes()


def test_golden_samples(exported: Path, digits: Data) -> None:
    """At least four real pictures of the validation split, of different classes, with full rows of probabilities."""
    samples = read_manifest(exported).golden_samples
    assert len(samples) >= 4
    assert len({sample.label for sample in samples}) == len(samples)
    encoded = set(onnx_export.encode(digits.validation))
    assert all(sample.picture in encoded for sample in samples)
    assert all(sum(sample.probabilities) == pytest.approx(1, abs=1e-5) for sample in samples)


def test_parity(exported: Path, trained: Checkpoint, digits: Data) -> None:
    """The file agrees with the trained network and is exactly as accurate."""
    parity = verify.verify(trained, exported, digits.validation)
    assert parity.probabilities <= verify.PROBABILITY_LIMIT
    assert parity.accuracy == trained.accuracy


def test_another_network_is_not_verified(exported: Path, trained: Checkpoint, digits: Data) -> None:
    """A file that computes something else than the network is refused with the difference and the limit."""
    torch.manual_seed(5)
    other = replace(trained, network=architectures.find("lenet5").build(1, 10).eval())
    with pytest.raises(ModelRejected, match=r"probabilities differ .* limit is 1e-05"):
        verify.verify(other, exported, digits.validation)


def test_a_slightly_wrong_file_is_not_verified(
    exported: Path, trained: Checkpoint, digits: Data, tmp_path: Path
) -> None:
    """A file whose weights are off by a thousandth is refused."""
    model = onnx.load(exported)
    for initializer in model.graph.initializer:
        if len(initializer.dims) == 4 and initializer.dims[0] == 16:
            weights = onnx.numpy_helper.to_array(initializer) * np.float32(1.001)
            initializer.CopyFrom(onnx.numpy_helper.from_array(weights, initializer.name))
    onnx.save(model, tmp_path / "off.onnx")
    with pytest.raises(ModelRejected, match="differ"):
        verify.verify(trained, tmp_path / "off.onnx", digits.validation)


def test_rounding_is_seen() -> None:
    """The rounding of a network that loses digits is what float32 loses; that of a plain one is next to none."""
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 1, 1), dtype=np.uint8)

    def network(offset: float) -> Classifier:
        layer = torch.nn.Linear(1, 2)
        layer.weight.data, layer.bias.data = torch.tensor([[1.0], [0.0]]), torch.tensor([offset, offset])
        return Classifier(torch.nn.Sequential(torch.nn.Flatten(), layer), (0.5,), (0.3,)).eval()

    assert verify.rounding(network(0.0), images) < 1e-7
    assert 1e-4 < verify.rounding(network(1e5), images) < 1e-2


def test_a_file_that_gives_nan_is_not_verified(
    exported: Path, trained: Checkpoint, digits: Data, tmp_path: Path
) -> None:
    """A file that answers with NaN is refused."""
    model = onnx.load(exported)
    [last] = [initializer for initializer in model.graph.initializer if list(initializer.dims) == [10]]
    last.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), last.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(ModelRejected, match=r"differ .* by nan"):
        verify.verify(trained, tmp_path / "nan.onnx", digits.validation)


def test_shifted_logits_are_not_verified(exported: Path, trained: Checkpoint, digits: Data, tmp_path: Path) -> None:
    """A file whose logits are all off by one is refused, though its probabilities are the same."""
    model = onnx.load(exported)
    [last] = [initializer for initializer in model.graph.initializer if list(initializer.dims) == [10]]
    last.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(last) + np.float32(1), last.name))
    onnx.save(model, tmp_path / "shifted.onnx")
    with pytest.raises(ModelRejected, match=r"logits differ .* by 1;"):
        verify.verify(trained, tmp_path / "shifted.onnx", digits.validation)


def test_wrong_golden_samples_do_not_load(exported: Path, trained: Checkpoint, digits: Data, tmp_path: Path) -> None:
    """A file whose golden samples do not come true is not published."""
    manifest = onnx_export.make_manifest(trained, digits, accuracy=trained.accuracy)
    first, *others = manifest.golden_samples
    swapped = first.model_copy(update={"probabilities": first.probabilities[::-1]})
    path = tmp_path / "wrong.onnx"
    path.write_bytes(exported.read_bytes())
    onnx_export.write_manifest(path, manifest.model_copy(update={"golden_samples": (swapped, *others)}))
    with pytest.raises(ModelRejected, match="golden sample 0"):
        verify.check_loads(path)
