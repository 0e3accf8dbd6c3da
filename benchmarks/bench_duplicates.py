"""How time and memory of the search for near-duplicates grow with the number of images.

python benchmarks/bench_duplicates.py [IMAGES ...]

The fingerprints are made up, since drawing 110,861 micrographs takes an hour: each takes its
keypoints from many drawn micrographs of one class, a sixteenth of the bits flipped. As many pairs
of them become candidates as of drawn ones (4.0 an image of 9,600, drawn 4.1). No two are alike but
the planted hundredth, which share half their keypoints.
"""

import argparse
import resource
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.duplicates.candidates import find_duplicates
from shards.duplicates.fingerprint import FINGERPRINT, KEYPOINTS, Fingerprints, compute_fingerprint
from shards.synthetic.classes import TEXTURES
from shards.synthetic.corpus import draw

DRAWN_PER_CLASS = 20
SIZE = 160  # pixels
PLANTED = 100  # one image in so many is a near-duplicate of its predecessor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, metavar="IMAGES", default=[1_000, 10_000])
    sizes = parser.parse_args().sizes
    drawn, milliseconds = _drawn()
    print(f"describe: {milliseconds:.1f} ms of processor per image of {SIZE} x {SIZE}")
    print("   images  seconds  peak MB  planted  found  others")
    for images in sizes:
        fingerprints = _made_up(drawn, images)
        start = time.process_time()
        overlaps = find_duplicates(fingerprints)
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        planted = overlaps["first"] % PLANTED == 0
        planted &= overlaps["second"] == overlaps["first"] + 1
        counts = f"{len(range(1, images, PLANTED)):9,}{planted.sum():7,}{(~planted).sum():8,}"
        print(f"{images:9,}{seconds:9.1f}{peak:9.0f}{counts}", flush=True)


def _drawn() -> tuple[Fingerprints, float]:
    """(classes, DRAWN_PER_CLASS) fingerprints, and the time that one takes."""
    pixels = [
        draw(name, SIZE, 0, index)[0] for name in TEXTURES for index in range(DRAWN_PER_CLASS)
    ]
    start = time.process_time()
    fingerprints = np.stack([compute_fingerprint(image) for image in pixels])
    seconds = time.process_time() - start
    return fingerprints.reshape(len(TEXTURES), DRAWN_PER_CLASS), seconds / len(pixels) * 1000


def _made_up(drawn: Fingerprints, images: int) -> Fingerprints:
    rng = np.random.default_rng(0)
    classes = rng.integers(len(drawn), size=(images, 1))
    slots = np.arange(KEYPOINTS)

    def mixed(field: str) -> npt.NDArray[Any]:
        return drawn[field][classes, rng.integers(DRAWN_PER_CLASS, size=(images, KEYPOINTS)), slots]

    made = np.zeros(images, FINGERPRINT)
    made["height"] = made["width"] = SIZE
    made["count"] = KEYPOINTS
    made["levels"], made["keypoints"] = mixed("levels"), mixed("keypoints")
    made["descriptors"] = mixed("descriptors") ^ _random_bits(rng, (images, KEYPOINTS), halvings=4)
    made["thumbnail"] = rng.integers(256, size=made["thumbnail"].shape, dtype=np.uint8)
    copies = np.arange(1, images, PLANTED)
    half = slice(0, KEYPOINTS, 2)
    for field in ("levels", "keypoints", "descriptors"):
        made[field][copies, half] = made[field][copies - 1, half]
    flips = _random_bits(rng, (len(copies), len(slots[half])), halvings=5)
    made["descriptors"][copies, half] ^= flips
    made["thumbnail"][copies] = made["thumbnail"][copies - 1]
    return made


def _random_bits(
    rng: np.random.Generator, shape: tuple[int, int], halvings: int
) -> npt.NDArray[np.uint64]:
    """Words in which one bit of 2**halvings is set."""
    words = np.full(shape, np.iinfo(np.uint64).max, np.uint64)
    for _ in range(halvings):
        words &= rng.integers(2**64, size=shape, dtype=np.uint64)
    return words


if __name__ == "__main__":
    main()
