"""What one run shows of images without their labels: distances, certainty, steadiness.

A run's source images are the measure: a distance of 1 is what its validation images have from its
training images.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from downstream.apply.ensemble import View, entropy, single_view, views
from downstream.apply.novelty import (
    Features,
    Reference,
    crop_features,
    fit_reference,
    left_out_scores,
    novelty_limit,
    score,
)
from downstream.apply.scan import scan_of
from downstream.seg.segmenter import Segmenter
from downstream.uda.batchnorm import adapt_bn, batch_norms
from downstream.uda.domains import DomainStudy
from downstream.uda.prepare import PreparedImage
from downstream.uda.transfer.moments import Moments, distance, pool, watch_moments

Maps = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """Of an image, or the mean over a domain's. What needs batch norm is nan without one."""

    features: float  # distance of the encoder's features, 1 is usual among source images
    batchnorm: float  # the same of batch norm's statistics
    entropy: float  # of the prediction: 0 sure, 1 no idea
    turns: float  # mutual information between the image's turns and flips, in ln(classes)
    # Share of pixels whose class changes when batch norm takes the statistics of the domain's own
    # images; that is how a mean teacher sees them (`uda.teacher`).
    moved: float
    adapted_entropy: float  # of the prediction with those statistics


SIGN_NAMES = tuple(field.name for field in fields(Signs))


@dataclass(frozen=True, slots=True)
class SourceView:
    """A run, and what its source images look like to it."""

    segmenter: Segmenter
    study: DomainStudy
    batch_size: int
    reference: Reference
    moments: Moments
    usual: tuple[float, float]  # distance of features and of statistics: median of the source's
    limits: tuple[float, float]  # of the same in these units: beyond it an image is far


@dataclass(frozen=True, slots=True)
class Look:
    """What a run sees in an image; maps `(C, h, w)` of probabilities at the working scale."""

    signs: Signs
    probabilities: Maps
    adapted: Maps  # with the domain's own batch-norm statistics; the same where there are none


def view_source(
    segmenter: Segmenter,
    study: DomainStudy,
    train: Sequence[PreparedImage],
    val: Sequence[PreparedImage],
    batch_size: int,
) -> SourceView:
    """Describe the source by its images. Needs three of them, one in `val`.

    Distances are from the training images, and usual is what the validation images have: a
    distance from what an image itself belongs to would be too small.
    """
    found = [_describe(segmenter, study, image) for image in (*train, *val)]
    features, moments = [own for own, _ in found], [own for _, own in found]
    reference, centre = fit_reference(features[: len(train)]), pool(moments[: len(train)])
    scores = [score(own, reference) for own in features[len(train) :]]
    away = [distance(own, centre) for own in moments[len(train) :]]
    return SourceView(
        segmenter=segmenter,
        study=study,
        batch_size=batch_size,
        reference=reference,
        moments=centre,
        usual=(float(np.median(scores)), float(np.median(away))),
        limits=(_limit(left_out_scores(features)), _limit(_left_out_distances(moments))),
    )


def look_at(view: SourceView, images: Sequence[PreparedImage]) -> Iterator[Look]:
    """Look at each image of a domain; batch norm is adapted to all of them together."""
    adapted = _adapted(view, images)
    for image in images:
        features, moments = _describe(view.segmenter, view.study, image)
        seen = _predictions(view, view.segmenter, image, _turned(view.study.orientation))
        plain = seen[0]
        other = plain
        if adapted is not None:
            other = _predictions(view, adapted, image, single_view())[0]
        signs = Signs(
            features=score(features, view.reference) / view.usual[0],
            batchnorm=distance(moments, view.moments) / view.usual[1],
            entropy=mean_entropy(plain),
            turns=disagreement(seen),
            moved=float((plain.argmax(0) != other.argmax(0)).mean()) if adapted else float("nan"),
            adapted_entropy=mean_entropy(other) if adapted else float("nan"),
        )
        yield Look(signs, plain, other)


def mean_signs(signs: Sequence[Signs]) -> Signs:
    """Of a domain, from its images'."""
    return Signs(
        **{name: float(np.mean([getattr(own, name) for own in signs])) for name in SIGN_NAMES}
    )


def mean_entropy(probabilities: Maps) -> float:
    """Over the pixels of `(C, h, w)`, 0 to 1."""
    return float(entropy(torch.from_numpy(probabilities)[None]).mean())


def disagreement(opinions: Sequence[Maps]) -> float:
    """Mutual information of pixel and opinion, mean over pixels (see `apply.ensemble`)."""
    mean = np.asarray(np.mean(opinions, axis=0), np.float32)
    apart = mean_entropy(mean) - float(np.mean([mean_entropy(own) for own in opinions]))
    return max(apart, 0.0)


def _left_out_distances(moments: Sequence[Moments]) -> list[float]:
    """The distance of each image from all others together."""
    return [
        distance(own, pool([other for other in moments if other is not own])) for own in moments
    ]


def _limit(left_out: Sequence[float]) -> float:
    """Beyond which an image is far, in units of what is usual."""
    return novelty_limit(left_out) / float(np.median(left_out))


def _describe(
    segmenter: Segmenter, study: DomainStudy, image: PreparedImage
) -> tuple[Features, Moments]:
    """Features and statistics of crops of an image, nothing of it mirrored."""
    segmenter.model.eval()
    with watch_moments(segmenter.model.get_submodule("encoder")) as watch:
        side = study.tile_core + 2 * study.context_margin
        features = crop_features(scan_of(image.name, image.pixels), segmenter, side)
    return features, watch.moments()


@torch.no_grad()
def _predictions(
    view: SourceView, segmenter: Segmenter, image: PreparedImage, turns: Sequence[View]
) -> list[Maps]:
    """Probabilities of a whole image, stitched from tiles, as each of `turns` sees it."""
    segmenter.model.eval()
    plan = view.study.plan(*image.pixels.shape[:2])
    tiles = torch.from_numpy(plan.extract(image.pixels)).permute(0, 3, 1, 2)

    def predicted(there: Callable[..., torch.Tensor], back: Callable[..., torch.Tensor]) -> Maps:
        maps = [
            plan.centre(back(segmenter.logits(there(part)).float().softmax(1))).cpu().numpy()
            for part in torch.split(tiles, view.batch_size)
        ]
        return plan.stitch(np.concatenate(maps))

    return [predicted(there, back) for there, back in turns]


def _turned(orientation: str) -> list[View]:
    """As it is and mirrored; where up has no meaning as it is and two of the seven others."""
    found = views(orientation)
    return found if len(found) == 2 else found[::3]


def _adapted(view: SourceView, images: Sequence[PreparedImage]) -> Segmenter | None:
    """The run with the statistics of these images; None where it has no batch norm."""
    if not batch_norms(view.segmenter.model):
        return None
    tiles = np.concatenate([view.study.plan(*i.pixels.shape[:2]).extract(i.pixels) for i in images])
    # Mixed, so that each batch has parts of several images.
    order = np.random.default_rng(0).permutation(len(tiles))
    mixed = torch.from_numpy(tiles[order]).permute(0, 3, 1, 2)
    other = copy.copy(view.segmenter)
    other.model = copy.deepcopy(view.segmenter.model)
    adapt_bn(other.model, map(other.normalise, torch.split(mixed, max(view.batch_size, 2))))
    return other
