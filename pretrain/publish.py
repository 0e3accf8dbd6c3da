"""Publish an encoder or a segmenter to a registry, as a version that never changes.

python -m pretrain.publish RUN_DIR --tag TAG --registry URL

URL: a folder, s3://bucket/path, what else fsspec knows, or hf://ORGANISATION. Any number of jobs
may publish at once. A pre-training's best epoch is exported first; an export, or the folder of a
finished segmenter, is copied. Equal content is published once: the answer is its version.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pretrain.card import CARD_NAME, ENCODER_NAME, UNPUBLISHED, Card, read_card, write_card
from pretrain.registry.contents import find_equal
from pretrain.registry.kinds import AnyCard
from pretrain.registry.names import EntryName, check_tag, is_name, new_name
from pretrain.registry.origin import publish_blockers
from pretrain.registry.pull import REGISTRY_VARIABLE, registry_url
from pretrain.registry.readme import model_card
from pretrain.registry.sealed import README_NAME, create_manifest
from pretrain.registry.stores import HUB_PREFIX, open_registry
from pretrain.segmenter_card import SegmenterCard, write_segmenter_card
from pretrain.segmenter_entry import TRAINED_ON, copy_segmenter, is_segmenter
from pretrain.status import read_status
from shards.cli import UserError, console, program, warn
from shards.schema import file_sha256
from shards.settings import Positional, load_config

_TIMM_FOLDER = "timm"  # pretrain.timm_export, which needs torch, writes it


class NotConverged(UserError):
    """The training failed."""


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Publish an encoder or a segmenter to a registry, as a new version."""

    run_dir: Annotated[Path, Positional, "folder of a finished run, or of an export"]
    tag: Annotated[str, "of a-z, 0-9, _, -: the name is ARCH.TAG, for a segmenter DECODER-ARCH.TAG"]
    registry: Annotated[
        str | None,
        f"a folder, s3://…, what fsspec knows, or hf://ORGANISATION [${REGISTRY_VARIABLE}]",
    ] = None
    not_converged: Annotated[
        bool, "publish even a training that failed; its card and every list say so"
    ] = False
    only_converged: Annotated[
        bool, "skip a training that failed without an error, as after each run of a grid"
    ] = False
    public: Annotated[bool, "on the hub: visible to everybody"] = False
    licence: Annotated[
        str | None, "of a segmenter's training images, as CC-BY-4.0; --public needs it"
    ] = None

    def __post_init__(self) -> None:
        if self.only_converged and self.not_converged:
            raise ValueError("--only-converged and --not-converged exclude each other")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(PublishConfig, argv)
    try:
        name = publish(
            config.run_dir,
            config.tag,
            registry_url(config.registry),
            not_converged=config.not_converged,
            public=config.public,
            licence=config.licence,
        )
    except NotConverged as reason:
        if not config.only_converged:
            raise
        warn(f"{reason}; left out")
        return
    print(name)


def publish(
    run_dir: Path,
    tag: str,
    registry: str,
    *,
    not_converged: bool = False,
    public: bool = False,
    licence: str | None = None,
) -> EntryName:
    """Publish the encoder or segmenter of a run, or of an export, as the next version of its name.

    `licence` is that of a segmenter's own images. An entry that exists, with the same files and
    card, keeps its version, so that a job may publish again after a kill.

    Raises `UserError` when it did not converge (unless `not_converged`), when it must not be
    `public`, and when the registry cannot be written.
    """
    if public and not registry.startswith(HUB_PREFIX):
        raise UserError("--public is for the hub; elsewhere the owner decides who reads it")
    check_tag(tag)
    with tempfile.TemporaryDirectory(prefix="publish-") as scratch:
        folder = Path(scratch) / "entry"
        card = _collect(run_dir, folder, licence)
        name = new_name(card.arch, tag, card.decoder)
        _check(card, name, not_converged=not_converged, public=public)
        (folder / README_NAME).write_text(model_card(card, name), encoding="utf-8")
        manifest = create_manifest(folder, name)
        store = open_registry(registry, public=public)
        store.check_visibility(name)
        same = find_equal(store, manifest, card, name)
        done = "is there already" if same else "published"
        name = same or name.at(store.add(folder, manifest, name))
        console.print(f"{done} in {registry}; use it by its name:", markup=False)
        return name


def _collect(run_dir: Path, folder: Path, licence: str | None) -> AnyCard:
    """Copy what is to be published, and nothing else, to `folder`; returns its card."""
    if is_segmenter(run_dir):
        segmenter = copy_segmenter(run_dir, folder, licence)
        segmenter = replace(segmenter, **_public_init(segmenter))
        write_segmenter_card(folder, segmenter)
        return segmenter
    if licence is not None:
        raise UserError("--licence is for segmenters; the licence of a corpus stands in its recipe")
    encoder = _export(run_dir, folder)
    encoder = replace(encoder, **_public_init(encoder))
    write_card(folder, encoder)
    return encoder


def _public_init(card: AnyCard) -> dict[str, Any]:
    """What changes in a card that others read: an encoder that began from a path does not name it.

    Private settings are in no card (`micrograph.field_marks`).
    """
    public = card.init in ("random", "imagenet") or is_name(card.init)
    init = card.init if public else UNPUBLISHED
    config = dict(card.config)
    return {"init": init, "config": config | ({"init": init} if "init" in config else {})}


def _export(run_dir: Path, folder: Path) -> Card:
    """Copy or export an encoder to `folder`."""
    if not (run_dir / CARD_NAME).is_file():
        from pretrain.export import export_encoder  # needs torch, which an existing export does not

        status = read_status(run_dir)
        if status is not None and status.state != "finished":
            warn(
                f"{run_dir} is not finished ({status.state}, epoch {status.epoch} of "
                f"{status.epochs}); its best epoch so far is published, and stays that version"
            )
        return export_encoder(run_dir, folder)
    card = read_card(run_dir)
    folder.mkdir()
    for file in (CARD_NAME, ENCODER_NAME):
        if not (run_dir / file).is_file():
            raise UserError(f"{run_dir} has a {CARD_NAME} but no {file}; export it again")
        shutil.copyfile(run_dir / file, folder / file)
    if (run_dir / _TIMM_FOLDER).is_dir():
        shutil.copytree(run_dir / _TIMM_FOLDER, folder / _TIMM_FOLDER)
    if file_sha256(folder / ENCODER_NAME) != card.sha256:
        raise UserError(f"{run_dir / ENCODER_NAME} is not what its card describes; export it again")
    return card


def _check(card: AnyCard, name: EntryName, *, not_converged: bool, public: bool) -> None:
    if not card.converged:
        if not not_converged:
            raise NotConverged(f"{name} {_failure(card)}")
        warn(f"{name} did not converge; its card and every list say so")
    reasons = publish_blockers(card)
    if any(source.name == TRAINED_ON and not source.licence for source in card.sources):
        reasons.append("--licence states that of the training set")
    if public and reasons:
        raise UserError(
            f"{name} must not be public: {'; '.join(reasons)}; publish without --public"
        )
    if reasons:
        warn(f"keep {name} private: {'; '.join(reasons)}")


def _failure(card: AnyCard) -> str:
    if isinstance(card, SegmenterCard):
        return (
            f"collapsed: {card.collapse}; train again (a lower --lr, more steps), or publish it as "
            "what it is with --not-converged"
        )
    return (
        "did not converge: it is at chance level or predicts one class; train again (a lower "
        "--lr), or publish it as what it is with --not-converged"
    )


if __name__ == "__main__":
    main()
