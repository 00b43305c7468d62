"""The commands of deploy/README.md, as far as they go without a cluster and without Docker."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.dockerfile import stages
from tests.deploy.objects import DEPLOY, build, one, overlay, pod, settings, tool

ROOT = DEPLOY.parent


def commands(start: str) -> list[str]:
    """Return the manual's commands that begin so."""
    blocks = re.findall(r"^```sh(?:ell)?\n(.*?)^```", (DEPLOY / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [line for line in lines if line.startswith(start)]
    assert found, start
    return found


def made(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the Secrets that the manual's commands would make; the files that they name are there, and empty."""
    for command in commands("kubectl -n saccade create secret"):
        for name in re.findall(r"--from-file=(?:[\w.]+=)?([\w.]+)", command):
            (folder / name).touch()
        words = command.replace("kubectl", tool("kubectl"), 1)
        done = subprocess.run(
            ["sh", "-ec", f"{words} --dry-run=client -o yaml"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        yield yaml.safe_load(done.stdout)


def test_the_secrets_are_those_that_the_hardened_overlay_reads(tmp_path: Path) -> None:
    """Each Secret has the name under which it is mounted or scraped with, and the files that the settings name."""
    keys = {secret["metadata"]["name"]: set(secret["data"]) for secret in made(tmp_path)}
    entries = overlay("hardened")
    (container,) = pod(entries)["containers"]
    at = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    files = {
        f"{at[volume['name']]}/{key}"
        for volume in pod(entries)["volumes"]
        if "secret" in volume
        for key in keys[volume["secret"]["secretName"]]
    }
    named = {value for key, value in settings(entries).items() if key.startswith(("SACCADE_TLS_", "SACCADE_TOKENS"))}
    assert named == files
    tls = one(entries, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["tlsConfig"]
    for entry in (tls["ca"]["secret"], tls["cert"]["secret"], tls["keySecret"]):
        assert entry["key"] in keys[entry["name"]]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with a copy of deploy/, and in it the overlay that the manual spells out."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    manual = (DEPLOY / "README.md").read_text()
    [(path, text)] = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", manual, re.MULTILINE | re.DOTALL)
    file = tmp_path / path
    file.parent.mkdir()
    file.write_text(text)
    return tmp_path


def test_what_is_applied_can_be_built(clone: Path) -> None:
    """Every folder that the manual applies is a kustomization."""
    for command in commands("kubectl apply -k") + commands("kubectl -n NAMESPACE apply -k"):
        assert build(clone / command.split()[-1])


def test_an_overlay_of_one_s_own_names_the_image(clone: Path) -> None:
    """The overlay that the manual spells out takes the image from the registry that it names."""
    [container] = pod(build(clone / "deploy/kubernetes/overlays/mine"))["containers"]
    assert container["image"] == "registry.example.org/saccade:0.1.0-cpu"


def test_what_docker_is_given_is_there() -> None:
    """Every file that the manual's docker commands name is there, and every target is a stage."""
    for command in commands("docker build") + commands("docker compose"):
        file = re.search(r"-f (\S+)", command)
        target = re.search(r"--target (\S+)", command)
        assert file, command
        assert (ROOT / file[1]).is_file()
        assert target is None or target[1] in stages(ROOT / file[1])
