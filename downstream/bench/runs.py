"""The runs of a study: each folder of a root that downstream.segment has written. No torch."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from downstream.bench.published import EXPERIMENTS, INITS
from downstream.config import DEFAULT_ARCH, SegmentConfig
from downstream.seg.run_folder import RunPaths, read_results
from micrograph.field_marks import Mark, marked, plain_without
from shards.cli import UserError
from shards.settings import as_plain, build_config, read_recipe

# What a run trains and tests on -> paper A's experiment, as configs/downstream has them.
_OF_FOLDERS = {
    (f"{folder}/train", f"{folder}/test"): name
    for folder, name in (
        ("Super1", "Super-1"),
        ("Super2", "Super-2"),
        ("Super3", "Super-3"),
        ("Super4", "Super-4"),
        ("EBC1", "EBC-1"),
        ("EBC2", "EBC-2"),
        ("EBC3", "EBC-3 by specimen"),  # as published; the paper's own EBC-3 is the next line
    )
} | {("EBC1/train/111418#4_1426_100Cyc0032.tif", "EBC1/test"): "EBC-3"}

# By a study.
_VARIED = marked(SegmentConfig, Mark.FREE_ON_RESUME) | {"decoder", "arch", "init", "seed", "fold"}
_OF_EXPERIMENT = {"train", "val", "test", "specimen", "classes", "orientation", "micro_iou_classes"}


@dataclass(frozen=True, slots=True)
class Run:
    """A run, finished or not. Scores are shares in [0, 1]."""

    folder: Path
    config: SegmentConfig
    experiment: str
    arch: str
    init: str  # a label: the same for the encoders of one kind, whatever their arch
    twin: str = ""  # of a finished run: equal for those that differ in the initialisation alone
    finished: bool = False
    failure: str = ""  # why a finished run collapsed, or ""
    micro_iou: float | None = None  # of the test images
    miou: float | None = None
    val_micro_iou: float | None = None
    image_micro_iou: Mapping[str, float] | None = None  # name of each test image -> its own

    @property
    def decoder(self) -> str:
        return self.config.decoder

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def scored(self) -> bool:
        """Whether it has scores on test images, be they of a collapsed network."""
        return self.micro_iou is not None


def read_runs(root: Path, labels: Mapping[str, str] | None = None) -> list[Run]:
    """Read the runs under `root`, in the paper's order. `labels` names inits: as given -> label.

    Raises `UserError` when there is none, for a damaged one, and for a label that no run has.
    """
    labels = labels or {}
    if not root.is_dir():
        raise UserError(f"no such folder: {root}; give the one that holds the run folders")
    paths = [RunPaths(root), *(RunPaths(path) for path in sorted(root.iterdir()))]
    folders = [path.folder for path in paths if path.config.is_file()]
    runs = [_read_run(folder, labels) for folder in folders]
    if not runs:
        raise UserError(f"{root} holds no downstream.segment run (a folder with a config.yaml)")
    given = {run.config.init for run in runs}
    for init in labels:
        if init not in given:
            raise UserError(f"no run has the init {init!r}; there are {', '.join(sorted(given))}")
    return sorted(runs, key=lambda r: (rank(r.experiment), rank(r.init), r.decoder, r.arch, r.seed))


def shared_settings(runs: Iterable[Run]) -> dict[str, Any]:
    """The settings in which all runs agree and depart from the default: their budget."""
    first, *others = runs
    defaults = as_plain(SegmentConfig(data=first.config.data))
    return {
        name: value
        for name, value in as_plain(first.config).items()
        if name not in _VARIED | _OF_EXPERIMENT
        and value != defaults[name]
        and all(as_plain(run.config)[name] == value for run in others)
    }


def mixed_settings(runs: Iterable[Run]) -> dict[str, list[Any]]:
    """Settings in which runs of one experiment differ beside those that a study varies."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run.experiment, []).append(as_plain(run.config))
    mixed: dict[str, list[Any]] = {}
    for configs in groups.values():
        for name in set(configs[0]) - _VARIED:
            values = [config[name] for config in configs]
            distinct = [value for i, value in enumerate(values) if value not in values[:i]]
            if len(distinct) > 1:
                mixed[name] = distinct
    return dict(sorted(mixed.items()))


def rank(name: str) -> tuple[int, str]:
    """Sorts experiments and initialisations as the paper has them, others behind."""
    for order in (EXPERIMENTS, INITS):
        if name in order:
            return order.index(name), name
    return len(EXPERIMENTS), name


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once, in the paper's order."""
    return sorted(set(names), key=rank)


def _read_run(folder: Path, labels: Mapping[str, str]) -> Run:
    paths = RunPaths(folder)
    try:
        config = build_config(SegmentConfig, read_recipe(paths.config))
    except UserError as error:
        raise UserError(f"{paths.config} is no downstream.segment run's: {error}") from error
    results = read_results(folder) if paths.results.is_file() else None
    arch = results["arch"] if results else config.arch or DEFAULT_ARCH
    begun = Run(
        folder=folder,
        config=config,
        experiment=experiment_of(config),
        arch=arch,
        init=labels.get(config.init) or init_label(config.init, arch),
    )
    if results is None:
        return begun
    test: dict[str, Any] = results["test"] or {}
    return replace(
        begun,
        twin=_twin(config, arch, results["data_sha256"]),
        finished=True,
        failure="" if results["converged"] else results["collapse"],
        micro_iou=test.get("micro_iou"),
        miou=test.get("miou"),
        val_micro_iou=results["val"]["micro_iou"],
        image_micro_iou={i["name"]: i["micro_iou"] for i in test.get("images", [])},
    )


def experiment_of(config: SegmentConfig) -> str:
    """Paper A's name of what the run trains and tests on, else the names of the folders."""
    if config.folds is None and len(config.train) == len(config.test) == 1:
        known = _OF_FOLDERS.get((config.train[0], config.test[0]))
        if known:
            return known
    return f"{config.data.name} {'+'.join(config.train)}".removesuffix(" train")


def init_label(init: str, arch: str) -> str:
    """A short name: `efficientnet-b4.micronet@2` is "micronet", `runs/real/export` is "real"."""
    if init in ("random", "imagenet"):
        return init
    parts = [part for part in Path(init).parts if part not in ("export", "encoder.safetensors")]
    name = (parts[-1] if parts else init).split("@")[0].removeprefix(f"{arch}.")
    # A run folder ARCH.random is of an encoder that was trained from random weights, not random.
    return f"trained from {name}" if name in ("random", "imagenet") else name


def _twin(config: SegmentConfig, arch: str, data_sha256: str) -> str:
    settings = plain_without(config, Mark.FREE_ON_RESUME)
    del settings["init"]
    return json.dumps(settings | {"arch": arch, "data_sha256": data_sha256}, sort_keys=True)
