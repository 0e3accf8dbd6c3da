"""Create a label-shift experiment as in paper B: two training fractions, one test set.

python -m downstream.label_shift STUDY TARGET --run RUN --low .29 --high .53 --images 12 --out FILE

FILE is the domain study with two versions of TARGET: TARGET with training images of a mean phase
fraction near --high, TARGETv near --low, both with the same test images, with a mean half way
between. Training images are unlabelled, so their fractions are predicted by RUN, a finished run of
downstream.adapt or downstream.segment (paper B: expert-reviewed pseudo-labels); those of test
images come from the labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml

from downstream.domains.prepare import find_target, prepare_target
from downstream.domains.study import DomainStudy, read_domain_study
from micrograph.atomic import write_atomically
from micrograph.cli import UserError, program, progress, warn
from micrograph.settings import Positional, load_config, read_recipe

SUFFIX = "v"  # of the target with the lower fraction, as the paper's T3v


@dataclass(frozen=True, kw_only=True)
class LabelShiftConfig:
    """Create a label-shift experiment: two training fractions of a target, one test set."""

    study: Annotated[Path, Positional, "YAML file of the domain study"]
    target: Annotated[str, Positional, "one of its targets"]
    run: Annotated[Path, "finished run that predicts the training fractions"]
    phase: Annotated[str | None, "class whose fraction is used [the second]"] = None
    low: Annotated[float, "mean fraction of TARGETv"]
    high: Annotated[float, "mean fraction of TARGET"]
    images: Annotated[int, "images per training set"]
    tests: Annotated[int, "test images (paper B: 12)"] = 12
    data: Annotated[Path | None, "folder of images [that of the domain study]"] = None
    out: Annotated[Path, "YAML file to write"]

    def __post_init__(self) -> None:
        if min(self.images, self.tests) < 1:
            raise ValueError("--images and --tests must be at least 1")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Chosen image files and their mean fraction."""

    names: tuple[str, ...]
    mean: float


@dataclass(frozen=True, slots=True)
class LabelShift:
    """The three sets; the training sets are disjoint."""

    high: Chosen
    low: Chosen
    test: Chosen


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(LabelShiftConfig, argv)
    study = read_domain_study(config.study, config.data)
    index = _class_index(study, config.phase)
    found = choose_sets(
        _predicted_fractions(study, config.target, config.run, index),
        _labelled_fractions(study, config.target, index),
        low=config.low,
        high=config.high,
        images=config.images,
        tests=config.tests,
    )
    content = shifted_study(read_recipe(config.study), config.target, found)
    if config.data is not None:
        content["data"] = str(config.data)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomically(config.out, text.encode())
    for name, chosen in (("high", found.high), ("low", found.low), ("test", found.test)):
        print(f"{name}: {len(chosen.names)} images, mean fraction {chosen.mean:.1%}")
    print(config.out)


def choose_sets(
    train: Mapping[str, float],
    test: Mapping[str, float],
    *,
    low: float,
    high: float,
    images: int,
    tests: int,
) -> LabelShift:
    """Choose `images` training images with a mean near `low`, as many near `high`, `tests` between.

    `train` and `test` map files to fractions; chosen training files are excluded from the test set.
    Raises `UserError` if there are too few images, or if the training sets would overlap because
    the fractions are too similar.
    """
    if not low < high:
        raise UserError(f"low must be below high, not {low} and {high}")
    if len(train) < 2 * images:
        raise UserError(f"2 x {images} training images are needed, but there are {len(train)}")
    few, many = (nearest_mean(train, images, mean) for mean in (low, high))
    shared = set(few.names) & set(many.names)
    if shared:
        span = f"{min(train.values()):.0%} to {max(train.values()):.0%}"
        raise UserError(
            f"means of {low:.0%} and {high:.0%} would share {len(shared)} of {images} images: "
            f"their fractions span {span}; use fewer images or more different means"
        )
    unseen = {name: test[name] for name in test.keys() - {*few.names, *many.names}}
    if len(unseen) < tests:
        raise UserError(
            f"{tests} labelled test images are needed, but there are {len(unseen)} that are not "
            "used for training"
        )
    return LabelShift(many, few, nearest_mean(unseen, tests, (few.mean + many.mean) / 2))


def nearest_mean(fractions: Mapping[str, float], count: int, mean: float) -> Chosen:
    """The `count` consecutive images, sorted by fraction, with the mean nearest to `mean`."""
    names: Sequence[str] = sorted(fractions, key=lambda name: (fractions[name], name))
    values = np.array([fractions[name] for name in names])
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means = (sums[count:] - sums[:-count]) / count
    start = int(np.abs(means - mean).argmin())
    return Chosen(tuple(names[start : start + count]), float(means[start]))


def shifted_study(content: Mapping[str, Any], target: str, found: LabelShift) -> dict[str, Any]:
    """The YAML of a domain study with two versions of the target as its only targets.

    Raises `UserError` if the name of the second version is taken.
    """
    if target + SUFFIX in content["targets"]:
        raise UserError(f"the domain study already has a target {target + SUFFIX}")
    settings = dict(content["targets"][target] or {}) | {"test": list(found.test.names)}
    return dict(content) | {
        "targets": {
            target: settings | {"train": list(found.high.names)},
            target + SUFFIX: settings | {"train": list(found.low.names)},
        }
    }


def _class_index(study: DomainStudy, name: str | None) -> int:
    if name is None:
        return 1
    if name not in study.class_names:
        raise UserError(
            f"no class {name!r} in the domain study, only {', '.join(study.class_names)}"
        )
    return study.class_names.index(name)


def _predicted_fractions(
    study: DomainStudy, target: str, run: Path, index: int
) -> dict[str, float]:
    """Predicted fraction of a class by training image; their labels are not read."""
    from downstream.domains.evaluate import predict_image
    from downstream.network.segmenter import load_segmenter  # these need torch, --help does not

    segmenter = load_segmenter(run)
    assert segmenter.card is not None  # loaded from a folder
    if segmenter.card.class_names != study.class_names:
        raise UserError(
            f"{run} has the classes {', '.join(segmenter.card.class_names)}, but the domain study "
            f"has {', '.join(study.class_names)}"
        )
    scale = study.working_scale(study.target(target))
    if not segmenter.card.adapted and scale != 1:
        warn(
            f"{run} was trained on images at their original scale, but {target} is scaled by "
            f"{scale:.3g}: check its predictions, or use a run of downstream.adapt"
        )
    files = _files(study, target, "train")
    fractions = {}
    for image in progress(prepare_target(study, target).train, "predict"):
        classes = predict_image(segmenter, study, image, batch_size=1).argmax(0)
        fractions[files[image.name]] = float((classes == index).mean())
    return fractions


def _labelled_fractions(study: DomainStudy, target: str, index: int) -> dict[str, float]:
    """Fraction of a class by labelled test image."""
    files = _files(study, target, "test")
    return {
        files[image.name]: float(np.mean(image.native_mask == index))
        for image in prepare_target(study, target).test
        if image.native_mask is not None
    }


def _files(study: DomainStudy, target: str, split: str) -> dict[str, str]:
    """The file of each image in the target's folder, by image name."""
    found = find_target(study, target)[split]
    paths = [*(pair.image for pair in found.pairs), *found.unlabelled]
    return {path.stem: str(path.relative_to(study.target(target).data)) for path in paths}


if __name__ == "__main__":
    main()
