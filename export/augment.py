"""Augmentation as tensor operations: what may change in a picture without changing its label."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from export.recipes import Recipe

_GROWING = 0.6
"""Share of the training in which pictures grow; in the rest the norms learn the statistics of the full size."""


def invert(images: Tensor, share: float) -> Tensor:
    """Return pictures uint8 [N, H, W, C], a share of them, each by chance, with black and white exchanged."""
    if not share:
        return images
    exchanged = torch.rand(len(images), 1, 1, 1, device=images.device) < share
    return torch.where(exchanged, 255 - images, images)


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
    bound = min(bound, length - 1)
    shift = torch.randint(-bound, bound + 1, (count, 1), device=device)
    places = (torch.arange(length, device=device) + shift).abs()
    return length - 1 - (length - 1 - places).abs()


def augment(inputs: Tensor, recipe: Recipe) -> Tensor:
    """Return normalised pictures [N, C, H, W], each changed at random as far as the recipe allows."""
    if recipe.shift or recipe.scale or recipe.rotate or recipe.crop_area:
        grid = functional.affine_grid(_matrix(inputs, recipe), list(inputs.shape), align_corners=False)
        inputs = functional.grid_sample(inputs, grid, padding_mode="border", align_corners=False)
    return _cut_out(inputs, recipe.cutout) if recipe.cutout else inputs


def _matrix(inputs: Tensor, recipe: Recipe) -> Tensor:
    """Return [N, 2, 3]: where in the picture, from -1 to 1, each place of the result is taken from."""
    count, device = len(inputs), inputs.device

    def uniform(bound: float) -> Tensor:
        return (torch.rand(count, device=device) * 2 - 1) * bound

    angle, size = uniform(math.radians(recipe.rotate)), 1 + uniform(recipe.scale)
    across, down = uniform(2 * recipe.shift), uniform(2 * recipe.shift)
    width = height = 1 / size
    if recipe.crop_area:
        # A part of that area, its shape between 3:4 and 4:3, somewhere within the picture (Szegedy and others, Going
        # Deeper with Convolutions, 2015, section 6).
        area = recipe.crop_area + torch.rand(count, device=device) * (1 - recipe.crop_area)
        shape = torch.exp(uniform(math.log(4 / 3)) / 2)
        width, height = (width * area.sqrt() * shape).clamp(max=1), (height * area.sqrt() / shape).clamp(max=1)
        across, down = across + uniform(1) * (1 - width), down + uniform(1) * (1 - height)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack(
        [
            torch.stack([cosine * width, -sine * height, across], 1),
            torch.stack([sine * width, cosine * height, down], 1),
        ],
        1,
    )


def _cut_out(inputs: Tensor, side: int) -> Tensor:
    """Blank a square anywhere in each picture, cut at its edges (DeVries and Taylor, Cutout, 2017)."""
    count, _, height, width = inputs.shape
    upper = torch.randint(0, height, (count, 1, 1, 1), device=inputs.device) - side // 2
    left = torch.randint(0, width, (count, 1, 1, 1), device=inputs.device) - side // 2
    rows = torch.arange(height, device=inputs.device)[:, None] - upper
    columns = torch.arange(width, device=inputs.device) - left
    blank = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
    return inputs.masked_fill(blank, 0.0)  # 0 is the mean of the normalised pictures


def mix(inputs: Tensor, targets: Tensor, parameter: float) -> tuple[Tensor, Tensor]:
    """Return each picture [N, C, H, W] mixed with another of the batch, and its target [N, classes] likewise.

    Zhang and others, mixup, 2018: one share for the batch, from Beta(parameter, parameter).
    """
    share = float(torch.distributions.Beta(parameter, parameter).sample())
    other = torch.randperm(len(inputs), device=inputs.device)
    return inputs.lerp(inputs[other], 1 - share), targets.lerp(targets[other], 1 - share)


def shrink(inputs: Tensor, recipe: Recipe, progress: float) -> Tensor:
    """Return pictures [N, C, H, W] as small as they are at `progress` from 0 to 1.

    They grow from `recipe.start_size` to their own size over the first 60 % of the training, in steps of 4 pixels, so
    that each size gets the same share: a quarter of the arithmetic of ResNet-20 is saved by starting from 20.
    """
    size = inputs.shape[-1]
    if not 0 < recipe.start_size < size or progress >= _GROWING:
        return inputs
    sizes = range(recipe.start_size, size, 4)
    smaller = sizes[int(progress / _GROWING * len(sizes))]
    return functional.interpolate(inputs, smaller, mode="bilinear", antialias=True, align_corners=False)
