"""The settings of a segmentation run, with defaults and sources. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from downstream.labels.classes import MicroIouClasses, parse_classes
from downstream.labels.specimens import compile_pattern
from micrograph.setting_marks import Mark
from pretrain.cards.archs import find_arch

Decoder = Literal[
    "Unet", "UnetPlusPlus", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3Plus", "DPT", "DeepLabV2"
]
Orientation = Literal["any", "hflip"]
Augmentation = Literal["none", "basic", "paper", "extended"]
Balance = Literal["none", "inverse_frequency"]
Precision = Literal["fp32", "bf16", "fp16"]

DEFAULT_ARCH = "resnet18"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """Fine-tune a segmenter on a few labelled micrographs."""

    data: Annotated[
        Path, "folder with train/ and train_annot/, val/ …, or images/ and masks/", Mark.LOCATION
    ]
    train: Annotated[tuple[str, ...], "folders or images in it to train on", Mark.PRIVATE] = (
        "train",
    )
    val: Annotated[tuple[str, ...], "folders or images to validate on", Mark.PRIVATE] = ("val",)
    test: Annotated[
        tuple[str, ...], "folders or images to score the result on; optional", Mark.PRIVATE
    ] = ("test",)
    folds: Annotated[
        int | None, "split train and val again by specimens into folds [5 if there is no val]"
    ] = None
    fold: Annotated[int, "fold to validate on, from 0"] = 0
    specimen: Annotated[
        str | None,
        "regular expression whose group 1 is the specimen [name without counter]",
        Mark.PRIVATE,
    ] = None
    classes: Annotated[
        tuple[str, ...],
        "meaning of the mask values: NAME=INDEX, NAME=#rrggbb or NAME=rest [indices 0, 1, 2 …]",
    ] = ()

    decoder: Annotated[Decoder, "smp decoder (DPT for tu-vit_… only), or our DeepLabV2"] = "Unet"
    arch: Annotated[str | None, f"encoder [that of --init, else {DEFAULT_ARCH}]"] = None
    init: Annotated[str, "random, imagenet, an encoder's folder or file, or a registry name"] = (
        "random"
    )
    run_dir: Annotated[Path, "folder for the results", Mark.LOCATION] = Path("runs/segment")
    seed: Annotated[int, "for initial weights, order and augmentation"] = 0

    crop_size: Annotated[int, "side of the training crops in pixels (paper A)"] = 512
    augmentation: Annotated[
        Augmentation, "paper: of paper A; basic (flips and rotations) and extended: of paper B"
    ] = "paper"
    orientation: Annotated[
        Orientation, "all flips and rotations by 90°, or hflip only if up has a meaning"
    ] = "any"
    batch_size: Annotated[int, "crops per step (paper A's notebook)"] = 6
    samples_per_epoch: Annotated[int | None, "crops per epoch [one per image, at least two]"] = None

    cross_entropy_share: Annotated[float, "weight of the cross entropy; the rest is Dice"] = 0.7
    balance: Annotated[Balance, "class weights of the cross entropy (paper A: balanced)"] = (
        "inverse_frequency"
    )
    lr: Annotated[float, "learning rate of Adam in stage 1 (paper A)"] = 2e-4
    stage2_lr: Annotated[
        float | None, "learning rate of stage 2, which starts from the best weights [no stage 2]"
    ] = 1e-5
    encoder_lr_factor: Annotated[
        float, "encoder learning rate as a fraction of lr (paper B: 0.1)"
    ] = 1.0
    patience: Annotated[
        int, "epochs without a better validation IoU until a stage ends (paper A)", Mark.LENGTH
    ] = 30
    max_epochs: Annotated[int, "maximal epochs per stage", Mark.LENGTH] = 1000
    max_minutes: Annotated[float | None, "maximal minutes of training [unlimited]", Mark.LENGTH] = (
        None
    )
    micro_iou_classes: Annotated[
        MicroIouClasses, "classes in micro_iou; foreground: all but the first (EBC)"
    ] = "all"
    boundary_tolerance: Annotated[float, "pixels by which boundaries may differ"] = 3.0

    precision: Annotated[Precision, "floating-point precision; fp16 needs a GPU"] = "fp32"
    threads: Annotated[int | None, "CPU threads of torch [all cores]", Mark.FREE_ON_RESUME] = None
    checkpoint_minutes: Annotated[float, "minutes between checkpoints", Mark.FREE_ON_RESUME] = 5.0

    def __post_init__(self) -> None:
        if self.arch is not None:
            find_arch(self.arch)
        if self.classes:
            parse_classes(self.classes)
        if self.specimen is not None:
            compile_pattern(self.specimen)
        if self.crop_size < 32 or self.crop_size % 32:
            raise ValueError(f"crop_size must be a multiple of 32 pixels, not {self.crop_size}")
        for name in ("patience", "max_epochs"):
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
            raise ValueError("cross_entropy_share must be between 0 and 1")
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds must be at least 2, not {self.folds}")
        if not 0 <= self.fold < (self.folds or 2):
            raise ValueError(f"fold must be 0 to {(self.folds or 2) - 1}, not {self.fold}")
        if self.boundary_tolerance < 0:
            raise ValueError(f"boundary_tolerance must not be negative: {self.boundary_tolerance}")

    @property
    def entries(self) -> dict[str, tuple[str, ...]]:
        """Split -> its folders and images, for `downstream.labels.layout`."""
        return {"train": self.train, "val": self.val, "test": self.test}
