"""What the Open Inference Protocol tells of a model's instances."""

from collections.abc import Callable, Iterator
from typing import cast

import pytest

from service.config import Settings
from service.manifest import Manifest
from service.metrics import Metrics
from service.model import Facts, Model, Options
from service.providers import Provider
from service.rpc.described import configuration
from service.session import Session
from tests.fakes import HeldSession
from tests.onnx_models import LABELS, SPEC

Make = Callable[..., Model]


@pytest.fixture
def make() -> Iterator[Make]:
    """Return what makes a model of so many instances on a device; all are drained in the end."""
    models = list[Model]()

    def model(provider: Provider, device: str, instances: int = 1) -> Model:
        sessions = [cast("Session", HeldSession()) for _ in range(instances)]
        facts = Facts("linear", 2, provider, "fp32", verified=True, sha256="", device=device)
        manifest = Manifest(labels=LABELS, preprocessing=SPEC)
        models.append(Model(facts, manifest, sessions, costs={4: 0.0}, options=Options(), metrics=Metrics()))
        return models[-1]

    yield model
    for each in models:
        each.drain(0)


def test_the_instances(make: Make) -> None:
    """The configuration says how many instances there are, whatever the settings say: tuned ones may differ."""
    [group] = configuration(make("cpu", "CPU", 2), Settings(instances=1)).instance_group
    assert (group.name, group.count) == ("cpu", 2)


@pytest.mark.parametrize(
    ("provider", "device", "kind"),
    [
        ("cpu", "CPU", "KIND_CPU"),
        ("openvino", "CPU", "KIND_CPU"),
        ("openvino", "GPU.1", "KIND_GPU"),
        ("cuda", "cuda:0, cuda:1", "KIND_GPU"),
    ],
)
def test_where_they_run(provider: Provider, device: str, kind: str, make: Make) -> None:
    """The configuration says what the instances run on by the device, since a provider may have several kinds."""
    [group] = configuration(make(provider, device), Settings()).instance_group
    assert group.Kind.Name(group.kind) == kind
