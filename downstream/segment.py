"""A few labelled micrographs become a segmenter: fine-tune, keep the best, score it on the test.

python -m downstream.segment --data DIR --weights EXPORT
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from downstream.config import SegmentConfig
from downstream.dataset import LabelledImage, LabelledSet, read_labelled_set
from downstream.losses import CrossEntropyDice
from downstream.metrics import PixelCounts, SegmentationScores
from downstream.models import create_model, read_encoder_card
from shards.cli import UserError, console, program, progress
from shards.schema import IMAGENET_MEAN, IMAGENET_STD
from shards.settings import dump_config, load_config

RESULTS_NAME = "results.json"
DEFAULT_ARCH = "resnet18"
STRIDE = 32  # pixels; smp's networks take multiples of it


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found."""

    classes: tuple[str, ...]
    best_step: int
    val: SegmentationScores
    test: SegmentationScores | None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(SegmentConfig, argv)
    result = segment(config)
    _print_table(result)
    print(config.run_dir)


def segment(config: SegmentConfig) -> Result:
    """Fine-tune and score as configured; writes masks of the test images and `results.json`.

    Raises `UserError` for data or weights that do not fit.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = read_labelled_set(config.data, config.classes)
    _check_crops(config, data)
    shutil.rmtree(config.run_dir / "masks", ignore_errors=True)  # of an earlier run
    config.run_dir.mkdir(parents=True, exist_ok=True)  # now, not when the work is done
    torch.manual_seed(config.seed)
    encoder = config.weights or config.arch or DEFAULT_ARCH
    if config.weights is not None and config.arch is not None:
        found = read_encoder_card(config.weights).arch
        if found != config.arch:
            raise UserError(f"{config.weights} holds a {found}, but arch is {config.arch}")
    model = create_model(config.decoder, encoder, len(data.classes))
    mean, std = _normalisation(config)
    segmenter = Segmenter(model, mean, std, _device())
    best_step, val = _fine_tune(segmenter, config, data)
    result = Result(data.classes, best_step, val, None)
    if data.test:
        masks = [segmenter.predict(item) for item in data.test]
        result = replace(result, test=_score(masks, data.test, len(data.classes)))
        _write_masks(config.run_dir / "masks", data.test, masks)
    _write_results(config, result, model)
    return result


def _check_crops(config: SegmentConfig, data: LabelledSet) -> None:
    smallest = min(min(item.pixels.shape[:2]) for item in data.train)
    if 2 * smallest < config.crop_size:  # mirroring can at most double a side
        raise UserError(
            f"crop_size {config.crop_size} is too large for a training image with a side of "
            f"{smallest} pixels; use --crop-size {max(32, smallest // 32 * 32)}"
        )


class Segmenter:
    """A network and the normalisation that its encoder was trained with."""

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
    ) -> None:
        self.model = model.to(device)
        self.device = device
        self._normalise = v2.Normalize(list(mean), list(std))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(N, C, H, W)` of uint8 images `(N, 3, H, W)`, sides multiples of 32."""
        normalised = self._normalise(images.to(self.device).float() / 255)
        return self.model(normalised)  # type: ignore[no-any-return]

    @torch.no_grad()
    def predict(self, item: LabelledImage) -> torch.Tensor:
        """Class indices `(H, W)` of a whole image, padded by mirroring to a multiple of 32."""
        self.model.eval()
        image = torch.from_numpy(item.pixels).permute(2, 0, 1)
        height, width = image.shape[1:]
        padding = [0, 0, -width % STRIDE, -height % STRIDE]
        padded = v2.functional.pad(image, padding, padding_mode="symmetric")
        logits = self.logits(padded[None])[0, :, :height, :width]
        return logits.argmax(0).cpu()


def _fine_tune(
    segmenter: Segmenter, config: SegmentConfig, data: LabelledSet
) -> tuple[int, SegmentationScores]:
    """Train with the best weights in the end; returns their step and validation scores."""
    model = segmenter.model
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    loss_function = CrossEntropyDice(config.cross_entropy_share)
    augment = _augmentation(config)
    best_step, best, best_state = 0, None, {}
    history, stale = [], 0
    for step in progress(range(1, config.steps + 1), f"fine-tune {config.run_dir.name}"):
        torch.manual_seed(config.seed * 1_000_003 + step)
        images, masks = _draw_batch(data.train, config, augment)
        model.train()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_function(segmenter.logits(images), masks.to(segmenter.device))
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss):
            raise UserError(f"the loss became {loss.item()} in step {step}; try a lower --lr")
        if step % config.validate_every_steps and step != config.steps:
            continue
        predicted = [segmenter.predict(item) for item in data.val]
        scores = _score(predicted, data.val, len(data.classes))
        history.append({"step": step, "loss": loss.item(), "val_iou_micro": scores.iou_micro})
        stale += 1
        if best is None or scores.iou_micro > best.iou_micro:
            best_step, best, stale = step, scores, 0
            best_state = {name: value.clone() for name, value in model.state_dict().items()}
        if stale >= config.patience:
            break
    assert best is not None
    model.load_state_dict(best_state)
    lines = "".join(json.dumps(record) + "\n" for record in history)
    (config.run_dir / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return best_step, best


def _draw_batch(
    items: Sequence[LabelledImage], config: SegmentConfig, augment: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented crops `(N, 3, S, S)` uint8 and their masks `(N, S, S)` int64."""
    chosen = torch.randint(len(items), (config.batch_size,)).tolist()
    images, masks = [], []
    for position in chosen:
        item = items[position]
        image, mask = augment(
            tv_tensors.Image(torch.from_numpy(item.pixels).permute(2, 0, 1)),
            tv_tensors.Mask(torch.from_numpy(item.mask)[None]),
        )
        images.append(image)
        masks.append(mask[0])
    return torch.stack(images), torch.stack(masks)


def _augmentation(config: SegmentConfig) -> nn.Module:
    """Paper A, "Training Segmentation Models": crop, flips, turns, photometry, blur, sharpen."""
    orientation: list[nn.Module] = [v2.RandomHorizontalFlip()]
    if config.orientation == "any":
        turns = [v2.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]
        orientation += [v2.RandomVerticalFlip(), v2.RandomChoice(turns)]
    compose: nn.Module = v2.Compose(
        [
            v2.RandomCrop(config.crop_size, pad_if_needed=True, padding_mode="symmetric"),
            *orientation,
            v2.ColorJitter(brightness=0.3, contrast=0.3),
            v2.RandomApply([v2.GaussianBlur(3)], p=0.25),
            v2.RandomAdjustSharpness(2, p=0.25),
        ]
    )
    return compose


def _score(
    masks: Sequence[torch.Tensor], items: Sequence[LabelledImage], classes: int
) -> SegmentationScores:
    counts = PixelCounts(classes)
    for mask, item in zip(masks, items, strict=True):
        counts.add(mask, torch.from_numpy(item.mask))
    return counts.scores()


def _normalisation(config: SegmentConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if config.weights is None:
        return IMAGENET_MEAN, IMAGENET_STD
    card = read_encoder_card(config.weights)
    return card.mean, card.std


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_results(run_dir: Path) -> dict[str, Any]:
    """What a finished run wrote: classes, best step, and the scores of each split."""
    results: dict[str, Any] = json.loads((run_dir / RESULTS_NAME).read_text(encoding="utf-8"))
    return results


def _write_masks(
    folder: Path, items: Sequence[LabelledImage], masks: Sequence[torch.Tensor]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for item, mask in zip(items, masks, strict=True):
        Image.fromarray(mask.numpy().astype(np.uint8)).save(folder / f"{item.name}.png")


def _write_results(config: SegmentConfig, result: Result, model: nn.Module) -> None:
    state = {name: value.cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, config.run_dir / "segmenter.safetensors")
    (config.run_dir / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    text = json.dumps(asdict(result), indent=1) + "\n"
    (config.run_dir / RESULTS_NAME).write_text(text, encoding="utf-8")


def _print_table(result: Result) -> None:
    table = Table("", "IoU (micro)", "mIoU", *result.classes, box=None)
    for split, scores in (("val", result.val), ("test", result.test)):
        if scores is not None:
            values = (scores.iou_micro, scores.miou, *scores.iou_per_class)
            table.add_row(split, *(f"{value:.1%}" for value in values))
    console.print(f"best of step {result.best_step}")
    Console().print(table)


if __name__ == "__main__":
    main()
