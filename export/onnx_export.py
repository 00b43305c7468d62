"""A checkpoint becomes one ONNX file: normalisation, network and softmax in the graph, the manifest in its metadata."""

import importlib.metadata
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import onnx
import torch

from export.checkpoint import Checkpoint, Trained
from export.data import Data, Pictures, prepare
from service.errors import SetupError
from service.manifest import KEY, Evaluation, GoldenSample, Manifest, golden_sample

INPUT, OUTPUT = "image", "probabilities"
GOLDEN_SAMPLES = 8
OPSET = 20
"""What torch 2.13 writes without conversion; ONNX Runtime takes it from 1.17 on."""


def export_graph(trained: Trained, path: Path) -> None:
    """Write the graph: `image` uint8 [N, H, W, C] in, `probabilities` float32 [N, classes] out, N free."""
    spec = trained.spec
    example = torch.zeros((2, spec.height, spec.width, spec.channels), dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            trained.classifier(),
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise SetupError("torch's exporter gave nothing")
    model = program.model_proto
    strip(model)
    onnx.save(model, path)
    del program, model
    onnx.checker.check_model(path, full_check=True)  # by its path: of a model in memory it makes three copies


def strip(model: onnx.ModelProto) -> None:
    """Remove what the exporter says about the machine that it ran on: stack traces and source paths in the metadata."""
    for part in (model.graph, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
        for value in part.value_info:
            del value.metadata_props[:]
            value.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.metadata_props[:]
    model.doc_string = ""
    model.graph.name = "saccade"
    model.producer_name, model.producer_version = "saccade", importlib.metadata.version("saccade")


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Put the manifest into the metadata of an ONNX file, by rename: a reader sees the old file or the new one.

    Raises:
        SetupError: the file cannot be written; it is left as it was.
    """
    model = onnx.load(path, load_external_data=False)
    others = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, others | {KEY: manifest.to_json()})
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(model.SerializeToString())
            file.flush()
            os.fsync(file.fileno())  # the rename must never be on the disk before the contents
        shutil.copymode(path, partial)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise SetupError(f"{path} cannot be written: {error.strerror}") from None


def make_manifest(
    checkpoint: Checkpoint, data: Data, *, accuracy: float, evaluation: Evaluation | None = None
) -> Manifest:
    """Return the manifest of a checkpoint's file; accuracy and evaluation are its own, on the validation split."""
    recipe = checkpoint.recipe
    return Manifest(
        architecture=recipe.architecture,
        labels=checkpoint.classes,
        preprocessing=checkpoint.spec,
        precision="fp32",
        data=f"{data.name}, {len(data.train):,} pictures; accuracy on {len(data.validation):,} others",
        accuracy=accuracy,
        evaluation=evaluation,
        recipe=recipe.fields(),
        versions={name: importlib.metadata.version(name) for name in ("saccade", "torch", "onnx")},
        golden_samples=golden_samples(checkpoint, data),
    )


def golden_samples(checkpoint: Checkpoint, data: Data) -> tuple[GoldenSample, ...]:
    """Return real pictures of the validation split, of different classes first, with the trained network's answers."""
    labels = data.validation.labels
    firsts = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)]
    others = [index for index in range(len(labels)) if index not in firsts]
    chosen = np.array([*firsts, *others][:GOLDEN_SAMPLES], np.int64)
    pictures = data.validation.take(chosen)
    probabilities = checkpoint.classifier().predict(prepare(pictures, checkpoint.spec))
    return tuple(
        golden_sample(encoded, int(label), row.tolist())
        for encoded, label, row in zip(encode(pictures), pictures.labels, probabilities, strict=True)
    )


def encode(pictures: Pictures) -> list[bytes]:
    """Return each picture as the PNG file that a client would send."""
    return [pictures.file(index) for index in range(len(pictures))]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's own warnings and notes from the user: none of them is about the user's network."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def with_output(path: Path, operator: str, target: Path) -> None:
    """Write a copy of the file at `target` whose output is what goes into its last `operator`; for parity of logits."""
    model = onnx.load(path)
    last = next(node for node in reversed(model.graph.node) if node.op_type == operator)
    output = model.graph.output[0]
    for node in [node for node in model.graph.node if output.name in node.output]:
        model.graph.node.remove(node)
    output.name = last.input[0]
    onnx.save(model, target)
