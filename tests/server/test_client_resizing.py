"""Pictures that the client makes as small as the model takes them: the server's answer stays what it was."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service import image
from service.client import AsyncClient, Client, ModelEntry
from service.errors import InvalidInput, UnknownModel, Unsupported
from service.manifest import Preprocessing
from tests.conftest import Connect, StartServer
from tests.onnx_models import write_model
from tests.pictures import encoded, smooth

SIZES = [(97, 130), (130, 97), (64, 64), (300, 41)]
"""Heights and widths of pictures that are larger than the models' inputs."""
CROP: dict[str, Any] = {"fit": "crop", "crop_fraction": 0.875}
SPECS = [
    Preprocessing(height=24, width=24, channels=3, interpolation=interpolation, **fit)
    for interpolation, fit in (("bilinear", CROP), ("bicubic", CROP), ("lanczos", {}))
] + [Preprocessing(height=17, width=31, channels=1, fit="crop", crop_fraction=0.9)]


def photo(height: int, width: int, **options: Any) -> bytes:  # noqa: ANN401 - of the encoder
    """Return a JPEG file of a smooth picture with some noise, as a camera would make it."""
    noise = np.random.default_rng(3).integers(-8, 9, (height, width, 3))
    pixels = (smooth(height, width).reshape(height, width, -1) + noise).clip(0, 255).astype(np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG", quality=92, **options)


@pytest.fixture(params=SPECS, ids=lambda spec: f"{spec.interpolation}-{spec.fit}-{spec.channels}")
def client(request: Any, tmp_path: Path, start_server: StartServer, connect: Connect) -> Client:  # noqa: ANN401
    """Return a client of a server whose model makes its input so."""
    write_model(tmp_path / "models/fitting/1", spec=request.param, samples=0)
    connected: Client = connect(start_server(tmp_path / "models"))
    return connected


def input_of(entry: ModelEntry, file: bytes) -> Any:  # noqa: ANN401 - pixels, for arithmetic
    """Return what the server makes of a file, as whole numbers that may be negative."""
    names = ("height", "width", "channels", "fit", "crop_fraction", "interpolation")
    spec = Preprocessing(**{name: getattr(entry, name) for name in names})
    return image.decode(file, spec, max_pixels=10**6).astype(int)


def test_fitted_pictures_give_the_same_answer(client: Client) -> None:
    """What `fitted` makes of a file, also of a turned one, or of pixels is answered exactly as these are."""
    entry = client.model()
    turned = Image.Exif()
    turned[0x0112] = 6
    files: list[Any] = [*(photo(*size) for size in SIZES), photo(97, 130, exif=turned)]
    for picture in (*files, *(image.read(file, max_pixels=10**6) for file in files)):
        small = entry.fitted(picture)
        assert small.shape == (entry.height, entry.width, entry.channels)
        assert client.classify(small).classifications == client.classify(picture).classifications


def test_shrunk_pictures_are_cut_as_the_whole_ones(client: Client) -> None:
    """What `shrunk` makes is as large as the model looks at, and cut by the server from the same place."""
    entry = client.model()
    for file in (photo(*size) for size in SIZES):
        small = entry.shrunk(file, quality=95)
        height, width = image.read(small, max_pixels=10**6).shape[:2]
        assert min(height / entry.height, width / entry.width) == pytest.approx(1 / entry.crop_fraction, rel=0.05)
        apart = np.abs(input_of(entry, small) - input_of(entry, file))
        assert apart.mean() < 3
        if (height, width) == image.read(file, max_pixels=10**6).shape[:2]:
            assert small == file
        [[best]] = client.classify(small, top_k=1).classifications
        assert best.probability == pytest.approx(client.classify(file).classifications[0][0].probability, abs=0.02)


def test_what_is_small_enough_stays(client: Client) -> None:
    """A file that is no larger than what the model looks at is not written again."""
    entry = client.model()
    file = photo(entry.height, entry.width)
    assert entry.shrunk(file) is file


def test_what_cannot_be_fitted(client: Client, tmp_path: Path) -> None:
    """What is no picture is named before anything is sent, and so is a server that does not say how it resizes."""
    entry = client.model()
    for make in (entry.fitted, entry.shrunk):
        for wrong in (b"no picture", tmp_path / "nowhere", np.zeros((2, 2, 4), np.uint8)):
            with pytest.raises(InvalidInput):
                make(wrong)
        older = replace(entry, fit="")
        with pytest.raises(Unsupported, match="older than this client"):
            getattr(older, make.__name__)(photo(40, 40))
    for quality in (0, 96):
        with pytest.raises(InvalidInput, match=f"quality: is {quality}"):
            entry.shrunk(photo(40, 40), quality=quality)


def test_which_version_answers(start_server: StartServer, connect: Connect, repository: Path) -> None:
    """`model` is the version that a request of the same words gets; where none answers, those that would are named."""
    write_model(repository / "linear/2")
    write_model(repository / "linear/3", wrong_by=0.5)  # fails its self-test
    write_model(repository / "other/7")
    server = start_server(repository, default_model="linear")
    client = connect(server)
    for name, version in (("", ""), ("linear", ""), ("linear", "1"), ("", "1"), ("other", ""), ("other", "7")):
        entry = client.model(name, version)
        answer = client.classify(np.zeros((8, 8), np.uint8), model=name, version=version)
        assert (entry.name, entry.version) == (answer.model, answer.version)
    for name, version in (("nobody", ""), ("linear", "3"), ("other", "1")):
        with pytest.raises(UnknownModel, match="ready: linear 2, linear 1, other 7"):
            client.model(name, version)

    async def main() -> str:
        async with AsyncClient(f"127.0.0.1:{server.grpc_port}") as twin:
            return (await twin.model("other")).version

    assert asyncio.run(main()) == "7"
