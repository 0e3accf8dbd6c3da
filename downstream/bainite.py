"""Draw a synthetic domain study like paper B's: a labelled source and three shifted targets.

    python -m downstream.bainite --out data/bainite

OUT/source/{images,masks}/NAME.png         labelled: Struers A2 etching, SEM
OUT/T1/{train,test}/NAME.png, *_annot      Nital: sub-grains and artefacts appear
OUT/T2/…                                   Nital for longer, another SEM: over-etched, less bainite
OUT/T3/…                                   Nital, light microscope: blurred, coarse, inverted
OUT/T3v/…, OUT/T3m/…                       with --label-shift: T3 with as little bainite as T2, and
                                           with the mean of T2 and T3
OUT/domains.json                           the parameters of each domain

Masks contain 0 and 255 (lath-shaped bainite); the domain study is
configs/downstream/domains/bainite.yaml.
"""

import dataclasses
import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image

from downstream.domains.synthetic.shift import SOURCE, TARGETS, Shift, interpolate
from downstream.domains.synthetic.view import draw_image
from micrograph.cli import UserError, cores, program, progress
from micrograph.settings import load_config, to_json


@dataclass(frozen=True, kw_only=True, slots=True)
class BainiteConfig:
    """Draw micrographs of lath bainite with exact masks: a source domain and three targets."""

    out: Annotated[Path, "output folder; must be new or empty"]
    images: Annotated[int, "labelled source images (paper B: 35, in folds)"] = 35
    target_images: Annotated[int, "unlabelled training images per target (paper B: 20, 12, 58)"] = (
        20
    )
    test_images: Annotated[int, "labelled test images per target (paper B: 5, 3, 50)"] = 10
    size: Annotated[
        tuple[int, ...], "height and width of SEM images in pixels (paper B: 1433 2048)"
    ] = (384, 512)
    strength: Annotated[
        float, "strength of the shifts: 0 none, 1 as paper B's targets, 2 twice that"
    ] = 1.0
    label_shift: Annotated[
        bool, "also draw T3v and T3m: T3 with less bainite (paper B, section 4.3)"
    ] = False
    seed: Annotated[int, "random seed; images do not depend on the number of images"] = 0

    def __post_init__(self) -> None:
        for name in ("images", "target_images", "test_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if len(self.size) != 2 or min(self.size) < 160:
            given = " ".join(map(str, self.size))
            raise ValueError(
                f"size needs a height and a width of at least 160 pixels, not {given!r}: "
                "light micrographs are five times smaller"
            )
        if not 0 <= self.strength <= 3:
            raise ValueError(f"strength must be 0 to 3, not {self.strength}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be 0 to 2**32 - 1, not {self.seed}")


@dataclass(frozen=True, slots=True)
class DrawJob:
    """An image to draw, with the paths of image and mask."""

    image: Path
    mask: Path
    shift: Shift
    shape: tuple[int, int]
    key: tuple[int, int, int]  # seed, stream, number


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(BainiteConfig, argv)
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"{config.out} already exists; choose a new folder with --out")
    partial = config.out.with_name(config.out.name + ".partial")
    if partial.exists():  # left by a killed run
        shutil.rmtree(partial)
    domains = {"source": SOURCE}
    domains |= {
        name: interpolate(SOURCE, shift, config.strength) for name, shift in TARGETS.items()
    }
    if config.label_shift:
        domains |= _less_bainite(domains["T3"], domains["T2"].bainite)
    jobs = _jobs(partial, domains, config)
    for _ in progress(_draw_all(jobs), "drawing micrographs", total=len(jobs)):
        pass
    described = {
        "settings": to_json(config) | {"out": ""},
        "domains": {name: dataclasses.asdict(shift) for name, shift in domains.items()},
    }
    (partial / "domains.json").write_text(json.dumps(described, indent=1) + "\n")
    partial.replace(config.out)
    print(f"wrote {len(jobs)} micrographs of {len(domains)} domains to {config.out}")


def _less_bainite(shift: Shift, bainite: float) -> dict[str, Shift]:
    """Paper B's T3v, and a domain half way between it and T3 for the common test set."""
    return {
        "T3v": dataclasses.replace(shift, bainite=bainite),
        "T3m": dataclasses.replace(shift, bainite=(shift.bainite + bainite) / 2),
    }


def _jobs(out: Path, domains: dict[str, Shift], config: BainiteConfig) -> list[DrawJob]:
    """Each folder has its own random stream, so its number of images does not affect others."""
    rows, columns = config.size
    folders = [("source", "images", "masks", config.images)]
    for name in domains:
        if name != "source":
            folders.append((name, "train", "train_annot", config.target_images))
            folders.append((name, "test", "test_annot", config.test_images))
    return [
        DrawJob(
            out / name / images / f"{name}_{images}_{number:03d}.png",
            out / name / masks / f"{name}_{images}_{number:03d}.png",
            domains[name],
            (rows, columns),
            (config.seed, stream, number),
        )
        for stream, (name, images, masks, count) in enumerate(folders)
        for number in range(count)
    ]


def _draw_all(jobs: Sequence[DrawJob]) -> Iterator[DrawJob]:
    for folder in {path.parent for job in jobs for path in (job.image, job.mask)}:
        folder.mkdir(parents=True)
    # Not forked: the thread of the progress bar may hold a lock that a fork would copy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(cores(), len(jobs)), mp_context=context) as pool:
        yield from pool.map(_write, jobs, chunksize=4)


def _write(job: DrawJob) -> DrawJob:
    pixels, mask = draw_image(job.shift, job.shape, *job.key)
    Image.fromarray(pixels).save(job.image)
    Image.fromarray(mask * 255).save(job.mask)
    return job


if __name__ == "__main__":
    main()
