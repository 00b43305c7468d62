import re

import pytest

from service.manifest import read_manifest
from tests.e2e.conftest import Demo

pytestmark = pytest.mark.timeout(400)  # the first of them waits for the demo


def test_demo_succeeds(demo: Demo) -> None:
    """The demo ends with exit code 0, after it drained its server, and says what to try next."""
    assert demo.done.returncode == 0, demo.done.stderr
    assert "server drained and stopped" in demo.done.stdout
    assert "saccade serve --repository models" in demo.done.stdout


def test_demo_is_right(demo: Demo) -> None:
    """At least 97 % of the demo's held-out digits are classified right, over the wire."""
    [percent] = re.findall(r"accuracy over \d+ held-out pictures: ([\d.]+)%", demo.done.stdout)
    assert float(percent) >= 97


def test_demo_publishes(demo: Demo) -> None:
    """The published file says its labels and carries golden samples."""
    manifest = read_manifest(demo.folder / "models/lenet5-digits/1/model.onnx")
    assert manifest.labels == tuple("0123456789")
    assert len(manifest.golden_samples) >= 4
