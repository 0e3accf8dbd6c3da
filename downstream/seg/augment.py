"""What is done to a training image and its mask: crop, orientation, photometry, by torchvision.

Draws come from torch's global generator only, so a seed before each step decides all of them.
"""

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from downstream.config import Augmentation, Orientation


def build_augmentation(
    augmentation: Augmentation, orientation: Orientation, crop_size: int
) -> nn.Module:
    """A transform of `(tv_tensors.Image, tv_tensors.Mask)`, uint8 `(3, H, W)` and `(1, H, W)`.

    Gives crops of `crop_size`, images with a shorter side mirrored at their border. `paper`: paper
    A, "Training Segmentation Models", with its notebook's probabilities; `basic` and `extended`:
    paper B (the ranges of its deformations are in a supplement that cannot be had, so ours).
    """
    side = drawn_side(augmentation, crop_size)
    steps: list[nn.Module] = [
        v2.RandomCrop(side, pad_if_needed=True, padding_mode="symmetric"),
    ]
    if augmentation == "extended":
        steps += [*_deformations(), v2.CenterCrop(crop_size)]
    if augmentation != "none":
        steps += _orientations(orientation)
    if augmentation in ("paper", "extended"):
        steps += _photometry()
    compose: nn.Module = v2.Compose(steps)
    return compose


def drawn_side(augmentation: Augmentation, crop_size: int) -> int:
    """Side in pixels of what is cut out of an image to give a crop.

    A square turned by 10 degrees and shrunk to 0.9 fits into one of 1.3 times its side; the rest is
    for elastic shifts. So no empty corner enters a crop, which the mask would call background.
    """
    return crop_size * 3 // 2 if augmentation == "extended" else crop_size


def fitting_crop(augmentation: Augmentation, crop_size: int, smallest: int) -> int:
    """`crop_size` where images with a side of `smallest` pixels can give it, else one that fits."""
    if 2 * smallest >= drawn_side(augmentation, crop_size):  # mirroring can at most double a side
        return crop_size
    return max(32, smallest // 32 * 32)


def build_tile_augmentation(
    augmentation: Augmentation, orientation: Orientation, ignore: int
) -> nn.Module:
    """A transform of whole tiles, `(tv_tensors.Image, tv_tensors.Mask)` as above; nothing is cut.

    What a deformation draws in from beyond the tile is mirrored in the image and `ignore` in the
    mask, so that no pixel counts twice.
    """
    steps: list[nn.Module] = []
    if augmentation == "extended":
        steps += [MirrorMargin(ignore), *_deformations(), CutMargin()]
    if augmentation != "none":
        steps += _orientations(orientation)
    if augmentation in ("paper", "extended"):
        steps += _photometry()
    compose: nn.Module = v2.Compose(steps or [v2.Identity()])
    return compose


class MirrorMargin(nn.Module):
    """A quarter of the side on every side: mirrored in the image, `ignore` in the mask."""

    def __init__(self, ignore: int) -> None:
        super().__init__()
        self.ignore = ignore

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self._pad(item, item.shape[-1] // 4) for item in inputs)

    def _pad(self, item: torch.Tensor, margin: int) -> torch.Tensor:
        is_mask = isinstance(item, tv_tensors.Mask)
        how = {"fill": self.ignore} if is_mask else {"padding_mode": "symmetric"}
        padded: torch.Tensor = v2.functional.pad(item, margin, **how)
        return padded


class CutMargin(nn.Module):
    """Takes away what `MirrorMargin` added: a sixth of the side by now."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        margin = inputs[0].shape[-1] // 6
        side = inputs[0].shape[-1] - 2 * margin
        return tuple(v2.functional.crop(item, margin, margin, side, side) for item in inputs)


class RandomGamma(nn.Module):
    """Grey values to the power of a gamma drawn from `low` to `high`; the mask stays."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        gamma = self.low + (self.high - self.low) * float(torch.rand(()))
        return tuple(
            v2.functional.adjust_gamma(item, gamma) if isinstance(item, tv_tensors.Image) else item
            for item in inputs
        )


def _orientations(orientation: Orientation) -> list[nn.Module]:
    if orientation == "hflip":
        return [v2.RandomHorizontalFlip()]
    turns = [v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]
    return [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomChoice(turns)]


def _photometry() -> list[nn.Module]:
    """Noise, then one of brightness and gamma, one of sharpening and blur, then contrast."""
    return [
        v2.RandomApply([v2.GaussianNoise(sigma=0.02)], p=0.5),
        _one_of(v2.ColorJitter(brightness=0.25), RandomGamma(0.8, 1.2)),
        _one_of(v2.RandomAdjustSharpness(2, p=1), v2.GaussianBlur(3)),
        v2.RandomApply([v2.ColorJitter(contrast=0.3)], p=0.5),
    ]


def _one_of(*transforms: nn.Module) -> nn.Module:
    """One of them, in half of the cases (the notebook's OneOf(…, p=0.5))."""
    chosen: nn.Module = v2.RandomApply([v2.RandomChoice(list(transforms))], p=0.5)
    return chosen


def _deformations() -> list[nn.Module]:
    """Small turns, scalings and elastic shifts."""
    bilinear = v2.InterpolationMode.BILINEAR
    affine = v2.RandomAffine(degrees=10, scale=(0.9, 1.1), interpolation=bilinear)
    return [
        v2.RandomApply([affine], p=0.5),
        v2.RandomApply([v2.ElasticTransform(alpha=40.0, sigma=6.0)], p=0.3),
    ]
