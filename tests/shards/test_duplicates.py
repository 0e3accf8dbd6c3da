"""Near-duplicates: crops that overlap are bound, different micrographs are not."""

import numpy as np

from shards.duplicates import find_groups
from shards.fingerprint import describe
from shards.synthetic import draw

CLASSES = ("grains", "laths", "pearlite", "precipitates")


def test_overlapping_crops_of_one_micrograph_are_one_group() -> None:
    crops = []
    for name in CLASSES:
        image, _ = draw(name, 320, seed=0, index=0)
        crops += [image[:200, :200], image[60:260, 60:260]]  # half of each is common
    groups = find_groups(np.stack([describe(crop) for crop in crops])).groups
    assert groups.tolist() == [0, 0, 2, 2, 4, 4, 6, 6]


def test_different_micrographs_stay_apart() -> None:
    images = [draw(name, 200, seed=1, index=index)[0] for name in CLASSES for index in range(20)]
    groups = find_groups(np.stack([describe(image) for image in images])).groups
    assert groups.tolist() == list(range(80))
