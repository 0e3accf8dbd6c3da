"""How well a registry's encoders segment a few labelled images: scores to stand beside them.

    python -m pretrain.registry score [NAME ...] --data DIR [--config RECIPE] [--record LABEL]

The linear probe of downstream.recommend, with fixed seed and folds; the score is the mean IoU over
classes. It is measured, not estimated: of the fast estimates of transfer (LEEP, LogME, GBC) none
ranks reliably over data sets (Agostinelli et al., ECCV 2022). Random weights of the same
architecture show what training added. `downstream.recommend` says which differences mean something.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from downstream.config import SegmentConfig
from downstream.probe.candidates import Candidate, random_twin
from downstream.probe.folds import FoldedSet, read_folds
from downstream.probe.linear import draw_samples, probe
from downstream.seg.metrics import Scores, mean_defined
from pretrain.card import Card, read_card
from pretrain.registry.contents import encoders, find_entries
from pretrain.registry.names import EntryName
from pretrain.registry.pull import pinned_name, pull, registry_url
from pretrain.registry.scores import (
    PROBE,
    SCHEMA_VERSION,
    TransferScore,
    attach_score,
    check_label,
)
from pretrain.registry.stores import HUB_PREFIX, Registry, open_registry
from shards.cli import ArgumentParser, UserError, console, program, progress, warn
from shards.settings import build_config, read_recipe

_SEED = 0  # of the pixels drawn and of random weights: one probe for all


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        prog="python -m pretrain.registry score",
        description="Rank encoders by how well they segment a few labelled images, frozen.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="[the newest of all]")
    parser.add_argument("--data", type=Path, required=True, help="folder of images and masks")
    parser.add_argument("--config", type=Path, metavar="FILE", help="recipe: splits and classes")
    parser.add_argument("--classes", nargs="+", metavar="NAME=VALUE", help="what values mean")
    parser.add_argument("--registry", metavar="URL")
    parser.add_argument(
        "--record",
        metavar="LABEL",
        help="put the scores beside the entries, where every list shows them under this name",
    )
    arguments = parser.parse_args(argv)
    store = open_registry(registry_url(arguments.registry))
    if arguments.record is not None:
        check_label(arguments.record)
        if store.url.startswith(HUB_PREFIX):
            raise UserError("--record needs a registry in files: on the hub a version is a commit")
    names = arguments.names
    if not names:
        found, faults = find_entries(store, every_version=False)
        for fault in faults:
            warn(fault)
        names = [str(entry.name) for entry, _ in encoders(found)]
    if not names:
        raise UserError(f"{store.url} holds no encoder to score")
    values = read_recipe(arguments.config) if arguments.config else {}
    values |= {"data": arguments.data}
    values |= {"classes": arguments.classes} if arguments.classes else {}
    data = read_folds(build_config(SegmentConfig, values))
    ranked = rank(store, [pinned_name(store, name) for name in names], data)
    _print(ranked)
    if arguments.record is not None:
        for name, score in ranked:
            attach_score(store, name, replace(score, label=arguments.record))
        console.print(f"recorded beside {len(ranked)} encoders as {arguments.record}")


Ranked = list[tuple[EntryName, TransferScore]]


def rank(store: Registry, names: Sequence[EntryName], data: FoldedSet) -> Ranked:
    """The score of each encoder, best first; one that cannot be scored is told and left out.

    Raises `UserError` when none can.
    """
    samples = draw_samples(data, _SEED)
    untrained: dict[str, list[Scores]] = {}
    found = []
    for name in progress(names, "score"):
        try:
            folder = pull(str(name), store.url)
            card = read_card(folder)
            candidate = Candidate(str(name), card.arch, str(folder), card.mean, card.std)
            scores = probe(candidate, data, samples, "all", _SEED)
            if card.arch not in untrained:
                twin = random_twin(candidate)
                untrained[card.arch] = probe(twin, data, samples, "all", _SEED)
        except UserError as error:
            warn(f"{name} is not scored: {error}")
            continue
        found.append((name, _score(card, scores, untrained[card.arch], data)))
    if not found:
        raise UserError("none of the encoders could be scored")
    return sorted(found, key=lambda pair: -pair[1].miou)


def _score(
    card: Card, scores: Sequence[Scores], untrained: Sequence[Scores], data: FoldedSet
) -> TransferScore:
    ious = {
        entry.name: mean_defined([fold.iou[index] for fold in scores])
        for index, entry in enumerate(data.classes)
    }
    return TransferScore(
        schema_version=SCHEMA_VERSION,
        probe=PROBE,
        label="",
        encoder_sha256=card.sha256,
        data_sha256=_data_sha256(data),
        images=len(data.items),
        folds=len(data.folds),
        miou=mean_defined([fold.miou for fold in scores]),
        random_miou=mean_defined([fold.miou for fold in untrained]),
        iou={label: None if math.isnan(iou) else iou for label, iou in ious.items()},
        scored=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _data_sha256(data: FoldedSet) -> str:
    """Of all pixels, labels and folds: only scores of the same compare."""
    digest = sha256(repr(data.folds).encode())
    for item in data.items:
        digest.update(f"{item.name} {item.pixels.shape}".encode())
        digest.update(item.pixels.tobytes())
        digest.update(item.mask.astype(np.uint8).tobytes())
    return digest.hexdigest()


def _print(ranked: Ranked) -> None:
    table = Table("name", box=None, padding=(0, 2, 0, 0))
    for heading in ("mIoU", "random weights", *ranked[0][1].iou):
        table.add_column(escape(heading), justify="right")
    for name, score in ranked:
        shares = (score.miou, score.random_miou, *score.iou.values())
        table.add_row(str(name), *("-" if share is None else f"{share:.1%}" for share in shares))
    Console(highlight=False).print(table)
    first = ranked[0][1]
    console.print(f"linear probe, frozen encoders; {first.images} images in {first.folds} folds")


if __name__ == "__main__":
    main()
