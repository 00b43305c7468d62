import numpy as np
import pytest

from service.manifest import Layout, Preprocessing
from service.normalise import Normalise
from service.tensors import Datatype, Tensor

HEIGHT, WIDTH = 5, 7
MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)


def tensor(layout: Layout, datatype: Datatype = "FP32", channels: int = 3) -> Tensor:
    """Return an input of 5 rows and 7 columns."""
    picture = (channels, HEIGHT, WIDTH) if layout == "NCHW" else (HEIGHT, WIDTH, channels)
    return Tensor("x", datatype, (-1, *picture), layout)


def spec(**numbers: object) -> Preprocessing:
    """Return what the manifest says."""
    return Preprocessing.model_validate({"height": HEIGHT, "width": WIDTH, "channels": 3, **numbers})


def formula(
    pixels: np.ndarray, order: str, scale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
    """Return (pixel * scale - mean) / std as it is written, in double precision, channels last."""
    ordered = pixels[..., ::-1] if order == "BGR" else pixels
    return np.asarray((ordered.astype(np.float64) * scale - np.array(mean)) / np.array(std))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("scale", "mean", "std"), [(1 / 255, MEAN, STD), (1.0, (104, 117, 124), (1, 1, 1)), (1.0, (0, 0, 0), (1, 1, 1))]
)
def test_formula(layout: Layout, order: str, scale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Samples are what the formula says, in the graph's layout and order of colours."""
    normalise = Normalise(spec(scale=scale, mean=mean, std=std, order=order), tensor(layout))
    expected = formula(PIXELS, order, scale, mean, std)
    expected = expected.transpose(0, 3, 1, 2) if layout == "NCHW" else expected
    given = normalise.batch(PIXELS)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-5)


def test_grey() -> None:
    """One channel is one plane, scaled."""
    grey = Preprocessing(height=HEIGHT, width=WIDTH, channels=1, scale=0.5)
    given = Normalise(grey, tensor("NCHW", channels=1))(PIXELS[0, :, :, :1])
    np.testing.assert_array_equal(given[0], PIXELS[0, :, :, 0] * np.float32(0.5))


def test_half_precision() -> None:
    """A graph that takes float16 gets float16."""
    assert Normalise(spec(scale=1 / 255), tensor("NCHW", "FP16"))(PIXELS[0]).dtype == np.float16


def test_our_own() -> None:
    """A graph that takes bytes with the channels last gets the very pixels."""
    assert Normalise(spec(), tensor("NHWC", "UINT8"))(PIXELS[0]).base is PIXELS


@pytest.mark.parametrize(("layout", "order"), [("NCHW", "RGB"), ("NCHW", "BGR"), ("NHWC", "BGR")])
def test_bytes_moved(layout: Layout, order: str) -> None:
    """A graph that takes bytes otherwise gets them moved, not changed."""
    given = Normalise(spec(order=order), tensor(layout, "UINT8")).batch(PIXELS)
    ordered = PIXELS[..., ::-1] if order == "BGR" else PIXELS
    assert given.dtype == np.uint8
    np.testing.assert_array_equal(given, ordered.transpose(0, 3, 1, 2) if layout == "NCHW" else ordered)
