"""The kinds of entries that a registry holds: a row each. Imports no torch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pretrain.cards.encoder_card import ENCODER_NAME, Card, parse_card
from pretrain.cards.segmenter_card import SEGMENTER_NAME, SegmenterCard, parse_segmenter_card

AnyCard = Card | SegmenterCard


@dataclass(frozen=True, slots=True)
class EntryKind:
    """What is particular to one kind."""

    name: str
    weights: str  # the file that tells the kind
    parse_card: Callable[[bytes, str], AnyCard]  # of a text read from where; raises `UserError`


ENTRY_KINDS = (
    EntryKind("encoder", ENCODER_NAME, parse_card),
    EntryKind("segmenter", SEGMENTER_NAME, parse_segmenter_card),
)


def find_kind(files: Iterable[str]) -> EntryKind | None:
    """The kind of an entry with these files; None when the files do not tell."""
    present = set(files)
    found = [kind for kind in ENTRY_KINDS if kind.weights in present]
    return found[0] if len(found) == 1 else None
