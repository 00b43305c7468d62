from dataclasses import replace

import pytest
import torch

from export.augment import augment, crop_and_flip, invert, mix, shrink
from tests.unit.export.conftest import QUICK

STILL = replace(QUICK, shift=0, scale=0, rotate=0, invert=0)


def test_augmentation_off() -> None:
    """With all bounds 0 pictures stay as they are."""
    still = replace(QUICK, shift=0, scale=0, rotate=0, invert=0)
    pictures = torch.rand(4, 1, 8, 8)
    assert torch.equal(augment(pictures, still), pictures)


def test_augmentation_moves_within_bounds() -> None:
    """A shift of a quarter of the width never moves a dot further than that, and does move it."""
    torch.manual_seed(0)
    pictures = torch.zeros(200, 1, 16, 16)
    pictures[:, :, 7:9, 7:9] = 1
    moved = augment(pictures, replace(QUICK, shift=0.25, scale=0, rotate=0))
    columns = (moved.sum(dim=(1, 2)) * torch.arange(16)).sum(dim=1) / moved.sum(dim=(1, 2, 3))
    assert (columns - 7.5).abs().max() <= 4.01
    assert (columns - 7.5).abs().max() > 3


def test_inversion() -> None:
    """Inverting always turns black to white and white to black."""
    pictures = torch.tensor([0, 100, 255], dtype=torch.uint8).reshape(1, 1, 1, 3)
    assert invert(pictures, 1.0).flatten().tolist() == [255, 155, 0]


def test_inversion_of_a_share() -> None:
    """About as many pictures are inverted as the share says, each as a whole."""
    torch.manual_seed(0)
    inverted = invert(torch.zeros(400, 2, 2, 1, dtype=torch.uint8), 0.25).flatten(1)
    assert (inverted == inverted[:, :1]).all()
    assert 60 < int((inverted[:, 0] == 255).sum()) < 140


def numbered(count: int, height: int, width: int) -> torch.Tensor:
    """Return pictures uint8 [count, height, width, 1] whose pixels all differ."""
    return torch.arange(height * width, dtype=torch.uint8).reshape(1, height, width, 1).repeat(count, 1, 1, 1)


def test_flip() -> None:
    """About half of the pictures are mirrored, left to right, and the others are as they were."""
    torch.manual_seed(0)
    pictures = numbered(200, 4, 5)
    flipped = crop_and_flip(pictures, replace(STILL, flip=True))
    mirrored = [torch.equal(picture, pictures[0].flip(1)) for picture in flipped]
    same = [torch.equal(picture, pictures[0]) for picture in flipped]
    assert sum(mirrored) + sum(same) == 200
    assert 70 < sum(mirrored) < 130


def test_crop_is_a_crop_of_the_reflected_picture() -> None:
    """A crop by up to 2 pixels is a window of the picture padded by its reflection, and every place occurs."""
    torch.manual_seed(0)
    pictures = numbered(300, 6, 6)
    padded = torch.nn.functional.pad(pictures[0, :, :, 0].float()[None], (2, 2, 2, 2), mode="reflect")[0]
    windows = [padded[row : row + 6, column : column + 6] for row in range(5) for column in range(5)]
    found = {
        next(index for index, window in enumerate(windows) if torch.equal(window, picture[:, :, 0].float()))
        for picture in crop_and_flip(pictures, replace(STILL, crop=2))
    }
    assert found == set(range(25))


def test_crop_wider_than_the_picture() -> None:
    """A crop bound beyond the picture's size stays within the picture."""
    assert crop_and_flip(numbered(50, 3, 3), replace(STILL, crop=9)).shape == (50, 3, 3, 1)


def test_without_crop_and_flip_nothing_is_copied() -> None:
    """With neither, the very same pictures are returned."""
    pictures = numbered(2, 3, 3)
    assert crop_and_flip(pictures, STILL) is pictures


def test_cutout() -> None:
    """Cutout blanks at most a square of its side in every picture, at random places."""
    torch.manual_seed(0)
    blanked = augment(torch.ones(100, 3, 12, 12), replace(STILL, cutout=4)) == 0
    counts = blanked[:, 0].sum(dim=(1, 2))
    assert counts.max() == 16
    assert counts.min() >= 4
    assert torch.equal(blanked[:, 0], blanked[:, 2])
    assert blanked[:, 0].any(dim=0).all()


def test_mixup_mixes_pictures_and_labels_alike() -> None:
    """A mixed picture holds two pictures in the shares that its target says."""
    torch.manual_seed(0)
    pictures = torch.eye(8).reshape(8, 8, 1, 1)
    mixed, targets = mix(pictures, torch.eye(8), 100.0)  # shares near a half
    assert torch.equal(mixed.flatten(1), targets)
    assert torch.allclose(targets.sum(dim=1), torch.ones(8))
    assert (targets > 0).sum(dim=1).max() == 2


@pytest.mark.parametrize(("progress", "size"), [(0.0, 20), (0.19, 20), (0.21, 24), (0.41, 28), (0.6, 32), (1.0, 32)])
def test_pictures_grow(progress: float, size: int) -> None:
    """Pictures start small and have their own size from 60 % of the training on."""
    recipe = replace(STILL, start_size=20)
    assert shrink(torch.zeros(1, 3, 32, 32), recipe, progress).shape == (1, 3, size, size)


def test_crop_area_enlarges() -> None:
    """A crop of a quarter of the area shows no more than that part: a gradient's range is at most halved."""
    torch.manual_seed(0)
    gradient = torch.linspace(0, 1, 64).expand(100, 1, 64, 64).contiguous()
    shown = augment(gradient, replace(STILL, crop_area=0.2499999))
    spans = shown.amax(dim=(1, 2, 3)) - shown.amin(dim=(1, 2, 3))
    assert spans.min() < 0.6
    assert spans.max() <= 1.0
