"""An encoder or a segmenter goes to a registry: a name for others, a version that stays.

python -m pretrain.publish RUN_DIR --tag TAG --registry URL

URL: a folder, s3://bucket/path, what else fsspec knows, or hf://ORGANISATION. Any number of jobs
may publish at once. A pre-training's best epoch is exported first; a finished export, or the folder
of a finished downstream.segment or downstream.adapt, goes as it is. What is there already, byte for
byte, is not published twice: the answer is its version.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.card import CARD_NAME, ENCODER_NAME, UNPUBLISHED, Card, read_card, write_card
from pretrain.registry.contents import find_same
from pretrain.registry.kinds import AnyCard, card_decoder
from pretrain.registry.names import EntryName, check_tag, is_name, new_name
from pretrain.registry.origin import openness
from pretrain.registry.pull import REGISTRY_VARIABLE, registry_url
from pretrain.registry.readme import model_card
from pretrain.registry.sealed import README_NAME, seal_folder
from pretrain.registry.stores import HUB_PREFIX, open_registry
from pretrain.segmenter_card import SegmenterCard, write_segmenter_card
from pretrain.segmenter_entry import TRAINED_ON, copy_segmenter, is_segmenter
from pretrain.status import read_status
from shards.cli import ArgumentParser, UserError, console, program, warn
from shards.schema import file_sha256

_TIMM_FOLDER = "timm"  # pretrain.timm_export, which needs torch, writes it


class NotConverged(UserError):
    """The training failed."""


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        description="Publish an encoder or a segmenter to a registry, as a new version.",
    )
    parser.add_argument("run_dir", type=Path, help="folder of a finished run, or of an export")
    parser.add_argument(
        "--tag",
        required=True,
        help="of a-z, 0-9, _, -: the name is ARCH.TAG, of a segmenter DECODER-ARCH.TAG",
    )
    parser.add_argument(
        "--registry",
        help=f"a folder, s3://…, what fsspec knows, or hf://ORGANISATION [${REGISTRY_VARIABLE}]",
    )
    parser.add_argument(
        "--not-converged",
        action="store_true",
        help="publish even a training that failed; every card then says so",
    )
    parser.add_argument(
        "--only-converged",
        action="store_true",
        help="leave out a training that failed, and call it no error: for what follows many",
    )
    parser.add_argument("--public", action="store_true", help="on the hub: for everybody [private]")
    parser.add_argument(
        "--licence",
        metavar="ID",
        help="of the images that a segmenter was trained on, as CC-BY-4.0: --public needs it",
    )
    arguments = parser.parse_args(argv)
    if arguments.only_converged and arguments.not_converged:
        raise UserError("--only-converged and --not-converged do not go together")
    url = registry_url(arguments.registry)
    try:
        name = publish(
            arguments.run_dir,
            arguments.tag,
            url,
            not_converged=arguments.not_converged,
            public=arguments.public,
            licence=arguments.licence,
        )
    except NotConverged as reason:
        if not arguments.only_converged:
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

    `licence` is that of a segmenter's own images. What is there already, with the same files and
    card, is not published again, and keeps its version: so a job that was killed when it had
    published may do it again.

    Raises `UserError` when it did not converge (unless `not_converged`), when it may not be
    `public`, and when the registry cannot be written.
    """
    if public and not registry.startswith(HUB_PREFIX):
        raise UserError("--public is for the hub; who reads another registry, its owner decides")
    check_tag(tag)
    with tempfile.TemporaryDirectory(prefix="publish-") as scratch:
        folder = Path(scratch) / "entry"
        card = _collect(run_dir, folder, licence)
        name = new_name(card.arch, tag, card_decoder(card))
        _check(card, name, not_converged=not_converged, public=public)
        (folder / README_NAME).write_text(model_card(card, name), encoding="utf-8")
        seal = seal_folder(folder, name)
        store = open_registry(registry, public=public)
        store.check_visibility(name)
        same = find_same(store, seal, card, name)
        told = "is there already" if same else "published"
        name = same or name.at(store.add(folder, seal, name))
        console.print(f"{told} in {registry}; use it by its name:", markup=False)
        return name


def _collect(run_dir: Path, folder: Path, licence: str | None) -> AnyCard:
    """Bring what is to be published, and nothing else, to `folder`; returns its card."""
    if is_segmenter(run_dir):
        segmenter = copy_segmenter(run_dir, folder, licence)
        segmenter = replace(segmenter, **_public_init(segmenter))
        write_segmenter_card(folder, segmenter)
        return segmenter
    if licence is not None:
        raise UserError("--licence is for segmenters; that of a corpus stands in its recipe")
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
    """Bring an encoder to `folder`."""
    if not (run_dir / CARD_NAME).is_file():
        from pretrain.export import export_encoder  # torch, which a finished export needs not

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
    reasons = openness(card)
    if any(source.name == TRAINED_ON and not source.licence for source in card.sources):
        reasons.append("--licence states that of the training set")
    if public and reasons:
        raise UserError(f"{name} may not be public: {'; '.join(reasons)}; publish without --public")
    if reasons:
        warn(f"keep {name} private: {'; '.join(reasons)}")


def _failure(card: AnyCard) -> str:
    if isinstance(card, SegmenterCard):
        return (
            f"collapsed: {card.collapse}; train again (a lower --lr, more steps), or publish it as "
            "what it is with --not-converged"
        )
    return (
        "did not converge: it guesses, or answers one class only; train again (a lower --lr, say), "
        "or publish it as what it is with --not-converged"
    )


if __name__ == "__main__":
    main()
