"""`saccade serve` in an environment that has more than one ONNX Runtime."""

import os
import subprocess
from pathlib import Path

from tests.processes import SACCADE


def test_two_distributions_are_an_error_at_start(tmp_path: Path) -> None:
    """They overwrite each other's files: the exit code is 1, and one line has the pip commands that mend it."""
    for name, module in (("onnxruntime-gpu", "onnxruntime_gpu"), ("onnxruntime-qnn", "onnxruntime_qnn")):
        folder = tmp_path / f"{module}-1.31.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
    ports = ["--grpc-port", "0", "--metrics-port", "0", "--host", "127.0.0.1"]
    paths = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*SACCADE, "serve", *ports],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("saccade: ")]
    assert "onnxruntime-gpu 1.31.1 and " in line
    assert "overwrite each other: `pip uninstall " in line
    assert "then `pip install '.[cpu]'` in a clone of Saccade" in line
