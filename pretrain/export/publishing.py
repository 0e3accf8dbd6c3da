"""Publish a run: collect the files to publish and add them to a registry."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from micrograph.cli import UserError, console, warn
from pretrain.cards.encoder_card import (
    CARD_NAME,
    ENCODER_NAME,
    UNPUBLISHED,
    Card,
    read_card,
    write_card,
)
from pretrain.cards.entry_names import EntryName, check_tag, is_name, new_name
from pretrain.cards.segmenter_card import SegmenterCard, write_segmenter_card
from pretrain.registry.segmenter_files import TRAINED_ON, copy_segmenter, is_segmenter
from pretrain.registry.site.contents import find_equal
from pretrain.registry.site.licences import publish_blockers
from pretrain.registry.site.readme import model_card
from pretrain.registry.storage.entry import README_NAME, create_manifest
from pretrain.registry.storage.folder_store import HUB_PREFIX, open_registry
from pretrain.registry.storage.kinds import AnyCard
from pretrain.runs.status import read_status
from shards.shard_format.schema import file_sha256

_TIMM_FOLDER = "timm"  # pretrain.export.timm_folder, which needs torch, writes it


class NotConverged(UserError):
    """The training failed."""


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
        done = "already published" if same else "published"
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

    Private settings are in no card (`micrograph.setting_marks`).
    """
    public = card.init in ("random", "imagenet") or is_name(card.init)
    init = card.init if public else UNPUBLISHED
    config = dict(card.config)
    return {"init": init, "config": config | ({"init": init} if "init" in config else {})}


def _export(run_dir: Path, folder: Path) -> Card:
    """Copy or export an encoder to `folder`."""
    if not (run_dir / CARD_NAME).is_file():
        from pretrain.export.encoder import export_encoder

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
        problem, advice = f"collapsed: {card.collapse}", "a lower --lr, more steps"
    else:
        problem = "did not converge: it is at chance level or predicts one class"
        advice = "a lower --lr"
    return f"{problem}; train again ({advice}), or publish it with --not-converged"
