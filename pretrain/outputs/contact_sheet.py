"""A contact sheet of the augmentations, drawn by the code of the loader and of training."""

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pretrain.config import TrainConfig
from pretrain.loading.augment import AugmentParams, training_params
from pretrain.loading.class_balance import class_quotas
from pretrain.loading.cpu_pipeline import CpuPipeline, decode
from pretrain.loading.loader import Batch
from pretrain.loading.mixup import mix
from pretrain.loading.sample_order import Ids
from pretrain.loading.shard_reader import ShardReader

ROWS = 5
FULL_EXAMPLES = 5
_NO_AUGMENTATION: Any = {
    "hflip_prob": 0.0,
    "vflip_prob": 0.0,
    "rotate_prob": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
}
_AUGMENTATION_SETTINGS = (
    *("image_size", "crop", "crop_area_min", "crop_aspect_max", "hflip_prob", "vflip_prob"),
    *("rotate_prob", "rotation_mode", "rotate_degrees", "brightness", "contrast", "noise"),
    *("mixup", "cutmix", "mix_prob", "class_balance_power", "seed"),
)
_CELL = 1.42  # inches; fifteen columns fill a screen
_DPI = 120

Picture = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Column:
    """A single augmentation, at one end of its range."""

    title: str
    change: dict[str, Any]  # fields of `AugmentParams`, the same for all rows
    config: TrainConfig  # for the geometry
    mixes: TrainConfig | None = None  # for mixup and cutmix, if shown


def draw_sheet(data: ShardReader, config: TrainConfig, out: Path) -> None:
    """Write the contact sheet of `config` on images of `data` to `out`."""
    samples = _choose_samples(data)
    plain = replace(config, **_NO_AUGMENTATION, noise=0.0)
    columns = [(c, 0) for c in _columns(config, plain)]
    for epoch in range(FULL_EXAMPLES):
        whole = config if config.mixes else None
        columns.append((Column(f"training,\nepoch {epoch + 1}", {}, config, whole), epoch))
    cells = [_render(data, samples, column, epoch) for column, epoch in columns]
    titles = ["stored image\nand its crop", *(column.title for column, _ in columns)]
    size = (_CELL * len(titles), _CELL * len(samples) + 0.9)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(samples), len(titles), squeeze=False)
    base = _params(data, samples, plain, 0, {})
    for row, sample in enumerate(samples):
        (encoded,) = data.read(np.array([sample]))
        axes[row, 0].imshow(decode(encoded, data.manifest.channels), cmap="gray", vmin=0, vmax=255)
        _outline(axes[row, 0], base, row)
        axes[row, 0].set_ylabel(_row_label(data, config, int(sample)), fontsize=7)
        for column, (pictures, notes) in enumerate(cells, 1):
            axes[row, column].imshow(pictures[row], cmap="gray", vmin=0, vmax=1)
            axes[row, column].set_xlabel(notes[row], fontsize=6, labelpad=1)
    for column, title in enumerate(titles):
        axes[0, column].set_title(title, fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.suptitle(_caption(config), fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def _choose_samples(data: ShardReader) -> Ids:
    """One image of each of up to `ROWS` classes, spread over the classes."""
    labels = data.index["label"]
    known = np.unique(labels)
    chosen = known[np.linspace(0, len(known) - 1, min(ROWS, len(known))).astype(int)]
    return np.array([np.flatnonzero(labels == label)[0] for label in chosen])


def _columns(config: TrainConfig, plain: TrainConfig) -> list[Column]:
    """A column for each augmentation that is on."""
    columns = [Column("crop alone", {}, plain)]
    if config.hflip_prob:
        columns.append(Column("horizontal\nflip", {}, replace(plain, hflip_prob=1.0)))
    if config.vflip_prob:
        columns.append(Column("vertical\nflip", {}, replace(plain, vflip_prob=1.0)))
    if config.rotate_prob:
        title = "rotation" if config.rotation_mode == "any" else "quarter turn"
        columns.append(Column(f"{title},\ndrawn", {}, replace(plain, rotate_prob=1.0)))
    for sign in (-1, 1):
        if config.brightness:
            shift = sign * config.brightness
            columns.append(Column(f"brightness\n{shift:+.2g}", {"shift": shift}, plain))
    for sign in (-1, 1):
        if config.contrast:
            factor = 1 + sign * config.contrast
            around = 0.5 * (1 - factor)  # mid-grey stays (augment.py)
            change = {"contrast": factor, "shift": around}
            columns.append(Column(f"contrast\nx {factor:.2g}", change, plain))
    if config.noise:
        columns.append(Column(f"noise\n{config.noise:.2g}", {"noise": config.noise}, plain))
    for name, alpha in _alphas(config).items():
        if alpha:
            only: Any = {"mixup": 0.0, "cutmix": 0.0} | {name: alpha}
            alone = replace(config, **only, mix_prob=1.0)
            columns.append(Column(f"{name}, with\nthe next row", {}, plain, alone))
    return columns


def _params(
    data: ShardReader, samples: Ids, config: TrainConfig, epoch: int, change: dict[str, Any]
) -> AugmentParams:
    rows = data.index[samples]
    params = training_params(config, epoch, samples, rows["height"], rows["width"])
    forced: Any = {name: np.full(len(samples), value, np.float32) for name, value in change.items()}
    return replace(params, **forced)


def _render(
    data: ShardReader, samples: Ids, column: Column, epoch: int
) -> tuple[Picture, list[str]]:
    """The loader's pixels, mixed as in training, normalisation undone; and a note for each."""
    params = _params(data, samples, column.config, epoch, column.change)
    (images,) = CpuPipeline(data, column.config, 2, None).batches([(samples, params)])
    notes = [""] * len(samples)
    if column.mixes is not None:
        # Labelled by their rows, so that the targets are each image's own fraction.
        rows = torch.arange(len(samples))
        images, targets = mix(column.mixes, epoch, Batch(images, rows, samples), len(samples))
        notes = [f"{fraction:.0%} its own" for fraction in targets.diagonal().tolist()]
    std, mean = (np.array(v, np.float32) for v in (data.manifest.std, data.manifest.mean))
    pixels = images.permute(0, 2, 3, 1).numpy() * std + mean
    return np.clip(pixels, 0, 1), notes


def _row_label(data: ShardReader, config: TrainConfig, sample: int) -> str:
    """The class, and with class balancing its images and their number per epoch."""
    labels = data.index["label"].astype(np.int64)
    label = int(labels[sample])
    name = data.manifest.classes[label].replace("_", " ")
    if not config.class_balance_power:
        return name
    drawn = class_quotas(labels, config.class_balance_power)[label]
    return f"{name}\n{np.count_nonzero(labels == label)} images,\n{drawn} per epoch"


def _outline(axis: Any, params: AugmentParams, row: int) -> None:
    low = np.minimum(params.roi_start[row], params.roi_end[row])
    height, width = abs(params.roi_end[row] - params.roi_start[row])
    box = Rectangle((low[1], low[0]), width, height, fill=False, edgecolor="red", linewidth=1)
    axis.add_patch(box)


def _caption(config: TrainConfig) -> str:
    settings = (f"{name} {getattr(config, name)}" for name in _AUGMENTATION_SETTINGS)
    return textwrap.fill(", ".join(settings), 160)


def _alphas(config: TrainConfig) -> dict[str, float]:
    """The parameters of mixup and cutmix, if they are used."""
    return {"mixup": config.mixup, "cutmix": config.cutmix} if config.mixes else {}
