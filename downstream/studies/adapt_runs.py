"""Adaptation runs as a table, read from the folders of `downstream.adapt`. No torch.

Runs of one variant differ only in fold, seed and target. The baseline of a variant is trained with
source labels only, and is otherwise equal.

RDT, the relative domain transferability, is (mIoU_target - mIoU_reference) / mIoU_reference (paper
B, section 2.4.5, equation 2). The reference is the source mIoU of the baseline. Paper B printed two
RDTs relative to another model than the one it names; so a reference here has an id made of the ids
of its runs, and every RDT is shown with that id.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from downstream.adaptation.config import METHODS, AdaptConfig
from downstream.domains.study import SOURCE
from downstream.studies.report import image_differences
from downstream.studies.runs import init_label, mixed_settings, read_configs
from micrograph.cli import UserError
from micrograph.confidence_intervals import Array, PairedDifference, paired_difference
from micrograph.setting_marks import Mark, marked
from pretrain.runs.run_folder import RunPaths, read_data, read_results

BASELINE = "source_only"
BN_ADAPT = "bn_adapt"
SUPERVISED = "target_supervised"
PAIR = ["fold", "seed"]

# What distinguishes variants, or may differ within one.
_VARIED = marked(AdaptConfig, Mark.FREE_ON_RESUME) | {
    *("fold", "seed", "target", "method", "teacher", "style", "gan"),
    *("network", "arch", "init", "augmentation", "bn", "steps", "log_steps"),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A network, its initialisation and its training."""

    network: str
    arch: str
    init: str  # a label, see downstream.studies.runs.init_label
    augmentation: str
    method: str  # with additions: "advent + fda"
    bn: str
    steps: int

    @property
    def setting(self) -> tuple[str, str, str, str]:
        """All but the method."""
        return self.network, self.arch, self.init, self.augmentation


@dataclass(frozen=True, slots=True)
class Reference:
    """The runs whose mean source mIoU an RDT is relative to."""

    id: str  # changes with the set of runs
    run_ids: tuple[str, ...]
    miou: float  # mean over the runs, on the source's validation folds


@dataclass(frozen=True)
class AdaptRuns:
    """The runs of one domain study.

    `runs` has a row for each run: run, folder, config, domain_study, variant, made_for (a target,
    or empty), fold, seed, run_id, finished, failure, seconds_per_step, warnings.
    `scores` has a row for each finished run and domain that it counts on: the columns of `runs`,
    domain, miou, phase_fraction and phase_fraction_true (class -> share), and image_miou (image ->
    score); the source is scored on its validation fold. Of repeated runs, only the last is kept.
    """

    runs: pd.DataFrame
    scores: pd.DataFrame

    @property
    def name(self) -> str:
        """The name of the domain study; empty if no run states it."""
        return next((name for name in self.runs.domain_study if name), "")

    @property
    def targets(self) -> list[str]:
        """The targets that have scores, in the order of the domain study."""
        scores = self.scores[self.scores.domain != SOURCE]
        runs = scores.groupby("run", sort=False).domain.agg(list)
        baselines_first = sorted(runs, key=len, reverse=True)  # they are scored on all targets
        return list(dict.fromkeys(name for names in baselines_first for name in names))

    def variants(self) -> list[Variant]:
        """The variants with a finished run: baselines first, supervised ones last."""
        return sorted(set(self.scores.variant), key=_variant_order)

    def longest(self) -> list[Variant]:
        """Of variants that differ only in their steps, the one with the most."""
        kept = {(*v.setting, v.method, v.bn): v for v in self.variants()}  # in order of steps
        return [variant for variant in self.variants() if variant in kept.values()]

    def on(self, domain: str, variant: Variant | None, made_for: str | None = None) -> pd.DataFrame:
        """The scores of a variant on a domain; of all runs, or of those with one target."""
        scores = self.scores
        chosen = (scores.domain == domain) & (scores.variant == variant)
        return scores[chosen & (scores.made_for == made_for) if made_for else chosen]

    def counterpart(self, variant: Variant, method: str) -> Variant | None:
        """The variant that differs only in `method`; else the nearest, trained for longest."""
        alike = [v for v in self.variants() if (v.method, v.setting) == (method, variant.setting)]
        return max(
            alike,
            key=lambda v: (v.steps == variant.steps, v.bn == variant.bn, v.steps),
            default=None,
        )

    def reference(self, variant: Variant) -> Reference | None:
        """The runs of the baseline and their mean mIoU on the source; None without runs."""
        found = self.on(SOURCE, self.counterpart(variant, BASELINE))
        if found.empty:
            return None
        run_ids = tuple(sorted(found.run_id))
        digest = hashlib.sha256("\n".join(run_ids).encode()).hexdigest()[:8]
        return Reference(digest, run_ids, sum(found.miou) / len(found))

    def label(self, variant: Variant, *, network: bool = True) -> str:
        """Method, network, and any settings that distinguish variants of the same name."""
        label = {BASELINE: "DG", SUPERVISED: "supervised on target"}.get(
            variant.method, f"UDA {variant.method}"
        )
        alike = [
            v for v in self.variants()
            if (v.setting, v.method) == (variant.setting, variant.method)
        ]  # fmt: skip
        label += f" - {variant.arch} {variant.network}" if network else ""
        label += f", bn {variant.bn}" if len({v.bn for v in alike}) > 1 else ""
        return label + (f", {variant.steps:,} steps" if len({v.steps for v in alike}) > 1 else "")

    def head(self, variant: Variant) -> dict[str, object]:
        """The first columns of a row, as in the paper."""
        return {
            "Model": self.label(variant),
            "Pre-training": variant.init,
            "Augmentation": variant.augmentation,
        }

    def mixed_settings(self) -> dict[str, list[str]]:
        """Settings that differ between runs of one variant and target, which tables average."""
        groups = self.runs.variant.map(str) + self.runs.config.map(lambda c: str(c.target))
        return mixed_settings(self.runs, groups, _VARIED)

    def repeated(self) -> list[list[str]]:
        """Groups of names of finished runs that repeat each other; only the last counts."""
        finished = self.runs[self.runs.finished]
        groups = finished.groupby(["variant", "made_for", *PAIR], sort=False).run
        return [list(names) for _, names in groups if len(names) > 1]


def read_adapt_runs(root: Path) -> AdaptRuns:
    """Read the runs under `root`.

    Raises `UserError` for a folder without runs, and for runs of several domain studies.
    """
    configs = read_configs(root, AdaptConfig, "downstream.adapt")
    runs: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for folder, config in configs.items():
        results = read_results(folder) if RunPaths(folder).results.is_file() else {}
        run = _run_row(folder, config, results)
        runs.append(run)
        scores += [
            run | _score_row(domain, entry)
            for domain, entry in results.get("domains", {}).items()
            if domain == SOURCE or _counts_on(run, domain, entry)
        ]
    frame = pd.DataFrame(runs)
    names = sorted({name for name in frame.domain_study if name})
    if len(names) > 1:
        raise UserError(
            f"{root} holds runs of {len(names)} domain studies ({', '.join(names)}); keep the runs "
            "of each in a folder of its own"
        )
    columns = [*runs[0], "domain", "miou", "phase_fraction", "phase_fraction_true", "image_miou"]
    alike = ["variant", "made_for", "domain", *PAIR]
    table = pd.DataFrame(scores, columns=columns).drop_duplicates(alike, keep="last")
    return AdaptRuns(frame, table.reset_index(drop=True))


def compare(ours: pd.DataFrame, base: pd.DataFrame) -> PairedDifference | None:
    """`ours` minus `base`, paired by fold and seed; None without a pair."""
    pairs = pair_scores(ours, base)
    if pairs.empty:
        return None
    images = image_differences(pairs.image_miou, pairs.image_miou_base)
    return paired_difference(
        [fold_grid(pairs, (pairs.miou - pairs.miou_base).to_numpy(float))],
        [fold_grid(pairs, images)],
    )


def pair_scores(ours: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Scores of the same fold and seed side by side; the columns of `base` end in `_base`."""
    return ours.merge(base, on=PAIR, suffixes=("", "_base")).sort_values(PAIR, ignore_index=True)


def fold_grid(pairs: pd.DataFrame, values: Array) -> Array:
    """Values of sorted pairs as (folds, seeds, …); as (pairs, 1, …) where some are missing."""
    folds, seeds = pairs.fold.nunique(), pairs.seed.nunique()
    shape = (folds, seeds) if len(pairs) == folds * seeds else (len(pairs), 1)
    return values.reshape(*shape, *values.shape[1:])


def _run_row(folder: Path, config: AdaptConfig, results: Mapping[str, Any]) -> dict[str, Any]:
    begun = read_data(folder) if RunPaths(folder).data.is_file() else {}
    arch = results.get("arch") or config.arch or "of its init"
    return {
        "run": folder.name,
        "folder": folder,
        "config": config,
        "domain_study": results.get("study") or begun.get("study") or "",
        "variant": Variant(
            network=config.network,
            arch=arch,
            init=init_label(config.init, arch),
            augmentation=config.augmentation,
            method=_method(config),
            bn=config.bn,
            steps=config.steps,
        ),
        "made_for": (config.target or "") if config.uses_target else "",
        "fold": config.fold,
        "seed": config.seed,
        "run_id": results.get("run_id", ""),
        "finished": bool(results),
        "failure": results.get("collapse", ""),
        "seconds_per_step": results.get("seconds_per_step"),
        "warnings": results.get("monitor", {}).get("warnings", []),
    }


def _counts_on(run: Mapping[str, Any], target: str, entry: Mapping[str, Any]) -> bool:
    """Whether a run has a test score on `target` and saw no other target in training."""
    scored = entry["split"] == "test" and entry["miou"] is not None
    return scored and run["made_for"] in ("", target)


def _score_row(domain: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    images = {i["name"]: i["miou"] for i in entry["images"] if i["miou"] is not None}
    kept = ("miou", "phase_fraction", "phase_fraction_true")
    return {"domain": domain} | {name: entry[name] for name in kept} | {"image_miou": images}


def _method(config: AdaptConfig) -> str:
    """The method and its additions."""
    name: str = config.method
    if config.parts.discriminator is not None:
        name += " single-level" * (not config.multi_level) + " ls" * (config.gan == "ls")
    if config.teacher and not METHODS[config.method].teacher:
        name += " + teacher"
    return name + " + fda" * (config.style == "fda")


def _variant_order(variant: Variant) -> tuple[Any, ...]:
    inits = ("random", "imagenet")
    augmentations = ("none", "basic", "paper", "extended")
    return (
        list(METHODS).index(variant.method.split(" ")[0]),  # type: ignore[arg-type]
        variant.network == "DeepLabV2",
        variant.arch,
        inits.index(variant.init) if variant.init in inits else len(inits),
        variant.init,
        augmentations.index(variant.augmentation),
        *(variant.method, variant.bn, variant.steps),
    )
