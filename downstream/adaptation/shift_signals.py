"""Two label-free signals of the distance between a target domain and a segmenter's source.

feature distance    Mahalanobis distance of the encoder's features from those of the training
                    images, in units of that of its validation images
changed pixels      fraction of pixels whose class changes when batch norm uses the statistics of
                    the domain's own images (AdaBN, Li et al. 2016, arXiv:1603.04779)
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from downstream.adaptation.methods.batchnorm import adapt_bn, batch_norms
from downstream.domains.evaluate import predict_image
from downstream.domains.prepare import PreparedImage
from downstream.domains.study import DomainStudy
from downstream.images.scan import array_reader
from downstream.network.segmenter import Segmenter
from downstream.reliability.out_of_distribution import (
    Features,
    Reference,
    crop_features,
    feature_distance,
    fit_reference,
)


@dataclass(frozen=True, slots=True)
class ShiftSignals:
    """The signals of one image, or their means over images or runs."""

    feature_distance: float  # 1: the median of the source's validation images
    changed_pixels: float  # fraction, 0 to 1; nan for a network without batch norm


SIGNAL_NAMES = tuple(field.name for field in fields(ShiftSignals))


@dataclass(frozen=True, slots=True)
class Source:
    """A segmenter and the features of its source domain."""

    segmenter: Segmenter
    study: DomainStudy
    batch_size: int
    reference: Reference  # features of the training images
    unit: float  # median distance of the validation images


def describe_source(
    segmenter: Segmenter,
    study: DomainStudy,
    train: Sequence[PreparedImage],
    val: Sequence[PreparedImage],
    batch_size: int,
) -> Source:
    """Describe the source domain by its images, at least one of each split."""
    reference = fit_reference([_features(segmenter, study, image) for image in train])
    distances = [feature_distance(_features(segmenter, study, image), reference) for image in val]
    return Source(segmenter, study, batch_size, reference, float(np.median(distances)))


def measure_shift(source: Source, images: Sequence[PreparedImage]) -> list[ShiftSignals]:
    """The signals of each image of a domain; batch norm sees all of them together."""
    adapted = _with_statistics_of(images, source)
    signals = []
    for image in images:
        features = _features(source.segmenter, source.study, image)
        distance = feature_distance(features, source.reference)
        changed = float("nan") if adapted is None else _changed_pixels(source, adapted, image)
        signals.append(ShiftSignals(distance / source.unit, changed))
    return signals


def mean_signals(signals: Sequence[ShiftSignals]) -> ShiftSignals:
    """The mean of each signal."""
    means = {name: np.mean([getattr(one, name) for one in signals]) for name in SIGNAL_NAMES}
    return ShiftSignals(**{name: float(mean) for name, mean in means.items()})


def at_working_scale(image: PreparedImage) -> PreparedImage:
    """`image` with its working size as native size, so that predictions are not resized."""
    return replace(image, native_shape=image.pixels.shape[:2], native_mask=image.mask)


def _features(segmenter: Segmenter, study: DomainStudy, image: PreparedImage) -> Features:
    segmenter.model.eval()
    side = study.plan(*image.pixels.shape[:2]).side
    return crop_features(array_reader(image.name, image.pixels), segmenter, side)


def _changed_pixels(source: Source, adapted: Segmenter, image: PreparedImage) -> float:
    before, after = (
        predict_image(segmenter, source.study, at_working_scale(image), source.batch_size)
        for segmenter in (source.segmenter, adapted)
    )
    return float((before.argmax(0) != after.argmax(0)).mean())


def _with_statistics_of(images: Sequence[PreparedImage], source: Source) -> Segmenter | None:
    """The segmenter with batch norm's statistics of `images`; None where it has no batch norm."""
    if not batch_norms(source.segmenter.model):
        return None
    tiles = np.concatenate(
        [source.study.plan(*image.pixels.shape[:2]).extract(image.pixels) for image in images]
    )
    # Shuffled, so that each batch holds tiles of several images.
    shuffled = tiles[np.random.default_rng(0).permutation(len(tiles))]
    batches = torch.split(
        torch.from_numpy(shuffled).permute(0, 3, 1, 2),
        max(source.batch_size, 2),
    )
    adapted = copy.copy(source.segmenter)
    adapted.model = copy.deepcopy(source.segmenter.model)
    adapt_bn(adapted.model, map(adapted.normalise, batches))
    return adapted
