import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from service import formats, image
from service.errors import InvalidInput
from service.manifest import Preprocessing
from tests.pictures import NOISE, encoded, flat, gif, interlaced_png, png, rows, samples, smooth, tiff

Array = npt.NDArray[np.uint8]

GREY, COLOUR = (Preprocessing(height=8, width=8, channels=channels) for channels in (1, 3))
SAMPLES = samples()
FROM_WHITE, GREYS, RGB, PALETTE, INK, VIDEO = 0, 1, 2, 3, 5, 6  # TIFF's kinds of colours
DEEP = (np.arange(64 * 3) * 341).astype(np.uint16).reshape(8, 24)


def decode(data: bytes, spec: Preprocessing = COLOUR) -> Array:
    """Return the model's input of a picture."""
    return image.decode(data, spec, max_pixels=1_000_000)


def refusal(data: bytes) -> str:
    """Return why a picture is refused."""
    with pytest.raises(InvalidInput) as caught:
        decode(data)
    assert caught.value.field == "image"
    return caught.value.reason


def corner(data: bytes, side: int = 16) -> list[int]:
    """Return the first pixel of a picture of one colour."""
    colour: list[int] = decode(data, Preprocessing(height=side, width=side, channels=3))[0, 0].tolist()
    return colour


@pytest.mark.parametrize("name", [name for name in SAMPLES if "EXIF" not in name and name != "WEBP"])
def test_every_kind(name: str) -> None:
    """A picture of any format and kind shows what was put into it."""
    shown = decode(SAMPLES[name], Preprocessing(height=16, width=24, channels=1))[:, :, 0].astype(float)
    expected = np.asarray(Image.fromarray(smooth(16, 24)).convert("L"), float)
    if name in {"PNG 1", "TIFF 1"}:
        shown, expected = shown.reshape(2, 8, 3, 8).mean((1, 3)), expected.reshape(2, 8, 3, 8).mean((1, 3))
    transparent = "alpha" in name or "deflate" in name or "lossless" in name
    if transparent:
        expected = expected * expected / 255 + 255 - expected
    odd = name in {"PNG palette", "GIF transparent"}  # one of sixteen colours is white
    assert np.abs(np.median(shown - expected) if odd else (shown - expected).mean()) <= 6


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}])
def test_jpeg(options: dict[str, Any]) -> None:
    """A JPEG, however it was written, is what Pillow makes of it."""
    data = encoded(Image.fromarray(smooth(8, 8)), "JPEG", **options)
    with Image.open(io.BytesIO(data)) as opened:
        assert (decode(data) == np.asarray(opened)).all()


@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_jpeg_of_inks(ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    """A CMYK JPEG is inverted, as Adobe's programs write them: no ink is white."""
    assert corner(encoded(flat("CMYK", ink), "JPEG")) == pytest.approx(colour, abs=2)


def test_jpeg_of_inks_without_adobe() -> None:
    """A CMYK JPEG without Adobe's marker is read alike, as browsers do."""
    data = encoded(flat("CMYK", (255, 0, 0, 0)), "JPEG")
    place = data.index(b"\xff\xee")
    (length,) = struct.unpack_from(">H", data, place + 2)
    assert corner(data[:place] + data[place + 2 + length :]) == pytest.approx((0, 255, 255), abs=2)


def test_jpeg_of_video_and_black() -> None:
    """A YCCK JPEG is turned into CMYK first: the ink that is stored as red is cyan."""
    stored = (76, 85, 255, 255)  # red in YCbCr, and no black
    data = bytearray(encoded(flat("CMYK", tuple(255 - part for part in stored)), "JPEG", quality=100))
    data[data.index(b"Adobe") + 11] = 2  # Adobe's mark of YCCK
    assert corner(bytes(data)) == pytest.approx((0, 255, 255), abs=4)


def test_phone_jpeg() -> None:
    """Of several pictures in a JPEG the first is shown, though the others are cut off."""
    both = encoded(flat("RGB", "red"), "MPO", save_all=True, append_images=[flat("RGB", "blue")])
    for data in (both, both[:-300], both + b"film" * 99):
        assert corner(data) == pytest.approx((254, 0, 0), abs=2)


def test_phone_jpeg_cut() -> None:
    """A JPEG of several pictures that is cut in the first one is refused."""
    both = encoded(flat("RGB", "red"), "MPO", save_all=True, append_images=[flat("RGB", "blue")])
    assert "cut or damaged" in refusal(both[: both.rindex(b"\xff\xd8\xff") - 10])


@pytest.mark.parametrize(("options", "third"), [({}, (0, 0, 250)), ({"transparency": 2}, (255, 255, 255))])
@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette(kind: str, options: dict[str, Any], third: tuple[int, int, int]) -> None:
    """A palette picture gets its colours, the transparent one white."""
    picture = Image.fromarray((np.arange(64, dtype=np.uint8) % 3).reshape(8, 8))
    picture.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250])
    shown = decode(encoded(picture, kind, **options))
    assert [tuple(colour) for colour in shown[0, :3].tolist()] == [(250, 0, 0), (0, 250, 0), third]


def test_palette_of_transparencies() -> None:
    """A palette whose colours are transparent to some degree lies on white."""
    pixels = (b"IDAT", zlib.compress(rows((np.arange(64, dtype=np.uint8) % 2).reshape(8, 8))))
    data = png(8, 8, 8, 3, (b"PLTE", bytes([250, 0, 0, 0, 250, 0])), (b"tRNS", b"\x80\xff"), pixels)
    assert decode(data)[0, :2].tolist() == [[252, 127, 127], [0, 250, 0]]


def test_palette_that_is_missing() -> None:
    """A palette PNG without a palette is refused: its colours would be made up."""
    assert "cut or damaged" in refusal(png(8, 8, 8, 3, (b"IDAT", zlib.compress(rows(NOISE[:, :, 0])))))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("grey", [True, False], ids=["LA", "RGBA"])
def test_alpha(kind: str, grey: bool) -> None:  # noqa: FBT001 - parametrized
    """What is transparent lies on white."""
    alpha = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    colours = NOISE[:, :, :1] if grey else NOISE
    options: dict[str, Any] = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    shown = decode(encoded(Image.fromarray(np.dstack([colours, alpha])), kind, **options))
    share = alpha[:, :, None] / 255
    assert np.abs(shown - (colours * share + 255 * (1 - share))).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_one_bit(kind: str) -> None:
    """A picture of one bit is black and white, 0 and 255."""
    bits = NOISE[:, :, 0] > 127
    assert (decode(encoded(Image.fromarray(bits), kind), GREY)[:, :, 0] == bits * 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey(kind: str) -> None:
    """A greyscale picture of 16 bits is scaled to 8, not clipped, for each of its 65,536 greys."""
    deep = np.arange(65536).astype(np.uint16).reshape(256, 256)
    shown = decode(encoded(Image.fromarray(deep), kind), Preprocessing(height=256, width=256, channels=1))
    assert np.abs(shown[:, :, 0] - deep / 257).max() <= 0.5


def test_sixteen_bit_grey_from_the_other_end() -> None:
    """A TIFF of 16 bits whose numbers begin with the high byte is scaled alike."""
    deep = DEEP[:, :8]
    data = tiff({256: 8, 257: 8, 258: 16, 262: GREYS, 278: 8}, deep.astype(">u2").tobytes(), order=">")
    assert np.abs(decode(data, GREY)[:, :, 0] - deep / 257).max() <= 0.5


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_sixteen_bit_png(channels: int) -> None:
    """A PNG of 16 bits with colour or alpha is scaled to 8, not clipped."""
    deep = np.full((8, 8, channels), 65535, np.uint16)
    deep[:, :, :3] = DEEP.reshape(8, 8, 3)[:, :, :channels]
    if channels == 2:
        deep[:, :, 1] = 65535
    lines = rows(deep.astype(">u2").reshape(8, -1))
    shown = decode(png(8, 8, 16, {2: 4, 3: 2, 4: 6}[channels], (b"IDAT", zlib.compress(lines))))
    assert np.abs(shown - deep[:, :, : 1 if channels == 2 else 3] / 257).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_sixteen_bit_tiff(order: str, compressed: bool) -> None:  # noqa: FBT001 - parametrized
    """A colour TIFF of 16 bits is scaled to 8, not clipped."""
    strip = DEEP.astype(f"{order}u2").tobytes()
    tags: dict[int, Any] = {256: 8, 257: 8, 258: (16, 16, 16), 262: RGB, 277: 3, 278: 8}
    tags[259] = 8 if compressed else 1
    data = tiff(tags, zlib.compress(strip) if compressed else strip, order=order)
    assert np.abs(decode(data) - DEEP.reshape(8, 8, 3) / 257).max() <= 1


@pytest.mark.parametrize(("depth", "clear"), [(1, 1), (2, 2), (4, 9), (8, 200), (16, 1000)])
def test_transparent_grey(depth: int, clear: int) -> None:
    """The transparent grey of a PNG lies on white, at any depth; the others stay."""
    line = np.zeros(8, np.uint16)
    line[0] = clear
    bits = "".join(f"{sample:0{depth}b}" for sample in line)
    body = zlib.compress((b"\0" + int(bits, 2).to_bytes(depth, "big")) * 8)
    data = png(8, 8, depth, 0, (b"tRNS", struct.pack(">H", clear)), (b"IDAT", body))
    assert decode(data, GREY)[0, :2, 0].tolist() == [255, 0]


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colour(depth: int) -> None:
    """The transparent colour of a PNG lies on white; the others stay."""
    line = np.zeros((8, 3), f">u{depth // 8}")
    line[0] = (10, 20, 30) if depth == 8 else (2570, 5140, 7710)
    clear = struct.pack(">HHH", *line[0])
    data = png(8, 8, depth, 2, (b"tRNS", clear), (b"IDAT", zlib.compress((b"\0" + line.tobytes()) * 8)))
    assert decode(data)[0, :2].tolist() == [[255] * 3, [0] * 3]


def test_interlaced_png() -> None:
    """A PNG whose pixels come in seven passes is put together."""
    grey = smooth(21, 13)[:, :, 0]
    shown = decode(interlaced_png(grey), Preprocessing(height=21, width=13, channels=1))
    assert (shown[:, :, 0] == grey).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "TIFF"])
def test_first_frame(kind: str) -> None:
    """Of an animation the first frame is shown, of several pages the first."""
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    blue = [flat("RGB", "blue")]
    assert corner(encoded(flat("RGB", "red"), kind, save_all=True, append_images=blue, **options)) == [255, 0, 0]


def test_picture_of_an_animated_png() -> None:
    """An animated PNG whose own picture is not a frame is shown as a viewer that knows no animations does."""
    data = encoded(flat("RGB", "lime"), save_all=True, default_image=True, append_images=[flat("RGB", "blue")] * 2)
    assert corner(data) == [0, 255, 0]


def test_frame_that_does_not_cover() -> None:
    """Where the first frame of a GIF does not reach, it is white, not whatever the first colour is."""
    shown = decode(gif((8, 8), (2, 3, 4, 2), bytes([1] * 8)))
    covered = np.zeros((8, 8), bool)
    covered[3:5, 2:6] = True
    assert (shown[covered] == (0, 250, 0)).all()
    assert (shown[~covered] == 255).all()


def test_frame_that_reaches_beyond() -> None:
    """A GIF whose frame is larger than its screen is as large as the frame."""
    assert (decode(gif((1, 1), (0, 0, 8, 8), bytes([3] * 64))) == 100).all()


@pytest.mark.parametrize(
    ("tags", "strip"),
    [
        ({258: 8, 262: FROM_WHITE}, (255 - NOISE[:, :, 0]).tobytes()),
        ({258: 8, 259: 5, 262: GREYS}, None),
        ({258: (8, 8, 8), 262: RGB, 277: 3}, NOISE[:, :, [0, 0, 0]].tobytes()),
        ({258: (8, 8, 8), 262: RGB, 277: 3, 284: 2}, None),
        ({258: 8, 262: PALETTE, 320: tuple(i * 257 for i in range(256)) * 3}, NOISE[:, :, 0].tobytes()),
    ],
    ids=["from white", "LZW", "RGB", "planes", "palette"],
)
def test_tiff(tags: dict[int, Any], strip: bytes | None) -> None:
    """A TIFF counts from black or from white, lies in one plane or in three, has colours or a palette."""
    grey = NOISE[:, :, 0]
    tags |= {256: 8, 257: 8, 278: 8}
    if tags.get(284) == 2:
        data = tiff(tags, *[grey.tobytes()] * 3)
    elif strip is None:
        data = encoded(Image.fromarray(grey), "TIFF", compression="tiff_lzw")
    else:
        data = tiff(tags, strip)
    assert (decode(data, GREY)[:, :, 0] == grey).all()


def test_tiff_in_tiles() -> None:
    """A TIFF of tiles is put together, and what its last tiles have too much is cut off."""
    grey = smooth(24, 40)[:, :, 0]
    padded = np.pad(grey, ((0, 8), (0, 8)))
    tiles = [padded[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16, 32)]
    data = tiff({256: 40, 257: 24, 258: 8, 262: GREYS, 322: 16, 323: 16}, *tiles)
    assert (decode(data, Preprocessing(height=24, width=40, channels=1))[:, :, 0] == grey).all()


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({258: 32, 339: 3}, "signed or floating-point pixels"),
        ({258: 16, 339: 2}, "signed or floating-point pixels"),
        ({258: 8, 339: 2}, "signed or floating-point pixels"),
        ({258: 32}, "32 bits a sample"),
        ({258: 12}, "12 bits a sample"),
        ({258: (8, 8, 16), 262: RGB, 277: 3}, "16 bits a sample"),
        ({258: 16, 262: FROM_WHITE}, "16 bits a sample that count from white"),
        ({258: (8, 8, 8), 262: 8, 277: 3}, "colours of kind 8"),
        ({258: (8, 8, 8), 262: VIDEO, 277: 3}, "uncompressed YCbCr"),
        ({258: (16, 16, 16), 262: RGB, 277: 3, 284: 2}, "uncompressed planes of 16 bits"),
        ({258: 1, 259: 4}, "compression 4"),
        ({258: 8, 259: 6}, "compression 6"),
        ({258: 8, 259: 34712}, "compression 34712"),
    ],
)
def test_unsupported_tiff(tags: dict[int, Any], reason: str) -> None:
    """A TIFF that Pillow would misread, or whose range is not said, is refused, and the reason says why."""
    data = tiff({256: 8, 257: 8, 259: 1, 262: GREYS, 277: 1, 278: 8, **tags}, bytes(2048))
    assert refusal(data).startswith(f"is a TIFF with {reason}")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff({256: 8, 257: 8}, bytes(64), magic=43), "is a BigTIFF"),
        (encoded(flat("RGB", "red"), "BMP")[:30] + b"\1" + encoded(flat("RGB", "red"), "BMP")[31:], "run-length"),
        (encoded(flat("LAB", (9, 9, 9)), "TIFF"), "colours of kind 8"),
    ],
    ids=["BigTIFF", "BMP", "LAB"],
)
def test_unsupported(data: bytes, reason: str) -> None:
    """A kind of a format that is not read is refused, and the reason names it."""
    assert reason in refusal(data)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX", "EPS", "PDF", "ICNS", "DIB", "SGI", "JPEG2000"])
def test_other_formats(kind: str) -> None:
    """Other formats are refused, though Pillow could read them, and those that are taken are named."""
    data = encoded(Image.fromarray(NOISE), kind)
    assert refusal(data).endswith("send a JPEG, PNG, WebP, GIF, BMP or TIFF file")


def test_decoders() -> None:
    """Each format that is told by its content has a decoder in this build."""
    assert tuple(image.DECODERS) == formats.FORMATS


def test_decoder_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format that this build of Pillow cannot decode is refused by its name."""
    monkeypatch.delitem(image.DECODERS, "WEBP")
    assert refusal(SAMPLES["WEBP"]) == "is a WEBP, which this build cannot decode; send another"


def test_libtiff_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libtiff, or where it cannot be kept quiet, a compressed TIFF is refused and a plain one is not."""
    monkeypatch.setattr(image, "_QUIET_LIBTIFF", False)
    assert refusal(SAMPLES["TIFF LZW"]) == "is a compressed TIFF, which this build cannot decode; send another"
    assert decode(SAMPLES["TIFF"]).size


def test_many_strips() -> None:
    """A picture in as many pieces as are allowed is decoded, though each piece is read by itself."""
    line = bytes(range(64))
    data = tiff({256: 64, 257: 20_000, 258: 8, 262: GREYS, 278: 1}, *[line] * 20_000)
    shown = image.decode(data, Preprocessing(height=1, width=64, channels=1), max_pixels=2_000_000)
    assert shown[0, :, 0].tolist() == list(line)
