"""Choose the images that the report shows: evenly spread, the same at every run."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shards.shard_format.read_tables import Pair, Sample, Tables
from shards.shard_format.schema import SPLITS, Rejected

PER_CLASS = 8  # of a contact sheet, two of them from validation
MOST_PICTURES = 640  # of all contact sheets together: 3 MB
EXAMPLES = 10  # per reason of a reject
BEFORE_AND_AFTER = 12
GROUPS, PER_GROUP = 6, 8
PAIRS = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """Images that a split keeps together."""

    name: str
    members: tuple[Sample, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({member.class_name for member in self.members}))

    def shown(self) -> list[Sample]:
        """Some members, of every class."""
        return spread_over(self.members, PER_GROUP, lambda member: member.class_name)


@dataclass(frozen=True, slots=True)
class Selection:
    """What the report shows."""

    sheets: Mapping[str, Sequence[Sample]]  # of each class
    rejects: Mapping[str, Sequence[Rejected]]  # of each reason, the most frequent first
    bars: Sequence[Sample]
    annotated: Sequence[Sample]
    largest: Sequence[Group]
    mixed: Sequence[Group]  # of several classes
    mixed_count: int
    pairs: Sequence[tuple[Pair, Sample, Sample]]


def choose(tables: Tables, classes: Sequence[str]) -> Selection:
    """Choose what to show of a corpus of any size."""
    inside = [sample for sample in tables.samples if sample.split in SPLITS]
    groups = _groups(inside)
    mixed = [group for group in groups if len(group.classes) > 1]
    return Selection(
        sheets=_sheets(inside, classes),
        rejects=_rejects(tables.rejects),
        bars=spread_over(
            [sample for sample in inside if sample.bar], BEFORE_AND_AFTER, _source_and_class
        ),
        annotated=spread_over(
            [sample for sample in inside if sample.annotations], BEFORE_AND_AFTER, _source_and_class
        ),
        largest=[group for group in groups if len(group.classes) == 1][:GROUPS],
        mixed=mixed[:GROUPS],
        mixed_count=len(mixed),
        pairs=_pairs(tables.pairs, inside),
    )


def spread(items: Sequence[T], count: int) -> list[T]:
    """Up to `count` of `items`, evenly over their order."""
    count = min(count, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def spread_over(items: Sequence[T], count: int, kind: Callable[[T], Hashable]) -> list[T]:
    """Up to `count` of `items`, of as many kinds as possible, in the order given."""
    kinds: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, item in enumerate(items):
        kinds[kind(item)].append(position)
    chosen = spread(list(kinds.values()), count)
    shares = [0] * len(chosen)
    for turn in range(count):  # one of every kind before a second of any
        for kind_number, own in enumerate(chosen):
            if len(own) > turn and sum(shares) < count:
                shares[kind_number] += 1
    taken = [p for own, share in zip(chosen, shares, strict=True) for p in spread(own, share)]
    return [items[position] for position in sorted(taken)]


def _sheets(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, list[Sample]]:
    per_class = max(1, min(PER_CLASS, MOST_PICTURES // max(len(classes), 1)))
    of_class: dict[str, list[Sample]] = {name: [] for name in classes[:MOST_PICTURES]}
    for sample in samples:
        if sample.class_name in of_class:
            of_class[sample.class_name].append(sample)
    return {name: _sheet(own, per_class) for name, own in of_class.items()}


def _sheet(samples: Sequence[Sample], count: int) -> list[Sample]:
    """From both splits: a quarter from validation, more where training images are too few."""
    train = [sample for sample in samples if sample.split == SPLITS[0]]
    val = [sample for sample in samples if sample.split != SPLITS[0]]
    of_val = min(len(val), max(count // 4, count - len(train)))
    return spread(train, count - of_val) + spread(val, of_val)


def _rejects(rejects: Iterable[Rejected]) -> dict[str, list[Rejected]]:
    reasons: defaultdict[str, list[Rejected]] = defaultdict(list)
    for reject in rejects:
        reasons[reject.reason].append(reject)
    order = sorted(reasons, key=lambda reason: (-len(reasons[reason]), reason))
    return {reason: spread(reasons[reason], EXAMPLES) for reason in order}


def _groups(samples: Iterable[Sample]) -> list[Group]:
    """The largest first."""
    members: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.group:
            members[sample.group].append(sample)
    groups = [Group(name, tuple(own)) for name, own in members.items()]
    return sorted(groups, key=lambda group: (-len(group.members), group.name))


def _pairs(pairs: Sequence[Pair], samples: Iterable[Sample]) -> list[tuple[Pair, Sample, Sample]]:
    """Those of different classes first, since they need a decision."""
    of_key = {sample.key: sample for sample in samples}
    found = [
        (pair, of_key[pair.first], of_key[pair.second])
        for pair in pairs
        if pair.first in of_key and pair.second in of_key
    ]
    unlike = [pair for pair in found if pair[1].class_name != pair[2].class_name]
    alike = [pair for pair in found if pair[1].class_name == pair[2].class_name]
    first = spread_over(unlike, PAIRS // 2, _classes_of_pair)
    return first + spread_over(alike, PAIRS - len(first), _classes_of_pair)


def _source_and_class(sample: Sample) -> Hashable:
    return sample.source, sample.class_name


def _classes_of_pair(pair: tuple[Pair, Sample, Sample]) -> Hashable:
    return pair[1].class_name, pair[2].class_name
