"""The client and several servers: turns, health, names with several records, and what it repeats."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, status_pb2

from service.client import AsyncClient, Client, Connection
from service.errors import Overloaded, Unavailable
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.fake_classifier import Answer, FakeClassifier, failing, named
from tests.fakes import WAIT

PICTURE = np.zeros((8, 8, 1), np.uint8)
MEBIBYTE = np.zeros((1024, 1024), np.uint8)
"""Four times what gRPC keeps of a call for repeating it unless told otherwise."""
CODE = grpc.StatusCode
PUSH_BACK = "grpc-retry-pushback-ms"


def answers(client: Client, calls: int) -> list[str]:
    """Return who answered so many calls in a row."""
    return [client.classify(PICTURE).model for _ in range(calls)]


def until(client: Client, who: set[str]) -> None:
    """Call until these and nobody else answer twenty calls in a row: what health says arrives when it arrives."""
    for _ in range(500):
        if set(answers(client, 20)) == who:
            return
    raise AssertionError(f"never was it {who} who answered")


@pytest.fixture
def servers() -> Iterator[list[FakeClassifier]]:
    """Return two servers, "a" and "b"."""
    with FakeClassifier(named("a")) as a, FakeClassifier(named("b")) as b:
        yield [a, b]


@pytest.mark.parametrize("connections", [1, 2])
def test_turns(servers: list[FakeClassifier], connections: int) -> None:
    """Calls go from server to server, whatever the connections to each."""
    with Client(*(server.address for server in servers), connections=connections) as client:
        until(client, {"a", "b"})
        said = answers(client, 8)
    assert said in (["a", "b"] * 4, ["b", "a"] * 4)


def test_not_serving_is_left(servers: list[FakeClassifier]) -> None:
    """A server that says NOT_SERVING gets no calls though it would answer, and gets them again once it says SERVING."""
    first, _ = servers
    with Client(*(server.address for server in servers)) as client:
        until(client, {"a", "b"})
        first.serving(yes=False)
        until(client, {"b"})
        seen = len(first.seen)
        assert set(answers(client, 50)) == {"b"}
        assert len(first.seen) == seen
        first.serving(yes=True)
        until(client, {"a", "b"})


def test_all_not_serving() -> None:
    """Where every server says NOT_SERVING a call is Unavailable at its deadline."""
    with FakeClassifier(named("a")) as a, FakeClassifier(named("b")) as b:
        for server in (a, b):
            server.serving(yes=False)
        with Client(a.address, b.address, timeout=2.0) as client, pytest.raises(Unavailable):
            client.classify(PICTURE)
        assert not a.seen
        assert not b.seen


def test_one_address_is_taken_as_it_is() -> None:
    """One plain address is called whatever its health: what drains still answers, and a balancer may stand there."""
    with FakeClassifier(named("a")) as server, Client(server.address) as client:
        server.serving(yes=False)
        assert answers(client, 3) == ["a"] * 3


@pytest.fixture
def both_families() -> Iterator[list[FakeClassifier]]:
    """Return a server on 127.0.0.1 and one on ::1, on one port: gRPC knows both records of `localhost`."""
    with ExitStack() as stack:
        first = stack.enter_context(FakeClassifier(named("a")))
        try:
            second = FakeClassifier(named("b"), "[::1]", first.port)
        except RuntimeError:
            pytest.skip("no server can listen on ::1 here, on this port")
        yield [first, stack.enter_context(second)]


def test_every_record_of_a_name(both_families: list[FakeClassifier]) -> None:
    """`dns:///name:port` means every record: calls go to both servers, and to one when the other is NOT_SERVING."""
    first, _ = both_families
    with Client(f"dns:///localhost:{first.port}") as client:
        until(client, {"a", "b"})
        first.serving(yes=False)
        until(client, {"b"})
        first.serving(yes=True)
        until(client, {"a", "b"})


def test_a_name_with_one_record_answering(servers: list[FakeClassifier]) -> None:
    """Of a name's records those that nobody listens at are left out."""
    with Client(f"dns:///localhost:{servers[0].port}") as client:
        assert answers(client, 10) == ["a"] * 10


@pytest.mark.parametrize("code", [CODE.UNAVAILABLE, CODE.CANCELLED])
def test_grpc_repeats_large_calls_on_one_connection(code: CODE) -> None:
    """On the only connection gRPC itself repeats a call of 1 MiB: its buffer is as large as the largest message."""
    with FakeClassifier(failing(2, code)) as server, Client(server.address) as client:
        client.classify(MEBIBYTE)
    assert [seen.repeats_by_grpc for seen in server.seen] == [0, 1, 2]
    assert all(len(seen.request.images[0].pixels.data) == MEBIBYTE.size for seen in server.seen)


def test_calls_that_grpc_cannot_keep_are_repeated_too() -> None:
    """A call of the largest size does not fit gRPC's buffer beside its headers; the client repeats it itself, whole."""
    largest = b"x" * (MEBIBYTE.size - 8)  # with the tags and lengths of a request 1 MiB, to the byte
    connection = Connection(max_message_mb=1)
    with (
        FakeClassifier(failing(2, CODE.UNAVAILABLE)) as server,
        Client(server.address, connection=connection) as client,
    ):
        client.classify(largest)
    assert [seen.request.ByteSize() for seen in server.seen] == [MEBIBYTE.size] * 3
    assert [seen.repeats_by_grpc for seen in server.seen] == [0, 0, 0]


@pytest.mark.parametrize("code", [CODE.UNAVAILABLE, CODE.CANCELLED])
def test_large_calls_are_repeated_elsewhere(code: CODE) -> None:
    """With two servers a call of 1 MiB that one refuses is answered by the other."""
    with (
        FakeClassifier(failing(99, code)) as bad,
        FakeClassifier(named("good")) as good,
        Client(bad.address, good.address) as client,
    ):
        for _ in range(4):
            assert client.classify(MEBIBYTE).model == "good"
        assert bad.seen
    assert {seen.repeats_by_grpc for seen in bad.seen} == {0}


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        (failing(1, CODE.RESOURCE_EXHAUSTED, (PUSH_BACK, "10")), 2),
        (failing(1, CODE.RESOURCE_EXHAUSTED, (PUSH_BACK, "-1")), 1),
        (failing(1, CODE.RESOURCE_EXHAUSTED, (PUSH_BACK, "soon")), 1),
        (failing(1, CODE.RESOURCE_EXHAUSTED), 1),
    ],
)
def test_refusals_are_repeated_when_the_server_says_when(answer: Answer, calls: int) -> None:
    """RESOURCE_EXHAUSTED is repeated after the server's push-back, and not at all without one."""
    with FakeClassifier(answer) as server, Client(server.address) as client:
        if calls == 1:
            with pytest.raises(Overloaded):
                client.classify(PICTURE)
        else:
            client.classify(PICTURE)
    assert len(server.seen) == calls


class Refusing(FakeClassifier):
    """A server that says UNAVAILABLE of every message of its streams, which it keeps open."""

    def _stream(
        self, requests: Iterator[pb.ClassifyRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ClassifyStreamResponse]:
        refused = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="not here")
        for request in requests:
            self._unary(request, context)
            yield pb.ClassifyStreamResponse(id=request.id, error=refused)


def test_streams_go_elsewhere() -> None:
    """A stream leaves a server that answers its items UNAVAILABLE; the other one answers all of them."""
    with Refusing(named("bad")) as bad, FakeClassifier(named("good")) as good:
        with Client(bad.address, good.address) as client:
            said = [item.result().model for item in client.stream([PICTURE] * 8)]
        assert bad.seen
    assert said == ["good"] * 8


def test_streams_of_the_twin_go_elsewhere() -> None:
    """So for asyncio."""

    async def main() -> list[str]:
        async with AsyncClient(bad.address, good.address) as client:
            return [item.result().model async for item in client.stream([PICTURE] * 8)]

    with Refusing(named("bad")) as bad, FakeClassifier(named("good")) as good:
        said = asyncio.run(main())
        assert bad.seen
    assert said == ["good"] * 8


def test_ready_asks_every_address(servers: list[FakeClassifier]) -> None:
    """Of several servers one that is SERVING is enough; where none is, nobody is ready."""
    with Client("127.0.0.1:1", *(server.address for server in servers)) as client:
        assert client.ready(timeout=WAIT)
        assert not client.ready("no such model", timeout=WAIT)
        for server in servers:
            server.serving(yes=False)
        until_not_ready(client)


def until_not_ready(client: Client) -> None:
    """Return when no server is SERVING any more."""
    for _ in range(500):
        if not client.ready(timeout=WAIT):
            return
    raise AssertionError("still somebody is ready")
