"""What a registry may hold, encoders and segmenters, by the file of weights that each has.

Imports no torch.
"""

from collections.abc import Iterable
from typing import Literal

from pretrain.card import ENCODER_NAME, Card, parse_card
from pretrain.segmenter_card import SEGMENTER_NAME, SegmenterCard, parse_segmenter_card

Kind = Literal["encoder", "segmenter"]
AnyCard = Card | SegmenterCard

_WEIGHTS: dict[Kind, str] = {"encoder": ENCODER_NAME, "segmenter": SEGMENTER_NAME}


def weights_name(kind: Kind) -> str:
    """The file that an entry of this kind is there for."""
    return _WEIGHTS[kind]


def find_kind(files: Iterable[str]) -> Kind | None:
    """Of what these are the files; None where that cannot be told."""
    present = set(files)
    found = [kind for kind, weights in _WEIGHTS.items() if weights in present]
    return found[0] if len(found) == 1 else None


def parse_any_card(text: bytes, where: str, kind: Kind) -> AnyCard:
    """Read the card of an entry. Raises `UserError` when it is damaged, or of another kind."""
    return parse_card(text, where) if kind == "encoder" else parse_segmenter_card(text, where)


def card_decoder(card: AnyCard) -> str:
    """Of a segmenter; an encoder has none."""
    return card.decoder if isinstance(card, SegmenterCard) else ""
