"""What the runs say beyond paper B's tables: gains, side effects, costs, the oracle. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from downstream.bench.paired import BOOTSTRAP_SEED, CONFIDENCE, RESAMPLES, range_coverage
from downstream.uda.bench.gains import Gain, Paired, compare
from downstream.uda.bench.published import Printed, check_rdts, printed_cells
from downstream.uda.bench.runs import (
    BASELINE,
    AdaptRun,
    DomainScore,
    Variant,
    longest,
    scores_on,
    source_scores,
    twin,
)
from downstream.uda.bench.sheet import NONE, Entry, Percent, Sheet
from downstream.uda.bench.spread import spread
from downstream.uda.bench.study import Row, Study


def findings_sheets(study: Study, found: Sequence[Gain]) -> list[Sheet]:
    """All that have rows."""
    sheets = [
        gains_sheet(study, found),
        source_sheet(study),
        pretraining_sheet(study),
        label_shift_sheet(study),
        oracle_sheet(study),
        cost_sheet(study),
    ]
    return [sheet for sheet in sheets if sheet.rows]


def gains_sheet(study: Study, found: Sequence[Gain]) -> Sheet:
    """Each variant less its baseline, and the share that batch norm explains."""
    rows: list[Row] = []
    for gain in found:
        share = gain.bn_share
        rows.append(
            {
                "Target": gain.target,
                **study.head(gain.variant),
                **_paired_cells(gain.paired),
                "share of bn_adapt": None
                if share is None
                else Percent(share.mean, low=share.low, high=share.high),
            }
        )
    notes = [
        f"Points of mIoU less DG of the same fold and seed, with {CONFIDENCE:.0%} intervals: of "
        f"{RESAMPLES:,} bootstrap resamples (seed {BOOTSTRAP_SEED}) of folds and seeds, Student's "
        "over fold means (of one fold, over seeds), and of resamples of folds, seeds and images "
        "(each image's own mIoU, so its mean differs). Folds share training images, and all share "
        "one test set: the intervals speak of these images.",
        "Share of bn_adapt: what re-estimating the batch norm statistics on the target gives "
        f"without any training, in percent of the gain; {NONE} where the gain is not sure.",
    ]
    few = sorted({g.paired.pairs for g in found if 1 < g.paired.pairs <= 5})
    notes += [
        f"With {pairs} pairs the bootstrap interval hardly exceeds their range, which holds the "
        f"median in {range_coverage(pairs):.0%} of studies: read Student's beside it."
        for pairs in few
    ]
    return Sheet("gains", "Gain over source-only training", rows, tuple(notes))


def source_sheet(study: Study) -> Sheet:
    """What adaptation does to the source itself (paper B, section 4.2)."""
    rows: list[Row] = []
    for target in study.targets:
        for variant in longest(study.variants()):
            baseline = twin(study.runs, variant, BASELINE)
            if variant.method == BASELINE or baseline is None:
                continue
            ours = source_scores(study.runs, variant, target)
            base = source_scores(study.runs, baseline)
            if not ours.keys() & base.keys():
                continue
            paired = compare(base, ours)
            rows.append(
                {
                    "Adapted to": target,
                    **study.head(variant),
                    "n": len(ours),
                    "source mIoU": spread({p: s.miou for p, s in ours.items()}),
                    "less DG": Percent(paired.mean, True, paired.low, paired.high),
                }
            )
        if any(row["Adapted to"] == target for row in rows):
            rows += _printed_source(target)
    title = "Source mIoU after adaptation, percent"
    return Sheet("source", title, rows)


def pretraining_sheet(study: Study) -> Sheet:
    """Each initialisation of a baseline less the first, by fold and seed; random where there is."""
    rows: list[Row] = []
    baselines = [v for v in study.variants() if v.method == BASELINE]
    for domain in (None, *study.targets):
        for variant in baselines:
            first = next(v for v in baselines if replace(v, init="") == replace(variant, init=""))
            ours, base = (_on(study, v, domain) for v in (variant, first))
            if variant == first or not ours.keys() & base.keys():
                continue
            paired = compare(base, ours)
            rows.append(
                {"On": domain or "source"}
                | study.head(variant)
                | {"less": first.init}
                | _paired_cells(paired)
            )
    return Sheet("pretraining", "Initialisations in pairs, points of mIoU", rows)


def label_shift_sheet(study: Study) -> Sheet:
    """Training sets of several phase fractions, one common test set (paper B, section 4.3)."""
    rows: list[Row] = []
    for first, second in shared_tests(study):
        for variant in longest(study.variants()):
            one = scores_on(study.runs, variant, first)
            two = scores_on(study.runs, variant, second)
            if variant.method == BASELINE or not one.keys() & two.keys():
                continue  # source-only training saw neither
            paired = compare(one, two)
            rows.append(
                {
                    **study.head(variant),
                    "n": paired.pairs,
                    "adapted to": first,
                    "mIoU": spread({p: s.miou for p, s in one.items()}),
                    "or to": second,
                    "mIoU of it": spread({p: s.miou for p, s in two.items()}),
                    "difference": Percent(paired.mean, True, paired.low, paired.high),
                }
            )
    if rows:
        printed = [c for c in printed_cells("", "label_shift_miou") if c.value is not None]
        values = " and ".join(f"{cell.domain}: {cell.printed}" for cell in printed)
        note = (
            "These targets have the same test images, so what differs is the unlabelled training "
            f"set. Paper B, section 4.3, prints {values}, and no sure difference."
        )
        return Sheet("label_shift", "Label shift: one test set, percent", rows, (note,))
    return Sheet("label_shift", "", rows)


def shared_tests(study: Study) -> list[tuple[str, str]]:
    """Pairs of targets whose test images are the same, by name and labelled phase fraction."""
    seen: dict[str, tuple[frozenset[str], tuple[float, ...]]] = {}
    for run in study.runs:
        for target, score in (run.targets or {}).items():
            truth = tuple((score.phase_fraction_true or {}).values())
            seen.setdefault(target, (frozenset(score.image_miou), truth))
    names = [target for target in study.targets if seen[target][0]]
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if _same(seen[a], seen[b])]


def oracle_sheet(study: Study) -> Sheet:
    """What choosing a checkpoint by target labels would have given: no result of a method."""
    rows: list[Row] = []
    for target in study.targets:
        for variant in longest(study.variants()):
            runs = [
                run
                for run in study.runs
                if run.variant == variant
                and run.config.target == target
                and run.oracle_miou is not None
                and target in (run.targets or {})
            ]
            if runs:
                last = {r.place: (r.targets or {})[target].miou for r in runs}
                best = {r.place: r.oracle_miou or 0.0 for r in runs}
                rows.append(
                    {
                        "Target": target,
                        **study.head(variant),
                        "n": len(runs),
                        "last": spread(last),
                        "oracle": spread(best),
                        "optimism": Percent(
                            float(np.mean([best[p] - last[p] for p in best])), True
                        ),
                    }
                )
    note = "The oracle's step was chosen by the labels of the target's test images."
    return Sheet("oracle", "Oracle: chosen by target labels, percent mIoU", rows, (note,))


def cost_sheet(study: Study) -> Sheet:
    """Seconds per step, and how often instability was told."""
    rows: list[Row] = []
    for variant in study.variants():
        runs = [run for run in study.runs if run.variant == variant and run.finished]
        baseline = twin(study.runs, variant, BASELINE)
        seconds, base = _seconds(runs), _seconds([r for r in study.runs if r.variant == baseline])
        rows.append(
            {
                **study.head(variant),
                "runs": len(runs),
                "seconds a step": f"{seconds:.3f}" if seconds else NONE,
                "times DG": f"{seconds / base:.2f}" if seconds and base else NONE,
                "runs with warnings": sum(bool(run.warnings) for run in runs),
            }
        )
    note = "Medians; runs that shared a machine with others are slower than the method needs."
    return Sheet("cost", "Cost, and warnings in training", rows, (note,))


def printed_rdt_note() -> str:
    """What the paper's own RDTs are worth."""
    rows = [
        check
        for check in check_rdts()
        if check.table in ("3", "4") and not check.experiment.endswith(".11")  # UDA
    ]
    wrong = [c for c in rows if not c.consistent]
    named = ", ".join(
        f"{c.experiment} ({100 * c.printed:+.1f}, of 78.7 it would be {100 * c.recomputed:+.1f})"
        for c in wrong
    )
    return (
        f"Of the {len(rows)} generalisation RDTs in the paper's Tables 3 and 4, "
        f"{len(rows) - len(wrong)} follow from its mIoUs; not {named}: their reference was "
        f"{100 * wrong[0].implied_reference:.1f} %, not the printed S.3."
    )


def _on(
    study: Study, variant: Variant, domain: str | None
) -> Mapping[tuple[int, int], DomainScore]:
    if domain is None:
        return source_scores(study.runs, variant)
    return scores_on(study.runs, variant, domain)


def _paired_cells(paired: Paired) -> dict[str, Entry]:
    return {
        "pairs": paired.pairs,
        "better": paired.wins,
        "gain": Percent(paired.mean, True, paired.low, paired.high),
        "Student": Percent(paired.mean, True, paired.t_low, paired.t_high),
        "images": paired.images,
        "over images": Percent(paired.image_mean, True, paired.image_low, paired.image_high),
    }


def _printed_source(target: str) -> list[Row]:
    adapted: list[Printed] = [
        cell for cell in printed_cells("", "source_miou") if cell.domain == target
    ]
    reference = next(c for c in printed_cells("2", "miou") if c.experiment == "S.10")
    return [
        {
            "Adapted to": target,
            "Model": "*paper B: UDA - resnet101 DeepLabV2*",
            "Pre-training": cell.init,
            "n": 5,
            "source mIoU": Percent(cell.value or 0),
            "less DG": Percent((cell.value or 0) - (reference.value or 0), True),
        }
        for cell in adapted
    ]


def _same(
    one: tuple[frozenset[str], tuple[float, ...]], two: tuple[frozenset[str], tuple[float, ...]]
) -> bool:
    return one[0] == two[0] and len(one[1]) == len(two[1]) and np.allclose(one[1], two[1])


def _seconds(runs: Sequence[AdaptRun]) -> float | None:
    known = [run.seconds_per_step for run in runs if run.seconds_per_step]
    return float(np.median(known)) if known else None
