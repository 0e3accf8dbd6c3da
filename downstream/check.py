"""Check labelled images before training: find all errors, propose classes, draw an overview.

python -m downstream.check DIR [--config RECIPE] [--classes NAME=VALUE …] [--out DIR]

Writes OUT/classes.yaml, a recipe for `--config` of this program and of downstream.segment, and
OUT/labels.png. Exits with 1 if training would reject the data. Imports no torch.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import numpy as np
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table

from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import describe_unpaired
from downstream.labels.classes import MaskClass, format_class, parse_classes
from downstream.labels.dataset import (
    LabelledImage,
    check_classes_present,
    read_labelled_image,
    unclear_masks_message,
)
from downstream.labels.layout import Pair, find_splits
from downstream.labels.masks import RawMask, read_mask
from downstream.labels.propose_classes import propose_classes
from downstream.labels.specimens import overlapping_images, shared_specimens
from downstream.scoring.overlays import Panel, class_colour, contact_sheet, overlay
from micrograph.cli import UserError, console, program, warn
from micrograph.settings import Positional, build_config, load_config, read_recipe

MAX_SHOWN_PER_SPLIT = 4  # images in the overview


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of checking a data folder."""

    classes: tuple[MaskClass, ...]  # empty if none could be proposed
    splits: dict[str, tuple[LabelledImage, ...]]  # usable images
    faults: tuple[str, ...]  # rejected by training
    warnings: tuple[str, ...]  # accepted by training


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """Check labelled images before training on them."""

    data: Annotated[Path, Positional, "folder of images and masks"]
    config: Annotated[Path | None, "recipe of downstream.segment with splits and classes"] = None
    classes: Annotated[tuple[str, ...], "meaning of the mask values: NAME=VALUE …"] = ()
    specimen: Annotated[
        str | None, "regular expression whose group 1 is the specimen [name without counter]"
    ] = None
    out: Annotated[Path, "output folder for classes.yaml and labels.png"] = Path("runs/check")


@program
def main(argv: Sequence[str] | None = None) -> None:
    options = load_config(CheckConfig, argv)
    values = read_recipe(options.config) if options.config else {}
    values |= {"data": options.data}
    values |= {"classes": list(options.classes)} if options.classes else {}
    values |= {"specimen": options.specimen} if options.specimen else {}
    config = build_config(SegmentConfig, values)
    findings = check(config)
    _print_table(findings)
    options.out.mkdir(parents=True, exist_ok=True)
    if findings.classes:
        _write_recipe(options.out / "classes.yaml", config, findings)
    if any(findings.splits.values()):
        _draw(findings).save(options.out / "labels.png")
        console.print(f"overview: {options.out / 'labels.png'}", markup=False)
    for warning in findings.warnings:
        warn(warning)
    for fault in findings.faults:
        print(f"fault: {fault}")
    if findings.faults:
        if findings.classes and not config.classes:
            recipe = options.out / "classes.yaml"
            console.print(f"if these classes are right: --config {recipe}", markup=False)
        sys.exit(1)
    console.print(f"ready for training: --config {options.out / 'classes.yaml'}", markup=False)


def check(config: SegmentConfig) -> Findings:
    """Check all images and masks of `config`; faults are collected, not raised.

    Raises `UserError` if there is nothing to check.
    """
    found = find_splits(config.data, config.entries)
    faults, warnings = describe_unpaired(found)
    if "train" in found and not found["train"].pairs:
        faults.append("train: no labelled images")
    masks: dict[Pair, RawMask] = {}
    for pair in (pair for part in found.values() for pair in part.pairs):
        with _collect(faults):
            masks[pair] = read_mask(pair.mask)
    classes: tuple[MaskClass, ...] = ()
    with _collect(faults):
        if config.classes:
            classes = parse_classes(config.classes)
        else:
            proposal = propose_classes(masks.values())
            classes = proposal.classes
            faults += [] if proposal.certain else [unclear_masks_message(proposal)]
    splits: dict[str, tuple[LabelledImage, ...]] = {}
    for split, part in found.items():
        splits[split] = ()
        for pair in part.pairs:
            if pair in masks and classes:
                with _collect(faults):
                    splits[split] += (read_labelled_image(pair, masks[pair], classes),)
    everything = [item for items in splits.values() for item in items]
    if everything:
        with _collect(faults):
            check_classes_present(classes, everything, splits.get("train", splits.get("all", ())))
    names = {split: [pair.name for pair in part.pairs] for split, part in found.items()}
    warnings += _find_leaks(names, splits, config.specimen)
    return Findings(classes, splits, tuple(faults), tuple(warnings))


@contextmanager
def _collect(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        faults.append(str(error))


def _find_leaks(
    names: dict[str, list[str]], splits: dict[str, tuple[LabelledImage, ...]], pattern: str | None
) -> list[str]:
    """Specimens and overlapping images shared by splits, which would inflate scores."""
    warnings = [
        f"specimen {specimen} is in {' and '.join(found)}: scores on it will be higher than on a "
        "new specimen"
        for specimen, found in shared_specimens(names, pattern).items()
    ]
    usable = [(split, item) for split, items in splits.items() for item in items]
    for first, second in overlapping_images([item.pixels for _, item in usable]):
        (split, item), (other_split, other) = usable[first], usable[second]
        if split != other_split:
            warnings.append(f"{item.name} ({split}) and {other.name} ({other_split}) overlap")
    return warnings


def _print_table(findings: Findings) -> None:
    table = Table("split", "images", "size", *(c.name for c in findings.classes), box=None)
    for split, items in findings.splits.items():
        if not items:
            continue
        sizes = {f"{item.mask.shape[1]} x {item.mask.shape[0]}" for item in items}
        size = sizes.pop() if len(sizes) == 1 else f"{len(sizes)} sizes"
        masks = np.concatenate([item.mask.ravel() for item in items])
        shares = np.bincount(masks, minlength=len(findings.classes)) / masks.size
        table.add_row(split, str(len(items)), size, *(f"{share:.2%}" for share in shares))
    Console().print(table)


def _write_recipe(path: Path, config: SegmentConfig, findings: Findings) -> None:
    content: dict[str, object] = {"classes": [format_class(entry) for entry in findings.classes]}
    defaults = {f.name: f.default for f in SegmentConfig.__dataclass_fields__.values()}
    for split, entries in config.entries.items():
        if entries != defaults[split]:
            content[split] = list(entries)
    if config.specimen is not None:
        content["specimen"] = config.specimen
    head = "# Meaning of the mask values. Classes can be renamed; the first is the background.\n"
    path.write_text(head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    print(path.read_text(encoding="utf-8"), end="")


def _draw(findings: Findings) -> Image.Image:
    panels = []
    for split, items in findings.splits.items():
        for item in items[:MAX_SHOWN_PER_SPLIT]:
            image = Panel(item.pixels, f"{split}: {item.name}")
            panels.append((image, Panel(overlay(item.pixels, item.mask), "labels")))
    half = -(-len(panels) // 2)
    columns = zip_longest(panels[:half], panels[half:], fillvalue=())
    rows = [[*left, *right] for left, right in columns]
    legend = {entry.name: class_colour(index) for index, entry in enumerate(findings.classes)}
    return contact_sheet(rows, legend, "Images and labels; the first class is not coloured")


if __name__ == "__main__":
    main()
