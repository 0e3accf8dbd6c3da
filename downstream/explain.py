"""Draw Grad-CAM figures: which parts of an image make a segmenter predict each class.

python -m downstream.explain RUN IMAGE … --out DIR [--classes NAME …] [--stages 2 -1 | --layer NAME]

OUT/NAME.png: the image, the prediction and the heat map of each class, one row per stage of the
encoder (a decoder with skip connections may rely on a shallow stage and leave little in the deepest
one). Each heat map is scaled to its own maximum. Of images larger than 1,024 pixels the centre is
shown. Images of an adapted network are prepared as in its training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image

from downstream.images.prepared import open_prepared
from downstream.inference.arguments import find_images
from downstream.inference.gradcam import (
    class_heat,
    encoder_layer,
    heated,
    named_layer,
    predicted,
)
from downstream.network.segmenter import STRIDE, Segmenter, load_segmenter
from downstream.scoring.overlays import Panel, class_colour, contact_sheet, overlay
from micrograph.cli import UserError, program, progress
from micrograph.settings import Positional, load_config
from shards.images.decode import Pixels

MAX_SIDE = 1024  # pixels: the gradient keeps all activations of the network
STAGES = (2, -1)  # a shallow one for boundaries, the deepest for what objects are


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplainConfig:
    """Show which parts of images are evidence for each class (Grad-CAM)."""

    run: Annotated[str, Positional, "finished run, or a name in a registry"]
    images: Annotated[tuple[str, ...], Positional, "images, folders or patterns"]
    out: Annotated[Path, "folder for the figures"]
    classes: Annotated[tuple[str, ...], "only these [all]"] = ()
    stages: Annotated[
        tuple[int, ...], "feature maps of the encoder, 1: the finest, -1: the deepest"
    ] = STAGES
    layer: Annotated[str | None, "a module of the encoder instead, such as layer3.15"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(ExplainConfig, argv)
    segmenter = load_segmenter(config.run)
    paths = find_images(config.images)
    config.out.mkdir(parents=True, exist_ok=True)
    for path in progress(paths, "explain"):
        figure = explain(segmenter, path, config.classes, config.stages, config.layer)
        figure.save(config.out / f"{path.stem}.png")
    print(config.out)


def explain(
    segmenter: Segmenter,
    path: Path,
    names: Sequence[str] = (),
    stages: Sequence[int] = STAGES,
    layer: str | None = None,
) -> Image.Image:
    """A figure of one image's heat maps, one row per stage of the encoder, or for one module of it.

    Raises `UserError` for unknown classes, stages and modules.
    """
    assert segmenter.card is not None  # loaded from a folder
    known = segmenter.card.class_names
    for name in names:
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
                f"evidence for {name}, at {where}",
            )
            for index, name in enumerate(known)
            if not names or name in names
        ]
        for where, module in modules.items()
    ]
    legend = {name: class_colour(index) for index, name in enumerate(known)}
    title = f"{path.name}: Grad-CAM, each heat map scaled to its own maximum"
    return contact_sheet(rows, legend, title, 384)


def _middle(path: Path, preparation: Mapping[str, Any]) -> Pixels:
    """The centre of the prepared image, with sides that are multiples of the stride."""
    _, reader = open_prepared(path, preparation)
    if min(reader.height, reader.width) < STRIDE:
        raise UserError(
            f"{path} is too small to be explained: {reader.width} x {reader.height} pixels as the "
            f"network sees it; it needs at least {STRIDE} on each side"
        )
    height, width = (min(n, MAX_SIDE) // STRIDE * STRIDE for n in (reader.height, reader.width))
    top, left = (reader.height - height) // 2, (reader.width - width) // 2
    return np.ascontiguousarray(reader.rows(top, top + height)[:, left : left + width])


if __name__ == "__main__":
    main()
