"""The runs of an adaptation study: each folder of a root that downstream.adapt wrote. No torch.

A variant is what runs share that differ in fold, seed and target alone. Its baseline is trained
with source labels alone and equal in all else.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from downstream.bench.runs import init_label
from downstream.seg.run_folder import RunPaths, read_data
from downstream.uda.config import METHODS, AdaptConfig
from micrograph.field_marks import Mark, marked
from shards.cli import UserError
from shards.settings import as_plain, build_config, read_recipe

BASELINE = "source_only"
BN_ADAPT = "bn_adapt"
SUPERVISED = "target_supervised"

Counts = npt.NDArray[np.int64]
# What tells variants apart, or may differ within one.
_VARIED = marked(AdaptConfig, Mark.FREE_ON_RESUME) | {
    *("fold", "seed", "target", "method", "teacher", "style", "gan"),
    *("network", "arch", "init", "augmentation", "bn", "steps", "oracle", "log_steps"),
}


@dataclass(frozen=True, slots=True)
class DomainScore:
    """How well a run does on a labelled domain; classes in the order of the network's channels."""

    miou: float  # of all pixels together; shares in [0, 1] as all that follow
    phase_fraction: Mapping[str, float]
    phase_fraction_true: Mapping[str, float] | None
    confusion: Counts  # (C, C): pixels by [true class][predicted class]
    image_miou: Mapping[str, float]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.phase_fraction)


@dataclass(frozen=True, slots=True)
class Variant:
    """What a network is, begins from, and how it is trained."""

    network: str
    arch: str
    init: str  # a label, see downstream.bench.runs.init_label
    augmentation: str
    method: str  # with what is added to it: "advent + fda"
    bn: str
    steps: int

    @property
    def setting(self) -> tuple[str, str, str, str]:
        """All but the method."""
        return self.network, self.arch, self.init, self.augmentation


@dataclass(frozen=True, slots=True)
class AdaptRun:
    """A run, finished or not."""

    folder: Path
    config: AdaptConfig
    study: str  # "": not told yet
    variant: Variant
    run_id: str = ""
    source: DomainScore | None = None  # on its validation fold; None: not finished
    targets: Mapping[str, DomainScore] | None = None  # that it was made for: of a baseline, all
    oracle_miou: float | None = None  # chosen by target labels, so no result
    seconds_per_step: float | None = None
    warnings: tuple[str, ...] = ()  # of what was watched in training
    failure: str = ""  # why a finished run collapsed; its scores count as they are

    @property
    def finished(self) -> bool:
        return self.source is not None

    @property
    def classes(self) -> tuple[str, ...]:
        """In the order of the network's channels; empty until the run is finished."""
        return self.source.classes if self.source is not None else ()

    @property
    def place(self) -> tuple[int, int]:
        """Fold and seed: what pairs it with a run of another variant."""
        return self.config.fold, self.config.seed


def read_adapt_runs(root: Path, labels: Mapping[str, str] | None = None) -> list[AdaptRun]:
    """Read the runs under `root`. `labels` names inits: as given -> label.

    Raises `UserError` when there is none, for a damaged one, and for runs of several studies.
    """
    if not root.is_dir():
        raise UserError(f"no such folder: {root}; give the one that holds the run folders")
    folders = [p for p in (root, *sorted(root.iterdir())) if RunPaths(p).config.is_file()]
    runs = [_read_run(folder, labels or {}) for folder in folders]
    if not runs:
        raise UserError(f"{root} holds no downstream.adapt run (a folder with a config.yaml)")
    studies = sorted({run.study for run in runs if run.study})
    if len(studies) > 1:
        raise UserError(
            f"{root} holds runs of {len(studies)} studies ({', '.join(studies)}); keep each "
            "study's in a folder of its own"
        )
    return runs


def variants(runs: Iterable[AdaptRun]) -> list[Variant]:
    """Each once: baselines first, references last, else as the methods are listed."""
    order: list[str] = list(METHODS)
    found = {run.variant for run in runs}

    def rank(variant: Variant) -> tuple[Any, ...]:
        inits = ("random", "imagenet")
        augmentations = ("none", "basic", "paper", "extended")
        return (
            order.index(_base(variant.method)),
            variant.network == "DeepLabV2",
            variant.arch,
            inits.index(variant.init) if variant.init in inits else len(inits),
            variant.init,
            augmentations.index(variant.augmentation),
            *(variant.method, variant.bn, variant.steps),
        )

    return sorted(found, key=rank)


def targets_of(runs: Iterable[AdaptRun]) -> list[str]:
    """The targets that have scores, in the order of the study's file."""
    ordered = sorted(runs, key=lambda run: -len(run.targets or ()))  # baselines have all
    return list({name: None for run in ordered for name in run.targets or ()})


def scores_on(
    runs: Iterable[AdaptRun], variant: Variant, target: str
) -> dict[tuple[int, int], DomainScore]:
    """(fold, seed) -> scores of a variant's finished runs on a target."""
    return {
        run.place: run.targets[target]
        for run in runs
        if run.variant == variant and run.targets and target in run.targets
    }


def source_scores(
    runs: Iterable[AdaptRun], variant: Variant, target: str | None = None
) -> dict[tuple[int, int], DomainScore]:
    """The same on the source; of runs made for `target`, or of any."""
    return {
        run.place: run.source
        for run in runs
        if run.variant == variant
        and run.source is not None
        and (target is None or target in (run.targets or ()))
    }


def twin(runs: Sequence[AdaptRun], variant: Variant, method: str) -> Variant | None:
    """The variant that differs by having `method` alone; else the nearest, the longest trained."""
    alike = [v for v in variants(runs) if v.method == method and v.setting == variant.setting]

    def likeness(other: Variant) -> tuple[bool, bool, int]:
        return other.steps == variant.steps, other.bn == variant.bn, other.steps

    return max(alike, key=likeness, default=None)


def longest(found: Iterable[Variant]) -> list[Variant]:
    """Of variants that differ in the number of steps alone, the one with most."""
    kept: dict[tuple[Any, ...], Variant] = {}
    for variant in found:
        key = (*variant.setting, variant.method, variant.bn)
        if key not in kept or kept[key].steps < variant.steps:
            kept[key] = variant
    return list(kept.values())


def mixed_settings(runs: Iterable[AdaptRun]) -> dict[str, list[str]]:
    """Settings in which runs of one variant and target differ, so that their means mix them."""
    seen: dict[tuple[Any, ...], dict[str, set[str]]] = {}
    for run in runs:
        values = seen.setdefault((run.variant, run.config.target), {})
        for name, value in as_plain(run.config).items():
            if name not in _VARIED:
                values.setdefault(name, set()).add(str(value))
    mixed: dict[str, set[str]] = {}
    for values in seen.values():
        for name, spelt in values.items():
            if len(spelt) > 1:
                mixed.setdefault(name, set()).update(spelt)
    return {name: sorted(spelt) for name, spelt in mixed.items()}


def repeated(runs: Iterable[AdaptRun]) -> list[list[AdaptRun]]:
    """Finished runs that nothing tells apart here, so that tables have only the last of each."""
    alike: dict[tuple[Any, ...], list[AdaptRun]] = {}
    for run in runs:
        if run.finished:
            alike.setdefault((run.variant, run.place, run.config.target), []).append(run)
    return [found for found in alike.values() if len(found) > 1]


def _read_run(folder: Path, labels: Mapping[str, str]) -> AdaptRun:
    paths = RunPaths(folder)
    try:
        config = build_config(AdaptConfig, read_recipe(paths.config))
    except UserError as error:
        raise UserError(
            f"{paths.config} is not of a downstream.adapt run ({error}); keep others elsewhere"
        ) from error
    if not paths.results.is_file():
        study = str(read_data(folder).get("study", "")) if paths.data.is_file() else ""
        return AdaptRun(folder, config, study, _variant(config, config.arch, labels))
    try:
        results = json.loads(paths.results.read_text(encoding="utf-8"))
        watch = results["watch"]
        oracle = results["oracle"]
        return AdaptRun(
            folder=folder,
            config=config,
            study=results["study"],
            variant=_variant(config, results["arch"], labels),
            run_id=results["run_id"],
            source=next(
                _score(entry) for entry in results["domains"].values() if entry["split"] == "val"
            ),
            targets={
                name: _score(entry)
                for name, entry in results["domains"].items()
                if entry["split"] == "test"
                and entry["miou"] is not None
                and (not config.uses_target or name == config.target)
            },
            oracle_miou=None if oracle is None else oracle["miou"],
            seconds_per_step=results["seconds_per_step"],
            warnings=tuple(watch.get("warnings", ())),
            failure=results["collapse"],
        )
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise UserError(
            f"{paths.results} is damaged ({error!r}); delete it, and adapt with the same settings "
            "again"
        ) from error


def _variant(config: AdaptConfig, arch: str | None, labels: Mapping[str, str]) -> Variant:
    arch = arch or "of its init"
    return Variant(
        network=config.network,
        arch=arch,
        init=labels.get(config.init) or init_label(config.init, arch),
        augmentation=config.augmentation,
        method=_method(config),
        bn=config.bn,
        steps=config.steps,
    )


def _method(config: AdaptConfig) -> str:
    """The method and what is added to it."""
    name: str = config.method
    if config.parts.discriminator is not None:
        name += " single-level" * (not config.multi_level) + " ls" * (config.gan == "ls")
    if config.teacher and not METHODS[config.method].teacher:
        name += " + teacher"
    return name + " + fda" * (config.style == "fda")


def _base(method: str) -> str:
    return method.split(" ")[0]


def _score(entry: Mapping[str, Any]) -> DomainScore:
    return DomainScore(
        miou=entry["miou"],
        phase_fraction=entry["phase_fraction"],
        phase_fraction_true=entry["phase_fraction_true"],
        confusion=np.array(entry["confusion"], np.int64),
        image_miou={i["name"]: i["miou"] for i in entry["images"] if i["miou"] is not None},
    )
