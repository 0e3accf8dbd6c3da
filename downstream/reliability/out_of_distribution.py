"""The distance of an image from the labelled ones, by the encoder's features.

The out-of-distribution score is the Mahalanobis distance of pooled features (Lee et al. 2018, arXiv
1807.03888, one class), divided by the square root of their number and averaged over crops of the
image. The covariance is shrunk (Ledoit and Wolf 2004), since there are fewer crops than features.

Each labelled image is scored by a reference of the others. The limit is the score that 99 of 100
more such images stay below: a prediction limit for the logarithms of these scores. Three scores say
little of their own scatter, so it uses the t distribution with a variance shrunk to a prior (Smyth
2004, doi 10.2202/1544-6115.1027). An outlier among the labelled images must not silence all
warnings: it is clipped to the outer fence of the others (Tukey 1977: third quartile plus three
interquartile ranges).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import t as student_t
from sklearn.covariance import LedoitWolf

from downstream.images.scan import ImageReader
from downstream.network.models import feature_maps
from downstream.network.segmenter import STRIDE, Segmenter
from shards.images.decode import Pixels

MAX_CROPS = 16  # of an image; more change the mean little
_BATCH = 4

_FALSE_ALARM_RATE = 0.01  # of images like the labelled ones
# Standard deviation of the scores' natural logarithms: 0.07 to 0.22 in Super-1 by references of 3
# to 14 images (docs/measurements.md).
_PRIOR_SCATTER = 0.2
_PRIOR_FREEDOM = 4  # degrees of freedom: the prior outweighs fewer images

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reference:
    """The labelled images' features: mean `(D,)` and inverse covariance `(D, D)`."""

    mean: Features
    precision: Features


def ood_score(
    scan: ImageReader, segmenter: Segmenter, reference: Reference, crop_size: int
) -> float:
    """The out-of-distribution score of an image; about 1 for the reference's own."""
    return feature_distance(crop_features(scan, segmenter, crop_size), reference)


def crop_features(scan: ImageReader, segmenter: Segmenter, crop_size: int) -> Features:
    """Pooled features `(crops, D)` of crops spread evenly over an image."""
    crops = list(_crops(scan, crop_size))
    batches = [crops[first : first + _BATCH] for first in range(0, len(crops), _BATCH)]
    return np.concatenate([pooled_features(segmenter, np.stack(batch)) for batch in batches])


@torch.inference_mode()
def pooled_features(segmenter: Segmenter, crops: Pixels) -> Features:
    """Means `(N, D)` of the encoder's deepest maps, of crops `(N, S, S, 3)` uint8."""
    pooled: list[torch.Tensor] = []

    def record(module: torch.nn.Module, inputs: object, output: object) -> None:
        pooled.append(feature_maps(module, output)[-1].float().mean((2, 3)))

    encoder = segmenter.model.get_submodule("encoder")
    handle = encoder.register_forward_hook(record)
    try:
        segmenter.logits(torch.from_numpy(crops).permute(0, 3, 1, 2))
    finally:
        handle.remove()
    return np.asarray(pooled[0].cpu().numpy())


def fit_reference(features: Sequence[Features]) -> Reference:
    """The reference of labelled images, each given by the features `(n, D)` of its crops."""
    fitted = LedoitWolf().fit(np.concatenate(features).astype(np.float64))
    return Reference(fitted.location_.astype(np.float32), fitted.precision_.astype(np.float32))


def leave_one_out_scores(features: Sequence[Features]) -> list[float]:
    """The score of each image by a reference of all others. Needs at least two images."""
    return [
        feature_distance(own, fit_reference([*features[:number], *features[number + 1 :]]))
        for number, own in enumerate(features)
    ]


def ood_limit(scores: Sequence[float]) -> float:
    """The score above which an image is out of distribution, from `leave_one_out_scores`.

    Needs at least two scores.
    """
    logs = np.log(scores)
    low, high = np.quantile(logs, (0.25, 0.75))
    logs = np.minimum(logs, high + 3 * (high - low))
    own = len(logs) - 1  # degrees of freedom
    freedom = own + _PRIOR_FREEDOM
    variance = (own * logs.var(ddof=1) + _PRIOR_FREEDOM * _PRIOR_SCATTER**2) / freedom
    quantile = student_t.ppf(1 - _FALSE_ALARM_RATE, freedom)
    return float(np.exp(logs.mean() + quantile * np.sqrt(variance * (1 + 1 / len(logs)))))


def feature_distance(features: Features, reference: Reference) -> float:
    """The mean Mahalanobis distance of crops `(n, D)`, over the square root of D."""
    away = features.astype(np.float64) - reference.mean
    squares = np.einsum("nd,de,ne->n", away, reference.precision.astype(np.float64), away)
    return float(np.sqrt(np.maximum(squares, 0) / features.shape[1]).mean())


def _crops(scan: ImageReader, crop_size: int) -> Iterator[Pixels]:
    """At most `MAX_CROPS` squares `(S, S, 3)`, of a size that the network takes."""
    side = min(crop_size, scan.height, scan.width) // STRIDE * STRIDE
    tops, lefts = _spread(scan.height - side, side), _spread(scan.width - side, side)
    for top in tops:
        strip = scan.rows(top, top + side)
        for left in lefts:
            yield strip[:, left : left + side]


def _spread(room: int, side: int) -> list[int]:
    """Up to four positions from 0 to `room`, at least half a side apart."""
    count = min(4, 1 + -(-2 * room // side))
    return sorted({round(position) for position in np.linspace(0, room, count)})
