"""Draw a corpus and labelled images, in parallel."""

import multiprocessing
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

from micrograph.cli import UserError, cores
from shards.synthetic.classes import SEGMENTED, TEXTURES
from shards.synthetic.drawing import Drawing, Mask
from shards.synthetic.imaging import micrograph

CORPUS_STREAM = 0
# One stream of seeds per split: a larger validation set leaves the test images as they were.
SPLIT_STREAMS = MappingProxyType({"train": 1, "val": 2, "test": 3})
REDRAWS = 20  # a class that is always bright stays so
ONE_SHOT = MappingProxyType({"train": 1, "val": 4, "test": 8})


@dataclass(frozen=True, slots=True)
class Job:
    """One image to draw and where to write it; its pixels depend on nothing else."""

    path: Path
    annotation: Path | None
    class_name: str
    size: int
    seed: int
    index: int
    stream: int


def refuse_used(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a new folder with --out")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; name a new folder with --out, or remove this one")


def corpus_jobs(folder: Path, images_per_class: int, size: int, seed: int) -> list[Job]:
    """A folder of images per class, as `shards` reads a corpus."""
    return [
        Job(
            path=folder / name / f"{name}_{index:04d}.png",
            annotation=None,
            class_name=name,
            size=size,
            seed=seed,
            index=index,
            stream=CORPUS_STREAM,
        )
        for name in TEXTURES
        for index in range(images_per_class)
    ]


def segmentation_jobs(
    folder: Path,
    size: int,
    seed: int,
    class_name: str = "layered_oxide",
    counts: Mapping[str, int] = ONE_SHOT,
) -> list[Job]:
    """Images of one class in splits, with masks of the same names; none is in the corpus."""
    if class_name not in SEGMENTED:
        raise ValueError(f"{class_name!r} has no masks; those that have: {', '.join(SEGMENTED)}")
    return [
        Job(
            path=folder / split / f"{class_name}_{split}_{index:04d}.png",
            annotation=folder / f"{split}_annot" / f"{class_name}_{split}_{index:04d}.png",
            class_name=class_name,
            size=size,
            seed=seed,
            index=index,
            stream=SPLIT_STREAMS[split],
        )
        for split, count in counts.items()
        for index in range(count)
    ]


def drawn(jobs: Sequence[Job]) -> Iterator[Path]:
    """Draw and write every job on all the cores this process may use; yield each path when done."""
    for folder in {path.parent for job in jobs for path in (job.path, job.annotation) if path}:
        folder.mkdir(parents=True, exist_ok=True)
    # Not forked: the progress bar runs a thread, and a fork could copy a lock that it holds.
    context = multiprocessing.get_context("spawn")
    workers = min(cores(), len(jobs))
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(write, jobs, chunksize=8)


def write(job: Job) -> Path:
    """Draw one job and write its image and, if asked for, its mask."""
    image, mask = draw(job.class_name, job.size, job.seed, job.index, job.stream)
    Image.fromarray(image).save(job.path)
    if job.annotation is not None:
        if mask is None:
            raise ValueError(f"{job.class_name!r} has no masks")
        Image.fromarray(mask).save(job.annotation)
    return job.path


def draw(
    class_name: str, size: int, seed: int, index: int, stream: int = CORPUS_STREAM
) -> tuple[npt.NDArray[np.uint8], Mask | None]:
    """One micrograph, (size, size) uint8, and its mask: a pure function of the arguments."""
    # By name, not by position in the table: a new class must not redraw the others.
    class_key = zlib.crc32(class_name.encode())
    for attempt in range(REDRAWS):
        rng = np.random.default_rng([seed, class_key, index, stream, attempt])
        drawing = TEXTURES[class_name](rng, size)
        if stream == CORPUS_STREAM or _is_dark(drawing):
            break
    return micrograph(drawing.image, rng), drawing.mask


def _is_dark(drawing: Drawing) -> bool:
    """Whether the first phase is darker than the matrix.

    The labelled images are of one etching: no network learns from a single image with dark
    precipitates that they may be bright as well.
    """
    if drawing.mask is None:
        return True
    return bool(drawing.image[drawing.mask == 1].mean() < drawing.image[drawing.mask == 0].mean())
