"""Adaptation runs as a table: what `downstream.adapt` wrote. No torch.

A variant is what runs share that differ in fold, seed and target alone. Its baseline is trained
with source labels alone and equal in all else.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from downstream.adaptation.config import METHODS, AdaptConfig
from downstream.domains.study import SOURCE
from downstream.runs.run_folder import RunPaths, read_data
from downstream.studies.rdt import Reference, make_reference
from downstream.studies.report import image_differences
from downstream.studies.runs import check_labels, init_label, mixed_settings, read_configs
from micrograph.cli import UserError
from micrograph.field_marks import Mark, marked
from micrograph.intervals import Array, PairedDifference, paired_difference

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
    """What a network is, begins from, and how it is trained."""

    network: str
    arch: str
    init: str  # a label, see downstream.studies.runs.init_label
    augmentation: str
    method: str  # with what is added to it: "advent + fda"
    bn: str
    steps: int

    @property
    def setting(self) -> tuple[str, str, str, str]:
        """All but the method."""
        return self.network, self.arch, self.init, self.augmentation


@dataclass(frozen=True)
class AdaptRuns:
    """The runs of one domain study.

    `runs` has a row for each run: run, folder, config, domain_study, variant, made_for (a target,
    or empty), fold, seed, run_id, finished, failure, seconds_per_step, warnings.
    `scores` has a row for each finished run and domain that it counts on: the columns of `runs`,
    domain, miou, phase_fraction and phase_fraction_true (class -> share), and image_miou (image ->
    score); the source is scored on its validation fold. Of runs alike in all of these, the last.
    """

    runs: pd.DataFrame
    scores: pd.DataFrame
    fixed_reference: Variant | None = None  # None: of each variant its own baseline

    @property
    def name(self) -> str:
        """The domain study's; empty while no run states it."""
        return next((name for name in self.runs.domain_study if name), "")

    @property
    def targets(self) -> list[str]:
        """The targets that have scores, in the order of the domain study."""
        scores = self.scores[self.scores.domain != SOURCE]
        runs = scores.groupby("run", sort=False).domain.agg(list)
        baselines_first = sorted(runs, key=len, reverse=True)  # these are scored on all targets
        return list(dict.fromkeys(name for names in baselines_first for name in names))

    def variants(self) -> list[Variant]:
        """Those with a finished run: baselines first, references last."""
        return sorted(set(self.scores.variant), key=_variant_order)

    def longest(self) -> list[Variant]:
        """Of variants that differ in the number of steps alone, the one with most."""
        kept = {(*v.setting, v.method, v.bn): v for v in self.variants()}  # in order of steps
        return [variant for variant in self.variants() if variant in kept.values()]

    def on(self, domain: str, variant: Variant | None, made_for: str | None = None) -> pd.DataFrame:
        """The scores of a variant on a domain; of runs made for one target, or of all."""
        scores = self.scores
        chosen = (scores.domain == domain) & (scores.variant == variant)
        return scores[chosen & (scores.made_for == made_for) if made_for else chosen]

    def counterpart(self, variant: Variant, method: str) -> Variant | None:
        """The variant that differs by `method` alone; else the nearest, the longest trained."""
        alike = [v for v in self.variants() if (v.method, v.setting) == (method, variant.setting)]
        return max(
            alike,
            key=lambda v: (v.steps == variant.steps, v.bn == variant.bn, v.steps),
            default=None,
        )

    def reference(self, variant: Variant) -> Reference | None:
        """The baseline's runs and their mean mIoU on the source."""
        found = self.on(SOURCE, self.fixed_reference or self.counterpart(variant, BASELINE))
        return (
            make_reference(dict(zip(found.run_id, found.miou, strict=True))) if len(found) else None
        )

    def label(self, variant: Variant, *, network: bool = True) -> str:
        """Method and network, and what else distinguishes it from variants of the same name."""
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
        """The columns with which the paper begins a row."""
        return {
            "Model": self.label(variant),
            "Pre-training": variant.init,
            "Augmentation": variant.augmentation,
        }

    def mixed_settings(self) -> dict[str, list[str]]:
        """Settings in which runs of one variant and target differ though tables average them."""
        return mixed_settings(self.runs, lambda run: (run.variant, run.config.target), _VARIED)

    def repeated(self) -> list[list[str]]:
        """Names of finished runs that nothing distinguishes here; tables have the last of each."""
        finished = self.runs[self.runs.finished]
        groups = finished.groupby(["variant", "made_for", *PAIR], sort=False).run
        return [list(names) for _, names in groups if len(names) > 1]


def read_adapt_runs(root: Path, labels: Mapping[str, str] | None = None) -> AdaptRuns:
    """Read the runs under `root`. `labels` names inits: as given -> label.

    Raises `UserError` when there is none, a damaged one, or runs of several domain studies.
    """
    configs = read_configs(root, AdaptConfig, "downstream.adapt")
    check_labels(labels or {}, configs.values())
    runs: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for folder, config in configs.items():
        results = _read_results(folder)
        run = _run_row(folder, config, results, labels or {})
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
    """`ours` less `base` over scores of the same fold and seed; None without a pair."""
    pairs = pair_scores(ours, base)
    if pairs.empty:
        return None
    images = image_differences(pairs.image_miou, pairs.image_miou_base)
    return paired_difference(
        [fold_grid(pairs, (pairs.miou - pairs.miou_base).to_numpy(float))],
        [fold_grid(pairs, images)],
    )


def pair_scores(ours: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """Scores of the same fold and seed side by side, `base` with columns that end in `_base`."""
    return ours.merge(base, on=PAIR, suffixes=("", "_base")).sort_values(PAIR, ignore_index=True)


def fold_grid(pairs: pd.DataFrame, values: Array) -> Array:
    """Values of sorted pairs as (folds, seeds, …); as (pairs, 1, …) where some are missing."""
    folds, seeds = pairs.fold.nunique(), pairs.seed.nunique()
    shape = (folds, seeds) if len(pairs) == folds * seeds else (len(pairs), 1)
    return values.reshape(*shape, *values.shape[1:])


def _read_results(folder: Path) -> dict[str, Any]:
    """What a finished run wrote, else nothing. Raises `UserError` for a damaged file."""
    path = RunPaths(folder).results
    if not path.is_file():
        return {}
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        required = ("run_id", "study", "arch", "seconds_per_step", "monitor", "collapse")
        missing = {*required, "domains"} - results.keys()
        if missing or SOURCE not in results["domains"]:
            raise ValueError(f"without {', '.join(sorted(missing or {SOURCE}))}")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); delete it, and adapt with the same settings again"
        ) from error
    return results


def _run_row(
    folder: Path, config: AdaptConfig, results: Mapping[str, Any], labels: Mapping[str, str]
) -> dict[str, Any]:
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
            init=init_label(config.init, arch, labels),
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
    """A run counts on the target whose images it saw, a baseline on all; where it was scored."""
    scored = entry["split"] == "test" and entry["miou"] is not None
    return scored and run["made_for"] in ("", target)


def _score_row(domain: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    images = {i["name"]: i["miou"] for i in entry["images"] if i["miou"] is not None}
    kept = ("miou", "phase_fraction", "phase_fraction_true")
    return {"domain": domain} | {name: entry[name] for name in kept} | {"image_miou": images}


def _method(config: AdaptConfig) -> str:
    """The method and what is added to it."""
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
