from types import SimpleNamespace

import grpc
import pytest
from grpc import _server

from service.errors import SetupError
from service.rpc import wire


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
