"""A foreign ONNX file becomes self-describing: its manifest is written into it, and the graph stays byte for byte."""

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from export import drawn, plan, presets
from export.publish import FILE, check_name, publish
from service import foreign, image, protobuf
from service.graph import Graph, external_files, read_graph
from service.manifest import KEY, METADATA, GoldenSample, Manifest, entry, golden_sample, read_fields, read_labels
from service.model import Options
from service.selftest import check_against_manifest, on_pixels, self_test
from service.session import Session, check_runtime

GOLDEN_SAMPLES = 8
LARGEST_BATCH = 8
MAX_PIXELS = 1 << 22
"""Of a drawn picture, far more than it has."""

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exported:
    """The folder of the version, what was inferred, and how many golden samples it carries."""

    version: Path
    inferred: tuple[str, ...]
    samples: int


def export_file(
    path: Path,
    repository: Path,
    *,
    name: str = "",
    labels: Path | None = None,
    preset: str = "",
    explain: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Publish a copy of an ONNX classifier that carries its manifest, as the next version of a model.

    What neither the arguments nor the file and its neighbours say is inferred, see service.foreign. The golden samples
    are drawn pictures with the file's own answers on this machine's CPU: they prove that another machine, provider or
    version of ONNX Runtime computes the same, not that the network is right about real pictures.

    Args:
        path: the file; external weight files beside it are copied with it.
        repository: the model repository.
        name: of the model; empty: the file's, without its suffix.
        labels: a text file, one label a line.
        preset: the name of one of export.presets; empty: inferred.
        explain: whether explain.onnx goes with it, see export.explain_graph.
        say: told what is being done.

    Raises:
        SetupError: the name, the preset or the repository cannot be used.
        ModelRejected: the file cannot be served; the text says why.
    """
    name = _model_name(path, name)
    say("reading")
    fields, graph = read_fields(path), read_graph(path)
    said = dict(fields)
    if labels is not None:
        fields["labels"] = read_labels(labels)
    say("running it")
    manifest, inferred = _describe(path, fields, graph, presets.find(preset) if preset else None)
    if _differs(manifest, said):
        manifest = manifest.model_copy(update={"accuracy": None, "evaluation": None, "verdicts": ()})
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / FILE
        beside = {}
        for location, file in external_files(path, graph).items():
            beside[location] = Path(folder) / location
            beside[location].parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, beside[location])
        write_manifest(path, copy, manifest)
        say("checking that it loads")
        check_loads(copy)
        if explain:
            from export import explain_graph

            beside[plan.FILE] = copy.with_name(plan.FILE)
            explain_graph.write(copy, beside[plan.FILE])
        say("publishing")
        return Exported(publish(copy, repository, name, beside), inferred, len(manifest.golden_samples))


def write_manifest(source: Path, target: Path, manifest: Manifest | str) -> None:
    """Write a copy of an ONNX file with another manifest, or the text of one; all else stays, byte for byte."""
    with source.open("rb") as reader, target.open("wb") as writer:
        message, end = protobuf.Wire(reader), 0
        for field in message.fields(source.stat().st_size):
            start, end = end, message.at + field.size
            ours = field.number == METADATA and field.wire_type == protobuf.BYTES and entry(message, field)[0] == KEY
            if not ours:
                _copy(reader, writer, start, end)
        text = manifest if isinstance(manifest, str) else manifest.to_json()
        writer.write(_field(METADATA, _field(1, KEY.encode()) + _field(2, text.encode())))
        writer.flush()
        os.fsync(writer.fileno())  # a rename that follows must never be on the disk before the contents


def check_loads(path: Path) -> None:
    """Load the finished file as the server does, self-test included.

    Raises:
        ModelRejected: the server would not serve it.
    """
    fields, graph = read_fields(path), read_graph(path)
    external_files(path, graph)
    session = _session(path, fields, graph)
    manifest, _ = foreign.complete(fields, session.input, session.classes, graph)
    check_against_manifest(session, manifest)
    session.warm_up()
    self_test(on_pixels(session, manifest), manifest, Options(max_batch_size=LARGEST_BATCH))


def _describe(
    path: Path, fields: Fields, graph: Graph, preset: presets.Preset | None
) -> tuple[Manifest, tuple[str, ...]]:
    """Return the whole manifest of a file, golden samples included, and what of it was inferred."""
    free = {"height": preset.size, "width": preset.size} if preset and preset.size else {}
    session = _session(path, _laid(fields, {**free, **_preprocessing(fields)}), graph)
    height, width, _ = session.input_shape
    fields = _laid(fields, {"height": height, "width": width, "layout": session.input.layout, **_preprocessing(fields)})
    if preset is not None:
        fields = _laid(fields, preset.framing | (preset.numbers if session.input.datatype != "UINT8" else {}))
    fields |= {"scores": session.gives, "golden_samples": ()}
    manifest, inferred = foreign.complete(fields, session.input, session.classes, graph)
    check_against_manifest(session, manifest)
    session.warm_up()
    runtime = check_runtime()
    manifest = manifest.model_copy(
        update={
            "data": manifest.data or f"unknown; golden samples: drawn pictures with this file's own answers, {runtime}",
            "versions": manifest.versions
            | {"saccade": importlib.metadata.version("saccade"), "onnxruntime": runtime.split()[-1]},
            "golden_samples": _golden_samples(session, manifest),
        }
    )
    return manifest, (*session.assumed, *inferred)


def _differs(manifest: Manifest, said: Fields) -> bool:
    """Return whether labels or pictures are others than the file said, for which what it says of accuracy is not so."""
    now = manifest.model_dump(mode="json")
    before = {name: value for name, value in _preprocessing(said).items() if value is not None}
    labels = list(said.get("labels") or now["labels"])
    return labels != now["labels"] or any(now["preprocessing"].get(name) != value for name, value in before.items())


def _preprocessing(fields: Fields) -> Fields:
    there = fields.get("preprocessing")
    return there if isinstance(there, dict) else {}


def _laid(fields: Fields, spec: Fields) -> Fields:
    """Return the fields with these of preprocessing laid over."""
    return fields | {"preprocessing": _preprocessing(fields) | spec}


def _session(path: Path, fields: Fields, graph: Graph) -> Session:
    return Session(
        path,
        "cpu",
        intra_op_threads=0,
        max_batch_size=LARGEST_BATCH,
        expected=foreign.expected(fields, graph),
    )


def _golden_samples(session: Session, manifest: Manifest) -> tuple[GoldenSample, ...]:
    spec = manifest.preprocessing
    encoded = [image.encode_png(picture) for picture in drawn.pictures(GOLDEN_SAMPLES, spec.channels)]
    pixels = np.stack([image.decode(picture, spec, max_pixels=MAX_PIXELS) for picture in encoded])
    rows = on_pixels(session, manifest)(pixels)
    return tuple(
        golden_sample(picture, int(row.argmax()), row.tolist()) for picture, row in zip(encoded, rows, strict=True)
    )


def _model_name(path: Path, name: str) -> str:
    name = name or ("" if path.stem == "model" else path.stem)
    check_name(name)
    return name


def _copy(reader: BinaryIO, writer: BinaryIO, start: int, end: int) -> None:
    reader.seek(start)
    while start < end:
        block = reader.read(min(end - start, 1 << 20))
        writer.write(block)
        start += len(block)


def _field(number: int, content: bytes) -> bytes:
    """Return a field of bytes as it stands in a protobuf message."""
    return _varint(number << 3 | protobuf.BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
