import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export import cli_precision, gate, int8, model_file, precision, tries
from export.data import Data
from export.precision import Made, Named, reduce
from export.tries import Setting, Wanted
from service import image
from service.errors import ModelRejected, SetupError
from service.loading import load_model
from service.manifest import Manifest, read_manifest, within
from service.metrics import Metrics
from service.model import Options
from tests.reduced import ruin_file, ruined

QUICK = Wanted("int8", provider="cpu", calibrations=("minmax",))


@pytest.fixture(scope="module")
def exported() -> Path:
    """Return the bundled LeNet-5 on MNIST, which knows scikit-learn's digits well enough to be compared on them."""
    return model_file.find("lenet5-mnist").path


@pytest.fixture(scope="module")
def named(digits: Data) -> Named:
    """Return fewer digits: they are measured four times."""
    return Named(replace(digits, train=digits.train.take(np.arange(64))), "digits")


@pytest.fixture(scope="module")
def made(exported: Path, named: Named, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return an int8 file that passed a wide gate."""
    return reduce(exported, tmp_path_factory.mktemp("int8"), named, Wanted("int8", max_drop=5, provider="cpu"))


def test_int8_is_calibrated_by_the_best_of_three(made: Made) -> None:
    """Three calibrations are tried; the one that costs least is taken and named."""
    tried = made.report["tried"]
    assert isinstance(tried, list)
    assert [each["setting"].split(",")[0] for each in tried] == list(int8.CALIBRATIONS)
    costs = {each["setting"]: each["drop"] for each in tried}
    assert costs[str(made.setting)] == min(costs.values())


def test_the_manifest_says_what_it_costs(made: Made, named: Named) -> None:
    """The file's own manifest has its precision, its accuracy and the verdict, all of the held-out part."""
    manifest = read_manifest(made.path)
    assert manifest.precision == "int8"
    (verdict,) = manifest.verdicts
    assert (verdict.provider, verdict.precision, verdict.split) == ("cpu", "int8", "test")
    assert verdict.pictures == len(named.data.test)
    assert verdict.accuracy == manifest.accuracy
    assert verdict.images_per_second > 0
    assert json.loads(json.dumps(made.report))["verdicts"][0]["passed"] is True


def test_only_the_arithmetic_is_reduced(made: Made) -> None:
    """Bytes go in and float probabilities come out; pixels are prepared and the softmax computed as before."""
    model = onnx.load(made.path)
    held = {tensor.name for tensor in model.graph.initializer}
    operators = [node.op_type for node in model.graph.node if node.input[0] not in held]
    assert operators[:5] == ["Transpose", "Cast", "Mul", "Add", "QuantizeLinear"]
    onnx.checker.check_model(model, full_check=True)
    last, softmax = model.graph.node[-2:]
    assert (last.op_type, softmax.op_type) == ("Gemm", "Softmax")
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8


def test_weights_are_signed_bytes_that_no_cpu_saturates(made: Made) -> None:
    """Weights are S8 for each channel within 7 bits, activations U8: two products fit 16 bits on any CPU."""
    model = onnx.load(made.path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = [values for values in tensors.values() if values.dtype == np.int8 and values.ndim > 1]
    assert len(weights) == len(int8.layers(model))
    assert max(int(np.abs(values.astype(int)).max()) for values in weights) <= 64
    zeros = {tensors[node.input[2]].dtype for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert zeros == {np.dtype(np.uint8)}


def test_golden_samples_are_this_precision_s(made: Made, exported: Path) -> None:
    """The expected probabilities are the int8 file's own, so that it passes where fp32's answers are elsewhere."""
    ours = gate.open_on(made.path, "cpu")
    samples = read_manifest(made.path).golden_samples
    assert len(samples) == precision.GOLDEN_SAMPLES
    assert all(sample.tolerance is not None and sample.tolerance <= 0.2 for sample in samples)
    model = load_model(made.path, "digits", 1, Options(provider="cpu"), Metrics())
    assert (model.facts.verified, model.facts.precision, model.notice) == (True, "int8", "")
    model.drain(1)
    spec = ours.manifest.preprocessing
    pixels = np.stack([image.decode(sample.picture, spec, max_pixels=1000) for sample in samples])
    said = np.array([sample.probabilities for sample in samples])
    np.testing.assert_allclose(ours.run(pixels), said, atol=1e-4)
    assert np.abs(gate.open_on(exported, "cpu").run(pixels) - said).max() > 1e-3


def test_a_graph_that_takes_three_at_a_time(exported: Path, named: Named, tmp_path: Path) -> None:
    """A graph of a fixed batch is calibrated by as many pictures as it takes, the last ones filled up."""
    model = onnx.load(exported)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "three.onnx")
    (tmp_path / "made").mkdir()
    wanted = replace(QUICK, max_drop=5)
    assert reduce(tmp_path / "three.onnx", tmp_path / "made", named, wanted).manifest.precision == "int8"


def test_ruined_scales_are_refused(exported: Path, named: Named, tmp_path: Path) -> None:
    """A quantiser that gets the scales wrong publishes nothing; the message says by how much, and what was tried."""
    with pytest.raises(ModelRejected, match=r"over the limit of 0\.50\. Tried: minmax, every layer") as raised:
        reduce(exported, tmp_path, named, QUICK, quantise=ruined)
    assert "in float" in str(raised.value)


def test_a_ruined_file_fails_the_self_test(made: Made, tmp_path: Path) -> None:
    """A file that was ruined behind the gate is found out by its golden samples, --allow-unverified or not."""
    path = tmp_path / "model.onnx"
    path.write_bytes(made.path.read_bytes())
    ruin_file(path)
    for allow in (False, True):
        with pytest.raises(ModelRejected, match="self-test: golden sample"):
            load_model(path, "digits", 1, Options(provider="cpu", allow_unverified=allow), Metrics())


def test_layers_stay_in_float_where_the_gate_needs_it(exported: Path, named: Named, tmp_path: Path) -> None:
    """Where no calibration is good enough, the most sensitive layers stay in float until it is, and are named."""

    def first_ruined(model: onnx.ModelProto, ranges: Any, in_float: Sequence[str]) -> onnx.ModelProto:  # noqa: ANN401
        return (int8.quantise if int8.layers(model)[0] in in_float else ruined)(model, ranges, in_float)

    done = reduce(exported, tmp_path, named, replace(QUICK, max_drop=5), quantise=first_ruined)
    model = onnx.load(exported)
    assert int8.layers(model)[0] in done.setting.in_float
    assert done.report["chosen"] == {
        "calibration": done.setting.calibration,
        "in_float": list(done.setting.in_float),
    }


def test_fp16_keeps_what_goes_in_and_out(exported: Path, named: Named, tmp_path: Path) -> None:
    """The fp16 file takes bytes and gives float32, computes in float16 between, and costs nothing measurable here."""
    done = reduce(exported, tmp_path, named, Wanted("fp16", provider="cpu"))
    model = onnx.load(done.path)
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    halves = [tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16]
    assert len(halves) == 2 * len(int8.layers(model))
    assert done.verdicts[0].agreement > 0.98


def test_a_version_is_published_with_its_report(exported: Path, tmp_path: Path) -> None:
    """`saccade export` publishes the file as the next version and report.json beside it."""
    version, done = cli_precision.run(
        str(exported), replace(QUICK, max_drop=5), repository=tmp_path / "models", data_name="digits"
    )
    assert version == tmp_path / "models/lenet5-mnist/1"
    assert sorted(entry.name for entry in version.iterdir()) == ["model.onnx", "report.json"]
    assert json.loads((version / "report.json").read_text())["chosen"]["calibration"] == done.setting.calibration
    assert "instead of" in cli_precision.summary(done)


def test_bf16_needs_a_provider_that_computes_it(exported: Path, named: Named, tmp_path: Path) -> None:
    """On ONNX Runtime's CPU provider bf16 cannot be measured, so that nothing is made."""
    with pytest.raises(ModelRejected, match=r"no provider here runs it in bf16.*cpu: it computes in fp32"):
        reduce(exported, tmp_path, named, Wanted("bf16", provider="cpu"))


def test_reducing_twice_is_refused(made: Made, named: Named, tmp_path: Path) -> None:
    """A reduced file is no reference."""
    with pytest.raises(SetupError, match="starts from a file in fp32"):
        reduce(made.path, tmp_path, named, Wanted("int8", provider="cpu"))


def test_a_model_is_reduced_from_its_newest_in_fp32(exported: Path, made: Made, tmp_path: Path) -> None:
    """A model whose newest version is reduced already gives the one before; a version that is named is that one."""
    for version, path in ((1, exported), (2, exported), (10, made.path)):
        folder = tmp_path / "models/digits" / str(version)
        folder.mkdir(parents=True)
        shutil.copy(path, folder / "model.onnx")
    found = {
        source: cli_precision._float_file(source, tmp_path, tmp_path / "models", None)[0].parent.name
        for source in ("digits", str(tmp_path / "models/digits"), "digits/1", "digits/10")
    }
    assert list(found.values()) == ["2", "2", "1", "10"]


@pytest.mark.parametrize(("folder", "source"), [("2", "model.onnx"), ("2", "."), (".", ".")])
def test_a_version_is_named_from_within(
    folder: str, source: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path relative to a version's folder means that one, to a model's its newest, below a folder called 3 too."""
    for number in (2, 3):
        (tmp_path / "3/models/digits" / str(number)).mkdir(parents=True)
        shutil.copy(exported, tmp_path / "3/models/digits" / str(number) / "model.onnx")
    monkeypatch.chdir(tmp_path / "3/models/digits" / folder)
    found, name = cli_precision._float_file(source, tmp_path, tmp_path / "none", None)
    assert (found.resolve().parent.name, name) == ("3" if folder == "." else folder, "digits")


def test_within_its_limit() -> None:
    """A drop of exactly the limit is within it, whatever the rounding of the two shares."""
    assert within(100 * (0.99 - 0.985), 0.5)
    assert not within(0.50001, 0.5)


def test_calibration_has_every_class_alike(digits: Data) -> None:
    """The sample has as many pictures of a rare class as of a frequent one, while there are any."""
    rare = np.concatenate([np.flatnonzero(digits.train.labels == 3)[:40], np.flatnonzero(digits.train.labels != 3)])
    uneven = replace(digits, train=digits.train.take(rare.astype(np.int64)))
    spec = {"height": 8, "width": 8, "channels": 1}
    manifest = Manifest.model_validate({"labels": digits.classes, "preprocessing": spec})
    pixels = tries.calibration_pixels(uneven, manifest)
    threes = {digits.train.images[index].tobytes() for index in np.flatnonzero(digits.train.labels == 3)}
    assert len(pixels) == tries.CALIBRATION_PICTURES
    assert sum(picture.tobytes() in threes for picture in pixels) == 40


def test_calibration_sees_what_training_saw(digits: Data) -> None:
    """Where the recipe exchanges black and white of half of the pictures, half of the sample is exchanged too."""
    spec = {"height": 8, "width": 8, "channels": 1}
    fields = {"labels": digits.classes, "preprocessing": spec, "recipe": {"invert": 0.5}}
    pixels = tries.calibration_pixels(digits, Manifest.model_validate(fields))
    bright = (pixels.reshape(len(pixels), -1).mean(axis=1) > 127).mean()
    assert 0.35 < bright < 0.65


def test_batch_norms_are_folded() -> None:
    """A Conv and the BatchNormalization behind it become one Conv that computes the same."""
    random = np.random.default_rng(0)
    arrays = {
        "w": random.standard_normal((4, 1, 3, 3)),
        "scale": random.uniform(0.5, 2, 4),
        "bias": random.standard_normal(4),
        "mean": random.standard_normal(4),
        "variance": random.uniform(0.5, 2, 4),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
            helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["y"], epsilon=0.01),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 1, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4, 4, 4])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    batch = random.standard_normal((2, 1, 6, 6)).astype(np.float32)
    before = run(model, batch)
    int8.fold_norms(model)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    np.testing.assert_allclose(run(model, batch), before, rtol=1e-4, atol=1e-5)


def test_a_norm_behind_other_weights_stays() -> None:
    """A BatchNormalization behind a Conv whose weights are no initialiser, as those of a Constant, is left alone."""
    weights = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["w"], value=weights),
            helper.make_node("Conv", ["x", "w", ""], ["c"], "conv"),
            helper.make_node("BatchNormalization", ["c", "one", "one", "one", "one"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 2, 2])],
        [numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    int8.fold_norms(model)
    assert [node.op_type for node in model.graph.node] == ["Constant", "Conv", "BatchNormalization"]


def run(model: onnx.ModelProto, batch: Any) -> Any:  # noqa: ANN401
    """Return what a graph gives."""
    from service.session import open_graph

    return open_graph(model.SerializeToString())(batch)["y"]


def test_settings_are_said_in_words() -> None:
    """What was tried reads as a sentence."""
    assert str(Setting("entropy")) == "entropy, every layer"
    assert str(Setting("minmax", ("conv1", "fc"))) == "minmax, conv1, fc in float"


def test_a_file_needs_no_torch() -> None:
    """A fp32 file is reduced without torch, so in OpenVINO's environment too, which has none."""
    code = "import sys, export.cli_precision; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
