"""The Kubernetes files: what every overlay keeps, and what Kubernetes' own schemas say."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service.config import Settings, variable
from service.probe import command_line
from service.server import _REFUSE_SECONDS as REFUSE_SECONDS
from tests.deploy.objects import COMPONENTS, DEPLOY, OVERLAYS, build, container, one, overlay, pod, settings

VERSIONS = ("1.30.0", "1.32.0", "1.34.0", "1.37.0")
"""The oldest that has the preStop sleep without a feature gate, the newest, and what many run."""
CUSTOM = {"PodMonitor", "PrometheusRule", "ScaledObject", "GRPCRoute", "ServingRuntime", "InferenceService"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_kubernetes_takes_every_object(name: str, version: str) -> None:
    """Every object that Kubernetes itself defines is valid by its schemas, without a field that they do not know."""
    for entry in overlay(name):
        if entry["kind"] not in CUSTOM:
            kubernetes_validate.validate(entry, version, strict=True)


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_can_be_added(name: str, tmp_path: Path) -> None:
    """Each component builds on the base, as the manual says, and adds objects to the namespace."""
    root = DEPLOY / "kubernetes"
    here = tmp_path / "site"
    here.mkdir()
    relative = Path(*[".."] * (len(here.parts) - 1)) / root.relative_to("/")
    text = {
        "namespace": "saccade",
        "resources": [str(relative / "base")],
        "components": [str(relative / "components" / name)],
    }
    (here / "kustomization.yaml").write_text(yaml.safe_dump(text))
    added = {(entry["kind"], entry["metadata"]["name"]) for entry in build(here)} - {
        (entry["kind"], entry["metadata"]["name"]) for entry in build(root / "base")
    }
    assert added
    assert {entry["metadata"].get("namespace", "saccade") for entry in build(here)} == {"saccade"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_call_is_lost_in_a_rollout(name: str) -> None:
    """A new pod is there before an old one leaves, and what an old one needs to leave fits into its time."""
    entries = overlay(name)
    strategy = one(entries, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxUnavailable": 0, "maxSurge": 1}
    given = settings(entries)
    leaving = container(entries)["lifecycle"]["preStop"]["sleep"]["seconds"] + REFUSE_SECONDS
    leaving += float(given["SACCADE_DRAIN_DELAY"]) + float(given["SACCADE_GRACE"])
    assert pod(entries)["terminationGracePeriodSeconds"] > leaving + 5


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_are_restricted(name: str) -> None:
    """The pod keeps to the restricted standard, cannot write to its root, and has no token of the cluster."""
    entries = overlay(name)
    spec, inside = pod(entries), container(entries)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert isinstance(spec["securityContext"]["runAsUser"], int)
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inside["capabilities"] == {"drop": ["ALL"]}
    assert inside["allowPrivilegeEscalation"] is False
    assert inside["readOnlyRootFilesystem"] is True
    assert spec["automountServiceAccountToken"] is False
    assert one(entries, "ServiceAccount")["automountServiceAccountToken"] is False
    assert one(entries, "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_find_the_pods(name: str) -> None:
    """Service, budget, policy and monitor select the labels that the pods carry, by ports that the pods have."""
    entries = overlay(name)
    labels = one(entries, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one(entries, "Service")["spec"]["clusterIP"] == "None"
    assert one(entries, "Service")["spec"]["selector"].items() <= labels.items()
    ports = {port["name"] for port in container(entries)["ports"]}
    assert {port["targetPort"] for port in one(entries, "Service")["spec"]["ports"]} <= ports
    policy = one(entries, "NetworkPolicy")["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} <= ports
    selecting = [one(entries, "Deployment"), one(entries, "PodDisruptionBudget")]
    selecting += [entry for entry in entries if entry["kind"] == "PodMonitor"]
    for entry in selecting:
        assert entry["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_service_knows_every_setting(name: str) -> None:
    """Each variable of the ConfigMap is a setting of the service, with a value that it takes."""
    given = settings(overlay(name))
    known = {variable(field): field for field in Settings.model_fields}
    Settings.model_validate({known[key]: value for key, value in given.items()})


@pytest.mark.parametrize("name", OVERLAYS)
def test_cores_are_whole_and_promised(name: str) -> None:
    """The CPU limit equals the request and is a whole number, so the threads taken from the quota are right."""
    resources = container(overlay(name))["resources"]
    assert resources["limits"] == resources["requests"]
    assert int(resources["limits"]["cpu"]) >= 1


def test_gpus_are_asked_for_by_name() -> None:
    """The gpu overlay asks for a GPU and for CUDA, never for whatever loads."""
    entries = overlay("gpu")
    assert container(entries)["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert settings(entries)["SACCADE_PROVIDER"] == "cuda"
    assert container(entries)["image"].endswith("-gpu")


@pytest.mark.parametrize("name", ["cpu", "gpu", "volume"])
def test_probes_ask_for_what_they_mean(name: str) -> None:
    """Kubernetes restarts a pod for the process alone, and sends it calls when the whole server is ready."""
    found = container(overlay(name))
    assert found["livenessProbe"]["grpc"] == {"port": 8001, "service": "liveness"}
    assert found["startupProbe"]["grpc"] == {"port": 8001, "service": "liveness"}
    assert found["readinessProbe"]["grpc"] == {"port": 8001}


def test_hardened_probes_are_commands_that_the_service_has() -> None:
    """The command of each probe is one that `saccade probe` takes; only readiness asks for the whole server."""
    found = container(overlay("hardened"))
    asked = {}
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked[name] = command_line().parse_args(found[name]["exec"]["command"][2:]).service
    assert asked == {"startupProbe": "liveness", "livenessProbe": "liveness", "readinessProbe": ""}


def test_hardened_probes_bring_a_certificate() -> None:
    """Under mTLS the probes are the service's own command, with a certificate."""
    found = container(overlay("hardened"))
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert "grpc" not in found[probe]
        assert found[probe]["exec"]["command"][:2] == ["saccade", "probe"]
        assert any(word.startswith("--tls-certificate=") for word in found[probe]["exec"]["command"])


def test_hardened_shows_little() -> None:
    """The hardened overlay asks for certificates and tokens, and answers neither reflection nor repository control."""
    given = settings(overlay("hardened"))
    assert {"SACCADE_TLS_CERTIFICATE", "SACCADE_TLS_KEY", "SACCADE_TLS_CLIENT_CA", "SACCADE_TOKENS_FILE"} <= set(given)
    assert given["SACCADE_REFLECTION"] == given["SACCADE_ALLOW_REPOSITORY_CONTROL"] == "false"
    monitor = one(overlay("hardened"), "PodMonitor")["spec"]["podMetricsEndpoints"][0]
    assert monitor["scheme"] == "https"
    assert one(overlay("hardened"), "Service")["spec"]["ports"][0]["targetPort"] == "grpc"


def test_files_that_change_are_mounted_as_folders() -> None:
    """No volume is mounted by subPath: Kubernetes does not renew what is."""
    for path in DEPLOY.rglob("*.yaml"):
        assert not re.search(r"^\s*subPath:", path.read_text(), re.MULTILINE), path


def test_autoscalers_read_the_same_metric() -> None:
    """prometheus-adapter makes the metric that the autoscaler asks for, from the series that KEDA asks for."""
    root = DEPLOY / "kubernetes/components"
    adapter = yaml.safe_load((root / "autoscale/prometheus-adapter.yaml").read_text())["rules"]["custom"][0]
    asked = one(overlay("cpu"), "HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
    assert adapter["name"]["as"] == asked["metric"]["name"]
    keda = yaml.safe_load((root / "keda/scaledobject.yaml").read_text())["spec"]["triggers"][0]["metadata"]
    series = re.match(r"\w+", adapter["seriesQuery"])
    assert series
    assert series[0] in keda["query"]
    assert keda["threshold"] == asked["target"]["averageValue"]
