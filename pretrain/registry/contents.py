"""What a registry holds, as far as the small files of its entries tell. Imports no torch."""

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from pretrain.card import CARD_NAME, Card
from pretrain.registry.kinds import AnyCard
from pretrain.registry.names import EntryName, parse_name
from pretrain.registry.scores import ScoredData, TransferScore, read_scores
from pretrain.registry.sealed import (
    README_NAME,
    SEAL_NAME,
    Seal,
    SealedFile,
    digest,
    parse_seal,
    parse_sealed_card,
)
from pretrain.registry.stores import Registry
from pretrain.segmenter_card import SegmenterCard
from shards.cli import UserError

_READS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Found:
    """One version in a registry, as far as its small files tell."""

    name: EntryName
    seal: Seal
    digest: str
    card: AnyCard
    scores: tuple[TransferScore, ...] = ()  # of encoders


def encoders(found: Iterable[Found]) -> list[tuple[Found, Card]]:
    """Those that are encoders, the best first; what did not converge stands last."""
    pairs = [(entry, entry.card) for entry in found if isinstance(entry.card, Card)]
    return sorted(pairs, key=lambda p: (not p[1].converged, -p[1].metrics.get("top1", 0.0)))


def segmenters(found: Iterable[Found]) -> list[tuple[Found, SegmenterCard]]:
    """Those that are segmenters, the best first; what collapsed stands last."""
    pairs = [(entry, entry.card) for entry in found if isinstance(entry.card, SegmenterCard)]
    return sorted(pairs, key=lambda p: (not p[1].converged, -(p[1].metrics.get("micro_iou") or 0)))


def find_entries(store: Registry, *, every_version: bool) -> tuple[list[Found], list[str]]:
    """Every entry, and what is wrong with those that cannot be read."""
    names = [
        parse_name(name).at(version)
        for name, versions in store.entries().items()
        for version in (versions if every_version else versions[-1:])
    ]

    def read(name: EntryName) -> Found | str:
        try:
            return read_entry(store, name)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        read_all = list(pool.map(read, names))
    found = [entry for entry in read_all if isinstance(entry, Found)]
    return found, [fault for fault in read_all if isinstance(fault, str)]


def find_same(store: Registry, seal: Seal, card: AnyCard, name: EntryName) -> EntryName | None:
    """The version of `name` that has these very files and this card already.

    What was measured anew for the card may differ, and the README, which follows from it.
    """
    for version in store.versions(name):
        try:
            found = read_entry(store, name.at(version))
        except UserError:
            continue  # damaged: it has not what its seal says
        if _weights(found.seal) == _weights(seal) and _facts(found.card) == _facts(card):
            return found.name
    return None


def _weights(seal: Seal) -> dict[str, SealedFile]:
    return {path: file for path, file in seal.files.items() if path not in (CARD_NAME, README_NAME)}


def _facts(card: AnyCard) -> str:
    """As text: of numbers, nan equals itself."""
    return json.dumps(asdict(card) | {"timm_difference": None}, sort_keys=True)


def remarks(card: AnyCard) -> list[str]:
    """What must not be overlooked."""
    marks = [] if card.converged else ["did not converge"]
    if any(source.restriction for source in card.sources):
        marks.append("restricted")
    return marks


def training_side(card: AnyCard) -> int:
    """The side in pixels of what it was trained on."""
    return card.image_size if isinstance(card, Card) else card.crop_size


def scored_data(found: Iterable[Found]) -> list[ScoredData]:
    """On what the entries were scored, the most common first."""
    counts = Counter(score.data for entry in found for score in entry.scores)
    return sorted(counts, key=lambda data: (-counts[data], data))


def read_entry(store: Registry, name: EntryName) -> Found:
    """Read the card of one version. Raises `UserError` when it is not what was published."""
    where = f"{store.url}/{name}"
    seal_text, card_text = store.read(name, [SEAL_NAME, CARD_NAME])
    seal = parse_seal(seal_text, name, f"{where}: {SEAL_NAME}")
    card = parse_sealed_card(card_text, seal, name, f"{where}: {CARD_NAME}")
    scores = read_scores(store, name, card.sha256) if isinstance(card, Card) else ()
    return Found(name, seal, digest(seal_text), card, scores)
