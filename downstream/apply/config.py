"""Every setting of a prediction, with its default and meaning. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

FileFormat = Literal["auto", "png", "tiff"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Segment images of any size: python -m downstream.predict RUN [RUN …] IMAGE … --out DIR"""

    runs: Annotated[
        tuple[Path, ...], "folders of finished runs, or names in a registry; several are averaged"
    ]
    images: Annotated[tuple[str, ...], "images, folders of images, or patterns such as 'a/*.tif'"]
    out: Annotated[Path, "folder for the masks"]
    format: Annotated[
        FileFormat, "of masks and maps; auto: PNG, and TIFF above 100 million pixels"
    ] = "auto"

    tile: Annotated[int, "side in pixels of what the network sees at once"] = 1024
    overlap: Annotated[
        int, "pixels that neighbouring tiles share; more where seams show, see README"
    ] = 256
    batch_size: Annotated[int, "tiles at once; more is faster on a GPU"] = 1
    views: Annotated[
        bool, "average over the flips and turns of the training: 8 times the work, or 2"
    ] = False
    crop_bar: Annotated[bool, "leave out the microscope's data bar; the mask is as much lower"] = (
        False
    )

    overlay: Annotated[bool, "pictures of the image and its classes, with a legend"] = True
    uncertainty: Annotated[
        bool, "maps of the entropy and, for several runs, of their disagreement (255: none knows)"
    ] = False
    probabilities: Annotated[bool, "keep them: NAME.npy, float16 (classes, height, width)"] = False
    redo: Annotated[bool, "predict again what is done already"] = False
    threads: Annotated[int | None, "of torch [all cores]"] = None

    def __post_init__(self) -> None:
        if not self.runs or not self.images:
            raise ValueError("give at least one run and one image: RUN IMAGE … --out DIR")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
