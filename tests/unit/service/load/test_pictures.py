"""Drawn pictures, and the protocol's frames."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.errors import SetupError
from service.load import framing, pictures, targets
from service.load.cli import numbers
from service.load.pictures import Shape
from service.rpc.pb.inference import service_pb2
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb


@pytest.mark.parametrize("channels", [1, 3])
def test_png(channels: int) -> None:
    """A drawn picture as a PNG is read as the same pixels."""
    picture = pictures.draw(Shape(20, 30, channels), seed=1)
    with Image.open(io.BytesIO(pictures.png(picture))) as opened:
        assert np.array_equal(np.asarray(opened).reshape(20, 30, channels), picture)


def test_drawn_by_seed() -> None:
    """A seed gives the same picture again, another one another."""
    one, same, other = (pictures.draw(Shape(8, 8, 3), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_frames() -> None:
    """A message that was serialised before gets its id and its deadline; nothing else of it changes."""
    request = pb.ClassifyRequest(model="m", top_k=3)
    sent = pb.ClassifyRequest.FromString(framing.BY_NAME["saccade"].number(request.SerializeToString(), "7", 0.25))
    assert sent == pb.ClassifyRequest(model="m", top_k=3, id="7", timeout_ms=250)
    infer = service_pb2.ModelInferRequest(model_name="m")
    infer.inputs.add(name="image")
    numbered = framing.BY_NAME["oip"].number(infer.SerializeToString(), "8", 0.25)
    infer.id = "8"
    infer.parameters["timeout"].int64_param = 250_000
    assert service_pb2.ModelInferRequest.FromString(numbered) == infer


def test_oip_errors_are_told() -> None:
    """A stream's error message gives its status where it names one, UNKNOWN where it does not."""
    read = framing.BY_NAME["oip"].read
    answer = service_pb2.ModelStreamInferResponse(error_message="NOT_FOUND: no model")
    answer.infer_response.id = "3"
    assert read(answer.SerializeToString()) == ("3", "NOT_FOUND", "no model")
    answer.error_message = "in other words"
    assert read(answer.SerializeToString()) == ("3", "UNKNOWN", "in other words")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:8001", ("saccade", "localhost:8001")),
        ("saccade://[::1]:8001", ("saccade", "[::1]:8001")),
        ("oip://triton:8001", ("oip", "triton:8001")),
    ],
)
def test_targets(text: str, expected: tuple[str, str]) -> None:
    """A target is a scheme and an address, or an address."""
    assert targets.parse(text) == expected


@pytest.mark.parametrize("text", ["http://localhost:8001", "oip://localhost", ""])
def test_bad_targets(text: str) -> None:
    """What is no target is refused with what is one."""
    with pytest.raises(SetupError, match="oip://host:port"):
        targets.parse(text)


@pytest.mark.parametrize("text", ["dns:///saccade:8001", "saccade://dns:///saccade:8001"])
def test_a_name_of_many_servers(text: str) -> None:
    """A target that may be many servers is refused: their figures would be nobody's."""
    with pytest.raises(SetupError, match="a bench is of one"):
        targets.parse(text)


def test_numbers() -> None:
    """Lists and ranges are read, the last of a range too."""
    assert numbers("1,8,32", "--concurrency") == (1, 8, 32)
    assert numbers("100:300:100", "--rate") == (100, 200, 300)
    assert numbers("0.1:0.3:0.1", "--rate") == pytest.approx((0.1, 0.2, 0.3))
    for text in ("", "0", "a", "1:2", "5:1:1", "1:2:0"):
        with pytest.raises(SetupError, match="--rate"):
            numbers(text, "--rate")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inf", "inf is not between 0.001 and 1,000,000"),
        ("nan", "nan is not between 0.001 and 1,000,000"),
        ("100,-5", "-5 is not between 0.001 and 1,000,000"),
        ("1e300", "1e+300 is not between 0.001 and 1,000,000"),
        ("1:inf:1", "inf is not between 0.001 and 1,000,000"),
        ("1:2:nan", "no step of nan leads from 1 to 2"),
        ("1:2:inf", "no step of inf leads from 1 to 2"),
        ("1:1e10:1", "1e+10 is not between 0.001 and 1,000,000"),
        ("1:1001:1", "more than 1,000 loads"),
        ("1:2:-1", "no step of -1 leads from 1 to 2"),
    ],
)
def test_numbers_out_of_bounds(text: str, said: str) -> None:
    """Numbers that no load can have are refused by flag, value and limit, before a list of them is made."""
    with pytest.raises(SetupError, match=re.escape(f"--rate {text!r}: ") + ".*" + re.escape(said)):
        numbers(text, "--rate")


def test_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    """A file of the folder that cannot be read is named, with the system's reason."""
    (tmp_path / "memory.png").symlink_to("/proc/self/mem")  # nothing lies at its beginning, not even for root
    with pytest.raises(SetupError, match=r"--pictures .*memory\.png: Input/output error"):
        pictures.read(tmp_path)
