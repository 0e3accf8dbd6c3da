"""Transfer scores: how well an entry's encoder segments a few labelled images.

A score is the file `scores/LABEL-DATA.json` in a version's folder, DATA the beginning of the data's
SHA-256: only scores on the same data compare. Scores are no part of the entry's manifest, since
they are measured later; each names its encoder by SHA-256. Imports no torch.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from micrograph.cli import UserError, warn
from pretrain.cards.entry_names import EntryName
from pretrain.registry.storage.folder_store import SCORES_FOLDER, Registry
from shards.shard_format.schema import parse_versioned

SCHEMA_VERSION = 1
PROBE = "linear-1"  # changes whenever the probe would give other numbers
_LABEL = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

ScoredData = tuple[str, str]  # label, SHA-256


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferScore:
    """The result of the probe for one encoder on one set of labelled images."""

    schema_version: int = SCHEMA_VERSION
    probe: str
    label: str  # name of the labelled images
    encoder_sha256: str
    data_sha256: str
    images: int  # or quarters of a single one
    folds: int  # of cross-validation
    miou: float  # mean over the classes, share in [0, 1]
    random_miou: float  # of the same architecture with random weights
    iou: Mapping[str, float | None]  # of each class; None for one that does not occur
    scored: str  # UTC, ISO 8601

    @property
    def data(self) -> ScoredData:
        """Scores compare only where this is equal."""
        return self.label, self.data_sha256


def check_label(label: str) -> None:
    """Raise `UserError` for a label that is unfit for a file's name."""
    if not _LABEL.fullmatch(label):
        raise UserError(f"a label is up to 40 of a-z, 0-9, _ and -, not {label!r}")


def attach_score(store: Registry, name: EntryName, score: TransferScore) -> None:
    """Put a score beside the entry, replacing one with the same label and data."""
    check_label(score.label)
    text = json.dumps(asdict(score), indent=1, sort_keys=True, allow_nan=False) + "\n"
    store.attach(name, f"{score.label}-{score.data_sha256[:12]}.json", text.encode())


def read_scores(store: Registry, name: EntryName, encoder_sha256: str) -> tuple[TransferScore, ...]:
    """The scores beside an entry; warns of damaged ones and of other encoders', and skips them."""
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


def format_data(data: ScoredData) -> str:
    """For a heading: the label, and enough of the SHA-256 to distinguish two of one label."""
    return f"{data[0]} {data[1][:4]}"


def format_score(score: TransferScore) -> str:
    """For the facts of one entry."""
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
        raise UserError(f"{where} is damaged: it holds no score")
    return score
