"""A training run becomes an encoder that others load.

python -m pretrain.export RUN_DIR [--out DIR]

encoder.safetensors    for smp, strictly: smp.Unet(arch).encoder.load_state_dict(load_file(...))
card.json              what its user must know (pretrain.card)
timm/                  for timm (pretrain.timm_export)
"""

import json
import math
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from micrograph.field_marks import Mark, plain_without
from pretrain.archs import find_arch
from pretrain.card import (
    CARD_NAME,
    ENCODER_NAME,
    SCHEMA_VERSION,
    Card,
    write_card,
)
from pretrain.metrics import class_accuracy
from pretrain.model import Classifier, bare_encoder, imagenet_tag
from pretrain.run_folder import BEST_METADATA, read_run, read_sources
from pretrain.timm_export import TIMM_FOLDER, TimmExport, write_timm_folder
from pretrain.timm_models import encoder_options
from pretrain.weights import StateDict, load_strictly
from shards.cli import UserError, console, program, warn
from shards.schema import file_sha256
from shards.settings import Positional, load_config

_ENCODER = "encoder."  # prefix of the encoder's tensors in the classifier


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export the encoder of a training run's best epoch."""

    run_dir: Annotated[Path, Positional, "run folder"]
    out: Annotated[Path | None, "folder to write [RUN_DIR/export]"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(ExportConfig, argv)
    out = config.out or config.run_dir / "export"
    card = export_encoder(config.run_dir, out)
    if not card.converged:
        warn("this run did not converge: it guesses, or answers one class only; do not publish it")
    console.print(f"{card.arch}, top-1 {card.metrics['top1']:.2%} on {len(card.classes)} classes")
    print(out)


def export_encoder(run_dir: Path, out: Path) -> Card:
    """Write the best epoch's encoder and its card to `out`; an earlier export there is replaced.

    Raises `UserError` when the run has no finished epoch, or `out` holds something else.
    """
    config, manifest, paths = read_run(run_dir)
    state, best = _read_best(paths.best)
    if out.exists() and not (out / CARD_NAME).exists():
        raise UserError(f"{out} exists and is no export; choose another --out")
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
            schema_version=SCHEMA_VERSION,
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
    packages = (
        "micrograph-pretrain",
        "torch",
        "segmentation-models-pytorch",
        "timm",
        "nvidia-dali-cuda130",
    )
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


if __name__ == "__main__":
    main()
