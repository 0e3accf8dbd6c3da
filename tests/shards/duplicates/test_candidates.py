"""Near-duplicates: crops that overlap are bound, different micrographs are not."""

import numpy as np
import pytest

from shards.duplicates import candidates as duplicates
from shards.duplicates.candidates import find_duplicates
from shards.duplicates.fingerprint import compute_fingerprint
from shards.synthetic.corpus import draw

CLASSES = ("grains", "laths", "pearlite", "precipitates")


def test_overlapping_crops_of_one_micrograph_are_one_group() -> None:
    crops = []
    for name in CLASSES:
        image, _ = draw(name, 320, seed=0, index=0)
        crops += [image[:200, :200], image[60:260, 60:260]]  # half of each is common
    overlaps = find_duplicates(np.stack([compute_fingerprint(crop) for crop in crops]))
    assert overlaps[["first", "second"]].tolist() == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_different_micrographs_stay_apart() -> None:
    images = [draw(name, 200, seed=1, index=index)[0] for name in CLASSES for index in range(20)]
    assert len(find_duplicates(np.stack([compute_fingerprint(image) for image in images]))) == 0


def test_a_search_in_parts_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = draw("grains", 400, seed=0, index=0)
    crops = [image[y : y + 200, x : x + 200] for y in (0, 70, 140) for x in (0, 70, 140)]
    fingerprints = np.stack([compute_fingerprint(crop) for crop in crops])
    whole = find_duplicates(fingerprints)
    assert len(whole) >= 12  # neighbours
    monkeypatch.setattr(duplicates, "_PART", 2)
    assert find_duplicates(fingerprints).tolist() == whole.tolist()
    assert len(find_duplicates(fingerprints[:0])) == 0
