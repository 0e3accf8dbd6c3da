"""The outputs of a finished run: scores, pictures, the best network with its card."""

import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import LabelledSet, data_sha256
from downstream.finetune.losses import class_weights
from downstream.finetune.training import State
from downstream.labels.classes import MicroIouClasses, format_class
from downstream.labels.dataset import LabelledImage
from downstream.labels.masks import Mask
from downstream.network.segmenter import EncoderOrigin, Segmenter
from downstream.scoring.metrics import (
    Boundaries,
    Scores,
    boundaries,
    confusion,
    constant_score,
    mean_defined,
    score,
)
from downstream.scoring.overlays import (
    AGREEMENT,
    Panel,
    agreement_map,
    class_colour,
    contact_sheet,
    overlay,
)
from micrograph.atomic import write_atomically, write_json
from micrograph.setting_marks import Mark, plain_without
from pretrain.cards.segmenter_card import SegmenterCard, write_segmenter_card
from pretrain.network.timm_models import encoder_options
from pretrain.runs.run_folder import RESULTS_VERSION, RunPaths, read_results
from shards.shard_format.schema import file_sha256

SHOWN = 8  # images on the sheet


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A labelled image with its prediction and scores."""

    item: LabelledImage
    predicted: Mask
    confusion: torch.Tensor
    scores: Scores
    boundaries: Boundaries


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All images of a split."""

    images: tuple[Evaluated, ...]
    scores: Scores  # of all pixels together
    confusion: torch.Tensor
    boundaries: Boundaries  # mean over the images


def evaluate(
    segmenter: Segmenter, items: Sequence[LabelledImage], config: SegmentConfig
) -> Evaluation:
    """Predict and score labelled images, separately and together."""
    images = []
    for item in items:
        channels: Any = segmenter.probabilities(item.pixels)
        predicted = np.asarray(channels.argmax(0).cpu())
        classes = len(channels)
        matrix = confusion(torch.from_numpy(predicted), torch.from_numpy(item.mask), classes)
        edges = boundaries(predicted, item.mask, classes, config.boundary_tolerance)
        images.append(
            Evaluated(item, predicted, matrix, score(matrix, config.micro_iou_classes), edges)
        )
    total = torch.stack([image.confusion for image in images]).sum(0)
    per_class = zip(*(image.boundaries.f1 for image in images), strict=True)
    mean_edges = Boundaries(
        boundary_f1=mean_defined([image.boundaries.boundary_f1 for image in images]),
        f1=tuple(mean_defined(values) for values in per_class),
    )
    return Evaluation(tuple(images), score(total, config.micro_iou_classes), total, mean_edges)


def collapse_of(
    evaluation: Evaluation, names: Sequence[str], finished: str, micro_iou_classes: MicroIouClasses
) -> str:
    """Why a network is useless, or "": diverged, one class only, or no better than a constant.

    `finished` is the reason why its training ended.
    """
    predicted = [n for n, count in zip(names, evaluation.confusion.sum(0), strict=True) if count]
    if finished.startswith("diverged"):
        return finished
    if len(predicted) == 1:
        return f"it predicts {predicted[0]} everywhere"
    index, constant = constant_score(evaluation.confusion, micro_iou_classes)
    if evaluation.scores.micro_iou <= constant:
        return (
            f"micro IoU {evaluation.scores.micro_iou:.1%}, no better than {names[index]} "
            f"everywhere ({constant:.1%})"
        )
    return ""


def write_best(
    paths: RunPaths,
    segmenter: Segmenter,
    origin: EncoderOrigin,
    config: SegmentConfig,
    data: LabelledSet,
    val: Evaluation,
    state: State,
) -> SegmenterCard:
    """Write `best.safetensors` and its card."""
    tensors = {
        name: value.detach().cpu().contiguous()
        for name, value in segmenter.model.state_dict().items()
    }
    write_atomically(paths.best, save(tensors))
    collapse = collapse_of(val, data.class_names, state.finished, config.micro_iou_classes)
    card = SegmenterCard(
        decoder=config.decoder,
        arch=origin.arch,
        encoder_options=encoder_options(origin.arch),
        init=config.init,
        encoder_sha256=origin.sha256,
        classes=tuple(format_class(entry) for entry in data.classes),
        mean=origin.mean,
        std=origin.std,
        crop_size=config.crop_size,
        orientation=config.orientation,
        micro_iou_classes=config.micro_iou_classes,
        converged=not collapse,
        collapse=collapse,
        metrics={"micro_iou": val.scores.micro_iou, "miou": val.scores.miou},
        sources=origin.sources,
        config=plain_without(config, Mark.PRIVATE),
        versions=versions(),
        sha256=file_sha256(paths.best),
    )
    write_segmenter_card(paths.folder, card)
    return card


def write_results(
    paths: RunPaths,
    config: SegmentConfig,
    data: LabelledSet,
    card: SegmenterCard,
    state: State,
    val: Evaluation,
    test: Evaluation | None,
) -> dict[str, Any]:
    """Write `results.json`, the last file of a run, and return its content."""
    names = data.class_names
    weights = class_weights((item.mask for item in data.train), len(names), config.balance)
    _, constant = constant_score(val.confusion, config.micro_iou_classes)
    content = {
        "schema_version": RESULTS_VERSION,
        "classes": list(names),
        "arch": card.arch,
        "decoder": config.decoder,
        "init": config.init,
        "seed": config.seed,
        "fold": config.fold if config.folds else None,
        "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        "data_sha256": data_sha256(data),
        "balance": config.balance,
        "class_weights": dict(zip(names, weights, strict=True)),
        "micro_iou_classes": config.micro_iou_classes,
        "boundary_tolerance": config.boundary_tolerance,
        "finished": state.finished,
        "converged": card.converged,
        "collapse": card.collapse,
        "best": {
            "epoch": state.best_epoch,
            "stage": state.best_stage,
            "val_micro_iou": state.best_score,
        },
        "epochs": state.epoch,
        "steps": state.step,
        "skipped_steps": state.skipped_steps,
        "minutes": state.minutes,
        "val_constant_micro_iou": constant,  # of the best constant prediction
        "val": _split_results(val, names),
        "test": None if test is None else _split_results(test, names),
    }
    write_json(paths.results, content)
    return read_results(paths.folder)


def write_pictures(paths: RunPaths, evaluation: Evaluation, data: LabelledSet) -> None:
    """Write the predicted masks, a map of agreement per class, and an overview of both."""
    shutil.rmtree(paths.masks, ignore_errors=True)  # of an earlier run
    shutil.rmtree(paths.folder / "maps", ignore_errors=True)
    paths.masks.mkdir(parents=True)
    shown = range(1, len(data.classes))  # with two classes, both maps are equivalent
    rows = []
    for image in evaluation.images:
        item, name = image.item, f"{image.item.name}.png"
        Image.fromarray(image.predicted.astype(np.uint8)).save(paths.masks / name)
        row = [
            Panel(item.pixels, item.name),
            Panel(overlay(item.pixels, item.mask), "label"),
            Panel(
                overlay(item.pixels, image.predicted),
                f"predicted: micro IoU {image.scores.micro_iou:.1%}",
            ),
        ]
        for index in shown:
            folder = paths.folder / "maps" / data.class_names[index].replace("/", "_")
            folder.mkdir(parents=True, exist_ok=True)
            picture = agreement_map(image.predicted, item.mask, index)
            Image.fromarray(picture).save(folder / name)
            row.append(Panel(picture, f"{data.class_names[index]}: {image.scores.iou[index]:.1%}"))
        rows.append(row)
    legend = {data.class_names[index]: class_colour(index) for index in shown} | AGREEMENT
    title = f"micro IoU {evaluation.scores.micro_iou:.1%}, mIoU {evaluation.scores.miou:.1%}"
    contact_sheet(rows[:SHOWN], legend, title).save(paths.folder / "scores.png")


def _split_results(evaluation: Evaluation, names: Sequence[str]) -> dict[str, Any]:
    scores = _named(evaluation.scores, evaluation.boundaries, names)
    errors = [
        abs(error) for image in evaluation.images for error in image.scores.phase_fraction_error
    ]
    return scores | {
        "mean_phase_fraction_error": sum(errors) / len(errors),  # absolute, per image and class
        "mean_image_micro_iou": mean_defined([i.scores.micro_iou for i in evaluation.images]),
        "mean_image_miou": mean_defined([i.scores.miou for i in evaluation.images]),
        "confusion": evaluation.confusion.tolist(),
        "images": [
            {"name": image.item.name, **_named(image.scores, image.boundaries, names)}
            for image in evaluation.images
        ],
    }


def _named(scores: Scores, edges: Boundaries, names: Sequence[str]) -> dict[str, Any]:
    values = asdict(scores) | {
        "boundary_f1": edges.boundary_f1,
        "boundary_f1_per_class": edges.f1,
    }
    return {
        key: dict(zip(names, value, strict=True)) if isinstance(value, tuple) else value
        for key, value in values.items()
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that change a network's results."""
    packages = ("micrograph-pretrain", "torch", "torchvision", "segmentation-models-pytorch")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
