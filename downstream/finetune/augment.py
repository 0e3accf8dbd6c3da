"""Augment a training image and its mask with torchvision: crop, orientation, photometry.

All random numbers come from torch's global generator, so seeding it before a step fixes them.
"""

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from downstream.finetune.config import Augmentation, Orientation


def build_augmentation(
    augmentation: Augmentation, orientation: Orientation, crop_size: int
) -> nn.Module:
    """A transform of `(tv_tensors.Image, tv_tensors.Mask)`, uint8 `(3, H, W)` and `(1, H, W)`.

    Returns crops of `crop_size`; smaller images are padded by mirroring. `paper`: paper A,
    "Training Segmentation Models", with the probabilities of its notebook; `basic` and `extended`:
    paper B, with our own ranges of deformation, because its supplement is not available.
    """
    side = drawn_side(augmentation, crop_size)
    steps: list[nn.Module] = [
        v2.RandomCrop(side, pad_if_needed=True, padding_mode="symmetric"),
    ]
    if augmentation == "extended":
        steps += [*_deformations(), v2.CenterCrop(crop_size)]
    compose: nn.Module = v2.Compose(steps + _without_crop(augmentation, orientation))
    return compose


def drawn_side(augmentation: Augmentation, crop_size: int) -> int:
    """Side in pixels of the region that is cut from an image before it is deformed.

    A square rotated by 10 degrees and scaled by 0.9 needs 1.3 times its side; the rest is for
    elastic deformation. Crops thus have no empty corners, which would be labelled background.
    """
    return crop_size * 3 // 2 if augmentation == "extended" else crop_size


def fitting_crop(augmentation: Augmentation, crop_size: int, smallest: int) -> int:
    """`crop_size` if images with a side of `smallest` pixels allow it, else a smaller one."""
    if 2 * smallest >= drawn_side(augmentation, crop_size):  # mirroring at most doubles a side
        return crop_size
    return max(32, smallest // 32 * 32)


def build_tile_augmentation(
    augmentation: Augmentation, orientation: Orientation, ignore: int
) -> nn.Module:
    """A transform of whole tiles, `(tv_tensors.Image, tv_tensors.Mask)` as above, without a crop.

    A deformation that reaches beyond the tile finds the image mirrored and the mask set to
    `ignore`, so that no pixel counts twice.
    """
    steps: list[nn.Module] = []
    if augmentation == "extended":
        steps += [MirrorMargin(ignore), *_deformations(), CutMargin()]
    steps += _without_crop(augmentation, orientation)
    compose: nn.Module = v2.Compose(steps or [v2.Identity()])
    return compose


class MirrorMargin(nn.Module):
    """Pad by a quarter of the side: the image by mirroring, the mask with `ignore`."""

    def __init__(self, ignore: int) -> None:
        super().__init__()
        self.ignore = ignore

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self._pad(item, item.shape[-1] // 4) for item in inputs)

    def _pad(self, item: torch.Tensor, margin: int) -> torch.Tensor:
        is_mask = isinstance(item, tv_tensors.Mask)
        options = {"fill": self.ignore} if is_mask else {"padding_mode": "symmetric"}
        padded: torch.Tensor = v2.functional.pad(item, margin, **options)
        return padded


class CutMargin(nn.Module):
    """Remove the padding of `MirrorMargin`, a sixth of the padded side."""

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        margin = inputs[0].shape[-1] // 6
        side = inputs[0].shape[-1] - 2 * margin
        return tuple(v2.functional.crop(item, margin, margin, side, side) for item in inputs)


class RandomGamma(nn.Module):
    """Apply a gamma drawn between `low` and `high` to the image, not to the mask."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        gamma = self.low + (self.high - self.low) * float(torch.rand(()))
        return tuple(
            v2.functional.adjust_gamma(item, gamma) if isinstance(item, tv_tensors.Image) else item
            for item in inputs
        )


def _without_crop(augmentation: Augmentation, orientation: Orientation) -> list[nn.Module]:
    """The steps that do not change the size."""
    steps = _orientations(orientation) if augmentation != "none" else []
    return steps + (_photometry() if augmentation in ("paper", "extended") else [])


def _orientations(orientation: Orientation) -> list[nn.Module]:
    if orientation == "hflip":
        return [v2.RandomHorizontalFlip()]
    rotations = [v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]
    return [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomChoice(rotations)]


def _photometry() -> list[nn.Module]:
    """Noise, then one of brightness and gamma, one of sharpening and blur, then contrast."""
    return [
        v2.RandomApply([v2.GaussianNoise(sigma=0.02)], p=0.5),
        _one_of(v2.ColorJitter(brightness=0.25), RandomGamma(0.8, 1.2)),
        _one_of(v2.RandomAdjustSharpness(2, p=1), v2.GaussianBlur(3)),
        v2.RandomApply([v2.ColorJitter(contrast=0.3)], p=0.5),
    ]


def _one_of(*transforms: nn.Module) -> nn.Module:
    """One of the transforms with probability 0.5 (the notebook's OneOf(…, p=0.5))."""
    chosen: nn.Module = v2.RandomApply([v2.RandomChoice(list(transforms))], p=0.5)
    return chosen


def _deformations() -> list[nn.Module]:
    """Small rotations, scalings and elastic deformations."""
    bilinear = v2.InterpolationMode.BILINEAR
    affine = v2.RandomAffine(degrees=10, scale=(0.9, 1.1), interpolation=bilinear)
    return [
        v2.RandomApply([affine], p=0.5),
        v2.RandomApply([v2.ElasticTransform(alpha=40.0, sigma=6.0)], p=0.3),
    ]
