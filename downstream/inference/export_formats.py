"""Write a segmenter in the format of another program, read it back, and compare the outputs."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn

from downstream.network.segmenter import STRIDE
from micrograph.cli import UserError, warn
from pretrain.cards.segmenter_card import SegmenterCard
from shards.images.decode import Pixels
from shards.shard_format.schema import file_sha256

INPUT, OUTPUT = "image", "probabilities"
TOLERANCE = 1e-3  # of probabilities; rounding causes about 1e-5
# Batch, height and width for checking exports with dynamic sizes.
_CHECKED_SIZES = ((1, 160, 224), (2, 320, 192), (1, 512, 512))
_SIDES = (128, 8192)  # pixels; the minimum of PAN, and a maximum, which the tracer requires
_SMP_WEIGHTS = "model.safetensors"

Size = tuple[int, int, int]
Run = Callable[[torch.Tensor], torch.Tensor]


class PixelsToProbabilities(nn.Module):
    """A segmenter with normalisation and softmax, for pixels `(N, 3, H, W)` from 0 to 255."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, card: SegmenterCard) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", 255 * torch.tensor(card.mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(card.std)[:, None, None])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network((image - self.mean) / self.std), 1)


def write_checked(
    name: str, path: Path, whole: PixelsToProbabilities, card: SegmenterCard, pixels: Pixels
) -> dict[str, Any]:
    """Write and check one format: with dynamic sizes, or else with the crop size of training."""
    reasons = []
    for sizes in (_CHECKED_SIZES, ((1, card.crop_size, card.crop_size),)):
        fixed = None if sizes is _CHECKED_SIZES else sizes[0]
        try:
            run = _WRITERS[name](whole, card, path, fixed)
            largest, changed = _difference(run, whole, pixels, sizes)
        except Exception as error:  # tracer, exporter and runtime raise various types
            reasons.append(str(error).strip().splitlines()[0])
            continue
        if largest <= TOLERANCE:
            if fixed:
                warn(f"{path.name} only takes {card.crop_size} pixels square: {reasons[0]}")
            return {
                "size": fixed,
                "largest_difference": largest,
                "pixels_changed": changed,
                "sha256": file_sha256(path / _SMP_WEIGHTS if path.is_dir() else path),
            }
        reasons.append(f"its probabilities differ by {largest:.2g}")
    if path.is_file():
        path.unlink()
    raise UserError(f"cannot export {card.decoder} on {card.arch} as {name}: {'; '.join(reasons)}")


def _write_onnx(
    whole: PixelsToProbabilities, card: SegmenterCard, path: Path, fixed: Size | None
) -> Run:
    import onnxruntime

    written = torch.onnx.export(
        _traced(whole, fixed), input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    assert written is not None  # None only if a file is given
    written.model.metadata_props["classes"] = json.dumps(card.class_names)
    written.model.metadata_props["card"] = json.dumps(asdict(card))
    written.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])


def _write_pt2(
    whole: PixelsToProbabilities, card: SegmenterCard, path: Path, fixed: Size | None
) -> Run:
    torch.export.save(_traced(whole, fixed), path)
    read: Run = torch.export.load(path).module()
    return read


def _write_smp(
    whole: PixelsToProbabilities, card: SegmenterCard, path: Path, fixed: Size | None
) -> Run:
    network: Any = whole.network
    if not isinstance(network, smp.base.SegmentationModel):
        raise UserError(f"{card.decoder} is not an smp decoder; use onnx or pt2")
    network.save_pretrained(path)
    return PixelsToProbabilities(smp.from_pretrained(path), card).eval()


_WRITERS = {"onnx": _write_onnx, "pt2": _write_pt2, "smp": _write_smp}


def _traced(whole: PixelsToProbabilities, fixed: Size | None) -> torch.export.ExportedProgram:
    if fixed:
        return torch.export.export(whole, (torch.zeros(fixed[0], 3, *fixed[1:]),))
    low, high = (side // STRIDE for side in _SIDES)
    shape = {0: torch.export.Dim("batch", min=1, max=1024)}
    for axis, side in ((2, "height"), (3, "width")):
        shape[axis] = STRIDE * torch.export.Dim(f"{side}_over_{STRIDE}", min=low, max=high)
    # Distinct sizes other than 1, or the tracer would treat them as constants.
    example = torch.zeros(2, 3, 256, 320)
    return torch.export.export(whole, (example,), dynamic_shapes={INPUT: shape})


@torch.no_grad()
def _difference(
    run: Run, whole: PixelsToProbabilities, pixels: Pixels, sizes: Sequence[Size]
) -> tuple[float, float]:
    """The largest difference of a probability, and the fraction of pixels that change class."""
    largest, changed, count = 0.0, 0, 0
    for batch, height, width in sizes:
        missing = [
            (0, max(0, side - had))
            for side, had in zip((height, width), pixels.shape[:2], strict=True)
        ]
        filled = np.pad(pixels, [*missing, (0, 0)], mode="symmetric")[:height, :width]
        image = torch.from_numpy(filled.astype(np.float32)).permute(2, 0, 1)
        images = torch.stack([image.roll(number, 2) for number in range(batch)]).contiguous()
        wanted, found = whole(images), run(images)
        largest = max(largest, float((wanted - found).abs().max()))
        changed += int((wanted.argmax(1) != found.argmax(1)).sum())
        count += batch * height * width
    return largest, changed / count
