"""ResNet-50 with random weights in fp32 and int8 on each provider at hand: bare sessions that take turns.

Random weights say nothing of accuracy, so that the gate is left out here: the rows are speeds. Needs the extra `train`.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from service import image
from service.errors import ModelRejected
from service.manifest import KEY, read_manifest
from service.session import candidates
from tests.benchmarks.heavy import write
from tests.benchmarks.table import Compared, Group, Line, Plan, Step


def quantised(path: Path, target: Path) -> Path:
    """Write an int8 file of a fp32 one, calibrated by min-max on drawn pictures; return its path."""
    import onnx

    from export import int8
    from export.drawn import pictures

    manifest = read_manifest(path)
    drawn = [image.from_array(picture, manifest.preprocessing) for picture in pictures(8, 3)]
    model = int8.prepare(onnx.load(path))
    done = int8.quantise(model, int8.Ranges(model, lambda: iter([np.stack(drawn)])).by("minmax"))
    done.producer_name = model.producer_name
    reduced = manifest.model_copy(update={"precision": "int8", "golden_samples": ()})
    onnx.helper.set_model_props(done, {KEY: reduced.to_json()})
    onnx.save(done, target)
    return target


def lines(_: Sequence[str], plan: Plan, step: Step) -> Iterator[Line]:
    """Compare them on every provider at hand."""
    from export import gate

    with tempfile.TemporaryDirectory() as folder:
        plain = write("resnet50", Path(folder) / "models")
        reduced = quantised(plain, Path(folder) / "int8.onnx")
        for provider in candidates("auto"):
            try:
                opened = [gate.open_on(path, provider) for path in (plain, reduced)]
            except ModelRejected as error:
                yield Line(f"{ROW}, {provider}: refused: {error}", [])
                continue
            slow, fast = gate.speeds(*opened, seconds=plan.seconds / 2, rounds=plan.rounds)
            yield Line(f"{ROW}, {provider}", [Compared("images/s in int8: in fp32", fast, slow)])
    step(1.0)


ROW = "resnet50, bare session, int8"
GROUPS = [Group([ROW], lambda plan: 2 * plan.rounds * plan.seconds + 20, lines)]
