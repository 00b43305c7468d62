"""ResNet-50 with random weights in fp32 and int8 on each provider at hand: bare sessions that take turns.

Random weights say nothing of accuracy, so that the gate is left out here: the rows are speeds.

python -m tests.benchmarks.precision [--seconds 3] [--rounds 3]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from export import gate, int8
from export.drawn import pictures
from service import image
from service.errors import ModelRejected
from service.manifest import KEY, read_manifest
from service.session import candidates
from tests.benchmarks.heavy import write


def quantised(path: Path, target: Path) -> Path:
    """Write an int8 file of a fp32 one, calibrated by min-max on drawn pictures; return its path."""
    manifest = read_manifest(path)
    drawn = [image.from_array(picture, manifest.preprocessing) for picture in pictures(8, 3)]
    model = int8.prepare(onnx.load(path))
    done = int8.quantise(model, int8.Ranges(model, lambda: iter([np.stack(drawn)])).by("minmax"))
    done.producer_name = model.producer_name
    reduced = manifest.model_copy(update={"precision": "int8", "golden_samples": ()})
    onnx.helper.set_model_props(done, {KEY: reduced.to_json()})
    onnx.save(done, target)
    return target


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    table = Table("network", "provider", "fp32 images/s", "int8 images/s", "ratio", "fp32 MB", "int8 MB")
    with tempfile.TemporaryDirectory() as folder:
        plain = write("resnet50", Path(folder) / "models")
        reduced = quantised(plain, Path(folder) / "int8.onnx")
        megabytes = [f"{path.stat().st_size / 1e6:.1f}" for path in (plain, reduced)]
        for provider in candidates("auto"):
            try:
                opened = [gate.open_on(path, provider) for path in (plain, reduced)]
            except ModelRejected as error:
                Console(stderr=True).print(f"{provider} left out: {error}", markup=False)
                continue
            slow, fast = gate.speeds(*opened, seconds=given.seconds, rounds=given.rounds)
            table.add_row("resnet50", provider, f"{slow:.1f}", f"{fast:.1f}", f"{fast / slow:.2f}", *megabytes)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
