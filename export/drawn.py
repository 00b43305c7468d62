"""Drawn pictures: what golden samples are made of where there are weights but no data."""

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]

SHAPES = 7


def pictures(count: int, channels: int, *, seed: int = 0) -> list[Images]:
    """Return pictures uint8 [240, 320, channels] or [320, 240, channels], the same for the same seed.

    Each is a slope of colours with discs, boxes and stripes on it: edges, areas and textures that differ enough for a
    wrong channel order, a wrong size or a wrong weight to show in the answers. Their size is no network's, so that
    resizing and cropping are tested with them.
    """
    random = np.random.default_rng(seed)
    return [_picture(random, *((240, 320) if number % 2 else (320, 240)), channels) for number in range(count)]


def _picture(random: np.random.Generator, height: int, width: int, channels: int) -> Images:
    down, across = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    slope = (down * random.uniform(-1, 1) + across * random.uniform(-1, 1) + 2) / 4
    canvas = slope[..., None] * random.uniform(0, 255, channels) + (1 - slope[..., None]) * random.uniform(
        0, 255, channels
    )
    for kind in random.permutation(SHAPES) % 3:
        (top, left), size = random.uniform(0, 1, 2), random.uniform(0.1, 0.35)
        if kind == 0:
            inside = np.hypot(down - top, across - left) < size
        elif kind == 1:
            inside = (abs(down - top) < size) & (abs(across - left) < size * random.uniform(0.3, 1))
        else:
            stripes = np.sin((down * random.uniform(-1, 1) + across) * random.uniform(40, 160)) > 0
            inside = stripes & (abs(down - top) < size)
        canvas[inside] = random.uniform(0, 255, channels)
    return canvas.round().astype(np.uint8)
