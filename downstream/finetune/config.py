"""Every setting of a segmentation run, with its default, meaning and source. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from downstream.labels.classes import MicroIouClasses, parse_classes
from downstream.labels.specimens import compile_pattern
from micrograph.field_marks import Mark
from pretrain.cards.archs import find_arch

Decoder = Literal[
    "Unet",
    "UnetPlusPlus",
    "Linknet",
    "FPN",
    "PSPNet",
    "PAN",
    "DeepLabV3Plus",
    "DPT",
    "DeepLabV2",
]
Orientation = Literal["any", "hflip"]
Augmentation = Literal["none", "basic", "paper", "extended"]
Balance = Literal["none", "inverse_frequency"]
Precision = Literal["fp32", "bf16", "fp16"]

DEFAULT_ARCH = "resnet18"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """Fine-tune a segmenter on a few labelled micrographs, from a pre-trained encoder or none."""

    data: Annotated[
        Path, "folder of train/ and train_annot/, val/ …, or of images/ and masks/", Mark.LOCATION
    ]
    train: Annotated[
        tuple[str, ...], "folders or single images of it to train on", Mark.PRIVATE
    ] = ("train",)
    val: Annotated[tuple[str, ...], "the same, to validate on", Mark.PRIVATE] = ("val",)
    test: Annotated[
        tuple[str, ...], "the same, to score the result on; may be absent", Mark.PRIVATE
    ] = ("test",)
    folds: Annotated[
        int | None, "part train and val anew, specimens kept whole [only where there is no val: 5]"
    ] = None
    fold: Annotated[int, "the fold that validates, from 0"] = 0
    specimen: Annotated[
        str | None,
        "regular expression, group 1 is the specimen [the name without its counter]",
        Mark.PRIVATE,
    ] = None
    classes: Annotated[
        tuple[str, ...],
        "what mask values mean: NAME=INDEX, NAME=#rrggbb, or NAME=rest [indices as found]",
    ] = ()

    decoder: Annotated[Decoder, "smp's decoder, DPT for tu-vit_… alone; DeepLabV2 is ours"] = "Unet"
    arch: Annotated[str | None, f"encoder [that of --init, else {DEFAULT_ARCH}]"] = None
    init: Annotated[str, "random, imagenet, an encoder's folder or file, or a registry's name"] = (
        "random"
    )
    run_dir: Annotated[Path, "folder for the results", Mark.LOCATION] = Path("runs/segment")
    seed: Annotated[int, "decides initial weights, order and augmentation"] = 0

    crop_size: Annotated[int, "side of the training crops in pixels (paper A)"] = 512
    augmentation: Annotated[
        Augmentation, "paper A's, or paper B's basic (flips and turns) or extended"
    ] = "paper"
    orientation: Annotated[
        Orientation, "flips and quarter turns, or only hflip where up has a meaning"
    ] = "any"
    batch_size: Annotated[int, "crops per step (paper A's notebook)"] = 6
    samples_per_epoch: Annotated[int | None, "crops [one per training image, at least two]"] = None

    cross_entropy_share: Annotated[float, "of the loss; the rest is dice (paper A)"] = 0.7
    balance: Annotated[Balance, "of the classes in the cross entropy (paper A: balanced)"] = (
        "inverse_frequency"
    )
    lr: Annotated[float, "of Adam in the first stage (paper A)"] = 2e-4
    stage2_lr: Annotated[float | None, "of the second stage, from the best so far; none: one"] = (
        1e-5
    )
    encoder_lr_factor: Annotated[float, "the encoder's lr, in shares of lr (paper B: 0.1)"] = 1.0
    patience: Annotated[
        int, "epochs without a better validation IoU, each stage (paper A)", Mark.LENGTH
    ] = 30
    max_epochs: Annotated[int, "upper bound for each stage", Mark.LENGTH] = 1000
    max_minutes: Annotated[
        float | None, "upper bound for the training, both stages [none]", Mark.LENGTH
    ] = None
    micro_iou_classes: Annotated[
        MicroIouClasses, "classes that micro_iou sums over; foreground: all but the first (EBC)"
    ] = "all"
    boundary_tolerance: Annotated[float, "pixels by which boundaries may differ"] = 3.0

    precision: Annotated[Precision, "of the arithmetic; fp16 needs a GPU"] = "fp32"
    threads: Annotated[int | None, "of torch [all cores]", Mark.FREE_ON_RESUME] = None
    checkpoint_minutes: Annotated[float, "between two checkpoints", Mark.FREE_ON_RESUME] = 5.0

    def __post_init__(self) -> None:
        if self.arch is not None:
            find_arch(self.arch)
        if self.classes:
            parse_classes(self.classes)
        if self.specimen is not None:
            compile_pattern(self.specimen)
        if self.crop_size < 32 or self.crop_size % 32:
            raise ValueError(f"crop_size must be a multiple of 32 pixels, not {self.crop_size}")
        for name in ("patience", "max_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"setting {name!r} must be at least 1, not {getattr(self, name)}")
        for name in ("batch_size", "samples_per_epoch"):
            if (value := getattr(self, name)) is not None and value < 2:
                raise ValueError(f"{name} must be at least 2 (batch norm), not {value}")
        if self.lr <= 0 or (self.stage2_lr is not None and self.stage2_lr <= 0):
            raise ValueError("lr and stage2_lr must be above 0 (stage2_lr: none for one stage)")
        if self.encoder_lr_factor < 0:
            raise ValueError(f"encoder_lr_factor must not be negative: {self.encoder_lr_factor}")
        if not 0 <= self.cross_entropy_share <= 1:
            raise ValueError("cross_entropy_share must lie in 0 to 1")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds must be at least 2, not {self.folds}")
        if not 0 <= self.fold < (self.folds or 2):
            raise ValueError(f"fold must lie in 0 to {(self.folds or 2) - 1}, not {self.fold}")
        if self.boundary_tolerance < 0:
            raise ValueError(f"boundary_tolerance must not be negative: {self.boundary_tolerance}")

    @property
    def entries(self) -> dict[str, tuple[str, ...]]:
        """Split -> its folders and images, as `downstream.labels.layout` takes them."""
        return {"train": self.train, "val": self.val, "test": self.test}
