"""Grad-CAM pictures: which parts of an image speak for each class, to a trained segmenter.

python -m downstream.explain RUN IMAGE … --out DIR [--classes NAME …] [--stages 2 -1 | --layer NAME]

OUT/NAME.png: the image, what was predicted, and the heat of each class, a row for each of the
encoder's maps that are asked for: a decoder with skip connections may take all from a shallow one
and leave the deepest with stray spots. Every heat is scaled to its own strongest place. Images
larger than 1,024 pixels are shown by their middle. An adapted network's images are shown as it sees
them: prepared as its training's were.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from downstream.apply.gradcam import Heat, class_heat, encoder_layer, named_layer, predicted
from downstream.apply.inputs import find_images
from downstream.apply.prepared import open_prepared
from downstream.seg.pictures import Panel, class_colour, contact_sheet, overlay
from downstream.seg.segmenter import STRIDE, Segmenter, load_segmenter
from shards.cli import ArgumentParser, UserError, program, progress
from shards.images import Pixels

MAX_SIDE = 1024  # pixels: the gradient needs the whole network's activations
STAGES = (2, -1)  # one that knows where things end, and one that knows what they are
_OPACITY = 0.5


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description="Show what speaks for each class (Grad-CAM).")
    parser.add_argument("run", metavar="RUN", help="finished run, or a name in a registry")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="images, folders or patterns")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the pictures")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="of these only [all]")
    parser.add_argument(
        "--stages",
        nargs="+",
        type=int,
        default=STAGES,
        metavar="N",
        help="of the encoder's maps, 1: the finest, -1: the deepest [2 -1]",
    )
    parser.add_argument("--layer", metavar="NAME", help="a module of the encoder, as layer3.15")
    options = parser.parse_args(argv)
    segmenter = load_segmenter(options.run)
    paths = find_images(options.images)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in progress(paths, "explain"):
        picture = explain(segmenter, path, options.classes, options.stages, options.layer)
        picture.save(options.out / f"{path.stem}.png")
    print(options.out)


def explain(
    segmenter: Segmenter,
    path: Path,
    names: Sequence[str] | None = None,
    stages: Sequence[int] = STAGES,
    layer: str | None = None,
) -> Image.Image:
    """A sheet of one image's heats, a row for each encoder map of `stages`, or for a module of it.

    Raises `UserError` for unknown classes, stages and modules.
    """
    assert segmenter.card is not None  # it comes from a folder
    known = segmenter.card.class_names
    for name in names or ():
        if name not in known:
            raise UserError(f"no class {name!r}; this run has {', '.join(known)}")
    pixels = _middle(path, segmenter.card.preparation)
    image = segmenter.normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    if layer is None:
        modules = {f"map {n}": encoder_layer(segmenter.model, n, image) for n in stages}
    else:
        modules = {layer: named_layer(segmenter.model, layer)}
    with torch.no_grad():
        mask = predicted(segmenter.model(image)[0]).cpu().numpy()
    shown = [Panel(pixels, "image"), Panel(overlay(pixels, mask), "classes")]
    rows = [
        shown
        + [
            Panel(
                heated(pixels, class_heat(segmenter.model, image, module, index)),
                f"speaks for {name}, at {where}",
            )
            for index, name in enumerate(known)
            if names is None or name in names
        ]
        for where, module in modules.items()
    ]
    legend = {name: class_colour(index) for index, name in enumerate(known)}
    title = f"{path.name}: Grad-CAM, every heat scaled to its own strongest place"
    return contact_sheet(rows, legend, title, 384)


def _middle(path: Path, preparation: Mapping[str, Any]) -> Pixels:
    """What the network sees of the image, cut about its middle to sides that it takes."""
    _, scan = open_prepared(path, preparation)
    if min(scan.height, scan.width) < STRIDE:
        raise UserError(
            f"{path} is too small to be explained: {scan.width} x {scan.height} pixels as the "
            f"network sees it, and it takes {STRIDE} or more"
        )
    height, width = (min(n, MAX_SIDE) // STRIDE * STRIDE for n in (scan.height, scan.width))
    top, left = (scan.height - height) // 2, (scan.width - width) // 2
    return np.ascontiguousarray(scan.rows(top, top + height)[:, left : left + width])


def heated(pixels: Pixels, heat: Heat) -> Pixels:
    """Heat `(H, W)` laid over a micrograph `(H, W, 3)`."""
    colours = colormaps["inferno"](heat)[..., :3] * 255
    return np.rint((1 - _OPACITY) * pixels + _OPACITY * colours).astype(np.uint8)


if __name__ == "__main__":
    main()
