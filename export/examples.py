"""The example pictures beside the bundled model: ten digits as pen strokes, black on white, as newcomers draw them.

python -m export.examples FOLDER
"""

import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service import image

SIZE = 160
PEN = 0.052
"""Half the pen's width, as a share of the picture's."""

Point = tuple[float, float]
Points = npt.NDArray[np.float64]


def arc(centre: Point, radii: Point, start: float, end: float) -> list[Point]:
    """Return points of an ellipse from `start` to `end` degrees, 0 to the right and 90 down."""
    angles = np.radians(np.linspace(start, end, 40))
    return [(centre[0] + radii[0] * float(np.cos(a)), centre[1] + radii[1] * float(np.sin(a))) for a in angles]


# Each digit: strokes of points (across, down), from 0 to 1.
STROKES: dict[str, list[list[Point]]] = {
    "0": [arc((0.50, 0.50), (0.19, 0.31), -100, 270)],
    "1": [[(0.41, 0.31), (0.53, 0.19), (0.51, 0.81)]],
    "2": [[*arc((0.49, 0.36), (0.18, 0.17), -170, 35), (0.32, 0.79), (0.71, 0.78)]],
    "3": [[*arc((0.47, 0.35), (0.17, 0.15), -150, 85), *arc((0.47, 0.65), (0.20, 0.16), -85, 150)]],
    "4": [[(0.44, 0.19), (0.29, 0.56), (0.73, 0.55)], [(0.61, 0.30), (0.58, 0.83)]],
    "5": [[(0.68, 0.21), (0.38, 0.22), (0.35, 0.46), *arc((0.47, 0.62), (0.20, 0.18), -110, 140)]],
    "6": [[(0.60, 0.18), (0.42, 0.38), *arc((0.50, 0.64), (0.17, 0.17), -180, 185)]],
    "7": [[(0.29, 0.22), (0.71, 0.22), (0.45, 0.82)]],
    "8": [[*arc((0.50, 0.34), (0.14, 0.14), 90, 450), *arc((0.50, 0.65), (0.18, 0.17), -90, 270)]],
    "9": [[*arc((0.49, 0.36), (0.16, 0.16), -20, 340), (0.65, 0.35), (0.59, 0.82)]],
}


def draw(strokes: Iterable[list[Point]]) -> npt.NDArray[np.uint8]:
    """Return a picture uint8 [SIZE, SIZE] of the strokes, black on white, edges softened over one pixel."""
    across, down = np.meshgrid((np.arange(SIZE) + 0.5) / SIZE, (np.arange(SIZE) + 0.5) / SIZE)
    pixels = np.stack([across, down], axis=-1)
    distance = np.full((SIZE, SIZE), np.inf)
    for stroke in strokes:
        points = np.array(stroke)
        for start, end in pairwise(points):
            distance = np.minimum(distance, _distance(pixels, start, end))
    ink = np.clip((PEN - distance) * SIZE + 0.5, 0, 1)
    return np.asarray(255 - 255 * ink, np.uint8)


def _distance(pixels: Points, start: Points, end: Points) -> Points:
    """Return how far each pixel is from the line between two points."""
    along = end - start
    share = np.clip((pixels - start) @ along / max(float(along @ along), 1e-12), 0, 1)
    return np.asarray(np.linalg.norm(pixels - start - share[..., None] * along, axis=-1))


def main() -> None:
    """Write digit-0.png to digit-9.png into the folder that is named."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for digit, strokes in STROKES.items():
        (folder / f"digit-{digit}.png").write_bytes(image.encode_png(draw(strokes)))


if __name__ == "__main__":
    main()
