"""What callers hand to the client, and what servers say when it fails."""

from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from service.client.failures import of_call
from service.client.pictures import Choice, serialized
from service.errors import InvalidInput, NotAllowed, Overloaded, SaccadeError, Unavailable, UnknownModel

CODE = grpc.StatusCode


def test_what_pictures_may_be(tmp_path: Path) -> None:
    """Paths, their text, bytes and arrays of two or three dimensions are pictures, alone or in lists, in order."""
    file = tmp_path / "picture"
    file.write_bytes(b"of a file")
    grey, colour = np.full((2, 3), 7, np.uint8), np.full((2, 3, 3), 9, np.uint8)[:, ::-1]
    images = Choice().request([file, [str(file), b"bytes"], (grey, colour)]).images
    assert [image.encoded for image in images[:3]] == [b"of a file", b"of a file", b"bytes"]
    sizes = [(image.pixels.height, image.pixels.width, image.pixels.channels) for image in images[3:]]
    assert sizes == [(2, 3, 1), (2, 3, 3)]
    assert [image.pixels.data for image in images[3:]] == [b"\7" * 6, b"\t" * 18]


@pytest.mark.parametrize(
    ("picture", "text"),
    [
        ("nowhere", r"images\[1\]: nowhere cannot be read: No such file"),
        (None, r"images\[1\]: is a NoneType; give a path, bytes or a uint8 array"),
        (np.zeros((2, 2)), r"images\[1\]: is an array of float64 \(2, 2\); it must be uint8"),
        (np.zeros((2, 2, 4), np.uint8), r"images\[1\]: is an array of uint8 \(2, 2, 4\); .* 1 or 3"),
        (np.zeros((0, 2), np.uint8), r"images\[1\]: is an array of uint8 \(0, 2\)"),
        (np.zeros((4, 2, 2, 3), np.uint8), r"images\[1\]: is an array of uint8 \(4, 2, 2, 3\); .* a list of such"),
    ],
)
def test_what_is_no_picture(picture: Any, text: str) -> None:  # noqa: ANN401 - whatever it is
    """What is no picture is named by its place and by what it is, before anything is sent."""
    with pytest.raises(InvalidInput, match=text):
        Choice().request([b"good", picture])


@pytest.mark.parametrize("top_k", [-1, 2**32])
def test_categories_that_cannot_be_asked_for(top_k: int) -> None:
    """A number of categories that the message cannot say is named."""
    with pytest.raises(InvalidInput, match=f"top_k: is {top_k}"):
        Choice(top_k=top_k)


def test_too_large_to_send() -> None:
    """A request over the cap is not sent; the error says how large it is, the limit and what to do."""
    request = Choice().request([bytes(1000)])
    assert serialized(request, request.ByteSize()) == request.SerializeToString()
    with pytest.raises(InvalidInput, match=r"request: has 1,006 bytes; the limit is 1,005 .*smaller pictures"):
        serialized(request, request.ByteSize() - 1)


class Failed:
    """A failed call of gRPC's, as the client sees one."""

    def __init__(self, code: grpc.StatusCode, *trailing: tuple[str, Any], details: str | None = "why") -> None:
        self._code, self._trailing, self._details = code, trailing, details

    def code(self) -> grpc.StatusCode:
        """Return its code."""
        return self._code

    def details(self) -> str | None:
        """Return its text."""
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, Any], ...]:
        """Return what came with it."""
        return self._trailing


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (CODE.NOT_FOUND, UnknownModel),
        (CODE.UNAVAILABLE, Unavailable),
        (CODE.CANCELLED, Unavailable),
        (CODE.PERMISSION_DENIED, NotAllowed),
        (CODE.DATA_LOSS, SaccadeError),
    ],
)
def test_statuses(code: grpc.StatusCode, kind: type[SaccadeError]) -> None:
    """A status becomes an exception of the service that names the address and says why."""
    error = of_call(Failed(code), "a:1")
    assert type(error) is kind
    assert str(error).startswith("a:1: ")
    assert str(error).endswith("why")


def test_details_name_the_field() -> None:
    """INVALID_ARGUMENT names the field of its details; without details, the request."""
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="images[3]", description="is no picture")
    status = status_pb2.Status()
    status.details.add().Pack(bad)
    error = of_call(Failed(CODE.INVALID_ARGUMENT, ("grpc-status-details-bin", status.SerializeToString())), "a:1")
    assert isinstance(error, InvalidInput)
    assert (error.field, error.reason) == ("images[3]", "is no picture")
    assert str(of_call(Failed(CODE.INVALID_ARGUMENT), "a:1")) == "request: why"


@pytest.mark.parametrize(("said", "seconds"), [("1500", 1.5), ("0", 0.0), ("-1", None), ("soon", None), (None, None)])
def test_push_back(said: str | None, seconds: float | None) -> None:
    """A refusal says when to come back; what is no number of milliseconds means never."""
    error = of_call(Failed(CODE.RESOURCE_EXHAUSTED, *([("grpc-retry-pushback-ms", said)] if said else [])), "a:1")
    assert isinstance(error, Overloaded)
    assert (error.in_time, error.retry_after) == (seconds is not None, seconds or 0.0)


def test_nonsense_from_between() -> None:
    """Details that are none, as a proxy might send, do not hide the status."""
    error = of_call(Failed(CODE.UNAVAILABLE, ("grpc-status-details-bin", b"\xff"), details=None), "a:1")
    assert isinstance(error, Unavailable)
