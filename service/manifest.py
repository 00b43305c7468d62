"""What a model says about itself: labels, preprocessing, accuracy, precision and golden samples.

The manifest travels as JSON in the ONNX file's `metadata_props`, under `saccade.manifest`. It is read straight from the
file, without a session: see service.protobuf.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, ValidationError, model_validator

from . import protobuf
from .errors import ModelRejected

KEY = "saccade.manifest"
METADATA = 14
"""The number of `metadata_props` in ONNX's ModelProto."""
NOT_WHOLE = "the file is not a whole ONNX file: it was cut short, is still being copied, or is something else"
MAX_BYTES = 12 * 1024 * 1024
"""Largest manifest that is read: 8 MB of golden samples, a third more in base64, and the rest."""

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Layout = Literal["NHWC", "NCHW"]
"""Where a tensor has its channels: last or before the rows."""
Scores = Literal["probabilities", "logits"]
"""What a graph gives: logits become probabilities by a softmax after the run."""
Probability = Annotated[float, Field(ge=0, le=1)]


def _sendable(text: str) -> str:
    text.encode()  # half a surrogate pair is no UTF-8, and would fail every answer that names it
    return text


Text = Annotated[str, AfterValidator(_sendable)]
"""What answers tell of a model: its labels and whatever ListModels says of it."""


Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Factor = Annotated[float, Field(ge=1e-6, le=1e6)]


class Frozen(BaseModel):
    """What stands in a manifest; fields that are not here are ignored, since a later minor version may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


Part = TypeVar("Part", bound=Frozen)


class Preprocessing(Frozen):
    """How a picture becomes the model's input, before the graph: uint8 [height, width, channels]."""

    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: Literal[1, 3]
    fit: Literal["stretch", "crop"] = "stretch"
    """stretch: the whole picture, its shape ignored. crop: its middle, in the input's shape."""
    crop_fraction: float = Field(1.0, gt=0, le=1)
    """With crop: how much of the shorter side is kept. 0.875 is 224 out of 256, as usual for ImageNet."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    layout: Layout | None = None
    """Of the graph's input; None: told by where its shape has 1 or 3."""
    order: Literal["RGB", "BGR"] = "RGB"
    """Of the colours that a foreign graph takes; Caffe's take BGR."""
    scale: Factor | None = None
    """What each pixel, 0 to 255, is multiplied by for a foreign float graph; then `mean` is subtracted and the rest is
    divided by `std`: (pixel * scale - mean) / std. None in a graph that takes the pixels as they are."""
    mean: tuple[Number, ...] | None = None
    """One a channel, in the graph's order of colours."""
    std: tuple[Factor, ...] | None = None
    """One a channel, likewise."""

    @model_validator(mode="after")
    def _one_a_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values, the input {self.channels} channels")
        return self


class GoldenSample(Frozen):
    """A real picture and what the trained network made of it."""

    picture: Base64Bytes
    """The encoded picture, as a client would send it."""
    label: int = Field(ge=0)
    """Index of its true class; of a drawn picture, of the class that the trained network found."""
    probabilities: tuple[Probability, ...]
    tolerance: Probability | None = None
    """How far another machine's probabilities may be from these; None: as far as the precision allows."""


def within(drop: float, most: float) -> bool:
    """Return whether a drop of accuracy is within its limit, in percentage points; half a millionth is rounding."""
    return drop <= most + 5e-7


class Verdict(Frozen):
    """What a reduced precision costs on one kind of provider, against fp32 on that provider and the same pictures.

    Shares are from 0 to 1; `max_drop` is in percentage points of top-1.
    """

    provider: Text
    """The kind: cpu, openvino, cuda or tensorrt."""
    precision: Precision
    """What was computed in, whatever the file's own numbers are."""
    data: str
    split: Literal["train", "validation", "test", "all"]
    pictures: int = Field(ge=1)
    accuracy: Probability
    reference_accuracy: Probability
    max_drop: float = Field(ge=0, le=100)
    agreement: Probability
    """Share of the pictures whose best class is that of fp32."""
    largest_difference: Probability
    """Of any probability from that of fp32; likewise the mean."""
    mean_difference: Probability
    calibration_error: Probability
    reference_calibration_error: Probability
    images_per_second: float = Field(ge=0)
    reference_images_per_second: float = Field(ge=0)
    machine: str = ""
    """Where the speeds were measured, and with which runtime."""

    @property
    def drop(self) -> float:
        """How many percentage points of top-1 it costs; negative where it is better."""
        return 100 * (self.reference_accuracy - self.accuracy)

    @property
    def passed(self) -> bool:
        """Whether that is within the limit."""
        return within(self.drop, self.max_drop)


class Evaluation(Frozen):
    """How good this very file was on a part of a data set, measured through the serving path."""

    data: str
    split: Literal["train", "validation", "test", "all"]
    pictures: int = Field(ge=1)
    accuracy: Probability
    top5_accuracy: Probability | None = None
    """None with five classes or fewer, where it would say nothing."""
    cross_entropy: float = Field(ge=0)
    """In nats a picture."""
    macro_f1: Probability
    calibration_error: Probability


class Manifest(Frozen):
    """Format 1. Fields that are not here are ignored; another format number is refused."""

    format: Literal[1] = 1
    architecture: Text = ""
    labels: tuple[Text, ...] = Field(min_length=2)
    preprocessing: Preprocessing
    precision: Precision = "fp32"
    scores: Scores | None = None
    """What the graph gives; None: told by its last operator."""
    data: Text = ""
    """What it was trained and measured on."""
    accuracy: Probability | None = None
    """Top-1 on pictures that it did not learn from, measured on this very file; or as published, if `data` says so."""
    evaluation: Evaluation | None = None
    """The last one that `saccade export` or `saccade evaluate --write-manifest` made."""
    recipe: dict[str, str | int | float | bool] = {}
    """How it was trained, field by field."""
    versions: dict[str, str] = {}
    """The libraries that made it."""
    golden_samples: tuple[GoldenSample, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    """Of a reduced precision, one for each kind of provider that it was measured on."""

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
    fields = read_fields(model)
    if not fields:
        raise ModelRejected(
            "the file carries no manifest; make it with `saccade export`, or put a manifest.json beside it"
        )
    return validate(Manifest, fields)


def read_fields(model: Path) -> dict[str, object]:
    """Return what a model file and the files beside it say, unchecked; empty where they say nothing.

    `manifest.json` lies over the file's own manifest, its `preprocessing` field by field, and `labels.txt` over both.

    Raises:
        ModelRejected: one of them cannot be read.
    """
    text = metadata(model).get(KEY)
    fields = _object(text, f"the metadata entry {KEY}") if text is not None else {}
    override, labels = model.with_name("manifest.json"), model.with_name("labels.txt")
    if override.is_file():
        over = _object(_text(override), "manifest.json")
        own, others = fields.get("preprocessing"), over.get("preprocessing")
        fields |= over
        if isinstance(own, dict) and isinstance(others, dict):
            fields["preprocessing"] = own | others
    if labels.is_file():
        fields["labels"] = read_labels(labels)
    return fields


def read_labels(path: Path) -> list[str]:
    """Return the labels of a text file, one a line.

    Raises:
        ModelRejected: it is no UTF-8 text, or cannot be read.
    """
    return _text(path).rstrip().split("\n")


def validate(kind: type[Part], fields: Mapping[str, object], within: str = "") -> Part:
    """Return `fields` as a manifest or a part of one.

    Args:
        kind: what they are to be.
        fields: as they were read.
        within: the name of the part, which stands before the names of its fields in an error.

    Raises:
        ModelRejected: they cannot be; names the first field that is wrong.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in (*filter(None, (within,)), *first["loc"]))
        what = f"the manifest's {place}" if place else "the manifest"
        raise ModelRejected(f"{what} cannot be used: {first['msg'].removeprefix('Value error, ')}") from None


def metadata(model: Path) -> dict[str, str]:
    """Return the `metadata_props` of an ONNX file without loading the rest of it.

    Raises:
        ModelRejected: the file is no ONNX file or cannot be read.
    """
    try:
        with model.open("rb") as file:
            reader = protobuf.Wire(file)
            return dict(
                entry(reader, field)
                for field in reader.fields(model.stat().st_size)
                if field.number == METADATA and field.wire_type == protobuf.BYTES
            )
    except ValueError:
        raise ModelRejected(NOT_WHOLE) from None
    except OSError as error:
        raise ModelRejected(f"the file cannot be read: {error.strerror}") from None


def sha256(*files: Path) -> str:
    """Return the SHA-256 of the contents of the files, one after another, in hexadecimal."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def golden_sample(
    picture: bytes, label: int, probabilities: Iterator[float] | list[float], tolerance: float | None = None
) -> GoldenSample:
    """Return a sample of an encoded picture, the index of its class, the expected probabilities and their tolerance."""
    return GoldenSample(
        picture=base64.b64encode(picture), label=label, probabilities=tuple(probabilities), tolerance=tolerance
    )


def entry(reader: protobuf.Wire, field: protobuf.Field) -> tuple[str, str]:
    """Return (key, value) of one metadata entry: a StringStringEntryProto, whose key is 1 and value 2.

    Raises:
        ValueError: it is not whole.
        ModelRejected: it is too large.
    """
    if field.size > MAX_BYTES:
        raise ModelRejected(f"a metadata entry has {field.size:,} bytes; the limit is {MAX_BYTES:,}")
    parts = {
        part.number: reader.text(part, MAX_BYTES)
        for part in reader.fields(field.size)
        if part.wire_type == protobuf.BYTES
    }
    return parts.get(1, ""), parts.get(2, "")


def _text(path: Path) -> str:
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ModelRejected(f"{path.name} has {size:,} bytes; the limit is {MAX_BYTES:,}")
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
