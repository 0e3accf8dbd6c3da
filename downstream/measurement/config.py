"""Settings of downstream.measure, with defaults and help texts. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from micrograph.settings import Positional


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureConfig:
    """Measure phase fractions, regions and layers of masks."""

    masks: Annotated[
        tuple[str, ...], Positional, "masks, folders of masks, or patterns such as 'a/*.png'"
    ]
    out: Annotated[Path, "output folder for tables and plots"]
    classes: Annotated[
        tuple[str, ...],
        "mask values: NAME=INDEX, NAME=#rrggbb or NAME=rest [classes.yaml beside the masks]",
    ] = ()
    scale: Annotated[float | None, "pixel size in --unit [lengths in pixels]"] = None
    unit: Annotated[str, "unit of --scale, such as nm or um"] = "nm"

    regions: Annotated[
        tuple[str, ...], "classes whose connected regions are measured [all but the first]"
    ] = ()
    layers: Annotated[
        tuple[str, ...],
        "classes whose thickness is measured; oxide+crack: oxide with its cracks filled",
    ] = ()
    min_area: Annotated[int, "in pixels; smaller regions are ignored as noise"] = 10
    confidence: Annotated[float, "confidence level of the intervals"] = 0.95
    seed: Annotated[int, "random seed of the bootstrap"] = 0

    def __post_init__(self) -> None:
        if self.scale is not None and self.scale <= 0:
            raise ValueError(f"scale must be above 0, not {self.scale}")
        if self.min_area < 1:
            raise ValueError(f"min_area must be at least 1 pixel, not {self.min_area}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must be at least 0.5 and below 1, not {self.confidence}")

    @property
    def length(self) -> float:
        """Pixel size in `length_unit`."""
        return self.scale or 1.0

    @property
    def length_unit(self) -> str:
        return self.unit if self.scale else "px"
