"""Settings of downstream.predict, with defaults and help texts. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Segment images of any size: python -m downstream.predict RUN [RUN …] IMAGE … --out DIR"""

    runs: Annotated[
        tuple[Path, ...], "folders of finished runs or registry names; several form an ensemble"
    ]
    images: Annotated[tuple[str, ...], "images, folders of images, or patterns such as 'a/*.tif'"]
    out: Annotated[Path, "output folder"]

    tile: Annotated[int, "side of a tile in pixels"] = 1024
    overlap: Annotated[
        int, "pixels shared by neighbouring tiles; increase it if seams show (see README)"
    ] = 256
    batch_size: Annotated[int, "tiles per batch; larger is faster on a GPU"] = 1
    tta: Annotated[
        bool, "test-time augmentation: average over the flips and rotations used in training"
    ] = False
    crop_bar: Annotated[bool, "crop the microscope's data bar; the mask is smaller accordingly"] = (
        False
    )

    overlay: Annotated[bool, "also write the classes laid over the image, with a legend"] = True
    uncertainty: Annotated[
        bool,
        "also write maps of the entropy and, for an ensemble, of its disagreement (255: maximal)",
    ] = False
    probabilities: Annotated[bool, "also write NAME.npy, float16 (classes, height, width)"] = False
    overwrite: Annotated[bool, "predict images again that are already done"] = False
    threads: Annotated[int | None, "CPU threads of torch [all cores]"] = None

    def __post_init__(self) -> None:
        if not self.runs or not self.images:
            raise ValueError("give at least one run and one image: RUN IMAGE … --out DIR")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
