import io
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from service import formats, image
from service.errors import InvalidInput
from service.manifest import Preprocessing
from tests.pictures import (
    NOISE,
    after_start,
    bmp,
    chunk,
    encoded,
    exif,
    flat,
    gif,
    grey_tiff,
    png,
    samples,
    segment,
    smooth,
    tiff,
    webp_canvas,
)

SPEC = Preprocessing(height=16, width=24, channels=3)
SAMPLES = samples()
ROWS = zlib.compress(bytes(100))


def decode(data: bytes, *, max_pixels: int = 1_000_000) -> image.Array:
    """Return the model's input of a picture."""
    return image.decode(data, SPEC, max_pixels=max_pixels)


def refusal(data: bytes, *, max_pixels: int = 1_000_000) -> str:
    """Return why a picture is refused."""
    with pytest.raises(InvalidInput) as caught:
        decode(data, max_pixels=max_pixels)
    assert caught.value.field == "image"
    return caught.value.reason


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(60000, 60000, 8, 2, (b"IDAT", ROWS)), "60000 x 60000"),
        (SAMPLES["JPEG"].replace(struct.pack(">HH", 16, 24), struct.pack(">HH", 65500, 65500), 1), "65500 x 65500"),
        (bmp(40000, 40000), "40000 x 40000"),
        (bmp(40000, 40000, bits=1), "40000 x 40000"),
        (gif((65535, 65535), (0, 0, 8, 8), bytes(64)), "65535 x 65535"),
        (gif((8, 8), (0, 0, 65535, 65535), bytes(64)), "65535 x 65535"),
        (gif((8, 8), (60000, 60000, 8, 8), bytes(64)), "60008 x 60008"),
        (webp_canvas(1 << 14, 1 << 14), "16384 x 16384"),
        (webp_canvas(1 << 24, 1 << 24), "16777216 x 16777216"),
        (grey_tiff(1 << 31, 1 << 31, bytes(64)), "2147483648 x 2147483648"),
        (grey_tiff(8, 8, bytes(64), tag_322=60000, tag_323=60000), "60000 x 60000"),
    ],
    ids=[
        "PNG",
        "JPEG",
        "BMP",
        "BMP 1",
        "GIF screen",
        "GIF frame",
        "GIF offset",
        "WEBP",
        "WEBP 24",
        "TIFF",
        "TIFF tile",
    ],
)
def test_limit_from_the_header(data: bytes, size: str) -> None:
    """A small file that claims many pixels is refused by its header, before it is decoded."""
    assert refusal(data).startswith(f"has {size} = ")


@pytest.mark.parametrize("kind", ["VP8L", "VP8 "])
def test_limit_of_still_webp(kind: str) -> None:
    """A WebP without a canvas is refused by the size of its only frame."""
    name = "WEBP lossless" if kind == "VP8L" else "WEBP frames"
    data = encoded(flat("RGB", "red", side=1001), "WEBP", lossless=name == "WEBP lossless")
    assert data[12:16] == kind.encode()
    assert refusal(data) == "has 1001 x 1001 = 1,002,001 pixels; the limit is 1,000,000"


@pytest.mark.parametrize("name", SAMPLES)
def test_limit(name: str) -> None:
    """As many pixels as the limit are taken, one more is refused."""
    assert decode(SAMPLES[name], max_pixels=384).size
    assert "= 384 pixels; the limit is 383" in refusal(SAMPLES[name], max_pixels=383)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in {"JPEG several", "GIF frames"}])
def test_cut(name: str) -> None:
    """A file that is cut anywhere is refused, unless no pixel is missing: then it shows the whole picture."""
    data, whole, least = SAMPLES[name], decode(SAMPLES[name]), len(SAMPLES[name])
    for place in [*(len(data) * share // 21 for share in range(1, 21)), *range(len(data) - 20, len(data))]:
        try:
            assert (decode(data[:place]) == whole).all()
            least = min(least, place)
        except InvalidInput:
            continue
    without_pixels = {"GIF": 2, "TIF": 4}  # the end of a GIF; the place of the next page in a TIFF
    assert len(data) - least <= without_pixels.get(name[:3], 0)


@pytest.mark.parametrize("name", ["JPEG", "JPEG progressive", "PNG", "GIF", "BMP", "WEBP", "WEBP lossless", "TIFF"])
def test_large_file_cut(name: str) -> None:
    """A file of many blocks is refused wherever it is cut."""
    picture = Image.fromarray(smooth(300, 400))
    kind, _, how = name.partition(" ")
    data = encoded(picture.quantize(64) if kind == "GIF" else picture, kind, **({how: True} if how else {}))
    for share in range(20):
        assert refusal(data[: len(data) * share // 20 + 1])


def test_camera_tiff_cut() -> None:
    """A compressed TIFF whose directory comes first is refused wherever its pixels are cut."""
    data = grey_tiff(
        400, 300, *(zlib.compress(line.tobytes()) for line in smooth(300, 400)[:, :, 0]), tag_259=8, tag_278=1
    )
    assert decode(data).size
    for share in range(20):
        assert refusal(data[: len(data) * share // 20 + 1])


@pytest.mark.parametrize("name", [name for name in SAMPLES if not name.startswith("TIFF ")])
def test_what_follows(name: str) -> None:
    """What follows behind a whole picture does no harm."""
    assert (decode(SAMPLES[name] + b"garbage\xff\xd8\xff" * 99) == decode(SAMPLES[name])).all()


@pytest.mark.parametrize("data", [b"", b"x", b"garbage" * 99, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", bytes(999)])
def test_garbage(data: bytes) -> None:
    """What is no picture is refused, naming how much came."""
    assert refusal(data).startswith(f"{len(data)} bytes" if data else "is empty")


@pytest.mark.parametrize("name", SAMPLES)
def test_only_the_beginning(name: str) -> None:
    """A file that only begins like a picture is refused, however long it is."""
    for length in (8, 16, 24):
        assert refusal(SAMPLES[name][:length] + bytes(1000))


def test_broken_checksum() -> None:
    """A PNG of which a bit was changed is refused, in the palette and where nobody looks at the pixels."""
    data = bytearray(SAMPLES["PNG palette"])
    data[data.index(b"PLTE") + 5] ^= 1
    assert refusal(bytes(data)) == f"{len(data)} bytes that cannot be decoded: cut or damaged; send the whole file"


def test_unknown_needed_chunk() -> None:
    """A PNG with a chunk that must be understood and is not, as Apple's own, is refused."""
    data = SAMPLES["PNG"]
    assert "cut or damaged" in refusal(data[:8] + chunk(b"CgBI", bytes(4)) + data[8:])


@pytest.mark.parametrize(
    "kind", [b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"acTL", b"fcTL", b"gAMA", b"sBIT", b"abCd", b"\xff\xfe\xfd\xfc"]
)
def test_what_pixels_do_not_need(kind: bytes) -> None:
    """A PNG whose text, profile or animation is broken, or a bomb of 60 MB, is shown as if it had none."""
    bomb = b"name\0\0" + zlib.compress(bytes(60_000_000), 9)
    data = SAMPLES["PNG"]
    started = time.process_time()
    shown = decode(data[:33] + chunk(kind, bomb) * 20 + data[33:])
    assert time.process_time() - started < 0.2
    assert (shown == decode(data)).all()


def test_many_scans() -> None:
    """A JPEG of more scans than any camera writes is refused: each costs 70 ms at 50 megapixels, and 90 bytes."""
    data = SAMPLES["JPEG progressive"]
    last = data[data.rindex(b"\xff\xda") : -2]
    assert refusal(data[:-2] + last * 100 + data[-2:]) == "is a JPEG of 110 scans; the limit is 100"


@pytest.mark.parametrize(
    "data",
    [
        after_start(SAMPLES["JPEG"], segment(0xFE, b"") * 300_000),
        SAMPLES["PNG"][:33] + chunk(b"abCd") * 300_000 + SAMPLES["PNG"][33:],
        gif((8, 8), (0, 0, 8, 8), bytes(64), b"!\xfe\1x\0" * 300_000),
        SAMPLES["WEBP"][:4] + struct.pack("<I", 8 * 300_000 + 12) + SAMPLES["WEBP"][8:30] + b"ABCD\0\0\0\0" * 300_000,
        grey_tiff(8, 300_000, bytes(8), tag_273=(8,) * 300_000, tag_279=(8,) * 300_000, tag_278=1),
    ],
    ids=["JPEG", "PNG", "GIF", "WEBP", "TIFF"],
)
def test_many_parts(data: bytes) -> None:
    """A file of hundreds of thousands of tiny parts is refused soon, not walked through to the end."""
    started = time.process_time()
    assert refusal(data)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "directory",
    [
        {},
        {256: 8},
        {256: 0, 257: 0},
        {256: 8, 257: 8, 278: 0},
        {256: (8, 8), 257: 8},
        {256: 8, 257: 8, 277: 60000},
        {256: 8, 257: 8, 258: tuple([8] * 5000)},
        {256: 8, 257: 80, 278: 8},
        {256: 8, 257: 8, 322: 4, 323: 4},
        {256: 8, 257: 8, 262: 3, 320: (0,) * 3000},
    ],
)
def test_broken_tiff(directory: dict[int, Any]) -> None:
    """A TIFF whose tags are missing, too many, or tell of parts that are not there is refused."""
    assert refusal(tiff({258: 8, 259: 1, 262: 1, 277: 1, **directory}, bytes(64)))


@pytest.mark.parametrize("count", [2, 60000, 65535])
def test_directory_beyond_the_file(count: int) -> None:
    """A TIFF that claims more tags than it has room for is refused."""
    data = bytearray(grey_tiff(8, 8, bytes(64)))
    data[8:10] = struct.pack("<H", count)
    assert refusal(bytes(data)) if count > 2 else refusal(bytes(data[:40]))


def test_pages_in_a_circle() -> None:
    """A TIFF whose pages follow one another in a circle shows its first one."""
    data = tiff({256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 278: 8}, bytes([9] * 64), following=8)
    assert (decode(data) == 9).all()


EXIFS = {
    "empty": b"",
    "garbage": b"garbage",
    "no tags": b"II*\0\x08\0\0\0",
    "one of many tags": exif(1, count=999),
    "tag beyond the end": exif(1, struct.pack("<HHLL", 0x010F, 2, 99999, 99999)),
    "many values": exif(1, struct.pack("<HHLL", 0x011A, 5, 0xFFFFFFFF, 0)),
    "many orientations": exif(1, struct.pack("<HHLL", 0x0112, 3, 0xFFFFFFFF, 0)),
    "resolution by nothing": exif(1, struct.pack("<HHLL", 0x0128, 3, 1, 2), struct.pack("<HHLL", 0x011A, 5, 1, 0)),
    "orientation 9": exif(9),
    "orientation of rationals": exif(1).replace(struct.pack("<HHL", 0x0112, 3, 1), struct.pack("<HHL", 0x0112, 5, 1)),
    "directory beyond the end": b"MM\0*\xff\xff\xff\xff",
}
PLACED: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": lambda broken: after_start(SAMPLES["JPEG"], segment(0xE1, b"Exif\0\0" + broken)),
    "PNG": lambda broken: SAMPLES["PNG"][:33] + chunk(b"eXIf", broken) + SAMPLES["PNG"][33:],
    "WEBP": lambda broken: encoded(Image.fromarray(smooth(16, 24)), "WEBP", exif=b"Exif\0\0" + broken),
}


@pytest.mark.parametrize("kind", PLACED)
@pytest.mark.parametrize("name", EXIFS)
def test_broken_exif(name: str, kind: str) -> None:
    """A picture whose EXIF is broken is shown as it lies, without a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shown = decode(PLACED[kind](EXIFS[name]))
    assert (shown == decode(encoded(Image.fromarray(smooth(16, 24)), kind))).all()
    assert not caught


@pytest.mark.parametrize("body", [b"", b"garbage", exif(), exif(1, struct.pack("<HHLL", 0xB001, 4, 1, 99))])
def test_broken_list_of_pictures(body: bytes) -> None:
    """A JPEG whose list of further pictures is broken shows its first one, without a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shown = decode(after_start(SAMPLES["JPEG"], segment(0xE2, b"MPF\0" + body)))
    assert (shown == decode(SAMPLES["JPEG"])).all()
    assert not caught


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_many_orientations_are_not_looked_at(kind: str) -> None:
    """Of an orientation with millions of values, all within the file, no more than the first is read."""
    many = struct.pack("<HHLL", 0x0112, 3, 3_000_000, 26)
    body = b"II*\0" + struct.pack("<LH", 8, 1) + many + bytes(4) + b"\1\0" * 3_000_000
    data = PLACED[kind](body)
    tracemalloc.start()
    shown = decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (shown == decode(encoded(Image.fromarray(smooth(16, 24)), kind))).all()
    assert peak < 6 * len(data)


def test_room_for_a_whole_tile() -> None:
    """What a TIFF's tile takes is reserved, though the picture is smaller: a decoder makes room for all of it."""
    file = io.BytesIO()
    Image.fromarray(smooth(16, 24)).save(file, "TIFF")
    assert formats.read(file.getvalue(), max_pixels=10_000).room == 0
    tiled = tiff({256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 322: 64, 323: 32}, bytes(64 * 32))
    assert formats.read(tiled, max_pixels=10_000).room == 64 * 32


def test_nothing_is_ever_completed() -> None:
    """Pillow is not told to make up what a file lacks, and its own limit, which only warns, is off."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS is None


def test_mutations(capfd: pytest.CaptureFixture[str]) -> None:
    """Files with changed, missing and exchanged bytes are refused or shown: nothing is raised, warned of or printed."""
    random = np.random.default_rng(42)
    originals = list(SAMPLES.values())
    taken = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(2000):
            data = bytearray(originals[number % len(originals)])
            for _ in range(int(random.integers(1, 5))):
                mutate(data, random, originals)
            try:
                taken += decode(bytes(data), max_pixels=10_000).shape == (16, 24, 3)
            except InvalidInput as error:
                assert error.field == "image"
    assert not caught
    assert capfd.readouterr() == ("", "")
    assert 100 < taken < 1900, "both happens"


def mutate(data: bytearray, random: np.random.Generator, others: list[bytes]) -> None:
    """Change bytes of a file, the more at its beginning, cut something out, or put a piece of another file in."""
    place = int(random.integers(0, max(1, min(len(data), int(random.choice([40, 200, 10_000]))))))
    length = int(random.integers(1, 9))
    match random.integers(0, 4):
        case 0:
            data[place : place + 1] = bytes([int(random.integers(0, 256))])
        case 1:
            data[place : place + length] = bytes([int(random.choice([0, 255]))]) * length
        case 2:
            del data[place : place + length if random.integers(0, 2) else len(data)]
        case _:
            other = others[int(random.integers(0, len(others)))]
            data[place : place + length] = other[place : place + int(random.integers(1, 40))]


DECODE_ALL = """
import pathlib, sys
from service import image
from service.errors import InvalidInput
from service.manifest import Preprocessing

for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        image.decode(path.read_bytes(), Preprocessing(height=8, width=8, channels=3), max_pixels=10**6)
    except InvalidInput:
        print(path.name, "refused")
    else:
        print(path.name, "shown")
print(*sorted(name for name in sys.modules if name.startswith("PIL.") and name.endswith("Plugin")))
"""


def test_quiet_under_any_filter(tmp_path: Path) -> None:
    """Where warnings are errors broken files are shown or refused all the same, and standard error stays empty.

    No decoder of another format is ever loaded, such as the one that starts Ghostscript.
    """
    files = {
        "exif": PLACED["JPEG"](EXIFS["tag beyond the end"]),
        "postscript": encoded(Image.fromarray(NOISE), "EPS"),
        "samples": grey_tiff(8, 8, bytes(64), tag_277=30000),
        "strip": SAMPLES["TIFF LZW"].replace(SAMPLES["TIFF LZW"][40:60], bytes([255] * 20)),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-W", "error", "-c", DECODE_ALL, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == ""
    *outcomes, plugins = ended.stdout.splitlines()
    assert outcomes == ["exif shown", "postscript refused", "samples refused", "strip refused"]
    assert plugins.split() == [f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP")]
