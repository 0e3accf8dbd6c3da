"""Every setting of a measurement, with its default and meaning. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

Border = Literal["correct", "include"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasureConfig:
    """Measure masks: python -m downstream.measure MASK … --out DIR [--scale 27.7 --unit nm]"""

    masks: Annotated[tuple[str, ...], "masks, folders of masks, or patterns such as 'a/*.png'"]
    out: Annotated[Path, "folder for tables and plots"]
    classes: Annotated[
        tuple[str, ...],
        "what values mean: NAME=INDEX, NAME=#rrggbb, or NAME=rest [classes.yaml beside the masks]",
    ] = ()
    scale: Annotated[float | None, "length of a pixel's side in --unit [measure in pixels]"] = None
    unit: Annotated[str, "of --scale, such as nm or um"] = "nm"

    objects: Annotated[
        tuple[str, ...], "classes whose connected regions are counted and sized [all but the first]"
    ] = ()
    layers: Annotated[
        tuple[str, ...],
        "classes that are a layer, whose thickness is wanted; oxide+crack: with its cracks filled",
    ] = ()
    min_area: Annotated[int, "pixels; smaller regions are noise, and not counted"] = 10
    border: Annotated[
        Border,
        "regions that the image cuts: 'correct' leaves them out and weighs the others up for it",
    ] = "correct"
    confidence: Annotated[float, "of the intervals"] = 0.95
    seed: Annotated[int, "of the bootstrap"] = 0

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("give at least one mask or folder of masks: MASK … --out DIR")
        if self.scale is not None and self.scale <= 0:
            raise ValueError(f"scale must be above 0, not {self.scale}")
        if self.min_area < 1:
            raise ValueError(f"min_area must be at least 1 pixel, not {self.min_area}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must lie in 0.5 to 1, not {self.confidence}")

    @property
    def length(self) -> float:
        """Of a pixel's side, in `length_unit`."""
        return self.scale or 1.0

    @property
    def length_unit(self) -> str:
        return self.unit if self.scale else "px"
