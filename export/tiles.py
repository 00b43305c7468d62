"""Pictures made of numbers: grids of maps and filters, heat over a picture, all as uint8 arrays."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from export.data import Images
from service import image
from service.manifest import Preprocessing

Floats = npt.NDArray[np.float32]

TILE = 64
"""Pixels of the longer side of a map or filter in a grid, at most, and more than half of it."""
GAP = 3
MOST = 64
"""Maps or filters of a grid; a stage may have 2,048."""
COLUMNS = 16
BACKGROUND = np.array([93, 107, 126], np.uint8)
"""Between the tiles: no grey, so that no filter's edge is lost in it."""

_HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]], np.float64)
"""From no evidence to the most: black, violet, red, orange, pale yellow, evenly rising in lightness."""


def maps_grid(maps: Floats) -> Images:
    """Return feature maps [maps, height, width] as a grid, uint8 [height, width, 3]: white is a map's own largest."""
    return _grid([_tile(_stretched(one)) for one in maps[:MOST]])


def filters_grid(filters: Floats) -> Images:
    """Return filters [maps, channels, height, width] as a grid, uint8 [height, width, 3]; grey is 0.

    Three channels are colours, one is grey; of any other number the mean is shown. Each filter is scaled by itself.
    """
    if filters.shape[1] not in {1, 3}:
        filters = filters.mean(axis=1, keepdims=True)
    tiles = []
    for one in filters[:MOST]:
        largest = max(float(np.abs(one).max()), 1e-12)
        tiles.append(_tile(np.asarray(127.5 + 127.5 * one.transpose(1, 2, 0) / largest, np.uint8)))
    return _grid(tiles)


def heat(picture: Images, values: Floats, *, signed: bool) -> Images:
    """Return evidence [rows, columns] as heat over a picture uint8 [height, width, channels]; uint8 [..., 3].

    Args:
        picture: as the model sees it.
        values: the evidence, of any resolution.
        signed: whether values below 0 mean no evidence; else the smallest does.
    """
    height, width, _ = picture.shape
    low = 0.0 if signed else float(values.min())
    share = np.clip((values - low) / max(float(values.max()) - low, 1e-12), 0, 1)
    share = resized(np.asarray(share, np.float32), height, width)[..., np.newaxis]
    place = share * (len(_HEAT) - 1)
    below = np.minimum(place.astype(np.int64)[..., 0], len(_HEAT) - 2)
    colour = _HEAT[below] + (place - below[..., np.newaxis]) * (_HEAT[below + 1] - _HEAT[below])
    grey = picture.mean(axis=2, keepdims=True)
    return np.asarray(0.35 * grey + 0.65 * colour, np.uint8)


def resized(values: Floats, height: int, width: int) -> Floats:
    """Return [rows, columns] at another resolution, bilinear, pixels taken as squares around their centres."""

    def along(old: int, new: int) -> npt.NDArray[np.float64]:
        return np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)

    rows, columns = along(values.shape[0], height), along(values.shape[1], width)
    places = np.arange(values.shape[1])
    wide = np.stack([np.interp(columns, places, row) for row in values])
    places = np.arange(values.shape[0])
    return np.asarray(np.stack([np.interp(rows, places, column) for column in wide.T], axis=1), np.float32)


def enlarged(picture: Images, side: int) -> Images:
    """Return a small picture with each pixel repeated, as often as its longer side fits into `side`."""
    times = max(1, side // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def coloured(picture: Images) -> Images:
    """Return a picture uint8 [height, width] or [height, width, 1 or 3] with three channels."""
    picture = picture[..., np.newaxis] if picture.ndim == 2 else picture
    return picture if picture.shape[2] == 3 else picture.repeat(3, axis=2)


def stacked(pictures: Sequence[Images]) -> Images:
    """Return pictures uint8 [height, width, 3] one below the other, the narrower ones filled up on the right."""
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for picture in pictures:
        row = _background(picture.shape[0] + 4 * GAP, width)
        row[: picture.shape[0], : picture.shape[1]] = picture
        rows.append(row)
    return np.concatenate(rows)[: -4 * GAP]


def beside(pictures: Sequence[Images]) -> Images:
    """Return pictures uint8 [height, width, 3] of one height beside each other."""
    gap = _background(pictures[0].shape[0], 4 * GAP)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def _background(height: int, width: int) -> Images:
    return np.broadcast_to(BACKGROUND, (height, width, 3)).copy()


def _stretched(values: Floats) -> Images:
    low, high = float(values.min()), float(values.max())
    return np.asarray(255 * (values - low) / max(high - low, 1e-12), np.uint8)


def _tile(picture: Images) -> Images:
    """Return a map or filter in the size of a tile, its pixels repeated or, where it is larger, averaged."""
    height, width = picture.shape[:2]
    scale = TILE / max(height, width)
    if scale >= 1:
        return coloured(enlarged(picture, TILE))
    channels = 3 if picture.ndim == 3 and picture.shape[2] == 3 else 1
    small = Preprocessing(height=max(1, round(height * scale)), width=max(1, round(width * scale)), channels=channels)
    return coloured(image.from_array(picture, small))


def _grid(tiles: Sequence[Images]) -> Images:
    """Return tiles of one size in rows of COLUMNS."""
    height, width, _ = tiles[0].shape
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    grid = _background(rows * (height + GAP) - GAP, columns * (width + GAP) - GAP)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + GAP), number % columns * (width + GAP)
        grid[top : top + height, left : left + width] = tile
    return grid
