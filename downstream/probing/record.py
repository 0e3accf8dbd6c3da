"""Record probe scores of encoders in a registry.

The score is the mean IoU over the classes; that of random weights is recorded with it.
It is measured, not estimated: none of the fast estimates of transfer (LEEP, LogME, GBC) ranks
reliably over data sets (Agostinelli et al., ECCV 2022).
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256

import numpy as np

from downstream.network.models import read_encoder_card
from downstream.probing.candidates import Candidate, is_entry, random_twin
from downstream.probing.folds import FoldedSet
from downstream.probing.linear import draw_samples, probe
from downstream.scoring.metrics import Scores, mean_defined
from micrograph.cli import UserError
from pretrain.cards.entry_names import parse_name
from pretrain.registry.site.scores import (
    PROBE,
    TransferScore,
    attach_score,
    check_label,
)
from pretrain.registry.storage.folder_store import HUB_PREFIX, Registry, open_registry
from pretrain.registry.storage.pull import pinned_name, registry_url

SEED = 0  # of pixels and random weights: scores compare only with one seed


def open_for_recording(url: str | None, label: str) -> Registry:
    """Open the registry. Raises `UserError` for an invalid label and for the hub."""
    check_label(label)
    store = open_registry(registry_url(url))
    if store.url.startswith(HUB_PREFIX):
        raise UserError("--record needs a registry in files: on the hub a version is a commit")
    return store


def pin_entries(names: Sequence[str], store: Registry) -> tuple[str, ...]:
    """Add the current version to the names of entries; other names do not change."""
    return tuple(str(pinned_name(store, name)) if is_entry(name) else name for name in names)


def record_scores(
    candidates: Sequence[Candidate],
    scores: Mapping[str, Sequence[Scores]],
    data: FoldedSet,
    store: Registry,
    label: str,
) -> int:
    """Record the scores of all candidates that are entries of `store`; returns their number.

    `candidates` have pinned names; `scores` are those of each fold with `SEED`, by name. Missing
    scores of random weights are measured. Raises `UserError` if this fails.
    """
    by_name = dict(scores)
    count = 0
    for candidate in candidates:
        if not is_entry(candidate.name) or candidate.name not in scores:
            continue
        twin = random_twin(candidate)
        if twin.name not in by_name:
            by_name[twin.name] = probe(twin, data, draw_samples(data, SEED), "all", SEED)
        name, card = parse_name(candidate.name), read_encoder_card(candidate.init)
        score = _score(label, card.sha256, scores[candidate.name], by_name[twin.name], data)
        attach_score(store, name, score)
        count += 1
    return count


def _score(
    label: str,
    encoder_sha256: str,
    scores: Sequence[Scores],
    random: Sequence[Scores],
    data: FoldedSet,
) -> TransferScore:
    ious = {
        entry.name: mean_defined([fold.iou[index] for fold in scores])
        for index, entry in enumerate(data.classes)
    }
    return TransferScore(
        probe=PROBE,
        label=label,
        encoder_sha256=encoder_sha256,
        data_sha256=_data_sha256(data),
        images=len(data.items),
        folds=len(data.folds),
        miou=mean_defined([fold.miou for fold in scores]),
        random_miou=mean_defined([fold.miou for fold in random]),
        iou={name: None if math.isnan(iou) else iou for name, iou in ious.items()},
        scored=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _data_sha256(data: FoldedSet) -> str:
    """A hash of all pixels, labels and folds: only scores with equal hashes are comparable."""
    digest = sha256(repr(data.folds).encode())
    for item in data.items:
        digest.update(f"{item.name} {item.pixels.shape}".encode())
        digest.update(item.pixels.tobytes())
        digest.update(item.mask.astype(np.uint8).tobytes())
    return digest.hexdigest()
