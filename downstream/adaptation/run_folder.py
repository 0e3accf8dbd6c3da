"""The files of an adaptation run: data, weights, masks and results.

data.json              names of the training images, and a hash of all images
checkpoints/           removed at the end of the run
best.safetensors       the last weights, or the teacher's; never chosen by a score
card.json              facts needed to use the weights
masks/DOMAIN/NAME.png  predicted class indices at native size
results.json           all scores; written last
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from safetensors.torch import save

from downstream.adaptation.build import RunData, decoder_options
from downstream.adaptation.config import AdaptConfig
from downstream.adaptation.training import State, Trainer
from downstream.domains.evaluate import ScoredImage, domain_results, total_confusion
from downstream.domains.study import SOURCE, DomainStudy
from downstream.finetune.results import versions
from downstream.labels.classes import format_class
from downstream.network.segmenter import EncoderOrigin
from downstream.scoring.metrics import constant_score, score
from micrograph.atomic import write_atomically, write_json
from micrograph.cli import UserError
from micrograph.setting_marks import Mark, plain_without
from pretrain.cards.segmenter_card import SegmenterCard, write_segmenter_card
from pretrain.network.timm_models import encoder_options
from pretrain.runs.run_folder import RESULTS_VERSION, RunPaths, read_data, read_results
from shards.shard_format.schema import file_sha256

Split = Literal["val", "test"]


@dataclass(frozen=True, slots=True)
class ScoredDomain:
    """The predictions of the kept network on a domain."""

    split: Split
    adapted: bool  # whether its images were used in training, with or without labels
    images: tuple[ScoredImage, ...]


def check_same_study(paths: RunPaths, study: DomainStudy) -> None:
    """Raise `UserError` if the study's settings differ from those of an earlier run in the folder.

    `check_same_run` compares the run's own settings and the images.
    """
    before = read_data(paths.folder) if paths.data.exists() else {}
    for name, now in _study_settings(study).items():
        if name in before and before[name] != now:
            raise UserError(
                f"{paths.folder} holds a run with {name} {before[name]}, but study {study.name} "
                f"now has {now}; choose another --run-dir, or delete that folder"
            )


def describe(paths: RunPaths, data: RunData) -> None:
    """Write `data.json`."""
    description = {
        "sha256": data_sha256(data),
        "study": data.study.name,
        **_study_settings(data.study),
        "splits": {
            "train": [image.name for image in data.train],
            "val": [image.name for image in data.val],
            "target": [image.name for image in data.target],
        },
    }
    write_json(paths.data, description)


def collapse_of(state: State, domains: Mapping[str, ScoredDomain], names: Sequence[str]) -> str:
    """Why a network is useless, or "": diverged, one class only, or no better than a constant.

    No labels of targets are used.
    """
    if state.finished.startswith("diverged"):
        return state.finished
    for domain, scored in domains.items():
        found = {index for image in scored.images for index, f in enumerate(image.fraction) if f}
        if len(found) == 1 and (scored.adapted or domain == SOURCE):
            return f"it predicts {names[found.pop()]} everywhere on {domain}"
    matrix = total_confusion(domains[SOURCE].images)
    assert matrix is not None
    index, constant = constant_score(matrix, "all")
    if (reached := score(matrix).micro_iou) <= constant:
        return (
            f"micro IoU {reached:.1%} on the source, no better than {names[index]} everywhere "
            f"({constant:.1%})"
        )
    return ""


def write_kept(
    paths: RunPaths,
    weights: Mapping[str, torch.Tensor],
    origin: EncoderOrigin,
    config: AdaptConfig,
    study: DomainStudy,
    domains: Mapping[str, ScoredDomain],
    collapse: str,
) -> SegmenterCard:
    """Write `best.safetensors` and its card."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_atomically(paths.best, save(tensors))
    matrix = total_confusion(domains[SOURCE].images)
    assert matrix is not None
    scores = score(matrix)
    card = SegmenterCard(
        decoder=config.network,
        decoder_options=decoder_options(config),
        arch=origin.arch,
        encoder_options=encoder_options(origin.arch),
        init=config.init,
        encoder_sha256=origin.sha256,
        classes=tuple(format_class(entry) for entry in study.classes),
        mean=origin.mean,
        std=origin.std,
        crop_size=study.tile_core + 2 * study.context_margin,
        orientation=study.orientation,
        micro_iou_classes="all",
        converged=not collapse,
        collapse=collapse,
        metrics={"micro_iou": scores.micro_iou, "miou": scores.miou},
        sources=origin.sources,
        config=plain_without(config, Mark.PRIVATE),
        versions=versions(),
        sha256=file_sha256(paths.best),
        preparation=_preparation(config, study),
    )
    write_segmenter_card(paths.folder, card)
    return card


def write_masks(paths: RunPaths, domains: Mapping[str, ScoredDomain]) -> None:
    """Write the predicted class indices."""
    shutil.rmtree(paths.masks, ignore_errors=True)  # of an earlier run
    for name, domain in domains.items():
        folder = paths.masks / name
        folder.mkdir(parents=True)
        for image in domain.images:
            Image.fromarray(image.predicted).save(folder / f"{image.name}.png")


def write_results(
    paths: RunPaths,
    config: AdaptConfig,
    data: RunData,
    card: SegmenterCard,
    trainer: Trainer,
    state: State,
    domains: Mapping[str, ScoredDomain],
) -> dict[str, Any]:
    """Write `results.json`, the last file of a run, and return what it holds."""
    names = data.study.class_names
    content = {
        "schema_version": RESULTS_VERSION,
        "run_id": run_id(paths, config),
        "study": data.study.name,
        "classes": list(names),
        "method": config.method,
        "teacher": config.parts.teacher,
        "style": config.style,
        "target": config.target if config.uses_target else None,  # null: the run used no target
        "target_labels": config.parts.target_labels,  # True: a reference, no adaptation
        "fold": config.fold,
        "folds": config.folds or data.study.folds,
        "seed": config.seed,
        "network": config.network,
        "arch": card.arch,
        "init": config.init,
        "bn": config.bn,
        "steps": state.step,
        "finished": state.finished,
        "converged": card.converged,
        "collapse": card.collapse,
        "kept": "teacher" if config.parts.teacher else "last",
        "images": {"train": len(data.train), "val": len(data.val), "target": len(data.target)},
        "domains": {
            name: {"split": domain.split, "adapted": domain.adapted}
            | domain_results(domain.images, names)
            for name, domain in domains.items()
        },
        "skipped_steps": state.skipped_steps,
        "seconds_per_step": state.seconds / max(1, state.step),
        "monitor": trainer.monitor.summary(),
    }
    write_json(paths.results, content)
    return read_results(paths.folder)


def run_id(paths: RunPaths, config: AdaptConfig) -> str:
    """Identify a run by its settings and data, for example as reference of RDT."""
    settings = plain_without(config, Mark.FREE_ON_RESUME)
    data = {k: v for k, v in read_data(paths.folder).items() if k != "splits"}
    text = json.dumps([settings, data], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _study_settings(study: DomainStudy) -> dict[str, Any]:
    """What training depends on in a study, beside its images."""
    return {
        "classes": list(study.class_names),
        "orientation": study.orientation,
        "tile_core": study.tile_core,
        "context_margin": study.context_margin,
    }


def _preparation(config: AdaptConfig, study: DomainStudy) -> dict[str, Any]:
    """How the images of the kept network's domain were prepared; empty if they were not."""
    domain = study.source if config.target is None else study.target(config.target)
    done = {
        "scale": study.working_scale(domain),
        "invert": domain.invert,
        "crop_bar": domain.crop_bar,
    }
    return {} if done == {"scale": 1.0, "invert": False, "crop_bar": False} else done


def data_sha256(data: RunData) -> str:
    """A hash of all training and validation images and masks; test images are excluded."""
    digest = hashlib.sha256()
    for split in ("train", "val", "target"):
        for image in getattr(data, split):
            digest.update(f"{split} {image.name} {image.pixels.shape}".encode())
            digest.update(image.pixels.tobytes())
            if image.mask is not None:
                digest.update(image.mask.tobytes())
    return digest.hexdigest()
