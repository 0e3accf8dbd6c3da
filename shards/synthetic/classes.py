"""The table of material classes that can be drawn, and the mask classes of those with masks."""

from collections.abc import Callable

import numpy as np

from shards.synthetic.drawing import Drawing
from shards.synthetic.objects import dislocations, fibres, nanowires, particles, powder
from shards.synthetic.phases import (
    dendrites,
    grains,
    laths,
    layered_oxide,
    pearlite,
    pores,
    precipitates,
)

TEXTURES: dict[str, Callable[[np.random.Generator, int], Drawing]] = {
    "dendrites": dendrites,
    "dislocations": dislocations,
    "fibres": fibres,
    "grains": grains,
    "laths": laths,
    "layered_oxide": layered_oxide,
    "nanowires": nanowires,
    "particles": particles,
    "pearlite": pearlite,
    "pores": pores,
    "powder": powder,
    "precipitates": precipitates,
}

# Mask values are positions in these tuples.
SEGMENTED: dict[str, tuple[str, ...]] = {
    "fibres": ("matrix", "fibre"),
    "layered_oxide": ("background", "oxide", "crack"),
    "particles": ("film", "particle"),
    "pores": ("solid", "pore"),
    "powder": ("background", "powder"),
    "precipitates": ("matrix", "secondary", "tertiary"),
}
