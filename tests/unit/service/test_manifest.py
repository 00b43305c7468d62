import json
import random
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import helper

from service.errors import ModelRejected
from service.manifest import (
    KEY,
    MAX_BYTES,
    Evaluation,
    Manifest,
    Preprocessing,
    golden_sample,
    metadata,
    read_manifest,
    sha256,
)
from tests.onnx_models import LABELS, SPEC, write_model

ROOT = Path(__file__).parents[3]
LEAST = {"labels": ["a", "b"], "preprocessing": {"height": 8, "width": 8, "channels": 1}}
FULL = Manifest(
    architecture="LeNet-5",
    labels=("cat", "größe", "日本", 'quo"te\\'),
    preprocessing=Preprocessing(
        height=28, width=30, channels=3, fit="crop", crop_fraction=0.875, interpolation="bicubic"
    ),
    precision="fp16",
    data="MNIST, test split",
    accuracy=0.9912,
    evaluation=Evaluation(
        data="mnist",
        split="test",
        pictures=10_000,
        accuracy=0.99,
        cross_entropy=0.03,
        macro_f1=0.98,
        calibration_error=0.01,
    ),
    recipe={"epochs": 10, "rate": 0.1, "optimizer": "sgd", "augment": True, "whole": 1.0},
    versions={"torch": "2.9"},
    golden_samples=(golden_sample(bytes(range(256)), 2, [0.1, 0.2, 1 / 3, 1e-30]),),
)


def write(folder: Path, *, props: dict[str, str] | None = None, before: bytes = b"") -> Path:
    """Write a model file that is nothing but metadata, after other fields as bytes."""
    model = onnx.ModelProto(ir_version=10)
    helper.set_model_props(model, props or {})
    path = folder / "model.onnx"
    path.write_bytes(before + model.SerializeToString())
    return path


def sample(**changed: object) -> dict[str, object]:
    """Return a golden sample for two labels, changed."""
    return {"picture": "AAEC", "label": 1, "probabilities": [0.25, 0.75], **changed}


@pytest.mark.parametrize("manifest", [FULL, Manifest.model_validate(LEAST)], ids=["full", "least"])
def test_round_trip(manifest: Manifest, tmp_path: Path) -> None:
    """A manifest written into a file is read back equal."""
    assert read_manifest(write(tmp_path, props={KEY: manifest.to_json()})) == manifest


def test_real_model(tmp_path: Path) -> None:
    """The manifest of a whole model, graph and weights before it, is read."""
    manifest = read_manifest(write_model(tmp_path))
    assert (manifest.labels, manifest.preprocessing, len(manifest.golden_samples)) == (LABELS, SPEC, 4)


def test_other_metadata(tmp_path: Path) -> None:
    """All metadata entries of a file are read."""
    assert metadata(write(tmp_path, props={"a": "1", "b": ""})) == {"a": "1", "b": ""}


def test_needs_no_runtime(tmp_path: Path) -> None:
    """A manifest is read without importing onnxruntime, onnx or torch."""
    code = (
        "import sys; from pathlib import Path; from service.manifest import read_manifest\n"
        "read_manifest(Path(sys.argv[1])); print(sorted({'onnx', 'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(write_model(tmp_path))]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "before",
    [
        b"\x32" + b"\x80\x80\xc0\x02" + bytes(5 * 1024 * 1024),  # a doc_string of 5 MB
        b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # model_version -1, the longest varint
        b"\x81\x7d" + bytes(8),  # an unknown 64-bit field
        b"\x85\x7d" + bytes(4),  # an unknown 32-bit field
        b"\x72\x00",  # an empty metadata entry
    ],
    ids=["5 MB", "varint", "fixed64", "fixed32", "empty entry"],
)
def test_after_other_fields(before: bytes, tmp_path: Path) -> None:
    """A manifest after other fields of any kind and size is read."""
    assert read_manifest(write(tmp_path, props={KEY: json.dumps(LEAST)}, before=before)).labels == ("a", "b")


@pytest.mark.parametrize("cut", [1, 2, 100, 1000])
def test_truncated(cut: int, tmp_path: Path) -> None:
    """A file whose end is missing is refused as not whole."""
    path = write_model(tmp_path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ModelRejected, match="not a whole ONNX file"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "carries no manifest"),
        (b"This is a text.\n", "not a whole ONNX file"),
        (b"<html><body>404</body></html>", "not a whole ONNX file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not a whole ONNX file"),
        (b"\x72\x04\x0a\x02\xff\xff", "not a whole ONNX file"),  # a key that is no UTF-8
        (b"\x80" * 20, "not a whole ONNX file"),
        (b"\x00\x00", "not a whole ONNX file"),
    ],
    ids=["empty", "text", "html", "git lfs", "no UTF-8", "endless varint", "field 0"],
)
def test_no_model(content: bytes, why: str, tmp_path: Path) -> None:
    """A file that is no model is refused, and why is said."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelRejected, match=why):
        read_manifest(path)


@pytest.mark.parametrize("name", ["missing.onnx", "."])
def test_unreadable(name: str, tmp_path: Path) -> None:
    """A file that is missing, or is a folder, is refused without its path being told."""
    with pytest.raises(ModelRejected, match=r"^the file cannot be read: [A-Z][a-z ]+$"):
        read_manifest(tmp_path / name)


def test_no_manifest(tmp_path: Path) -> None:
    """A model without a manifest is refused with what to do about it."""
    with pytest.raises(ModelRejected, match="saccade export"):
        read_manifest(write_model(tmp_path, with_manifest=False))


def test_huge_entry(tmp_path: Path) -> None:
    """A metadata entry above the limit is refused with its size and the limit."""
    with pytest.raises(ModelRejected, match=r"12,58\d,\d{3} bytes; the limit is 12,582,912"):
        read_manifest(write(tmp_path, props={KEY: " " * MAX_BYTES}))


@pytest.mark.parametrize("name", ["labels.txt", "manifest.json"])
def test_huge_file(tmp_path: Path, name: str) -> None:
    """So is a file beside the model; nobody reads ten gigabytes of labels."""
    model = write(tmp_path)
    with model.with_name(name).open("wb") as file:
        file.truncate(10_000_000_000)
    with pytest.raises(ModelRejected, match=f"{name} has 10,000,000,000 bytes; the limit is 12,582,912"):
        read_manifest(model)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"format": 2}, "format cannot be used: Input should be 1"),
        ({"labels": ["a"]}, "labels cannot be used"),
        ({"labels": ["a", 1]}, r"labels\.1 cannot be used"),
        ({"preprocessing": None}, "preprocessing cannot be used"),
        ({"preprocessing": {"height": 0, "width": 8, "channels": 1}}, r"preprocessing\.height"),
        ({"preprocessing": {"height": 8, "width": 8, "channels": 2}}, r"preprocessing\.channels"),
        ({"accuracy": float("nan")}, "accuracy cannot be used"),
        ({"precision": "fp8"}, "precision cannot be used"),
        (
            {"golden_samples": [sample(), sample(probabilities=[1.0])]},
            "^the manifest cannot be used: golden sample 1 .*1 classes.* 2",
        ),
        ({"golden_samples": [sample(label=-1)]}, r"golden_samples\.0\.label"),
        ({"golden_samples": [sample(probabilities=[float("nan"), 1])]}, r"golden_samples\.0\.probabilities\.0"),
        ({"golden_samples": [sample(picture="A")]}, r"golden_samples\.0\.picture"),
    ],
)
def test_refused(changed: dict[str, object], why: str, tmp_path: Path) -> None:
    """A manifest that cannot be used is refused, and the field and the reason are named."""
    with pytest.raises(ModelRejected, match=why):
        read_manifest(write(tmp_path, props={KEY: json.dumps({**LEAST, **changed})}))


def test_golden_label_beyond_labels(tmp_path: Path) -> None:
    """A golden sample whose label is none of the labels is refused, and that label is named."""
    with pytest.raises(ModelRejected, match=r"golden sample 0.*\b7\b"):
        read_manifest(write(tmp_path, props={KEY: json.dumps({**LEAST, "golden_samples": [sample(label=7)]})}))


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"labels": ["a", "\ud800"]}, "labels.1"),
        ({"architecture": "x\ud800"}, "architecture"),
        ({"data": "\udfff"}, "data"),
        ({"verdicts": [{"provider": "\ud800"}]}, "verdicts.0.provider"),
    ],
)
def test_text_that_cannot_be_sent(changed: dict[str, object], field: str, tmp_path: Path) -> None:
    """Text that is no UTF-8, half of a surrogate pair, is refused by field: no answer could carry it."""
    with pytest.raises(ModelRejected, match=f"the manifest's {field} cannot be used: .*surrogates not allowed"):
        read_manifest(write(tmp_path, props={KEY: json.dumps({**LEAST, **changed})}))


def test_nested_too_deep(tmp_path: Path) -> None:
    """A manifest that nests deeper than the parser goes is refused."""
    with pytest.raises(ModelRejected, match=r"metadata entry saccade\.manifest is not"):
        read_manifest(write(tmp_path, props={KEY: "[" * 100_000}))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null"])
def test_no_object(text: str, tmp_path: Path) -> None:
    """A manifest that is no JSON object is refused, and where it stands is named."""
    with pytest.raises(ModelRejected, match=r"metadata entry saccade\.manifest is not"):
        read_manifest(write(tmp_path, props={KEY: text}))


def test_unknown_fields(tmp_path: Path) -> None:
    """Fields of a later minor version are ignored."""
    assert read_manifest(write(tmp_path, props={KEY: json.dumps({**LEAST, "licence": "MIT"})})).labels == ("a", "b")


def test_manifest_json_overrides(tmp_path: Path) -> None:
    """A manifest.json beside the file overrides its fields, and only those."""
    path = write(tmp_path, props={KEY: FULL.to_json()})
    (tmp_path / "manifest.json").write_text('{"data": "other"}')
    assert read_manifest(path) == FULL.model_copy(update={"data": "other"})


def test_manifest_json_alone(tmp_path: Path) -> None:
    """A manifest.json beside a file without a manifest is its manifest."""
    (tmp_path / "manifest.json").write_text(json.dumps(LEAST))
    assert read_manifest(write(tmp_path)) == Manifest.model_validate(LEAST)


def test_labels_txt_overrides(tmp_path: Path) -> None:
    """A labels.txt beside the file, a label a line, overrides the labels of file and manifest.json."""
    path = write(tmp_path, props={KEY: json.dumps(LEAST)})
    (tmp_path / "manifest.json").write_text('{"labels": ["x", "y"]}')
    (tmp_path / "labels.txt").write_text("größe\r\ntwo words\n", encoding="utf-8")
    assert read_manifest(path).labels == ("größe", "two words")


@pytest.mark.parametrize("name", ["manifest.json", "labels.txt"])
def test_override_no_text(name: str, tmp_path: Path) -> None:
    """An override that is no UTF-8 text is refused by its name."""
    path = write(tmp_path, props={KEY: json.dumps(LEAST)})
    (tmp_path / name).write_bytes(b"\xff\xfea\nb")
    with pytest.raises(ModelRejected, match=name):
        read_manifest(path)


def test_override_no_json(tmp_path: Path) -> None:
    """A manifest.json that is no JSON is refused by its name."""
    path = write(tmp_path, props={KEY: json.dumps(LEAST)})
    (tmp_path / "manifest.json").write_text("labels: a")
    with pytest.raises(ModelRejected, match=r"^manifest\.json is not JSON"):
        read_manifest(path)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("whole", [True, False], ids=["damaged", "random"])
def test_hostile_bytes(seed: int, whole: bool, tmp_path: Path) -> None:  # noqa: FBT001 - parametrized
    """Damaged and random files are read or refused, and raise nothing but ModelRejected."""
    source, path = random.Random(seed), write(tmp_path, props={KEY: FULL.to_json(), "other": "x"})
    right = path.read_bytes()
    for _ in range(40):
        content = bytearray(right if whole else source.randbytes(source.randrange(200)))
        for _ in range(source.randrange(1, 5) if whole else 0):
            content[source.randrange(len(content))] = source.randrange(256)
        path.write_bytes(content)
        try:
            assert isinstance(read_manifest(path), Manifest)
        except ModelRejected as error:
            assert str(error)


def test_sha256(tmp_path: Path) -> None:
    """The SHA-256 is that of the file's bytes."""
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
