"""The licences and restrictions of an entry: may it be public? Imports no torch."""

from collections.abc import Iterable

from pretrain.registry.storage.kinds import AnyCard
from shards.shard_format.schema import SourceInfo

# The hub's identifiers of licences.
HUB_LICENCES = ("apache-2.0", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit")


def publish_blockers(card: AnyCard) -> list[str]:
    """The reasons why the entry must not be public; empty when it may be."""
    reasons = [
        f"{source_name(s)} is restricted: {s.restriction}" for s in card.sources if s.restriction
    ]
    reasons += [f"{source_name(s)} has no stated licence" for s in card.sources if not s.licence]
    return reasons or ([] if card.sources else ["its card names no source"])


def format_licences(sources: Iterable[SourceInfo]) -> str:
    """The licences, each once; `unknown` for a source without."""
    return ", ".join(dict.fromkeys(source.licence or "unknown" for source in sources)) or "unknown"


def format_restrictions(sources: Iterable[SourceInfo]) -> str:
    """The restrictions; empty where there are none."""
    return "; ".join(source.restriction for source in sources if source.restriction)


def hub_licence(sources: Iterable[SourceInfo]) -> str | None:
    """The hub's identifier of the one licence of all sources; None where there is none."""
    licences = {(source.licence or "").lower() for source in sources}
    return next((known for known in HUB_LICENCES if licences == {known}), None)


def source_name(source: SourceInfo) -> str:
    return source.name or "unnamed source"
