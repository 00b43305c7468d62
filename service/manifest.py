"""What a model says about itself: labels, preprocessing, accuracy, precision and golden samples.

The manifest travels as JSON in the ONNX file's `metadata_props`, under `saccade.manifest`. It is read straight from the
file: a session of a 100 MB file costs 150 ms and 190 MB, skipping over its fields 9 ms.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Self

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import ModelRejected

KEY = "saccade.manifest"
MAX_BYTES = 12 * 1024 * 1024
"""Largest manifest that is read: 8 MB of golden samples, a third more in base64, and the rest."""

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Probability = Annotated[float, Field(ge=0, le=1)]


def _sendable(text: str) -> str:
    text.encode()  # half a surrogate pair is no UTF-8, and would fail every answer that names it
    return text


Label = Annotated[str, AfterValidator(_sendable)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later minor version may say more


class Preprocessing(_Frozen):
    """How a picture becomes the model's input, before the graph: uint8 [height, width, channels]."""

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: Literal[1, 3]
    fit: Literal["stretch", "crop"] = "stretch"
    """stretch: the whole picture, its shape ignored. crop: its middle, in the input's shape."""
    crop_fraction: float = Field(1.0, gt=0, le=1)
    """With crop: how much of the shorter side is kept. 0.875 is 224 out of 256, as usual for ImageNet."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"


class GoldenSample(_Frozen):
    """A real picture and what the trained network made of it."""

    picture: Base64Bytes
    """The encoded picture, as a client would send it."""
    label: int = Field(ge=0)
    """Index of its true class; of a drawn picture, of the class that the trained network found."""
    probabilities: tuple[Probability, ...]


class Manifest(_Frozen):
    """Format 1. Fields that are not here are ignored; another format number is refused."""

    format: Literal[1] = 1
    architecture: str = ""
    labels: tuple[Label, ...] = Field(min_length=2)
    preprocessing: Preprocessing
    precision: Precision = "fp32"
    data: str = ""
    """What it was trained and measured on."""
    accuracy: Probability | None = None
    """Top-1 on the validation split, measured on this very file; or as published, where `data` says so."""
    recipe: dict[str, str | int | float | bool] = {}
    """How it was trained, field by field."""
    versions: dict[str, str] = {}
    """The libraries that made it."""
    golden_samples: tuple[GoldenSample, ...] = ()

    @model_validator(mode="after")
    def _samples_fit_labels(self) -> Self:
        for number, sample in enumerate(self.golden_samples):
            if len(sample.probabilities) != len(self.labels):
                raise ValueError(
                    f"golden sample {number} has {len(sample.probabilities)} classes, the model {len(self.labels)}"
                )
            if sample.label >= len(self.labels):
                raise ValueError(
                    f"golden sample {number} is of class {sample.label}; the last one is {len(self.labels) - 1}"
                )
        return self

    def to_json(self) -> str:
        """Return the text that goes into the file."""
        return self.model_dump_json()


def read_manifest(model: Path) -> Manifest:
    """Return the manifest of a model file, with `manifest.json` and `labels.txt` beside it laid over.

    Raises:
        ModelRejected: there is none, or it cannot be understood; the text says what to do.
    """
    text = metadata(model).get(KEY)
    fields = _object(text, f"the metadata entry {KEY}") if text is not None else {}
    override, labels = model.with_name("manifest.json"), model.with_name("labels.txt")
    if override.is_file():
        fields |= _object(_text(override), "manifest.json")
    if labels.is_file():
        fields["labels"] = _text(labels).rstrip().split("\n")
    if not fields:
        raise ModelRejected(
            "the file carries no manifest; make it with `saccade export`, or put a manifest.json beside it"
        )
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ModelRejected(f"the manifest's {place} cannot be used: {first['msg']}") from None


def metadata(model: Path) -> dict[str, str]:
    """Return the `metadata_props` of an ONNX file without loading the rest of it.

    Raises:
        ModelRejected: the file is no ONNX file or cannot be read.
    """
    try:
        with model.open("rb") as file:
            return dict(
                _entry(_bounded(file, size))
                for field, size in _fields(file, model.stat().st_size)
                if field == _METADATA
            )
    except (ValueError, UnicodeDecodeError):
        raise ModelRejected("the file is not a whole ONNX file") from None
    except OSError as error:
        raise ModelRejected(f"the file cannot be read: {error.strerror}") from None


def sha256(model: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def golden_sample(picture: bytes, label: int, probabilities: Iterator[float] | list[float]) -> GoldenSample:
    """Return a sample of an encoded picture, the index of its class and the trained network's probabilities."""
    return GoldenSample(picture=base64.b64encode(picture), label=label, probabilities=tuple(probabilities))


# ONNX's ModelProto: field 14 is `repeated StringStringEntryProto metadata_props`; there key is 1 and value is 2.
_METADATA = 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Yield (field number, size) of each length-delimited field, the file standing at its content."""
    while file.tell() < end:
        tag = _varint(file)
        field, wire_type = tag >> 3, tag & 7
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire_type, 0)
        if wire_type == _BYTES:
            size = _varint(file)
        elif wire_type == _VARINT:
            _varint(file)
        elif not size:
            raise ValueError(f"wire type {wire_type}")
        content = file.tell()
        if field == 0 or content + size > end:
            raise ValueError("field past the end")
        if wire_type == _BYTES:
            yield field, size
        file.seek(content + size)


def _bounded(file: BinaryIO, size: int) -> bytes:
    if size > MAX_BYTES:
        raise ModelRejected(f"a metadata entry has {size:,} bytes; the limit is {MAX_BYTES:,}")
    return file.read(size)


def _entry(content: bytes) -> tuple[str, str]:
    """Return (key, value) of one metadata entry."""
    stream = io.BytesIO(content)
    parts = {field: stream.read(size).decode() for field, size in _fields(stream, len(content))}
    return parts.get(1, ""), parts.get(2, "")


def _varint(file: BinaryIO) -> int:
    value = shift = 0
    while shift < 70:
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
    raise ValueError("cut varint")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ModelRejected(f"{path.name} is not UTF-8 text") from None
    except OSError as error:
        raise ModelRejected(f"{path.name} cannot be read: {error.strerror}") from None


def _object(text: str, where: str) -> dict[str, object]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelRejected(f"{where} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ModelRejected(f"{where} is not a JSON object")
    return fields
