"""Files made to break a server, each sent to a real one: it refuses them at once and is as well as before."""

import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from PIL import Image

from service import image
from service import server as server_module
from service.budget import PixelBudget
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.conftest import Connect, StartServer
from tests.fakes import WAIT
from tests.onnx_models import pictures, write_model
from tests.pictures import (
    after_start,
    bmp,
    chunk,
    encoded,
    exif,
    flat,
    gif,
    grey_tiff,
    png,
    riff,
    samples,
    segment,
    smooth,
    tiff,
    webp_canvas,
)
from tests.processes import ServerProcess

CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
GOOD = image.encode_png(pictures(1)[0])
WHOLE = samples()
SEVERAL = {"JPEG several", "GIF frames"}  # two thirds of them hold the whole first picture
ROWS = zlib.compress(bytes(100))
BOMB = b"name\0\0" + zlib.compress(bytes(60_000_000), 9)
FRAME = struct.pack(">IIIIIHHBB", 0, 65535, 65535, 0, 0, 1, 1, 0, 0)
SCANS = WHOLE["JPEG progressive"]
LZW = encoded(Image.fromarray(smooth(30, 40)), "TIFF", compression="tiff_lzw")

REFUSED = {
    "empty": b"",
    "one byte": b"\xff",
    "text": b"what are you looking at? " * 999,
    "zeros": bytes(1_000_000),
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "PDF around a JPEG": b"%PDF-1.7\n" + WHOLE["JPEG"],
    "EPS": encoded(flat("RGB", "red"), "EPS"),
    "EPS that runs": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%id) (w) file\n",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(999),
    "AVIF": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + bytes(999),
    "ICO": encoded(flat("RGB", "red"), "ICO"),
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 300_000, 300_000, 8, 3) + bytes(99),
    "TGA": encoded(flat("RGB", "red"), "TGA"),
    "PPM": b"P6 60000 60000 255\n" + bytes(99),
    "XBM": b"#define a_width 60000\n#define a_height 60000\nstatic char a_bits[] = {0x00};",
    "JPEG 2000": encoded(flat("RGB", "red"), "JPEG2000"),
    "ZIP around a PNG": b"PK\3\4" + bytes(26) + GOOD,
    "HTML before a GIF": b"<script>/*" + WHOLE["GIF"],
    "PNG of 3.6 gigapixels": png(60000, 60000, 8, 2, (b"IDAT", ROWS)),
    "PNG of 2 gigapixels a row": png(2**31 - 1, 1, 8, 0, (b"IDAT", ROWS)),
    "PNG of no pixels": png(0, 0, 8, 2, (b"IDAT", ROWS)),
    "PNG without rows": png(800, 600, 8, 2, (b"IDAT", b"")),
    "PNG with a bad sum": GOOD[:40] + bytes([GOOD[40] ^ 1]) + GOOD[41:],
    "PNG without a palette": png(8, 8, 8, 3, (b"IDAT", ROWS)),
    "PNG with frames only": png(8, 8, 8, 2, (b"acTL", bytes(3) + b"\1" + bytes(4)), (b"fcTL", FRAME), (b"fdAT", ROWS)),
    "PNG of empty chunks": GOOD[:33] + chunk(b"abCd") * 300_000 + GOOD[33:],
    "JPEG of 4 gigapixels": WHOLE["JPEG"].replace(struct.pack(">HH", 16, 24), struct.pack(">HH", 65500, 65500), 1),
    "JPEG of no pixels": WHOLE["JPEG"].replace(struct.pack(">HH", 16, 24), bytes(4), 1),
    "JPEG that ends at once": WHOLE["JPEG"][:2] + b"\xff\xd9",
    "JPEG of many scans": SCANS[:-2] + SCANS[SCANS.rindex(b"\xff\xda") : -2] * 5000 + SCANS[-2:],
    "JPEG of empty segments": after_start(WHOLE["JPEG"], segment(0xFE, b"") * 300_000),
    "GIF with a huge screen": gif((65535, 65535), (0, 0, 8, 8), bytes(64)),
    "GIF with a huge frame": gif((8, 8), (0, 0, 65535, 65535), bytes(64)),
    "GIF with a frame of nothing": gif((8, 8), (0, 0, 0, 0), bytes(64)),
    "GIF without a frame": WHOLE["GIF"][:13] + b"\0" * 48 + b";",
    "GIF of empty comments": gif((8, 8), (0, 0, 8, 8), bytes(64), b"!\xfe\1x\0" * 300_000),
    "BMP of 1.6 gigapixels": bmp(40000, 40000),
    "BMP of negative width": bmp(-8, 8, pixels=bytes(999)),
    "BMP of packed runs": bmp(7000, 7000, bits=8, compression=1, pixels=b"\1\0\0\0" * 7000),
    "WebP of 268 megapixels": webp_canvas(1 << 14, 1 << 14),
    "WebP of 281 terapixels": webp_canvas(1 << 24, 1 << 24),
    "WebP whose frame is too large": riff(
        (b"VP8X", b"\2" + bytes(3) + b"\7\0\0\7\0\0"),
        (b"ANIM", bytes(6)),
        (b"ANMF", bytes(6) + b"\xff\xff\0\xff\xff\0" + bytes(4) + WHOLE["WEBP frames"][30:]),
    ),
    "WebP that lies about its length": WHOLE["WEBP"][:4] + b"\xff\xff\xff\x7f" + WHOLE["WEBP"][8:],
    "TIFF of 4 exapixels": grey_tiff(1 << 31, 1 << 31, bytes(64)),
    "TIFF of a huge tile": grey_tiff(8, 8, bytes(64), tag_322=65520, tag_323=65520),
    "TIFF of 300,000 strips": grey_tiff(
        8, 300_000, bytes(8), tag_273=(8,) * 300_000, tag_279=(8,) * 300_000, tag_278=1
    ),
    "TIFF of 65,535 tags": b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 65535),
    "TIFF of a directory in itself": b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHLL", 330, 4, 1, 8) + struct.pack("<L", 8),
    "TIFF of too many samples": grey_tiff(8, 8, bytes(64), tag_277=65535),
    "TIFF of floating point": grey_tiff(8, 8, bytes(256), tag_258=32, tag_339=3),
    "TIFF of large numbers": tiff({256: 8, 257: 8, 258: 8}, bytes(64), magic=43),
    "TIFF of a fax": encoded(flat("1", 1), "TIFF", compression="group4"),
    "TIFF of noise": LZW[:60] + bytes([255]) * (len(LZW) - 400) + LZW[-340:],
    **{f"{name} that is cut": data[: len(data) * 2 // 3] for name, data in WHOLE.items() if name not in SEVERAL},
}
SHOWN = {
    "PNG with bombs for text": GOOD[:33] + chunk(b"zTXt", BOMB) * 60 + GOOD[33:],
    "PNG with a bomb for a profile": GOOD[:33] + chunk(b"iCCP", BOMB) + GOOD[33:],
    "PNG with huge frames": GOOD[:33] + chunk(b"acTL", b"\x7f\xff\xff\xff" * 2) + chunk(b"fcTL", FRAME) + GOOD[33:],
    "PNG before a ZIP": GOOD + b"PK\3\4" + bytes(999),
    "JPEG with a broken EXIF": after_start(WHOLE["JPEG"], segment(0xE1, b"Exif\0\0" + exif(1, count=9999))),
    "JPEG within a JPEG within a JPEG": encoded(
        flat("RGB", "red"), "MPO", save_all=True, append_images=[flat("RGB", "blue")] * 99
    )
    + WHOLE["JPEG several"] * 99,
    "TIFF whose pages go in a circle": grey_tiff(8, 8, bytes(64))[:-68] + struct.pack("<L", 8) + bytes(64),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Return a server that runs by itself, with one small model."""
    root = tmp_path_factory.mktemp("models")
    write_model(root / "linear" / "1")
    with ServerProcess(root) as started:
        yield started


@pytest.fixture(scope="module")
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    """Return a bare channel to it."""
    with grpc.insecure_channel(server.address, [("grpc.enable_retries", 0)]) as opened:
        yield opened


def classify(channel: grpc.Channel, data: bytes) -> pb.ClassifyResponse:
    """Send one file and return the answer."""
    message = pb.ClassifyRequest(images=[pb.Image(encoded=data)]).SerializeToString()
    method: Any = channel.unary_unary(CLASSIFY, request_serializer=None, response_deserializer=None)
    reply: bytes = method(message, timeout=WAIT)
    return pb.ClassifyResponse.FromString(reply)


def test_there_are_many() -> None:
    """The files are all different ones."""
    assert len(set(REFUSED.values())) == len(REFUSED) >= 80


@pytest.mark.parametrize("name", REFUSED)
def test_refused(channel: grpc.Channel, name: str) -> None:
    """Within seconds the file is INVALID_ARGUMENT naming its place, and a good one is answered afterwards."""
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        classify(channel, REFUSED[name])
    assert time.monotonic() - started < 5
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status, bad = rpc_status.from_call(caught.value), error_details_pb2.BadRequest()  # type: ignore[arg-type]
    assert status
    assert status.details[0].Unpack(bad)
    assert bad.field_violations[0].field == "images[0]"
    assert classify(channel, GOOD).model == "linear"


@pytest.mark.parametrize("name", SHOWN)
def test_shown(channel: grpc.Channel, name: str) -> None:
    """Within seconds a file that is hostile only where no pixels are is answered as if it were not."""
    started = time.monotonic()
    assert classify(channel, SHOWN[name]).model == "linear"
    assert time.monotonic() - started < 5


def test_afterwards(server: ServerProcess, channel: grpc.Channel) -> None:
    """When all were sent the server is within 50 MB of what it was, and has logged no stack and no foreign line."""
    process = psutil.Process(server.process.pid)
    classify(channel, GOOD)
    before = process.memory_info().rss
    for data in (*REFUSED.values(), *SHOWN.values()):
        try:
            classify(channel, data)
        except grpc.RpcError:
            continue
    classify(channel, GOOD)
    assert process.memory_info().rss - before < 50e6
    assert not [line for line in server.lines if line["event"] == "raw" or "stack" in line]


def test_one_budget(
    start_server: StartServer, connect: Connect, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All models of a server share one budget of pixels, of --decode-pixels; each encoded picture is reserved in it."""
    budgets, reserved = [], []

    class Recorded(PixelBudget):
        def __init__(self, limit: int) -> None:
            super().__init__(limit)
            budgets.append(limit)

        @contextmanager
        def reserve(self, pixels: int, deadline: float | None = None) -> Iterator[None]:
            reserved.append((pixels, deadline is not None))
            with super().reserve(pixels, deadline):
                yield

    monkeypatch.setattr(server_module, "PixelBudget", Recorded)
    write_model(repository / "other" / "1")
    client = connect(start_server(repository, decode_pixels=1000))
    for model in ("linear", "other"):
        client.classify(GOOD, model=model)
    assert budgets == [1000]
    assert reserved == [(64, True)] * 2
