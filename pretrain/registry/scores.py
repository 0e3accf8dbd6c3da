"""Transfer scores: how well an entry's encoder segments a few labelled images, put beside it.

`scores/LABEL-DATA.json` in a version's folder, DATA a part of the data's SHA-256: only scores on
the same data compare. They are no part of what was sealed, since they are measured later, and name
the encoder that they are of by its SHA-256. Imports no torch.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pretrain.registry.names import EntryName
from pretrain.registry.stores import SCORES_FOLDER, Registry
from shards.cli import UserError, warn
from shards.schema import parse_versioned

SCHEMA_VERSION = 1
PROBE = "linear-1"  # name of the measurement; changes whenever it would give other numbers
_LABEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

ScoredData = tuple[str, str]  # label, SHA-256


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferScore:
    """What the probe found for one encoder on one set of labelled images."""

    schema_version: int
    probe: str
    label: str  # what the labelled images are called
    encoder_sha256: str
    data_sha256: str
    images: int  # or quarters of a single one
    folds: int  # in which they take turns
    miou: float  # mean over the classes, share in [0, 1]
    random_miou: float  # of the same architecture with random weights
    iou: Mapping[str, float | None]  # of each class; None for one that does not occur
    scored: str  # UTC, ISO 8601

    @property
    def data(self) -> ScoredData:
        """What it was measured on: scores compare only where this is the same."""
        return self.label, self.data_sha256


def check_label(label: str) -> None:
    """Raise `UserError` for a label that serves as no part of a file's name."""
    if not _LABEL.fullmatch(label):
        raise UserError(f"a label is up to 40 of a-z, 0-9, _ and -, not {label!r}")


def attach_score(store: Registry, name: EntryName, score: TransferScore) -> None:
    """Put a score beside the entry, in place of one with the same label, data and probe."""
    check_label(score.label)
    text = json.dumps(asdict(score), indent=1, sort_keys=True, allow_nan=False) + "\n"
    store.attach(name, f"{score.label}-{score.data_sha256[:12]}.json", text.encode())


def read_scores(store: Registry, name: EntryName, encoder_sha256: str) -> tuple[TransferScore, ...]:
    """The scores beside an entry; a damaged one, or of another encoder, is told and left out."""
    found = []
    for file in store.attached(name):
        where = f"{store.url}/{name}: {SCORES_FOLDER}/{file}"
        try:
            (content,) = store.read(name, [f"{SCORES_FOLDER}/{file}"])
            score = parse_score(content, where)
            if score.encoder_sha256 != encoder_sha256:
                raise UserError(f"{where} is of another encoder")
        except UserError as error:
            warn(f"{error}; it is not shown")
            continue
        if score.probe == PROBE:
            found.append(score)
    return tuple(sorted(found, key=lambda score: (score.label, score.data_sha256)))


def spell_data(data: ScoredData) -> str:
    """As a heading: the label, and enough of the SHA-256 to tell two of one label apart."""
    return f"{data[0]} {data[1][:4]}"


def spell_score(score: TransferScore) -> str:
    """As a fact of one entry."""
    return (
        f"{score.miou:.1%} (random weights {score.random_miou:.1%}; linear probe, "
        f"{score.images} images in {score.folds} folds)"
    )


def parse_score(content: bytes, where: str) -> TransferScore:
    """Read a score. Raises `UserError` for anything else."""
    read = parse_versioned(content, where, SCHEMA_VERSION)
    try:
        score = TransferScore(**read)
        shares = [score.miou, score.random_miou, *(s for s in score.iou.values() if s is not None)]
        right = all(math.isfinite(s) and 0 <= s <= 1 for s in shares)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is damaged: {error}") from error
    if not right or not _LABEL.fullmatch(str(score.label)):
        raise UserError(f"{where} is damaged: it holds what is no score")
    return score
