"""Draw the report of the demo: micrographs, learning curves, segmentation results."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure
from PIL import Image

from micrograph.cli import UserError
from micrograph.remote_files import cached_store
from pretrain.cards.encoder_card import read_card
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import read_results
from shards.images.decode import Pixels, RejectedImage, decode_image
from shards.sources.listing import Listing, is_image_name, list_sources
from shards.sources.recipe import plain_source

ARMS = ("random", "pre-trained")
SEEDS = (0, 1)  # of fine-tuning; one seed says little with one labelled image


class DemoFolders:
    """The paths of the demo in the folder `out`; `corpus` is the user's, if any."""

    def __init__(self, out: Path, corpus: Path | None) -> None:
        self.out = out
        self.synthetic = out / "synthetic"
        self.corpus = corpus or self.synthetic / "corpus"
        self.labelled = self.synthetic / "segmentation"
        self.shards, self.run, self.report = out / "shards", out / "encoder", out / "report.png"
        self.export = self.run / "export"

    def segmenter(self, arm: str, seed: int) -> Path:
        return self.out / f"segment-{arm}-{seed}"


def mean_test_scores(folders: DemoFolders, arm: str) -> tuple[list[float], float]:
    """Test mIoU of each seed, and mean micro IoU over the seeds."""
    scores = [read_results(folders.segmenter(arm, seed))["test"] for seed in SEEDS]
    return [s["miou"] for s in scores], sum(s["micro_iou"] for s in scores) / len(scores)


def draw_report(folders: DemoFolders) -> None:
    """Draw `folders.report` from the results of all stages."""
    figure = Figure((13, 12), layout="constrained")
    parts: Any = figure.subfigures(3, 1, height_ratios=(1.0, 1.0, 1.9))
    samples, curves, masks = parts
    _draw_samples(samples, folders)
    _draw_curves(curves, folders)
    _draw_masks(masks, folders)
    figure.savefig(folders.report, dpi=110)


def _draw_samples(figure: SubFigure, folders: DemoFolders, classes: int = 14) -> None:
    source = plain_source(str(folders.corpus))
    listing = list_sources([source])
    shown = {label: _first_image(listing, label) for label in range(len(listing.classes))[:classes]}
    count = sum(len(source.files) for source in listing.sources)
    figure.suptitle(f"Micrographs: {count} images of {len(listing.classes)} classes", weight="bold")
    columns = -(-len(shown) // 2)
    axes = list(figure.subplots(2, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, (label, pixels) in zip(axes, shown.items(), strict=False):
        axis.imshow(_central_square(pixels), cmap="gray", vmin=0, vmax=255)
        axis.set_title(listing.classes[label].replace("_", " "), fontsize=8)


def _first_image(listing: Listing, label: int) -> Pixels:
    """The first image of a class that can be decoded; shards.write requires one."""
    for file in (file for source in listing.sources for file in source.files):
        if file.label == label and is_image_name(file.name):
            with suppress(RejectedImage):
                return decode_image(cached_store(file.location).read(file.entry)).pixels
    raise UserError(f"class {listing.classes[label]} has no readable image")


def _draw_curves(figure: SubFigure, folders: DemoFolders) -> None:
    card = read_card(folders.export)
    records = read_metrics(folders.run)
    epochs = [record["epoch"] for record in records]
    left, middle, right = figure.subplots(1, 3)
    left.plot(epochs, [r["train_loss"] for r in records], label="training (augmented)")
    left.plot(epochs, [r["val_loss"] for r in records], label="validation")
    left.set(title=f"Pre-training {card.arch}", xlabel="epoch", ylabel="cross entropy")
    middle.plot(epochs, [r["val_top1"] for r in records], label="top-1")
    middle.plot(
        epochs,
        [r["val_balanced_accuracy"] for r in records],
        linestyle="--",
        label="mean over classes",
    )
    middle.axhline(1 / len(card.classes), color="grey", linestyle=":", label="chance")
    middle.set(title="Validation accuracy", xlabel="epoch", ylim=(0, 1))
    for arm, colour in zip(ARMS, ("tab:grey", "tab:blue"), strict=True):
        for seed in SEEDS:
            steps = read_metrics(folders.segmenter(arm, seed))
            right.plot(
                [r["step"] for r in steps],
                [r["val_micro_iou"] for r in steps],
                color=colour,
                label=arm if seed == SEEDS[0] else None,
            )
    right.set(title="Fine-tuning on one image", xlabel="step", ylabel="validation IoU (micro)")
    for axis in (left, middle, right):
        axis.legend(fontsize=8)
        axis.grid(alpha=0.3)


def _draw_masks(figure: SubFigure, folders: DemoFolders, images: int = 8) -> None:
    names = sorted(path.name for path in (folders.labelled / "test").iterdir())[:images]
    figure.suptitle("Segmentation after one labelled image: test images", weight="bold")
    rows: list[tuple[str, Path]] = [("label", folders.labelled / "test_annot")]
    for arm in ARMS:
        mious, _ = mean_test_scores(folders, arm)
        title = f"{arm}\nmIoU {np.mean(mious):.1%}"
        rows.append((title, folders.segmenter(arm, SEEDS[0]) / "masks"))
    axes: Any = figure.subplots(1 + len(rows), len(names), squeeze=False)
    for column, name in enumerate(names):
        axes[0, column].imshow(Image.open(folders.labelled / "test" / name), cmap="gray")
        for row, (_, folder) in enumerate(rows, 1):
            mask = np.asarray(Image.open(folder / name))
            # Oxide against the rest, as in the demo's recipe; the label also has cracks.
            axes[row, column].imshow(mask == 1, cmap="Blues_r", vmin=-0.4, vmax=1.2)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[:, 0], ("micrograph", *(title for title, _ in rows)), strict=True):
        axis.set_ylabel(title, fontsize=9)


def _central_square(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]
