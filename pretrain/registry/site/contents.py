"""The entries of a registry, from their small files. Imports no torch."""

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from micrograph.cli import UserError
from pretrain.cards.encoder_card import CARD_NAME, UNPUBLISHED, Card
from pretrain.cards.entry_names import EntryName, parse_name
from pretrain.cards.segmenter_card import SegmenterCard
from pretrain.registry.site.scores import ScoredData, TransferScore, read_scores
from pretrain.registry.storage.entry import (
    ENTRY_JSON,
    README_NAME,
    EntryFile,
    EntryManifest,
    digest,
    parse_entry_card,
    parse_entry_manifest,
)
from pretrain.registry.storage.folder_store import Registry
from pretrain.registry.storage.kinds import AnyCard

C = TypeVar("C", Card, SegmenterCard)

_READS_AT_ONCE = 8
# The settings that a reader of a recipe asks for; card.json has all.
_RECIPE = (
    "method",
    "image_size",
    "crop_size",
    "epochs",
    "steps",
    "max_epochs",
    "batch_size",
    "optimizer",
    "lr",
    "stage2_lr",
    "lr_schedule",
    "weight_decay",
    "loss",
    "augmentation",
    "patience",
    "seed",
)


@dataclass(frozen=True, slots=True)
class PublishedEntry:
    """One version in a registry, from its small files."""

    name: EntryName
    manifest: EntryManifest
    digest: str
    card: AnyCard
    scores: tuple[TransferScore, ...] = ()  # of encoders


def encoders(entries: Iterable[PublishedEntry]) -> list[tuple[PublishedEntry, Card]]:
    """The encoders, best first; those that did not converge come last."""
    return _ranked(entries, Card)


def segmenters(entries: Iterable[PublishedEntry]) -> list[tuple[PublishedEntry, SegmenterCard]]:
    """The segmenters, best first; those that collapsed come last."""
    return _ranked(entries, SegmenterCard)


def find_entries(store: Registry, *, every_version: bool) -> tuple[list[PublishedEntry], list[str]]:
    """Every entry, and what is wrong with those that cannot be read."""
    names = [
        parse_name(name).at(version)
        for name, versions in store.entries().items()
        for version in (versions if every_version else versions[-1:])
    ]

    def read(name: EntryName) -> PublishedEntry | str:
        try:
            return read_entry(store, name)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        results = list(pool.map(read, names))
    entries = [result for result in results if isinstance(result, PublishedEntry)]
    return entries, [result for result in results if isinstance(result, str)]


def find_equal(
    store: Registry, manifest: EntryManifest, card: AnyCard, name: EntryName
) -> EntryName | None:
    """The version of `name` that already has these files and this card.

    A value that is measured for the card may differ, and the README, which follows from it.
    """
    for version in store.versions(name):
        try:
            entry = read_entry(store, name.at(version))
        except UserError:
            continue  # damaged
        if _weights(entry.manifest) == _weights(manifest) and _facts(entry.card) == _facts(card):
            return entry.name
    return None


def read_entry(store: Registry, name: EntryName) -> PublishedEntry:
    """Read the card of one version. Raises `UserError` when it is not what was published."""
    where = f"{store.url}/{name}"
    text, card_text = store.read(name, [ENTRY_JSON, CARD_NAME])
    manifest = parse_entry_manifest(text, name, f"{where}: {ENTRY_JSON}")
    card = parse_entry_card(card_text, manifest, name, f"{where}: {CARD_NAME}")
    scores = read_scores(store, name, card.sha256) if isinstance(card, Card) else ()
    return PublishedEntry(name, manifest, digest(text), card, scores)


def warnings_of(card: AnyCard) -> list[str]:
    """Warnings, in a few words each."""
    found = [] if card.converged else ["did not converge"]
    if any(source.restriction for source in card.sources):
        found.append("restricted")
    return found


def recipe_of(card: AnyCard) -> dict[str, Any]:
    """The most important settings, where the card has them."""
    return {key: card.config[key] for key in _RECIPE if card.config.get(key) is not None}


def format_recipe(card: AnyCard) -> str:
    return ", ".join(f"{key} {value}" for key, value in recipe_of(card).items())


def format_init(init: str) -> str:
    """What the training began from, for a column."""
    return "an encoder" if init == UNPUBLISHED else init


def scored_data(entries: Iterable[PublishedEntry]) -> list[ScoredData]:
    """The data that the entries were scored on, the most common first."""
    counts = Counter(score.data for entry in entries for score in entry.scores)
    return sorted(counts, key=lambda data: (-counts[data], data))


def _ranked(entries: Iterable[PublishedEntry], cls: type[C]) -> list[tuple[PublishedEntry, C]]:
    pairs = [(entry, entry.card) for entry in entries if isinstance(entry.card, cls)]
    return sorted(pairs, key=lambda pair: (not pair[1].converged, -(pair[1].quality or 0.0)))


def _weights(manifest: EntryManifest) -> dict[str, EntryFile]:
    measured = (CARD_NAME, README_NAME)
    return {path: file for path, file in manifest.files.items() if path not in measured}


def _facts(card: AnyCard) -> str:
    """As text, in which nan equals itself."""
    return json.dumps(asdict(card) | {"timm_difference": None}, sort_keys=True)
