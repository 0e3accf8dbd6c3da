"""How often images are called unlike a few labelled ones: those that are alike, and others.

python benchmarks/bench_ood.py RUN --alike FOLDER … --other FOLDER … [--labelled 3 4 6 10]

Of the images in `--alike`, some are drawn at random to stand for the labelled ones; the rest should
not be called unlike them. Before the limit had the t distribution it was Tukey's outer fence and no
less than 1.5 medians: it is shown beside it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from downstream.images.scan import open_image
from downstream.network.segmenter import load_segmenter
from downstream.reliability.out_of_distribution import (
    Features,
    crop_features,
    feature_distance,
    fit_reference,
    leave_one_out_scores,
    ood_limit,
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--alike", nargs="+", type=Path, required=True)
    parser.add_argument("--other", nargs="+", type=Path, required=True)
    parser.add_argument("--labelled", nargs="+", type=int, default=[3, 4, 6, 10])
    parser.add_argument("--draws", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    alike = features_of(options.run, options.alike)
    other = features_of(options.run, options.other)
    rng = np.random.default_rng(0)
    for count in options.labelled:
        rows = [
            draw(rng.permutation(len(alike)), count, alike, other) for _ in range(options.draws)
        ]
        false, found, false_fence, found_fence, farther = np.mean(rows, axis=0)
        print(
            f"{count} labelled: {false:.1%} of the alike called unlike (fence {false_fence:.1%}), "
            f"{found:.0%} of the others (fence {found_fence:.0%}), {farther:.2f} times as far"
        )


def features_of(run: Path, folders: list[Path]) -> list[Features]:
    segmenter = load_segmenter(run)
    assert segmenter.card is not None
    side = segmenter.card.crop_size
    paths = sorted(path for folder in folders for path in folder.iterdir())
    return [crop_features(open_image(path), segmenter, side) for path in paths]


def draw(
    order: np.ndarray, count: int, alike: list[Features], other: list[Features]
) -> tuple[float, float, float, float, float]:
    labelled = [alike[number] for number in order[:count]]
    left_out, reference = leave_one_out_scores(labelled), fit_reference(labelled)
    near = np.array([feature_distance(alike[number], reference) for number in order[count:]])
    far = np.array([feature_distance(features, reference) for features in other])
    limit, fence = ood_limit(left_out), tukey(left_out)
    return (
        float((near > limit).mean()),
        float((far > limit).mean()),
        float((near > fence).mean()),
        float((far > fence).mean()),
        float(np.median(far) / np.median(near)),
    )


def tukey(scores: list[float]) -> float:
    low, median, high = np.quantile(scores, (0.25, 0.5, 0.75))
    return float(max(high + 3 * (high - low), 1.5 * median))


if __name__ == "__main__":
    main()
