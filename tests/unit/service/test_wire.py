from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import _server

from service.errors import SetupError
from service.rpc import wire
from service.rpc.wire import Wire
from tests.fakes import WAIT

Call = Callable[[str], str]


def fails(_: Wire) -> None:
    """Fail as a thread that cannot be had does."""
    raise RuntimeError("can't start new thread")


def has_no_thread(request: bytes, _: grpc.ServicerContext) -> bytes:
    """Answer on a thread of a pool that has none to give."""
    return request


_pool = wire.Threads(1)
_pool.shutdown()
has_no_thread.experimental_thread_pool = _pool  # type: ignore[attr-defined]


@pytest.fixture
def call() -> Iterator[Call]:
    """Return what calls a method of a server and gives the name of the status."""
    handlers = {
        "Fails": wire.handler(fails),
        "HasNoThread": grpc.unary_unary_rpc_method_handler(has_no_thread),
        "Answers": wire.handler(lambda each: each.end(b"")),
    }
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", handlers),))
    port = server.add_insecure_port("localhost:0")
    server.start()

    def answer(method: str) -> str:
        asked: Any = channel.unary_unary(f"/test.Service/{method}")
        return str(asked.future(b"", timeout=WAIT).code().name)

    with grpc.insecure_channel(f"localhost:{port}") as channel:
        yield answer
    server.stop(0)


def test_this_grpcio_is_known() -> None:
    """The grpcio that is installed has everything that is used of its inside."""
    wire.check()


def test_another_grpcio_is_refused() -> None:
    """A grpcio that lacks something is refused at start, naming what is missing and the command that mends it."""
    names = {name: None for name in dir(_server) if name != "_status"}
    with pytest.raises(
        SetupError, match=rf"grpcio {grpc.__version__} has no _status: run `pip install 'grpcio=="
    ) as caught:
        wire.check(SimpleNamespace(**names))
    assert "_send_message" not in str(caught.value)


def test_an_arrival_that_fails(call: Call) -> None:
    """A call whose arrival raises is INTERNAL, and the calls after it are answered."""
    assert [call("Fails"), call("Answers")] == ["INTERNAL", "OK"]


def test_a_call_without_a_thread(call: Call) -> None:
    """A call of a handler that is not ours is INTERNAL where there is no thread for it, and others are answered."""
    assert [call("HasNoThread"), call("Answers")] == ["INTERNAL", "OK"]
