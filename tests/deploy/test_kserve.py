"""KServe's objects: fields that KServe has, a pod that Kubernetes takes, and that both objects fit the service.

The schemas of Kubernetes do not know KServe's kinds. So their own fields are compared with those of KServe 0.21 (the
models in its Python package), and the pod that KServe makes of the two objects is put together here and validated.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from service import probe
from service.config import Settings, variable
from service.connection import Connection
from service.load import targets
from service.rpc.pb.inference import service_pb2
from service.server import _REFUSE_SECONDS as REFUSE_SECONDS
from tests.conftest import Channel, StartServer
from tests.deploy.objects import DEPLOY, build, one
from tests.deploy.test_kubernetes import VERSIONS
from tests.fakes import WAIT

RUNTIME_FIELDS = {
    *("affinity", "annotations", "builtInAdapter", "containers", "disabled", "grpcDataEndpoint", "grpcEndpoint"),
    *("hostIPC", "httpDataEndpoint", "imagePullSecrets", "labels", "multiModel", "nodeSelector", "protocolVersions"),
    *("replicas", "schedulerName", "storageHelper", "supportedModelFormats", "tolerations", "volumes", "workerSpec"),
}
PREDICTOR_FIELDS = {
    *("annotations", "autoScaling", "batcher", "canaryTrafficPercent", "containerConcurrency", "deploymentStrategy"),
    *("labels", "logger", "maxReplicas", "minReplicas", "model", "scaleMetric", "scaleMetricType", "scaleTarget"),
    *("storageUris", "timeout", "workerSpec"),
}
MODEL_FIELDS = {"modelFormat", "protocolVersion", "runtime", "runtimeVersion", "storage", "storageUri"}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
MOUNTED_AT = "/mnt/models"
"""Where KServe puts what storageUri names."""


@pytest.fixture
def runtime() -> dict[str, Any]:
    """Return what the ServingRuntime says."""
    return dict(one(build(DEPLOY / "kserve"), "ServingRuntime")["spec"])


@pytest.fixture
def service() -> dict[str, Any]:
    """Return the InferenceService."""
    return one(build(DEPLOY / "kserve"), "InferenceService", "digits")


def pod(runtime: dict[str, Any], service: dict[str, Any]) -> dict[str, Any]:
    """Return the pod that KServe makes of both: the runtime's containers and volumes, the predictor's other fields."""
    predictor = service["spec"]["predictor"]
    own = {key: value for key, value in predictor.items() if key not in PREDICTOR_FIELDS}
    spec = {"containers": runtime["containers"], "volumes": runtime["volumes"], **own}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "digits"}, "spec": spec}


def variables(runtime: dict[str, Any]) -> dict[str, str]:
    """Return the settings that the container is given."""
    return {entry["name"]: entry["value"] for entry in runtime["containers"][0]["env"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pod_is_valid(version: str, runtime: dict[str, Any], service: dict[str, Any]) -> None:
    """Kubernetes' own schemas take the pod, without a field that they do not know."""
    kubernetes_validate.validate(pod(runtime, service), version, strict=True)


def test_fields_are_kserve_s(runtime: dict[str, Any], service: dict[str, Any]) -> None:
    """Both objects have no field of KServe that KServe does not have."""
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert set(runtime) <= RUNTIME_FIELDS
    assert set(service["spec"]) == {"predictor"}
    assert set(service["spec"]["predictor"]["model"]) <= MODEL_FIELDS
    assert all(
        set(entry) <= {"name", "version", "autoSelect", "priority"} for entry in runtime["supportedModelFormats"]
    )


def test_the_service_asks_for_what_the_runtime_offers(runtime: dict[str, Any], service: dict[str, Any]) -> None:
    """The InferenceService names the runtime, a format of it and its protocol; KServe's default is HTTP."""
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == one(build(DEPLOY / "kserve"), "ServingRuntime")["metadata"]["name"]
    assert model["modelFormat"]["name"] in {entry["name"] for entry in runtime["supportedModelFormats"]}
    assert runtime["protocolVersions"] == [model["protocolVersion"]] == ["grpc-v2"]


def test_the_port_is_known_as_grpc(runtime: dict[str, Any]) -> None:
    """The container has KServe's name, and one port, whose name says HTTP/2 without TLS."""
    (container,) = runtime["containers"]
    assert container["name"] == "kserve-container"
    (port,) = container["ports"]
    assert port == {"name": "h2c", "containerPort": Settings.model_fields["grpc_port"].default, "protocol": "TCP"}
    assert {container[kind]["grpc"]["port"] for kind in PROBES} == {port["containerPort"]}


def test_prometheus_asks_the_service_itself(runtime: dict[str, Any], service: dict[str, Any]) -> None:
    """The pod is annotated with the service's own metrics, and KServe is kept from writing Knative's port over them."""
    port = str(Settings.model_fields["metrics_port"].default)
    assert runtime["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": port,
        "prometheus.io/path": "/metrics",
    }
    assert service["metadata"]["annotations"]["serving.kserve.io/enable-prometheus-scraping"] == "false"


def test_settings_are_known(runtime: dict[str, Any]) -> None:
    """Each variable is a setting that the service takes; models come from where KServe puts them, never by `auto`."""
    known = {variable(field): field for field in Settings.model_fields}
    given = Settings.model_validate({known[key]: value for key, value in variables(runtime).items()})
    assert given.repository == Path(MOUNTED_AT)
    assert given.provider == "cpu"


def test_a_pod_has_time_to_leave(runtime: dict[str, Any], service: dict[str, Any]) -> None:
    """What a pod needs to leave fits into its time, and a new one is there before."""
    (container,), given = runtime["containers"], variables(runtime)
    leaving = container["lifecycle"]["preStop"]["sleep"]["seconds"] + REFUSE_SECONDS
    leaving += float(given["SACCADE_DRAIN_DELAY"]) + float(given["SACCADE_GRACE"])
    predictor = service["spec"]["predictor"]
    assert predictor["terminationGracePeriodSeconds"] > leaving + 5
    assert predictor["deploymentStrategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    security = container["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_what_kserve_copies_is_served(
    runtime: dict[str, Any], start_server: StartServer, repository: Path, channel: Channel
) -> None:
    """A model repository below the mounted folder answers KServe's protocol; probes ask for services that there are."""
    (container,) = runtime["containers"]
    server = start_server(repository)
    where = f"127.0.0.1:{server.grpc_port}"
    for name in {container[kind]["grpc"].get("service", "") for kind in PROBES}:
        assert probe.main([f"--address={where}", f"--timeout={WAIT}", "--service", name]) == 0
    prepared = targets.prepare("oip", Connection((where,)), targets.Ask())
    infer: Callable[..., bytes] = channel(server).unary_unary(prepared.method)
    answer = infer(prepared.requests[0], timeout=WAIT)
    assert service_pb2.ModelInferResponse.FromString(answer).outputs
