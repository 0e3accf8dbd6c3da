"""Export the encoder of a run: safetensors, card, timm folder."""

import json
import math
import platform
import re
import shutil
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from micrograph.cli import UserError
from micrograph.setting_marks import Mark, plain_without
from pretrain.cards.archs import find_arch
from pretrain.cards.encoder_card import CARD_NAME, ENCODER_NAME, Card, write_card
from pretrain.export.timm_folder import TIMM_FOLDER, TimmExport, write_timm_folder
from pretrain.network.classifier import Classifier, bare_encoder, imagenet_tag
from pretrain.network.timm_models import encoder_options
from pretrain.network.weights import StateDict, load_strictly
from pretrain.outputs.run_folder import BEST_METADATA, read_run, read_sources
from pretrain.training.metrics import class_accuracy
from shards.shard_format.schema import file_sha256

_ENCODER = "encoder."  # prefix of the encoder's tensors in the classifier
_DALI = re.compile(r"nvidia-dali(-nightly|-weekly)?-cuda\d+")  # its wheels


def export_encoder(run_dir: Path, out: Path) -> Card:
    """Write the best epoch's encoder and its card to `out`; an earlier export there is replaced.

    Raises `UserError` when the run has no finished epoch, or `out` holds something else.
    """
    config, manifest, paths = read_run(run_dir)
    state, best = _read_best(paths.best)
    if out.exists() and not (out / CARD_NAME).exists():
        raise UserError(f"{out} exists and is not an export; choose another --out")
    model = Classifier(config.arch, bare_encoder(config.arch), len(manifest.classes), dropout=0.0)
    load_strictly(model, state, str(paths.best))
    encoder_state = {
        name.removeprefix(_ENCODER): tensor
        for name, tensor in state.items()
        if name.startswith(_ENCODER)
    }
    sources = read_sources(manifest, paths)

    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file(encoder_state, partial / ENCODER_NAME, metadata={"arch": config.arch})
        timm_export = TimmExport(
            arch=config.arch,
            classes=manifest.classes,
            mean=manifest.mean,
            std=manifest.std,
            image_size=config.image_size,
            sources=sources,
        )
        timm_difference = write_timm_folder(partial / TIMM_FOLDER, model, timm_export)
        spec = find_arch(config.arch)
        card = Card(
            arch=config.arch,
            timm_name=spec.timm_name,
            timm_features=spec.timm_features,
            timm_difference=timm_difference if math.isfinite(timm_difference) else None,
            encoder_options=encoder_options(config.arch),
            init=config.init,
            init_tag=imagenet_tag(config.arch) if config.init == "imagenet" else "",
            classes=manifest.classes,
            channels=manifest.channels,
            mean=manifest.mean,
            std=manifest.std,
            image_size=config.image_size,
            converged=best["converged"],
            metrics=best["scores"] | {"epoch": best["epoch"]},
            class_accuracy=class_accuracy(best["confusion"]),
            corpus_hash=manifest.corpus_hash,
            sources=sources,
            config=plain_without(config, Mark.PRIVATE),
            versions=_versions(),
            sha256=file_sha256(partial / ENCODER_NAME),
        )
        write_card(partial, card)
        shutil.rmtree(out, ignore_errors=True)
        partial.rename(out)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or out}: {error.strerror or error}"
        ) from error
    return card


def _read_best(path: Path) -> tuple[StateDict, dict[str, Any]]:
    if not path.exists():
        raise UserError(f"{path.parent} has no finished epoch yet; train on, then export")
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, json.loads(file.metadata()[BEST_METADATA])
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def _versions() -> dict[str, str]:
    packages = ("micrograph-pretrain", "torch", "segmentation-models-pytorch", "timm")
    known = {"python": platform.python_version()} | {name: version(name) for name in packages}
    return known | _dali_version()


def _dali_version() -> dict[str, str]:
    """DALI under the name of its wheel, one for each CUDA; empty without: a CPU needs none."""
    return {
        found.name: found.version for found in distributions() if _DALI.fullmatch(found.name or "")
    }
