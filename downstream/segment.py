"""Fine-tune a segmenter on a few labelled micrographs, keep the best epoch, score the test images.

python -m downstream.segment --data DIR --init EXPORT
python -m downstream.segment --config configs/downstream/super3.yaml --data benchmark
"""

from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from downstream.finetune.augment import fitting_crop
from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import LabelledSet, data_sha256, read_labelled_set
from downstream.finetune.results import evaluate, write_best, write_pictures, write_results
from downstream.finetune.training import build_segmenter, fine_tune, open_run
from downstream.network.segmenter import default_device
from micrograph.atomic import write_json
from micrograph.cli import UserError, console, log_with_time_and_rank, program, warn
from micrograph.settings import load_config
from pretrain.runs.interruption import Interruption
from pretrain.runs.resume_check import finished_results
from pretrain.runs.run_folder import RunPaths

PAN_MIN_SIDE = 128  # pixels


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(SegmentConfig, argv)
    log_with_time_and_rank()
    with Interruption() as interruption:
        results = segment(config, interruption)
    _print_table(results)
    print(config.run_dir)


def segment(config: SegmentConfig, interruption: Interruption | None = None) -> dict[str, Any]:
    """Fine-tune and score; returns the content of `results.json`.

    A finished run is only read, an unfinished one is resumed. Raises `UserError` for data or
    weights that do not fit, and if another process uses the folder.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = read_labelled_set(config)
    _check_crops(config, data)
    paths = RunPaths(config.run_dir)
    found = finished_results(config.run_dir, config, lambda: data_sha256(data), str(config.data))
    return found or _run(paths, config, data, interruption or Interruption())


def _run(
    paths: RunPaths, config: SegmentConfig, data: LabelledSet, interruption: Interruption
) -> dict[str, Any]:
    with open_run(config, lambda: interruption.requested) as run:
        torch.manual_seed(config.seed)
        segmenter, origin = build_segmenter(config, len(data.classes), _device(config))
        _describe(paths, data)
        run.begin(config)
        interruption.defer()
        state = fine_tune(segmenter, config, data, run)
        val = evaluate(segmenter, data.val, config)
        test = evaluate(segmenter, data.test, config) if data.test else None
        write_pictures(paths, test or val, data)
        card = write_best(paths, segmenter, origin, config, data, val, state)
        results = write_results(paths, config, data, card, state, val, test)
        run.end(state)
    if not card.converged:
        warn(f"this run collapsed: {card.collapse}")
    return results


def _describe(paths: RunPaths, data: LabelledSet) -> None:
    """Write `data.json`."""
    description = {
        "sha256": data_sha256(data),
        "classes": list(data.class_names),
        "splits": {
            split: [item.name for item in items]
            for split, items in (("train", data.train), ("val", data.val), ("test", data.test))
        },
    }
    write_json(paths.data, description)


def _check_crops(config: SegmentConfig, data: LabelledSet) -> None:
    if config.decoder == "PAN":  # it halves the deepest map, of stride 16, three times
        images = (*data.train, *data.val, *data.test)
        smallest = min(config.crop_size, *(min(item.pixels.shape[:2]) for item in images))
        if smallest < PAN_MIN_SIDE:
            raise UserError(
                f"PAN needs images and crops of at least {PAN_MIN_SIDE} pixels a side, not "
                f"{smallest}; try FPN"
            )
    smallest = min(min(item.pixels.shape[:2]) for item in data.train)
    fit = fitting_crop(config.augmentation, config.crop_size, smallest)
    if fit != config.crop_size:
        raise UserError(
            f"crop_size {config.crop_size} is too large for a training image with a side of "
            f"{smallest} pixels; use --crop-size {fit}"
        )


def _device(config: SegmentConfig) -> torch.device:
    device = default_device()
    if config.precision == "fp16" and device.type != "cuda":
        raise UserError("precision fp16 needs a GPU; use fp32, or bf16")
    return device


def _print_table(results: dict[str, Any]) -> None:
    table = Table("", "micro IoU", "mIoU", "boundary F1", *results["classes"], box=None)
    for split in ("val", "test"):
        scores = results[split]
        if scores is not None:
            values = [scores[name] for name in ("micro_iou", "miou", "boundary_f1")]
            values += [scores["iou"][name] for name in results["classes"]]
            table.add_row(split, *("-" if v is None else f"{v:.1%}" for v in values))
    best = results["best"]
    console.print(
        f"{results['finished']}; best of epoch {best['epoch']}, stage {best['stage']}; "
        f"balance {results['balance']}: "
        + ", ".join(f"{k} {v:.2f}" for k, v in results["class_weights"].items()),
        markup=False,
        soft_wrap=True,
    )
    Console().print(table)


if __name__ == "__main__":
    main()
