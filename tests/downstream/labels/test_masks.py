"""Mask values are read exactly and mapped to classes, or rejected."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from downstream.labels.classes import format_class, parse_classes
from downstream.labels.masks import RawMask, mask_to_indices, read_mask
from downstream.labels.propose_classes import propose_classes
from micrograph.cli import UserError

MASK = np.zeros((40, 40), np.uint8)
MASK[10:30, 5:20] = 1
GREY = np.random.default_rng(1).integers(0, 200, (40, 40, 1), np.uint8).repeat(3, axis=2)
OVERLAY = GREY.copy()
OVERLAY[MASK == 1] = (0, 0, 255)
OVERLAY[:5] = (255, 0, 0)
SUPER = parse_classes(("matrix=rest", "secondary=#0000ff", "tertiary=#ff0000"))


def saved(folder: Path, image: np.ndarray | Image.Image, name: str = "m.png") -> RawMask:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(folder / name)
    return read_mask(folder / name)


def test_indices_from_zero_need_no_confirmation() -> None:
    proposal = propose_classes([RawMask("a", MASK), RawMask("b", MASK * 2)])
    assert proposal.certain
    assert [format_class(c) for c in proposal.classes] == ["class0=0", "class1=1", "class2=2"]


def test_black_and_white_masks_need_confirmation() -> None:
    proposal = propose_classes([RawMask("a", MASK * 255)])
    assert not proposal.certain
    assert proposal.flags == "--classes background=0 foreground=255"
    assert np.array_equal(mask_to_indices(RawMask("a", MASK * 255), proposal.classes), MASK)
    with pytest.raises(UserError, match="contains values 255 without a class"):
        mask_to_indices(RawMask("a", MASK * 255), parse_classes(("rest=0", "crack=1")))


def test_an_overlay_is_proposed_as_its_vivid_colours_and_the_rest(tmp_path: Path) -> None:
    rgba = Image.fromarray(OVERLAY).convert("RGBA")
    raw = saved(tmp_path, rgba, "m.tif")
    proposal = propose_classes([raw])
    assert proposal.flags == "--classes rest=rest 'blue=#0000ff' 'red=#ff0000'"
    expected = MASK.astype(np.int64)
    expected[:5] = 2
    assert np.array_equal(mask_to_indices(raw, SUPER), expected)


def test_red_and_blue_are_not_swapped(tmp_path: Path) -> None:
    # OpenCV reads BGR; paper A's public code names the classes by colours in that order.
    raw = saved(tmp_path, OVERLAY)
    swapped = parse_classes(("matrix=rest", "secondary=#ff0000", "tertiary=#0000ff"))
    right, wrong = mask_to_indices(raw, SUPER), mask_to_indices(raw, swapped)
    assert right[0, 0] == 2 and right[20, 10] == 1
    assert wrong[0, 0] == 1 and wrong[20, 10] == 2


def test_colour_maps_and_palettes(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (250, 10, 10)], np.uint8)
    raw = saved(tmp_path, colours[MASK])
    proposal = propose_classes([raw])
    assert proposal.flags == "--classes 'black=#000000' 'cfa0a0a=#fa0a0a'"
    assert np.array_equal(mask_to_indices(raw, proposal.classes), MASK)
    picture = Image.fromarray(MASK).convert("P")
    picture.putpalette(colours.tobytes())
    palette = saved(tmp_path, picture, "p.png")
    assert propose_classes([palette]).certain
    by_colour = parse_classes(("rest=#000000", "crack=#fa0a0a"))
    assert np.array_equal(mask_to_indices(palette, by_colour), MASK)


def test_contradicting_palettes_are_rejected(tmp_path: Path) -> None:
    masks = []
    for name, palette in (("a", [0, 0, 0, 255, 0, 0]), ("b", [0, 0, 0, 0, 255, 0])):
        picture = Image.fromarray(MASK).convert("P")
        picture.putpalette(palette)
        masks.append(saved(tmp_path, picture, f"{name}.png"))
    with pytest.raises(UserError, match=r"index 1 is #ff0000 in the palette of a\.png and #00ff00"):
        propose_classes(masks)


@pytest.mark.parametrize(
    "image", [np.repeat(MASK[..., None], 3, axis=2), Image.fromarray(MASK * 255).convert("1")]
)
def test_grey_rgb_and_one_bit_masks_are_indices(
    image: np.ndarray | Image.Image, tmp_path: Path
) -> None:
    raw = saved(tmp_path, image)
    proposal = propose_classes([raw])
    assert proposal.certain
    assert np.array_equal(mask_to_indices(raw, proposal.classes), MASK)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_mask_is_rejected(mode: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a JPEG"):
        saved(tmp_path, Image.fromarray(MASK * 255).convert(mode), "m.jpg")


def test_smoothed_borders_are_rejected(tmp_path: Path) -> None:
    big = Image.fromarray(np.kron(MASK, np.ones((4, 4), np.uint8)) * 255)
    with pytest.raises(UserError, match="borders were smoothed or compressed"):
        propose_classes([RawMask("m", np.asarray(big.filter(ImageFilter.GaussianBlur(2))))])
    blurred = Image.fromarray(OVERLAY).filter(ImageFilter.GaussianBlur(1))
    with pytest.raises(UserError, match="borders were smoothed or compressed"):
        propose_classes([saved(tmp_path, blurred)])


def test_a_vivid_colour_without_a_class_does_not_fall_into_the_rest() -> None:
    mask = OVERLAY.copy()
    mask[35, 35] = (0, 255, 0)
    with pytest.raises(UserError, match=r"contains colours #00ff00 in 0\.06% of its pixels"):
        mask_to_indices(RawMask("m", mask), SUPER)
    # … unless it is the micrograph's own.
    image = GREY.copy()
    image[35, 35] = (0, 255, 0)
    assert mask_to_indices(RawMask("m", mask), SUPER, image)[35, 35] == 0


@pytest.mark.parametrize(
    ("masks", "why"),
    [
        ([np.random.default_rng(0).integers(0, 256, (40, 40))], "grey images, not masks"),
        ([np.zeros((40, 40), np.uint8)], "contain only 0"),
        ([MASK, OVERLAY], "convert them to one kind"),
    ],
)
def test_images_that_are_not_masks_are_rejected(masks: list[np.ndarray], why: str) -> None:
    with pytest.raises(UserError, match=why):
        propose_classes([RawMask("m", values) for values in masks])


def test_half_transparent_and_fractional_masks_are_rejected(tmp_path: Path) -> None:
    rgba = np.dstack([OVERLAY, np.full(MASK.shape, 255, np.uint8)])
    rgba[:20, :, 3] = 128
    with pytest.raises(UserError, match=r"half-transparent in 50\.0%"):
        saved(tmp_path, rgba)
    rgba[:20, :, 3] = 0
    assert (saved(tmp_path, rgba).values[:20] == 0).all()
    with pytest.raises(UserError, match="contains fractional values"):
        saved(tmp_path, (MASK * 0.5).astype(np.float32), "f.tif")
    assert saved(tmp_path, MASK.astype(np.float32), "w.tif").values.max() == 1


@pytest.mark.parametrize(
    "specs",
    [
        ("a=0",),
        ("a=0", "a=1"),
        ("a=rest", "b=rest"),
        ("a=0", "b=red"),
        ("a", "b=1"),
        ("a=1", "b=1"),
        ("=1", "b=2"),
        ("a=1", "b=#ffffff"),
    ],
)
def test_unclear_class_lists_are_rejected(specs: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        parse_classes(specs)
