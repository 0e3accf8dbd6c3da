"""Near-duplicates: crops that overlap are bound, different micrographs are not."""

import numpy as np

from shards.duplicates import find_duplicates
from shards.fingerprint import describe
from shards.synthetic import draw

CLASSES = ("grains", "laths", "pearlite", "precipitates")


def test_overlapping_crops_of_one_micrograph_are_one_group() -> None:
    crops = []
    for name in CLASSES:
        image, _ = draw(name, 320, seed=0, index=0)
        crops += [image[:200, :200], image[60:260, 60:260]]  # half of each is common
    overlaps = find_duplicates(np.stack([describe(crop) for crop in crops]))
    assert overlaps[["first", "second"]].tolist() == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_different_micrographs_stay_apart() -> None:
    images = [draw(name, 200, seed=1, index=index)[0] for name in CLASSES for index in range(20)]
    assert len(find_duplicates(np.stack([describe(image) for image in images]))) == 0
