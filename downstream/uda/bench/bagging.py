"""The folds of a variant as one network: the mean of their probabilities (paper B, section 4.2)."""

from collections.abc import Sequence

import numpy as np

from downstream.seg.metrics import score
from downstream.seg.segmenter import Segmenter, load_segmenter
from downstream.uda.bench.published import printed_cells
from downstream.uda.bench.runs import AdaptRun, longest
from downstream.uda.bench.sheet import Percent, Sheet
from downstream.uda.bench.spread import spread
from downstream.uda.bench.study import Row, Study
from downstream.uda.domains import DomainStudy
from downstream.uda.evaluate import predict_image, score_image, total_confusion
from downstream.uda.prepare import PreparedImage, prepare_target
from shards.cli import progress


def bagging_sheet(study: Study) -> Sheet:
    """Of each variant, target and seed with two folds or more: members and their bag.

    Predicts every test image with every fold. Raises `UserError` where images or weights are gone.
    """
    rows: list[Row] = []
    bags = [(target, runs) for target in study.targets for runs in _bags(study, target)]
    for target, runs in progress(bags, "bagging"):
        domains = study.domains()
        images = prepare_target(domains, target).test
        segmenters = [load_segmenter(run.folder) for run in runs]
        bagged = bag_miou(segmenters, domains, images, runs[0].config.batch_size)
        members = spread({run.place: (run.targets or {})[target].miou for run in runs})
        rows.append(
            {
                "Target": target,
                **study.head(runs[0].variant),
                "seed": runs[0].config.seed,
                "members": members.n,
                "mean of members": members,
                "bagged": Percent(bagged),
                "gain": Percent(bagged - members.mean, True),
            }
        )
    rows += _printed(study) if rows else []
    title = "Bagging of folds: mean probability, percent mIoU"
    return Sheet("bagging", title, rows)


def bag_miou(
    segmenters: Sequence[Segmenter],
    study: DomainStudy,
    images: Sequence[PreparedImage],
    batch_size: int,
) -> float:
    """mIoU over all pixels of `images` of the mean of the members' probabilities."""
    scored = []
    for image in images:
        if image.native_mask is None:
            continue
        mean = np.mean(
            [predict_image(member, study, image, batch_size) for member in segmenters], axis=0
        )
        scored.append(score_image(image, mean.argmax(0).astype(np.uint8), len(study.classes)))
    confusion = total_confusion(scored)
    return float("nan") if confusion is None else score(confusion).miou


def _bags(study: Study, target: str) -> list[list[AdaptRun]]:
    """The runs of one variant and seed, one of each fold, where there are several."""
    found = []
    for variant in longest(study.variants()):
        runs = [r for r in study.runs if r.variant == variant and target in (r.targets or {})]
        for seed in sorted({run.config.seed for run in runs}):
            of_folds = {run.place: run for run in runs if run.config.seed == seed}
            found.append(list(of_folds.values()))
    return [members for members in found if len(members) > 1]


def _printed(study: Study) -> list[Row]:
    return [
        {
            "Target": cell.domain,
            "Model": "*paper B: UDA - resnet101 DeepLabV2*",
            "Pre-training": cell.init,
            "Augmentation": cell.augmentation,
            "members": 5,
            "bagged": Percent(cell.value),
        }
        for cell in printed_cells("", "bagged_miou")
        if cell.domain in study.targets and cell.value is not None
    ]
