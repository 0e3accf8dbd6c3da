"""Augmentation: image and mask agree, torch's seed decides, and corners are never empty."""

import pytest
import torch
from torchvision import tv_tensors

from downstream.finetune.augment import build_augmentation

SIDE = 96


def pair() -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """An image that is its mask: 255 where the mask is 1."""
    mask = (torch.rand(1, SIDE // 8, SIDE // 8) < 0.5).repeat_interleave(8, 1)
    mask = mask.repeat_interleave(8, 2).to(torch.uint8)
    return tv_tensors.Image((mask * 255).expand(3, -1, -1)), tv_tensors.Mask(mask)


@pytest.mark.parametrize("augmentation", ["none", "basic", "paper", "extended"])
def test_image_and_mask_move_together(augmentation: str) -> None:
    transform = build_augmentation(augmentation, "any", 64)  # type: ignore[arg-type]
    for seed in range(12):
        torch.manual_seed(seed)
        image, mask = transform(*pair())
        assert image.shape == (3, 64, 64) and mask.shape == (1, 64, 64)
        assert image.dtype == mask.dtype == torch.uint8
        # Blur and interpolation touch borders only.
        assert ((image[0] > 127) == (mask[0] == 1)).float().mean() > 0.9
        torch.manual_seed(seed)
        again, _ = transform(*pair())
        assert torch.equal(image, again)


def test_hflip_keeps_up_and_down() -> None:
    rows = torch.arange(64, dtype=torch.uint8).repeat(64, 1).T[None]
    image, mask = tv_tensors.Image(rows.expand(3, -1, -1)), tv_tensors.Mask(rows)
    kept, turned = (build_augmentation("basic", kind, 64) for kind in ("hflip", "any"))
    drawn = {"hflip": set(), "any": set()}
    for seed in range(20):
        for name, transform in (("hflip", kept), ("any", turned)):
            torch.manual_seed(seed)
            drawn[name].add(bytes(transform(image, mask)[1].numpy().tobytes()))
    assert drawn["hflip"] == {rows.numpy().tobytes()}
    assert len(drawn["any"]) == 4


def test_deformation_brings_no_empty_corner_into_a_crop() -> None:
    transform = build_augmentation("extended", "any", 64)
    for seed in range(20):
        torch.manual_seed(seed)
        white = tv_tensors.Image(torch.full((3, SIDE, SIDE), 255, dtype=torch.uint8))
        _, mask = transform(white, tv_tensors.Mask(torch.ones(1, SIDE, SIDE, dtype=torch.uint8)))
        assert (mask == 1).all()
