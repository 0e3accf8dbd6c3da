"""Ensembles of the folds of a variant: the mean of their probabilities (paper B, section 4.2)."""

from collections.abc import Sequence

import numpy as np

from downstream.domains.evaluate import predict_image, score_image, total_confusion
from downstream.domains.prepare import PreparedImage, prepare_target
from downstream.domains.study import DomainStudy
from downstream.network.segmenter import Segmenter, load_segmenter
from downstream.scoring.metrics import score
from downstream.studies.adapt_runs import AdaptRuns
from downstream.studies.adapt_tables import Row, spread
from micrograph.cli import progress
from micrograph.confidence_intervals import NAN
from micrograph.literature_values import read_published
from micrograph.report_tables import Percent, Table, named_rows


def bagging_table(runs: AdaptRuns, study: DomainStudy) -> Table:
    """Score members and ensemble of each variant, target and seed with at least two folds.

    Predicts every test image with every fold. Raises `UserError` for missing images or weights.
    """
    bags = [
        (target, variant, seed, members)
        for target in runs.targets
        for variant in runs.longest()
        for seed, members in runs.on(target, variant).groupby("seed")
        if len(members) > 1
    ]
    rows: list[Row] = []
    for target, variant, seed, members in progress(bags, "bagging"):
        segmenters = [load_segmenter(folder) for folder in members.folder]
        images = prepare_target(study, target).test
        bagged = bag_miou(segmenters, study, images, members.config.iloc[0].batch_size)
        mean = spread(members)
        row = {"Target": target} | runs.head(variant) | {"seed": seed, "members": len(members)}
        row |= {"mean of members": mean, "bagged": Percent(bagged)}
        rows.append(row | {"gain": Percent(bagged - mean.mean, signed=True)})
    for cell in named_rows(read_published("paper_b").query("quantity == 'bagged_miou'")):
        if rows and cell.domain in runs.targets:
            row = {"Target": cell.domain, "Model": "*paper B: UDA - resnet101 DeepLabV2*"}
            row |= {"Pre-training": cell.init, "Augmentation": cell.augmentation}
            rows.append(row | {"members": 5, "bagged": Percent(cell.value)})
    return Table("bagging", "Bagging of folds: mean probability, percent mIoU", rows)


def bag_miou(
    segmenters: Sequence[Segmenter],
    study: DomainStudy,
    images: Sequence[PreparedImage],
    batch_size: int,
) -> float:
    """The mIoU of the mean of the members' probabilities, over all pixels of `images`."""
    scored = []
    for image in images:
        if image.native_mask is not None:
            members = [predict_image(member, study, image, batch_size) for member in segmenters]
            mask = np.mean(members, axis=0).argmax(0).astype(np.uint8)
            scored.append(score_image(image, mask, len(study.classes)))
    confusion = total_confusion(scored)
    return NAN if confusion is None else score(confusion).miou
