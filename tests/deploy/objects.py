"""The Kubernetes objects of an overlay, as `kubectl kustomize` builds them."""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = ("cpu", "gpu", "volume", "hardened")
COMPONENTS = ("autoscale", "gateway", "keda", "monitoring")


def tool(name: str) -> str:
    """Return the path of a program, of this environment or of the machine; skips the test where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@cache
def build(folder: Path) -> list[dict[str, Any]]:
    """Return the objects of a kustomization.

    Raises:
        AssertionError: it cannot be built; the text is kubectl's.
    """
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return [entry for entry in yaml.safe_load_all(done.stdout) if entry]


def overlay(name: str) -> list[dict[str, Any]]:
    """Return the objects of one of our overlays."""
    return build(DEPLOY / "kubernetes/overlays" / name)


def one(entries: list[dict[str, Any]], kind: str, name: str = "saccade") -> dict[str, Any]:
    """Return the object of a kind and a name."""
    found = [entry for entry in entries if entry["kind"] == kind and entry["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} objects {kind}/{name}"
    return found[0]


def settings(entries: list[dict[str, Any]]) -> dict[str, str]:
    """Return the variables that the service is given."""
    maps = [entry for entry in entries if entry["kind"] == "ConfigMap"]
    assert len(maps) == 1
    return dict(maps[0]["data"])


def pod(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the pod's specification."""
    return dict(one(entries, "Deployment")["spec"]["template"]["spec"])


def container(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the one container of the pod."""
    (found,) = pod(entries)["containers"]
    return dict(found)
