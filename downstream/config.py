"""Every setting of a segmentation run, with its default, meaning and source. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pretrain.archs import find_arch

Decoder = Literal["Unet", "UnetPlusPlus", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3Plus"]
Orientation = Literal["any", "hflip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """Fine-tune a segmenter on a few labelled micrographs, from a pre-trained encoder or none."""

    data: Annotated[Path, "folder with train/, train_annot/, val/, val_annot/ (and test/ …)"]
    classes: Annotated[
        tuple[str, ...],
        "what mask values mean: NAME=INDEX, NAME=#rrggbb, or NAME=rest [indices as found]",
    ] = ()
    weights: Annotated[
        Path | None, "a folder from pretrain.export, or a registry's name [random]"
    ] = None
    arch: Annotated[str | None, "encoder, when there are no weights to tell [resnet18]"] = None
    decoder: Annotated[Decoder, "smp's decoder"] = "Unet"
    run_dir: Annotated[Path, "folder for the results"] = Path("runs/segment")
    seed: Annotated[int, "decides initial weights, order and augmentation"] = 0

    # A step is the unit: with one labelled image an epoch is a single step.
    steps: Annotated[int, "upper bound of optimizer steps"] = 1000
    validate_every_steps: Annotated[int, "steps between two validations"] = 25
    patience: Annotated[int, "validations without a better IoU before stopping (paper A)"] = 30
    batch_size: Annotated[int, "crops per step"] = 6
    crop_size: Annotated[int, "side of the training crops in pixels (paper A)"] = 512
    lr: Annotated[float, "of Adam (paper A)"] = 2e-4
    cross_entropy_share: Annotated[float, "of the loss; the rest is dice (paper A)"] = 0.7
    orientation: Annotated[
        Orientation, "flips and quarter turns, or only hflip where up has a meaning"
    ] = "any"

    threads: Annotated[int | None, "of torch [all cores]"] = None

    def __post_init__(self) -> None:
        if self.arch is not None:
            find_arch(self.arch)
        if self.crop_size < 32 or self.crop_size % 32:
            raise ValueError(f"crop_size must be a multiple of 32 pixels, not {self.crop_size}")
        for name in ("steps", "validate_every_steps", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"setting {name!r} must be at least 1, not {getattr(self, name)}")
        if self.lr <= 0 or not 0 <= self.cross_entropy_share <= 1:
            raise ValueError("lr must be above 0 and cross_entropy_share from 0 to 1")
