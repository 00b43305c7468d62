"""Which threads of a server stay on one core: a process of its own, looked at from outside."""

import os
from contextlib import suppress
from pathlib import Path

import grpc
import psutil
import pytest

from service.client import Client
from service.rpc.pb.inference import extensions_pb2
from tests.fakes import WAIT
from tests.onnx_models import pictures, write_model
from tests.processes import ServerProcess

MASK = os.sched_getaffinity(0)
CORE = max(MASK)

pytestmark = pytest.mark.skipif(len(MASK) < 2, reason="pinning shows only on two cores or more")


def masks(server: ServerProcess) -> list[set[int]]:
    """Return the mask of every thread of the server."""
    found = []
    for thread in psutil.Process(server.process.pid).threads():
        with suppress(ProcessLookupError):  # it ended just now
            found.append(os.sched_getaffinity(thread.id))
    return found


def test_sessions_have_the_whole_mask(repository: Path) -> None:
    """With gRPC's threads pinned, ONNX Runtime's threads have the whole mask, those of the last session too."""
    with ServerProcess(repository, "--pin", "off", "--intra-op-threads", "2") as server:
        before = len(masks(server))
    write_model(repository / "another" / "1")
    with ServerProcess(repository, "--pin", str(CORE), "--intra-op-threads", "2") as server:
        with Client(server.address) as client:
            client.classify(*pictures(4), model="linear")
        found = masks(server)
    assert len(found) > before
    # Two sessions of two threads each: the second of each is ONNX Runtime's own; the main thread is a third.
    assert found.count(MASK) >= 3
    assert found.count({CORE}) >= 2


def test_a_model_that_is_loaded_later(repository: Path) -> None:
    """A model that a call has loaded gets the same cores: its own thread is pinned, and nothing that loads it."""
    options = ("--pin", str(CORE), "--intra-op-threads", "2", "--poll-seconds", "0", "--allow-repository-control")
    with ServerProcess(repository, *options) as server, grpc.insecure_channel(server.address) as channel:
        with Client(server.address) as client:
            client.classify(*pictures(4), model="linear")
        before = masks(server)
        write_model(repository / "another" / "1")
        load = channel.unary_unary(
            "/inference.GRPCInferenceService/RepositoryModelLoad",
            request_serializer=extensions_pb2.RepositoryModelLoadRequest.SerializeToString,
            response_deserializer=extensions_pb2.RepositoryModelLoadResponse.FromString,
        )
        load(extensions_pb2.RepositoryModelLoadRequest(model_name="another"), timeout=WAIT)
        found = masks(server)
    assert before.count({CORE}) < found.count({CORE}) <= before.count({CORE}) + 2  # one of gRPC's may have come
    assert found.count(MASK) >= before.count(MASK) + 2  # what loads, and the second of ONNX Runtime's threads


def test_off_pins_nothing(repository: Path) -> None:
    """With `--pin off` every thread has the whole mask."""
    with ServerProcess(repository, "--pin", "off") as server:
        assert all(mask == MASK for mask in masks(server))
