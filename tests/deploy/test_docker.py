"""The container images: what the Dockerfile says, and its install steps as they are written."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from service import probe
from service.client import Client
from service.config import Settings, variable
from service.server import _REFUSE_SECONDS as REFUSE_SECONDS
from tests.certificates import Authority
from tests.conftest import StartServer
from tests.deploy.dockerfile import Stage, chain, stages
from tests.deploy.objects import DEPLOY, container, overlay, pod, tool
from tests.fakes import WAIT
from tests.processes import ServerProcess

ROOT = DEPLOY.parent
DOCKER = DEPLOY / "docker"
TARGETS = ("cpu", "openvino", "gpu")
STAGES = stages(DOCKER / "Dockerfile")
TRAINING = {"torch", "onnx", "onnxscript", "scikit-learn", "matplotlib"}
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)")


def pinned(path: Path) -> dict[str, str]:
    """Return the versions that a lock or constraints file says, by name."""
    lines = (_PINNED.match(line) for line in path.read_text().splitlines())
    return {match[1].lower().replace("_", "-"): match[2] for match in lines if match}


def words(target: str, word: str) -> list[str]:
    """Return what follows every instruction of a kind in the image, the stages below included."""
    return [rest for stage in chain(STAGES, target) for rest in stage.all(word)]


def test_hadolint_finds_nothing() -> None:
    """The linter of Dockerfiles has nothing to say."""
    done = subprocess.run(
        [tool("hadolint"), str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout


def test_a_build_without_target_is_the_cpu_image() -> None:
    """The three images are stages of one file, and the last one is for CPUs."""
    assert set(TARGETS) <= set(STAGES)
    assert list(STAGES)[-1] == "cpu"


def test_the_base_is_pinned() -> None:
    """Everything stands on one image whose version is whole, down to the patch."""
    assert {stage.base for stage in STAGES.values() if stage.base not in STAGES} == {"${BASE}"}
    assert re.search(r"^ARG BASE=python:3\.\d+\.\d+-slim-\w+$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_the_user_is_a_number(target: str) -> None:
    """The image runs as the number that Kubernetes expects; a name would not pass runAsNonRoot."""
    security = pod(overlay("cpu"))["securityContext"]
    assert words(target, "USER")[-1] == f"{security['runAsUser']}:{security['runAsGroup']}"


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_has_only_what_serving_needs(target: str) -> None:
    """An image gets its environment from another stage, and itself installs tini: no compiler, no pip cache."""
    assert words(target, "COPY") == [f"--from=environment-{target} /opt/saccade /opt/saccade"]
    (run,) = words(target, "RUN")
    assert re.search(r"apt-get install -y --no-install-recommends tini=\S+ && rm -rf /var/lib/apt/lists/\*$", run)
    assert any("PIP_NO_CACHE_DIR=1" in rest for rest in words(target, "ENV"))


@pytest.mark.parametrize("target", TARGETS)
def test_signals_and_health(target: str) -> None:
    """Tini passes signals on, health is the service's own probe, and the ports are those of the pod."""
    assert words(target, "ENTRYPOINT") == ['["tini", "--", "saccade"]']
    assert words(target, "CMD") == ['["serve"]']
    assert words(target, "HEALTHCHECK")[0].endswith('CMD ["saccade", "probe"]')
    ports = {str(port["containerPort"]) for port in container(overlay("cpu"))["ports"]}
    assert set(words(target, "EXPOSE")[0].split()) == ports
    assert "org.opencontainers.image.licenses" in " ".join(words(target, "LABEL"))


@pytest.mark.parametrize("target", [*TARGETS, "build"])
def test_locks_have_hashes(target: str) -> None:
    """Every package of a lock file has its version and at least one hash, and none belongs to training."""
    text = (DOCKER / f"requirements-{target}.txt").read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", "\n".join(x for x in text.splitlines() if not x.startswith("#")).strip())
    assert entries
    assert all(_PINNED.match(entry) and "--hash=sha256:" in entry for entry in entries)
    assert not TRAINING & set(pinned(DOCKER / f"requirements-{target}.txt"))


@pytest.mark.parametrize("target", TARGETS)
def test_locks_are_what_was_tested(target: str) -> None:
    """A lock file has every direct dependency, in the versions of constraints.txt; else run `make lock`."""
    lock, tested = pinned(DOCKER / f"requirements-{target}.txt"), pinned(ROOT / "constraints.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"][target]]
    assert {re.split(r"[\[>=<~; ]", entry)[0].lower() for entry in direct} <= set(lock)
    assert {name: lock[name] for name in lock.keys() & tested} == {name: tested[name] for name in lock.keys() & tested}


def test_compose_finds_its_files() -> None:
    """Every file that compose.yaml mounts or builds from is there, and ports are open on this machine only."""
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert set(compose["services"]) == {"saccade", "prometheus", "grafana"}
    build = compose["services"]["saccade"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    for service in compose["services"].values():
        assert service["image"].rpartition(":")[2] not in {"", "latest"}
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DOCKER / source).is_file(), source


def test_compose_gives_the_server_time_to_leave() -> None:
    """What the server needs to leave, by its defaults, is less than compose gives it."""
    given = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["saccade"]["stop_grace_period"]
    settings = Settings()
    assert float(given.removesuffix("s")) > settings.drain_delay + REFUSE_SECONDS + settings.grace


def test_compose_mounts_what_is_read() -> None:
    """Prometheus' configuration, its rules, and Grafana's dashboard lie where they are looked for."""
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    at = {volume.split(":")[1] for service in services.values() for volume in service.get("volumes", [])}
    configuration = Path(services["prometheus"]["command"][0].removeprefix("--config.file="))
    assert str(configuration) in at
    rules = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["rule_files"]
    assert {str(configuration.parent / name) for name in rules} <= at
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    (provider,) = yaml.safe_load((DOCKER / "grafana/dashboards.yaml").read_text())["providers"]
    assert home in at
    assert str(Path(home).parent) == provider["options"]["path"]
    (source,) = yaml.safe_load((DOCKER / "grafana/datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"


@pytest.mark.parametrize("mutual", [False, True])
def test_health_under_tls(start_server: StartServer, repository: Path, tmp_path: Path, *, mutual: bool) -> None:
    """The check of compose.tls.yaml works with its settings, under mTLS with a certificate; the image's own fails."""
    saccade = yaml.safe_load((DOCKER / "compose.tls.yaml").read_text())["services"]["saccade"]
    authority = Authority(tmp_path, "ca")
    authority.sign("tls", "localhost", "saccade")
    ca = authority.file.rename(tmp_path / "ca.crt")
    word, command, *check = (text.replace("=/tls/", f"={tmp_path}/") for text in saccade["healthcheck"]["test"])
    assert (word, command, check.pop(0)) == ("CMD", "saccade", "probe")
    own = [f"--tls-certificate={tmp_path / 'tls.crt'}", f"--tls-key={tmp_path / 'tls.key'}"] if mutual else []
    known = {variable(field): field for field in Settings.model_fields}
    given = {known[key]: tmp_path / Path(value).name for key, value in saccade["environment"].items()}
    server = start_server(repository, **given, tls_client_ca=ca if mutual else None)
    where = [f"--address=localhost:{server.grpc_port}", f"--timeout={WAIT}"]
    assert probe.main([*where, *check, *own]) == 0
    assert probe.main(where) == 1
    assert not mutual or probe.main([*where, *check]) == 1


@pytest.mark.parametrize("name", ["prometheus.yaml", "prometheus.tls.yaml"])
def test_prometheus_takes_the_configuration_of_compose(name: str, tmp_path: Path) -> None:
    """Promtool finds nothing wrong with what compose.yaml gives to Prometheus."""
    shutil.copy(DOCKER / name, tmp_path)
    shutil.copy(DEPLOY / "monitoring/rules.yaml", tmp_path)
    Authority(tmp_path, "ca").file.rename(tmp_path / "ca.crt")
    done = subprocess.run(
        [tool("promtool"), "check", "config", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def rooted(stage: Stage, root: Path) -> Iterator[list[str]]:
    """Do a stage's COPY from the tree, and yield its RUN commands, both with `root` for the image's own."""
    here = root / "src"
    for word, rest in stage.instructions:
        *sources, target = rest.split()
        if word == "COPY" and not sources[0].startswith("--from"):
            for source in sources:
                to = (root if target.startswith("/") else here) / target.strip("/")
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    to.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, to)
        elif word == "RUN":
            yield ["sh", "-ec", re.sub(r"(?<![\w./-])/(?=opt|wheels|requirements)", f"{root}/", rest)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the images have Python 3.11")
def test_install_steps_work_as_written(tmp_path: Path) -> None:
    """The steps of the CPU image, run outside a container, give an environment that serves, by hash, without torch."""
    tools = tmp_path / "tools"
    subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True, timeout=60)
    environment = {**os.environ, "PATH": f"{tools / 'bin'}:{os.environ['PATH']}", "PIP_NO_CACHE_DIR": "1"}
    for name in ("wheel", "environment", "environment-cpu"):
        for command in rooted(STAGES[name], tmp_path):
            subprocess.run(command, cwd=tmp_path / "src", env=environment, check=True, timeout=300)
    python = tmp_path / "opt/saccade/bin/python"
    listed = subprocess.run(
        [str(tools / "bin/pip"), "--python", str(python), "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    names = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert "saccade" in names
    assert not names & {*TRAINING, "pip"}
    with ServerProcess(None, python=python, cwd=tmp_path) as server, Client(server.address) as client:
        digit = ROOT / "service/bundled/pictures/digit-7.png"
        assert client.classify(digit).classifications[0][0].label == "7"
