from pathlib import Path

import onnx
import pytest
from onnx import helper

from service import verdicts
from service.errors import ModelRejected
from service.loading import load_model
from service.manifest import KEY, Manifest, Verdict, read_manifest
from service.metrics import Metrics
from service.model import Model, Options
from tests.onnx_models import LABELS, SPEC, write_model

GOOD = Verdict(
    provider="cpu",
    precision="int8",
    data="digits",
    split="test",
    pictures=269,
    accuracy=0.990,
    reference_accuracy=0.993,
    max_drop=0.5,
    agreement=0.99,
    largest_difference=0.1,
    mean_difference=0.001,
    calibration_error=0.01,
    reference_calibration_error=0.01,
    images_per_second=2000,
    reference_images_per_second=1000,
)
BAD = GOOD.model_copy(update={"accuracy": 0.98})


def manifest(*said: Verdict, precision: str = "int8") -> Manifest:
    """Return a manifest of a precision with these verdicts."""
    return Manifest(labels=LABELS, preprocessing=SPEC, verdicts=said).model_copy(update={"precision": precision})


def check(said: Manifest, computed: str = "int8", provider: str = "cpu", **given: bool) -> str:
    """Judge a file of ours whose golden samples came true."""
    return verdicts.check(said, provider, computed, **{"foreign": False, "tested": True} | given)


def write(folder: Path, *said: Verdict, samples: int = 4, wrong_by: float = 0.0) -> Path:
    """Write a small model that says that it is int8."""
    path = write_model(folder, samples=samples, wrong_by=wrong_by)
    model = onnx.load(path)
    changed = read_manifest(path).model_copy(update={"precision": "int8", "verdicts": said})
    helper.set_model_props(model, {KEY: changed.to_json()})
    onnx.save(model, path)
    return path


def load(path: Path, *, allow_unverified: bool = False, require_verified: bool = False) -> Model:
    """Load a file as the server does."""
    options = Options(
        provider="cpu", max_batch_size=4, allow_unverified=allow_unverified, require_verified=require_verified
    )
    return load_model(path, "linear", 1, options, Metrics())


def test_a_verdict_within_its_limit_is_enough() -> None:
    """A reduced precision that costs less than its limit is verified, on the kind of provider it was measured on."""
    assert check(manifest(GOOD)) == ""


def test_a_verdict_exactly_at_its_limit_passes() -> None:
    """The limit itself is within it, however the shares are rounded."""
    assert GOOD.model_copy(update={"accuracy": 0.988}).passed


def test_a_verdict_just_over_its_limit_does_not() -> None:
    """A hundredth of a point beyond the limit is beyond it."""
    assert not GOOD.model_copy(update={"accuracy": 0.9879}).passed


def test_the_latest_verdict_counts() -> None:
    """Of two verdicts on one kind of provider the one that was measured last is taken."""
    assert check(manifest(BAD, GOOD)) == ""
    with pytest.raises(ModelRejected, match=r"costs 1\.30 points"):
        check(manifest(GOOD, BAD))


def test_no_verdict_for_this_provider() -> None:
    """What was measured on one kind of provider says nothing of another; the reason names both and the way out."""
    with pytest.raises(ModelRejected, match=r"int8 costs in accuracy was not measured on openvino \(measured is int8"):
        check(manifest(GOOD), provider="openvino")


def test_a_verdict_over_its_limit() -> None:
    """What was measured as too bad is refused with both accuracies."""
    with pytest.raises(ModelRejected, match=r"costs 1\.30 points of accuracy on cpu \(98\.00% instead of 99\.30%\)"):
        check(manifest(BAD))


def test_a_hint_needs_a_verdict_too() -> None:
    """A fp32 file that the provider is asked to compute in bf16 is reduced by that."""
    with pytest.raises(ModelRejected, match="bf16 costs in accuracy was not measured on openvino"):
        check(manifest(precision="fp32"), "bf16", "openvino")


def test_fp32_needs_none() -> None:
    """fp32 needs the live self-test alone, and TF32 is judged by fp32's samples."""
    assert check(manifest(precision="fp32"), "fp32") == check(manifest(precision="fp32"), "tf32") == ""


def test_a_foreign_file_is_unverified_not_refused() -> None:
    """A quantised file that says nothing of itself was reduced by others: it is served and shown as unverified."""
    assert check(manifest(), foreign=True, tested=False) == verdicts.NO_SAMPLES


def test_require_verified_refuses_files_without_samples() -> None:
    """--require-verified refuses what cannot be tested, whatever its precision."""
    with pytest.raises(ModelRejected, match="no golden samples and --require-verified"):
        check(manifest(precision="fp32"), "fp32", tested=False, require_verified=True)


def test_require_verified_loads_no_file_without_samples(tmp_path: Path) -> None:
    """A file that cannot be tested is not loaded where the server is told to require it."""
    with pytest.raises(ModelRejected, match="no golden samples and --require-verified"):
        load(write_model(tmp_path, samples=0), require_verified=True)


def test_a_version_without_a_verdict_is_not_served(tmp_path: Path) -> None:
    """The server refuses it on every provider, with the reason."""
    with pytest.raises(ModelRejected, match=r"cpu: what int8 costs.*--allow-unverified serves it all the same"):
        load(write(tmp_path))


def test_allow_unverified_serves_and_says_so(tmp_path: Path) -> None:
    """With --allow-unverified it is served, unverified wherever it is shown."""
    model = load(write(tmp_path), allow_unverified=True)
    model.drain(1)
    assert not model.facts.verified
    assert model.notice.startswith("unverified: what int8 costs in accuracy was not measured on cpu")


def test_a_version_with_a_verdict_is_verified(tmp_path: Path) -> None:
    """With its verdict it is READY without any flag."""
    model = load(write(tmp_path, GOOD))
    model.drain(1)
    assert (model.facts.verified, model.facts.precision, model.notice) == (True, "int8", "")


def test_a_verdict_is_no_substitute_for_the_self_test(tmp_path: Path) -> None:
    """A file whose golden samples fail is refused with a verdict and --allow-unverified."""
    with pytest.raises(ModelRejected, match="self-test: golden sample"):
        load(write(tmp_path, GOOD, wrong_by=0.3), allow_unverified=True)


def test_a_sample_may_have_a_tolerance_of_its_own(tmp_path: Path) -> None:
    """A golden sample's own tolerance stands instead of the precision's."""
    path = write(tmp_path, GOOD, wrong_by=0.1)
    model = onnx.load(path)
    said = read_manifest(path)
    wide = tuple(sample.model_copy(update={"tolerance": 0.2}) for sample in said.golden_samples)
    helper.set_model_props(model, {KEY: said.model_copy(update={"golden_samples": wide}).to_json()})
    onnx.save(model, path)
    load(path).drain(1)
