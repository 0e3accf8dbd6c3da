"""Export a finished segmenter for other programs: ONNX, a torch.export archive, an smp folder.

python -m downstream.export RUN [--formats onnx pt2 smp] [--out DIR]

OUT/segmenter.onnx   for ONNX Runtime and others (pip install '.[onnx]')
OUT/segmenter.pt2    torch.export.load("segmenter.pt2").module()
OUT/smp/             smp.from_pretrained("smp")
OUT/card.json        input, output and classes, and the deviation of each file from the run

The first two take RGB pixels, `image` (N, 3, H, W) float32 from 0 to 255, and return
`probabilities` (N, classes, H, W): they include the normalisation and the softmax. The third is the
bare network. Images for an adapted network must be prepared as described in the card. Each file is
read back and compared with the run on one of its validation images before the card is written.
"""

import importlib.util
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import segmentation_models_pytorch as smp
import torch
from torch import nn

from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import read_labelled_set
from downstream.network.segmenter import STRIDE, load_segmenter
from micrograph.atomic import write_json
from micrograph.cli import UserError, console, program, warn
from micrograph.settings import Positional, build_config, load_config, read_recipe
from pretrain.cards.segmenter_card import SegmenterCard
from pretrain.registry.storage.pull import find_segmenter, is_published
from pretrain.runs.run_folder import RunPaths
from shards.format.schema import file_sha256
from shards.images.decode import Pixels

SCHEMA_VERSION = 1
FORMATS = {"onnx": "segmenter.onnx", "pt2": "segmenter.pt2", "smp": "smp"}
_SMP_WEIGHTS = "model.safetensors"
INPUT, OUTPUT = "image", "probabilities"
TOLERANCE = 1e-3  # of probabilities; rounding causes about 1e-5
# Batch, height and width for checking exports with dynamic sizes.
_CHECKED_SIZES = ((1, 160, 224), (2, 320, 192), (1, 512, 512))
_SIDES = (128, 8192)  # pixels; the minimum of PAN, and a maximum, which the tracer requires

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


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a finished segmenter for other programs."""

    run: Annotated[str, Positional, "finished run or registry name"]
    formats: Annotated[tuple[Literal["onnx", "pt2", "smp"], ...], "formats to write"] = ("onnx",)
    out: Annotated[Path | None, "output folder [RUN/export]"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(ExportConfig, argv)
    run = find_segmenter(config.run)
    if config.out is None and is_published(run):
        raise UserError(
            f"{config.run} is published and must not change; choose a folder with --out DIR"
        )
    out = config.out or run / "export"
    card = export_segmenter(run, out, config.formats)
    for name, facts in card["files"].items():
        sides = "any size" if facts["size"] is None else f"{facts['size'][1]} pixels square"
        console.print(
            f"{name}: {sides}; probabilities differ by at most {facts['largest_difference']:.1e}, "
            f"{facts['pixels_changed']:.2%} of the pixels change class",
            markup=False,
            soft_wrap=True,
        )
    print(out)


def export_segmenter(run: Path, out: Path, formats: Sequence[str]) -> dict[str, Any]:
    """Write the given formats and the card; return the card.

    Raises `UserError` if the run is not finished, a package is missing, or an exported file does
    not reproduce the run.
    """
    if "onnx" in formats:
        _require_onnx()
    segmenter = load_segmenter(run, torch.device("cpu"))
    card = segmenter.card
    assert card is not None  # it comes from a folder
    if done := card.spelled_preparation:
        warn(
            f"the training images of {run} were prepared by: {done}; the exported files do not "
            "include this step (downstream.predict does)"
        )
    # Not channels last: archives would keep these strides, and their readers warn about them.
    segmenter.model.to(memory_format=torch.contiguous_format)
    whole = PixelsToProbabilities(segmenter.model, card).eval()
    pixels = _test_image(run)
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in dict.fromkeys(formats):
        console.print(f"writing {out / FORMATS[name]} …", markup=False)
        files[FORMATS[name]] = _write_checked(name, out / FORMATS[name], whole, card, pixels)
    content = {
        "schema_version": SCHEMA_VERSION,
        "input": f"{INPUT}: float32 (N, 3, H, W), RGB, 0 to 255; H and W multiples of {STRIDE}"
        + (f"; prepared by: {done}" if done else ""),
        "output": f"{OUTPUT}: float32 (N, {len(card.classes)}, H, W)",
        "classes": list(card.class_names),
        "files": files,
        "segmenter": asdict(card),
        "versions": _versions(formats),
    }
    write_json(out / "card.json", content)
    return content


def _write_checked(
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


def _test_image(run: Path) -> Pixels:
    """A validation image of the run, or noise if its images are gone."""
    try:
        config = build_config(SegmentConfig, read_recipe(RunPaths(run).config))
        return read_labelled_set(config).val[0].pixels
    except UserError as error:
        warn(f"checked on noise, because the images of the run cannot be read: {error}")
        return np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)


def _require_onnx() -> None:
    missing = [n for n in ("onnxscript", "onnxruntime") if importlib.util.find_spec(n) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed; pip install '.[onnx]'")


def _versions(formats: Sequence[str]) -> dict[str, str]:
    packages = ["micrograph-pretrain", "torch", "segmentation-models-pytorch"]
    packages += ["onnx", "onnxscript", "onnxruntime"] if "onnx" in formats else []
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


if __name__ == "__main__":
    main()
