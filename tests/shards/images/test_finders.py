"""Both searches, for data bars and for annotations, take any image and only read it."""

from collections.abc import Callable

import numpy as np
import pytest
from bars import BARS, drawn_micrograph

from shards.images.annotations import find_annotations
from shards.images.databar import find_data_bar
from shards.images.decode import Pixels

both = pytest.mark.parametrize("find", [find_data_bar, find_annotations])
Find = Callable[[Pixels], object]


@both
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_nothing_is_found_in_one_grey(find: Find, grey: int) -> None:
    assert find(np.full((64, 64), grey, np.uint8)) is None


@both
@pytest.mark.parametrize("shape", [(32, 32), (32, 2000), (2000, 32), (33, 47, 3), (1, 1)])
def test_nothing_is_found_in_noise_of_any_shape(find: Find, shape: tuple[int, ...]) -> None:
    assert find(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)) is None


@both
def test_the_pixels_are_only_read(find: Find) -> None:
    image = BARS["black"](drawn_micrograph(0))[0]
    image.flags.writeable = False
    assert find(image) is not None
