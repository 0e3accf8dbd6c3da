"""Makes paper B's label-shift experiment of any target: two training fractions, one test set.

python -m downstream.label_shift STUDY TARGET --run RUN --low .29 --high .53 --images 12 --out FILE

FILE is the study with TARGET twice: TARGET with the training images near --high, TARGETv with those
near --low, both with the same test images, half way between. Fractions of training images are what
RUN, a finished downstream.adapt or downstream.segment run, predicts, for they have no labels (paper
B: expert-reviewed pseudo-labels); those of test images are the labels'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml

from downstream.seg.segmenter import load_segmenter
from downstream.uda.domains import DomainStudy, read_study
from downstream.uda.evaluate import predict_image
from downstream.uda.label_shift import LabelShift, choose_sets
from downstream.uda.prepare import find_target, prepare_target
from pretrain.atomic import write_atomically
from shards.cli import UserError, program, progress, warn
from shards.settings import Positional, load_config, read_recipe

SUFFIX = "v"  # of the target with the lower fraction, as the paper's T3v


@dataclass(frozen=True, kw_only=True)
class LabelShiftConfig:
    """Choose two training fractions of one target, and one test set."""

    study: Annotated[Path, Positional, "YAML file of the domains"]
    target: Annotated[str, Positional, "one of its targets"]
    run: Annotated[Path, "finished run, for pseudo-labels"]
    phase: Annotated[str | None, "class whose fraction counts [the second]"] = None
    low: Annotated[float, "mean fraction of one set"]
    high: Annotated[float, "mean fraction of the other"]
    images: Annotated[int, "in each training set"]
    tests: Annotated[int, "test images (paper B: 12)"] = 12
    data: Annotated[Path | None, "folder that takes the place of the study's"] = None
    out: Annotated[Path, "YAML file to write"]

    def __post_init__(self) -> None:
        if min(self.images, self.tests) < 1:
            raise ValueError("--images and --tests must be at least 1")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(LabelShiftConfig, argv)
    study = read_study(config.study, config.data)
    index = _class_index(study, config.phase)
    found = choose_sets(
        _predicted(study, config.target, config.run, index),
        _labelled(study, config.target, index),
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


def shifted_study(content: Mapping[str, Any], target: str, found: LabelShift) -> dict[str, Any]:
    """A study's own YAML with the target twice and no other; `found` names files of its folder.

    Raises `UserError` where the second name is taken.
    """
    if target + SUFFIX in content["targets"]:
        raise UserError(f"the study has a target {target + SUFFIX} already")
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
        raise UserError(f"no class {name!r}; the study has {', '.join(study.class_names)}")
    return study.class_names.index(name)


def _predicted(study: DomainStudy, target: str, run: Path, index: int) -> dict[str, float]:
    """File of each training image -> predicted fraction of a class. No label of it is opened."""
    segmenter = load_segmenter(run)
    assert segmenter.card is not None  # it comes from a folder
    if segmenter.card.class_names != study.class_names:
        raise UserError(
            f"{run} tells {', '.join(segmenter.card.class_names)} apart, the study "
            f"{', '.join(study.class_names)}"
        )
    scale = study.working_scale(study.target(target))
    if not segmenter.card.adapted and scale != 1:
        warn(
            f"{run} was trained on images as files have them, and sees {target}'s at {scale:.3g} "
            "of that: look at what it predicts, or take a run of downstream.adapt"
        )
    files = _files(study, target, "train")
    fractions = {}
    for image in progress(prepare_target(study, target).train, "predict"):
        classes = predict_image(segmenter, study, image, batch_size=1).argmax(0)
        fractions[files[image.name]] = float((classes == index).mean())
    return fractions


def _labelled(study: DomainStudy, target: str, index: int) -> dict[str, float]:
    """File of each labelled test image -> its fraction of a class."""
    files = _files(study, target, "test")
    return {
        files[image.name]: float(np.mean(image.native_mask == index))
        for image in prepare_target(study, target).test
        if image.native_mask is not None
    }


def _files(study: DomainStudy, target: str, split: str) -> dict[str, str]:
    """Name of an image -> its file in the target's folder."""
    found = find_target(study, target)[split]
    paths = [*(pair.image for pair in found.pairs), *found.unlabelled]
    return {path.stem: str(path.relative_to(study.target(target).data)) for path in paths}


if __name__ == "__main__":
    main()
