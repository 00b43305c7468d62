"""ResNet-50 with random weights in fp32, bf16 and int8 on each provider at hand: bare sessions that take turns.

Random weights say nothing of accuracy, so that the gate is left out here: the rows are speeds. Writing the files needs
the extra `train`; where there is no torch, as in OpenVINO's environment, give a folder that another run wrote.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from service import image
from service.errors import ModelRejected
from service.manifest import KEY, Manifest, read_manifest
from service.session import candidates
from tests.benchmarks.table import Compared, Group, Line, Plan, Step

GOALS = {("cpu", "int8"): "2", ("openvino", "bf16"): "4 with AMX", ("openvino", "int8"): "4 with AMX"}
"""What a precision should be in the cpu provider's fp32."""


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
    onnx.helper.set_model_props(done, {KEY: unsampled(manifest, "int8").to_json()})
    onnx.save(done, target)
    return target


def files(folder: Path) -> dict[str, Path]:
    """Return the files by precision; those that are not in the folder are written."""
    from export import foreign

    plain = folder / "resnet50/1/model.onnx"
    if not plain.is_file():
        from tests.benchmarks.heavy import write

        write("resnet50", folder)
    hinted, reduced = folder / "bf16.onnx", folder / "int8.onnx"
    if not hinted.is_file():
        foreign.write_manifest(plain, hinted, unsampled(read_manifest(plain), "bf16"))
    if not reduced.is_file():
        quantised(plain, reduced)
    return {"fp32": plain, "bf16": hinted, "int8": reduced}


def lines(_: Sequence[str], plan: Plan, step: Step) -> Iterator[Line]:
    """Compare them on every provider at hand, the cpu provider's fp32 being what all are measured in."""
    from export import gate
    from export.measure import Opened

    with tempfile.TemporaryDirectory() as folder:
        made = files(plan.models or Path(folder) / "models")
        opened: dict[tuple[str, str], Opened] = {}
        for provider in reversed(candidates("auto")):
            for precision, path in made.items():
                name = f"{ROW}: {provider}, {precision}"
                try:
                    found = gate.open_on(path, provider)
                except ModelRejected as error:
                    yield Line(f"{name}: refused: {error}", [])
                    continue
                if precision == "bf16" and found.session.about.floats != "bf16":
                    continue  # the cpu provider takes a bf16 file and computes in fp32
                opened[provider, precision] = found
        speeds = gate.speeds(*opened.values(), seconds=plan.seconds / 2, rounds=plan.rounds)
        rates = dict(zip(opened, speeds, strict=True))
        base = rates.pop(("cpu", "fp32"))
        for kind, rate in rates.items():
            yield Line(f"{ROW}: {', '.join(kind)}", [Compared("images/s: cpu, fp32", rate, base, GOALS.get(kind, ""))])
    step(1.0)


def unsampled(manifest: Manifest, precision: str) -> Manifest:
    """Return it for another precision, without golden samples.

    With random weights probabilities hang on the last bits: in bf16 one is 0.034 off, the self-test's limit 0.03.
    """
    return manifest.model_copy(update={"precision": precision, "golden_samples": ()})


ROW = "resnet50, bare session, each precision"
GROUPS = [Group([ROW], lambda plan: 4 * plan.rounds * plan.seconds + 20, lines)]
