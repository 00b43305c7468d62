"""Augmentation as tensor operations: what may change in a picture without changing its label."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from export.recipes import Recipe

_GROWING = 0.6
"""Share of the training in which pictures grow; in the rest the norms learn the statistics of the full size."""


def crop_and_flip(images: Tensor, recipe: Recipe) -> Tensor:
    """Return pictures uint8 [N, H, W, C], each moved by up to `recipe.crop` pixels and mirrored half of the time.

    As a crop out of the picture padded by its own reflection, in one gather: nothing is padded or copied twice.
    """
    if not (recipe.crop or recipe.flip):
        return images
    count, height, width, _ = images.shape
    rows = _moved(count, height, recipe.crop, images.device)
    columns = _moved(count, width, recipe.crop, images.device)
    if recipe.flip:
        mirrored = torch.rand(count, 1, device=images.device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    numbers = torch.arange(count, device=images.device)
    return images[numbers[:, None, None], rows[:, :, None], columns[:, None, :]]


def _moved(count: int, length: int, bound: int, device: torch.device) -> Tensor:
    """Return [count, length] places that start at random, at most `bound` away, reflected at the edges."""
    shift = torch.randint(-bound, bound + 1, (count, 1), device=device)
    places = (torch.arange(length, device=device) + shift).abs()
    return length - 1 - (length - 1 - places).abs()


def shrink(inputs: Tensor, recipe: Recipe, progress: float) -> Tensor:
    """Return pictures [N, C, H, W] as small as they are at `progress` from 0 to 1.

    They grow from `recipe.start_size` to their own size over the first 60 % of the training, in steps of 4 pixels, so
    that each size gets the same share: a quarter of the arithmetic of ResNet-20 is saved by starting from 20.
    """
    size = inputs.shape[-1]
    if not recipe.start_size or progress >= _GROWING:
        return inputs
    sizes = range(recipe.start_size, size, 4)
    return functional.interpolate(
        inputs, sizes[int(progress / _GROWING * len(sizes))], mode="bilinear", antialias=True, align_corners=False
    )


def augment(inputs: Tensor, recipe: Recipe) -> Tensor:
    """Return normalised pictures [N, C, H, W], each shifted, scaled and rotated at random as the recipe allows."""
    count = len(inputs)
    if recipe.invert:
        # Around the middle grey of the batch: what is outside the picture stays outside.
        middle = (inputs.amax() + inputs.amin()) / 2
        flip = torch.rand(count, 1, 1, 1) < recipe.invert
        inputs = torch.where(flip, 2 * middle - inputs, inputs)
    if not (recipe.shift or recipe.scale or recipe.rotate):
        return inputs

    def uniform(bound: float) -> Tensor:
        return (torch.rand(count) * 2 - 1) * bound

    angle, size = uniform(math.radians(recipe.rotate)), 1 + uniform(recipe.scale)
    cosine, sine = angle.cos() / size, angle.sin() / size
    across, down = uniform(2 * recipe.shift), uniform(2 * recipe.shift)
    matrix = torch.stack([torch.stack([cosine, -sine, across], 1), torch.stack([sine, cosine, down], 1)], 1)
    grid = functional.affine_grid(matrix, list(inputs.shape), align_corners=False)
    return functional.grid_sample(inputs, grid, padding_mode="border", align_corners=False)
