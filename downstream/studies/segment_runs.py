"""Segmentation runs as a table, with paper A's names of the experiments. No torch."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from downstream.finetune.config import DEFAULT_ARCH, SegmentConfig
from downstream.studies.runs import init_label, mixed_settings, read_configs
from micrograph.confidence_intervals import NAN
from micrograph.literature_values import read_published
from micrograph.setting_marks import Mark, marked, plain_without
from micrograph.settings import to_json
from pretrain.runs.run_folder import RunPaths, read_results

# Training and test folders -> paper A's experiment, as configs/downstream has them.
_EXPERIMENTS = {
    (f"{name.replace('-', '')}/train", f"{name.replace('-', '')}/test"): name
    for name in ("Super-1", "Super-2", "Super-3", "Super-4", "EBC-1", "EBC-2")
} | {
    ("EBC3/train", "EBC3/test"): "EBC-3 by specimen",  # as published, not as in the paper
    ("EBC1/train/111418#4_1426_100Cyc0032.tif", "EBC1/test"): "EBC-3",
}
_VARIED = marked(SegmentConfig, Mark.FREE_ON_RESUME) | {"decoder", "arch", "init", "seed", "fold"}
_OF_EXPERIMENT = {"train", "val", "test", "specimen", "classes", "orientation", "micro_iou_classes"}


def read_runs(root: Path) -> pd.DataFrame:
    """Read the runs under `root`, in the paper's order.

    Columns: run, folder, config, experiment, decoder, arch, init, seed, finished; micro_iou, miou
    and val_micro_iou (shares in [0, 1], nan without), image_micro_iou (test image -> score),
    failure (why the run collapsed, or empty), and twin, which is equal for runs that differ only in
    the initialisation. Raises `UserError` for a folder without runs.
    """
    configs = read_configs(root, SegmentConfig, "downstream.segment")
    runs = pd.DataFrame([_read_run(folder, config) for folder, config in configs.items()])
    order = ["experiment", "init", "decoder", "arch", "seed"]
    ranked = runs.assign(experiment=runs.experiment.map(_rank), init=runs.init.map(_rank))
    return runs.loc[ranked.sort_values(order).index].reset_index(drop=True)


def shared_settings(runs: pd.DataFrame) -> dict[str, Any]:
    """Settings that are equal in all runs and differ from the default."""
    first, *others = (to_json(config) for config in runs.config)
    defaults = to_json(SegmentConfig(data=runs.config.iloc[0].data))
    return {
        name: value
        for name, value in first.items()
        if name not in _VARIED | _OF_EXPERIMENT
        and value != defaults[name]
        and all(other[name] == value for other in others)
    }


def mixed_budgets(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Settings that differ between runs of one experiment, which tables average."""
    return mixed_settings(runs, runs.experiment, _VARIED)


def in_order(names: Iterable[str]) -> list[str]:
    """Unique experiments or initialisations in the paper's order; others last."""
    return sorted(set(names), key=_rank)


def _read_run(folder: Path, config: SegmentConfig) -> dict[str, Any]:
    finished = RunPaths(folder).results.is_file()
    results = read_results(folder) if finished else {}
    arch = results.get("arch") or config.arch or DEFAULT_ARCH
    test: dict[str, Any] = results.get("test") or {}
    settings = plain_without(config, Mark.FREE_ON_RESUME)
    del settings["init"]
    settings |= {"arch": arch, "data_sha256": results.get("data_sha256")}
    return {
        "run": folder.name,
        "folder": folder,
        "config": config,
        "experiment": _experiment(config),
        "decoder": config.decoder,
        "arch": arch,
        "init": init_label(config.init, arch),
        "seed": config.seed,
        "finished": finished,
        "failure": results["collapse"] if finished and not results["converged"] else "",
        "micro_iou": test.get("micro_iou", NAN),
        "miou": test.get("miou", NAN),
        "val_micro_iou": results["val"]["micro_iou"] if finished else NAN,
        "image_micro_iou": {i["name"]: i["micro_iou"] for i in test.get("images", [])},
        "twin": json.dumps(settings, sort_keys=True),
    }


def _experiment(config: SegmentConfig) -> str:
    """Paper A's name of the experiment, else the names of the folders."""
    if config.folds is None and len(config.train) == len(config.test) == 1:
        known = _EXPERIMENTS.get((config.train[0], config.test[0]))
        if known:
            return known
    return f"{config.data.name} {'+'.join(config.train)}".removesuffix(" train")


def _rank(name: str) -> tuple[int, str]:
    table = read_published("paper_a").query("table == '2'")
    order = [*table.experiment.unique(), *table.name.unique()]
    return order.index(name) if name in order else len(order), name
