"""Paper B's figure 7: where a network trained on the source alone looks, on source and targets.

Grad-CAM at one named module of the encoder; the paper's "layer 3_16" of ResNet-101 is `layer3.15`.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from downstream.apply.gradcam import class_heat, named_layer
from downstream.explain import heated
from downstream.seg.pictures import Panel, class_colour, contact_sheet, overlay
from downstream.seg.segmenter import STRIDE, Segmenter, load_segmenter
from downstream.uda.bench.runs import BASELINE, AdaptRun, longest
from downstream.uda.bench.study import Study
from downstream.uda.domains import SOURCE
from downstream.uda.prepare import PreparedImage, prepare_source, prepare_target
from pretrain.atomic import write_atomically
from shards.cli import UserError
from shards.images import Pixels

_SIDE = 512  # working pixels that are shown: the middle of an image
_PANEL = 300  # pixels


def draw_attention(study: Study, layer: str, path: Path) -> None:
    """Heat of each class but the first, on one image of the source and of each target.

    Of the first fold and seed of the longest trained `source_only` run. The source's image is of
    its validation fold. Raises `UserError` for no such run, and an encoder without the module.
    """
    run = _baseline_run(study)
    domains = study.domains()
    segmenter = load_segmenter(run.folder)
    module = named_layer(segmenter.model, layer)
    _, validation = prepare_source(domains, run.config.folds, run.config.fold)
    shown: dict[str, PreparedImage] = {SOURCE: validation[0]}
    for target in study.targets:
        shown[target] = prepare_target(domains, target).test[0]
    rows = [_row(segmenter, module, name, image, run.classes) for name, image in shown.items()]
    legend = {name: class_colour(index) for index, name in enumerate(run.classes) if index}
    title = f"Grad-CAM at {layer} of {run.folder.name}; each heat has its own scale"
    stream = io.BytesIO()
    contact_sheet(rows, legend, title, _PANEL).save(stream, "PNG", optimize=True)
    write_atomically(path, stream.getvalue())


def _baseline_run(study: Study) -> AdaptRun:
    for variant in longest(study.variants()):
        runs = [run for run in study.runs if run.variant == variant and run.finished]
        if variant.method == BASELINE and runs:
            return min(runs, key=lambda run: run.place)
    raise UserError(f"figure 7 is of a {BASELINE} run, and none is finished")


def _row(
    segmenter: Segmenter,
    module: torch.nn.Module,
    name: str,
    image: PreparedImage,
    classes: Sequence[str],
) -> list[Panel]:
    pixels = _middle(image.pixels)
    batch = segmenter.normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    panels = [Panel(pixels, f"{name}: {image.name}")]
    for index, label in list(enumerate(classes))[1:]:
        heat = class_heat(segmenter.model, batch, module, index)
        panels.append(Panel(heated(pixels, heat), f"speaks for {label}"))
    if image.mask is not None:
        panels.append(Panel(overlay(pixels, _middle(image.mask).astype(np.int64)), "label"))
    return panels


def _middle(values: Pixels) -> Pixels:
    height, width = (min(n, _SIDE) // STRIDE * STRIDE for n in values.shape[:2])
    top, left = (values.shape[0] - height) // 2, (values.shape[1] - width) // 2
    return np.ascontiguousarray(values[top : top + height, left : left + width])
