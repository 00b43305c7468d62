"""What a bench asks of servers whose answers the test controls."""

import pytest

from service.connection import Connection
from service.errors import SetupError, UnknownModel
from service.load import targets
from service.load.targets import Ask, Prepared
from service.rpc.pb.inference import service_pb2
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.fake_server import FakeServer

LIST_MODELS = "/saccade.v1.ImageClassifier/ListModels"
METADATA = "/inference.GRPCInferenceService/ModelMetadata"


def asked(ask: Ask) -> Prepared:
    """Return what is sent to a server whose default model has two versions, the newer one marked as the default."""
    models = [
        pb.Model(name="digits", version=version, state=pb.READY, default=version == "2", height=8, width=8, channels=1)
        for version in ("2", "1")
    ]
    with FakeServer(method=LIST_MODELS, answer=pb.ListModelsResponse(models=models).SerializeToString()) as server:
        return targets.prepare("saccade", Connection((server.address,)), ask)


@pytest.mark.parametrize(("version", "model"), [("", "digits 2"), ("1", "digits 1")])
def test_a_version_of_the_default_model(version: str, model: str) -> None:
    """A version without a model is one of the default model, as the server understands it."""
    assert asked(Ask(version=version)).model == model


def test_a_version_that_is_not_there() -> None:
    """A version that is not served is refused with those that are."""
    with pytest.raises(UnknownModel, match="digits 2, digits 1"):
        asked(Ask(version="3"))


def test_labels_of_no_output() -> None:
    """--top-k of a model whose metadata list no outputs is refused by name."""
    metadata = service_pb2.ModelMetadataResponse(name="silent")
    metadata.inputs.add(name="image", datatype="UINT8", shape=[-1, 8, 8, 1])
    with (
        FakeServer(method=METADATA, answer=metadata.SerializeToString()) as server,
        pytest.raises(SetupError, match="--top-k 3: silent lists no output"),
    ):
        targets.prepare("oip", Connection((server.address,)), Ask(model="silent", top_k=3))
