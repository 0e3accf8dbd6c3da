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
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from downstream.finetune.config import SegmentConfig
from micrograph.atomic import write_json
from micrograph.cli import UserError, console, program, warn
from micrograph.settings import Positional, build_config, load_config, read_recipe
from pretrain.registry.storage.pull import find_segmenter, is_published
from pretrain.runs.run_folder import RunPaths
from shards.images.decode import Pixels

SCHEMA_VERSION = 1
FORMATS = {"onnx": "segmenter.onnx", "pt2": "segmenter.pt2", "smp": "smp"}


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
    import torch  # here, because --help does not need it

    from downstream.inference.export_formats import (
        INPUT,
        OUTPUT,
        PixelsToProbabilities,
        write_checked,
    )
    from downstream.network.segmenter import STRIDE, load_segmenter

    if "onnx" in formats:
        _require_onnx()
    segmenter = load_segmenter(run, torch.device("cpu"))
    card = segmenter.card
    assert card is not None  # loaded from a folder
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
        files[FORMATS[name]] = write_checked(name, out / FORMATS[name], whole, card, pixels)
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


def _test_image(run: Path) -> Pixels:
    """A validation image of the run, or noise if its images are gone."""
    from downstream.finetune.labelled_set import read_labelled_set

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
