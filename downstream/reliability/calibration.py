"""Temperature scaling of a segmenter's probabilities, and their calibration error.

Guo et al. 2017 (arXiv 1706.04599), section 4.2. Networks trained with Dice are overconfident;
dividing the logits by a temperature changes the probabilities but no mask. The expected calibration
error (their eq. 3) is the mean of |accuracy - confidence| over bins of confidence of equal width,
weighted by their pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure  # not pyplot: no state, no screen
from scipy.optimize import minimize_scalar

from downstream.labels.dataset import LabelledImage
from downstream.network.segmenter import Segmenter

BINS = 15  # as Guo et al.
MAX_PIXELS = 2_000_000  # sampled from a split; more change only the third digit
_RANGE = (np.log(0.05), np.log(20.0))  # of the temperature

LogProbabilities = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Per bin of confidence: share of the pixels, mean confidence, accuracy (nan: empty)."""

    share: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    ece: float
    nll: float  # nats per pixel


def collect(
    segmenter: Segmenter, items: Sequence[LabelledImage]
) -> tuple[LogProbabilities, Labels]:
    """Log probabilities `(N, C)` and labels `(N,)` of every n-th pixel of the images."""
    step = max(1, sum(item.mask.size for item in items) // MAX_PIXELS)
    logs, labels = [], []
    for item in items:
        probabilities = segmenter.probabilities(item.pixels).flatten(1).T[::step]
        logs.append(probabilities.clamp_min(1e-12).log().cpu().numpy())
        labels.append(item.mask.ravel()[::step])
    return np.concatenate(logs), np.concatenate(labels)


def fit_temperature(logs: LogProbabilities, labels: Labels) -> float:
    """The temperature of the lowest negative log-likelihood, between 0.05 and 20."""
    tensor, target = torch.from_numpy(logs), torch.from_numpy(labels)

    def nll(log_temperature: float) -> float:
        scaled = tensor / float(np.exp(log_temperature))
        return float(torch.nn.functional.cross_entropy(scaled, target))

    return float(np.exp(minimize_scalar(nll, bounds=_RANGE, method="bounded").x))


def reliability(logs: LogProbabilities, labels: Labels, temperature: float = 1.0) -> Reliability:
    """Measure the calibration of log probabilities `(N, C)` against labels `(N,)`."""
    scaled = torch.log_softmax(torch.from_numpy(logs) / temperature, 1)
    nll = float(torch.nn.functional.nll_loss(scaled, torch.from_numpy(labels)))
    best, predicted = scaled.exp().max(1)
    confidence = best.numpy().astype(np.float64)
    right = (predicted.numpy() == labels).astype(np.float64)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(bins, confidence, BINS) / counts
        accuracy = np.bincount(bins, right, BINS) / counts
    share = counts / counts.sum()
    gaps = np.nan_to_num(np.abs(accuracy - mean_confidence))
    return Reliability(share, mean_confidence, accuracy, float((share * gaps).sum()), nll)


def draw_reliability(path: Path, before: Reliability, after: Reliability, title: str) -> None:
    """Draw accuracy against confidence, above the share of pixels of each confidence."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    figure.suptitle(title)
    named = (("uncalibrated", before), ("calibrated", after))
    for column, (name, found) in enumerate(named):
        top, bottom = axes[0, column], axes[1, column]
        top.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
        top.plot(found.confidence, found.accuracy, "o-", color="tab:blue", label="measured")
        top.set(title=f"{name}: ECE {found.ece:.2%}", ylabel="accuracy", ylim=(0, 1))
        top.legend(loc="upper left", fontsize=8)
        bottom.bar((np.arange(BINS) + 0.5) / BINS, found.share, 1 / BINS, color="tab:grey")
        bottom.set(xlabel="confidence", ylabel="share of pixels", xlim=(0, 1))
    figure.savefig(path, dpi=110)
