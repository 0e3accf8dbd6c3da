"""Tables beyond paper B's: gains over a baseline, side effects, label shift. No torch.

A pair is two runs of one fold and seed, scored on the same images. Folds, seeds and images are
clusters, so each is resampled separately.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from downstream.domains.study import SOURCE
from downstream.studies.adapt_runs import (
    BASELINE,
    BN_ADAPT,
    PAIR,
    AdaptRuns,
    Variant,
    compare,
    fold_grid,
    pair_scores,
)
from downstream.studies.adapt_tables import Row, spread
from downstream.studies.report import difference_cells, difference_notes
from micrograph.confidence_intervals import NAN, PairedDifference, bootstrap_mean, bootstrap_ratio
from micrograph.literature_values import read_published
from micrograph.report_tables import NO_VALUE, Percent, Table, named_rows


@dataclass(frozen=True, slots=True)
class Gain:
    """A variant minus its baseline, on one target."""

    target: str
    variant: Variant
    baseline: Variant
    paired: PairedDifference
    bn_share: Percent | None  # None for bn_adapt itself, and without its runs


def findings_tables(runs: AdaptRuns, found: Sequence[Gain]) -> list[Table]:
    """All tables for which there are runs."""
    tables = [
        gains_table(runs, found),
        source_table(runs),
        pretraining_table(runs),
        label_shift_table(runs),
    ]
    return [table for table in tables if table.rows]


def gains(runs: AdaptRuns) -> list[Gain]:
    """The gains of all variants that share folds and seeds with their baseline, by target."""
    found = []
    for target in runs.targets:
        for variant in runs.variants():
            baseline = runs.counterpart(variant, BASELINE)
            if baseline is None or variant.method == BASELINE:
                continue
            base, ours = runs.on(target, baseline), runs.on(target, variant)
            paired = compare(ours, base)
            if paired is None:
                continue
            adapted = runs.counterpart(variant, BN_ADAPT)
            share = None
            if adapted is not None and variant.method != BN_ADAPT:
                share = bn_share(base, runs.on(target, adapted), ours)
            found.append(Gain(target, variant, baseline, paired, share))
    return found


def bn_share(base: pd.DataFrame, adapted: pd.DataFrame, ours: pd.DataFrame) -> Percent | None:
    """(bn_adapt - base) / (ours - base), over folds and seeds common to all three.

    The part of a gain explained by re-estimated batch norm statistics. nan if the interval of the
    gain includes 0, because the ratio then means little.
    """
    pairs = pair_scores(ours, base)
    pairs = pairs.merge(adapted[[*PAIR, "miou"]], on=PAIR, suffixes=("", "_adapted"))
    if pairs.empty:
        return None
    part = fold_grid(pairs, (pairs.miou_adapted - pairs.miou_base).to_numpy(float))
    whole = fold_grid(pairs, (pairs.miou - pairs.miou_base).to_numpy(float))
    lowest = bootstrap_mean([whole]).low if len(pairs) > 1 else whole.mean()
    if lowest <= 0:
        return Percent(NAN)
    return Percent(part.mean() / whole.mean(), interval=bootstrap_ratio(part, whole))


def gains_table(runs: AdaptRuns, found: Sequence[Gain]) -> Table:
    """The gain of each variant, and the share that batch norm explains."""
    rows = [
        {"Target": gain.target, **runs.head(gain.variant), **difference_cells(gain.paired)}
        | {"share of bn_adapt": gain.bn_share}
        for gain in found
    ]
    notes = (
        *difference_notes(gain.paired for gain in found),
        "Minus DG of the same fold and seed; folds and seeds are resampled separately, Student's "
        "interval is over fold means (over seeds for a single fold). Folds share training images.",
        "Share of bn_adapt: the gain by batch norm statistics of the target without any training, "
        f"in percent of the whole gain; {NO_VALUE} if the interval of the gain includes 0.",
    )
    return Table("gains", "Gain over source-only training", rows, notes)


def source_table(runs: AdaptRuns) -> Table:
    """The effect of adaptation on the source (paper B, section 4.2)."""
    rows: list[Row] = []
    for target in runs.targets:
        ours = []
        for variant in runs.longest():
            baseline = runs.counterpart(variant, BASELINE)
            scores = runs.on(SOURCE, variant, made_for=target)
            paired = compare(scores, runs.on(SOURCE, baseline))
            if variant.method != BASELINE and paired is not None:
                row = {"Adapted to": target} | runs.head(variant) | {"n": len(scores)}
                loss = Percent(paired.mean, True, paired.bootstrap)
                ours.append(row | {"source mIoU": spread(scores), "less DG": loss})
        rows += ours + (_printed_source(target) if ours else [])
    return Table("source", "Source mIoU after adaptation, percent", rows)


def pretraining_table(runs: AdaptRuns) -> Table:
    """Baselines of each initialisation minus those of the first (random, if any), in pairs."""
    rows: list[Row] = []
    baselines = [v for v in runs.variants() if v.method == BASELINE]
    for domain in (SOURCE, *runs.targets):
        for variant in baselines:
            first = next(v for v in baselines if replace(v, init="") == replace(variant, init=""))
            if variant == first:
                continue
            paired = compare(runs.on(domain, variant), runs.on(domain, first))
            if paired is not None:
                head = {"On": domain} | runs.head(variant) | {"less": first.init}
                rows.append(head | difference_cells(paired))
    return Table("pretraining", "Initialisations in pairs, points of mIoU", rows)


def label_shift_table(runs: AdaptRuns) -> Table:
    """Training sets with other phase fractions, one common test set (paper B, section 4.3)."""
    rows: list[Row] = []
    for first, second in shared_tests(runs):
        for variant in runs.longest():
            one, two = (runs.on(target, variant) for target in (first, second))
            paired = compare(two, one)
            if variant.method != BASELINE and paired is not None:  # a baseline saw neither
                row = runs.head(variant) | {"n": paired.pairs}
                row |= {"adapted to": first, "mIoU": spread(one)}
                row |= {"or to": second, "mIoU of it": spread(two)}
                rows.append(row | {"difference": Percent(paired.mean, True, paired.bootstrap)})
    printed = read_published("paper_b").query("quantity == 'label_shift_miou'")
    values = " and ".join(f"{cell.domain}: {cell.printed}" for cell in named_rows(printed))
    note = (
        "These targets have the same test images and differ in the unlabelled training set. "
        f"Paper B, section 4.3, prints {values}, and no significant difference."
    )
    return Table("label_shift", "Label shift: one test set, percent", rows, (note,))


def shared_tests(runs: AdaptRuns) -> list[tuple[str, str]]:
    """Pairs of targets with equal test images, by name and labelled phase fraction."""
    tests: dict[str, tuple[set[str], list[float]]] = {}
    for score in named_rows(runs.scores):
        fractions: Mapping[str, float] = score.phase_fraction_true or {}
        tests.setdefault(score.domain, (set(score.image_miou), list(fractions.values())))

    def same(one: str, two: str) -> bool:
        (names, fractions), (others, other_fractions) = tests[one], tests[two]
        if not names or names != others or len(fractions) != len(other_fractions):
            return False
        return np.allclose(fractions, other_fractions)

    targets = runs.targets
    return [(a, b) for i, a in enumerate(targets) for b in targets[i + 1 :] if same(a, b)]


def _printed_source(target: str) -> list[Row]:
    rows = read_published("paper_b")
    reference = rows.query("experiment == 'S.10' and quantity == 'miou'").value.iloc[0]
    return [
        {
            "Adapted to": target,
            "Model": "*paper B: UDA - resnet101 DeepLabV2*",
            "Pre-training": cell.init,
            "n": 5,
            "source mIoU": Percent(cell.value),
            "less DG": Percent(cell.value - reference, signed=True),
        }
        for cell in named_rows(rows.query("quantity == 'source_miou' and domain == @target"))
    ]
