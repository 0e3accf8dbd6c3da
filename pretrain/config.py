"""Every setting of a pre-training run, with its default, meaning and source. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from micrograph.field_marks import Mark
from pretrain.cards.archs import find_arch
from pretrain.network.init import resolve_init

Precision = Literal["fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "gpu"]
RotationMode = Literal["any", "quarter"]
Choice = Literal["auto", "always", "never"]
Schedule = Literal["step", "cosine", "constant"]
Optimizer = Literal["sgd", "adam", "adamw"]
Crop = Literal["random", "whole"]
Loss = Literal["cross_entropy", "bce"]

_SHARES = (
    *("hflip_prob", "vflip_prob", "rotate_prob", "brightness", "contrast", "noise"),
    *("class_weight_power", "class_balance_power", "mix_prob"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Pre-train an encoder on shards; the defaults are paper A's recipe (NASA/TM-20210026119)."""

    arch: Annotated[
        str, "encoder to train: python -m pretrain.archs lists them; or tu-NAME, a timm model"
    ]
    init: Annotated[str, "random (Kaiming), imagenet, an export, or a name in a registry"] = (
        "random"
    )
    shards: Annotated[
        str, "folder made by python -m shards.write, or its URL (s3://, https://)", Mark.LOCATION
    ] = "data/shards"
    cache_dir: Annotated[
        Path | None, "where shards from a URL go [~/.cache/micrograph-pretrain]", Mark.LOCATION
    ] = None
    run_dir: Annotated[Path | None, "folder of this run [runs/ARCH.INIT]", Mark.LOCATION] = None
    image_size: Annotated[int, "side of the training crops in pixels"] = 224
    seed: Annotated[int, "decides initial weights, order and augmentation"] = 0

    epochs: Annotated[int, "upper bound; early stopping usually ends first", Mark.LENGTH] = 300
    patience: Annotated[
        int, "epochs without a better validation top-1 before stopping", Mark.LENGTH
    ] = 30
    batch_size: Annotated[int, "global: over all processes and accumulated micro-batches"] = 1024
    micro_batch_size: Annotated[
        int | None, "per process and forward pass [what fits]", Mark.FREE_ON_RESUME
    ] = None

    optimizer: Annotated[Optimizer, "sgd has momentum; adam and adamw have torch's betas"] = "sgd"
    lr: Annotated[float, "peak learning rate"] = 0.1
    lr_reference_batch_size: Annotated[
        int | None, "batch size that lr is meant for; lr grows in proportion [as it is]"
    ] = None
    momentum: Annotated[float, "of sgd"] = 0.9
    weight_decay: Annotated[float, "pull to zero; decoupled from the gradient in adamw only"] = 1e-4
    decay_norm_and_bias: Annotated[bool, "weight decay on norms and biases too"] = True
    clip_grad: Annotated[float | None, "largest norm of the gradient [no limit]"] = None
    lr_schedule: Annotated[
        Schedule, "step: times lr_decay; cosine: to zero at the last epoch; constant"
    ] = "step"
    # Paper A: "decayed by 10 percent every 30 epochs". The script it builds on decays *to* 10 %.
    lr_decay: Annotated[float, "factor of the step schedule; 0.1 is the other reading"] = 0.9
    lr_decay_epochs: Annotated[int, "epochs between two decays"] = 30
    warmup_epochs: Annotated[float, "linear warm-up from zero"] = 0.0
    ema_epochs: Annotated[
        float | None, "half-life of averaged weights, which are then what is kept [no averaging]"
    ] = None
    loss: Annotated[Loss, "cross_entropy; bce: a sigmoid per class, as paper B"] = "cross_entropy"
    class_weight_power: Annotated[
        float, "power of the inverse class frequency in the loss; 1: classes count alike"
    ] = 0.0
    class_balance_power: Annotated[
        float, "power of the inverse class frequency in drawing; 1: classes come equally often"
    ] = 0.0
    label_smoothing: Annotated[float, "share of the target given to all classes alike"] = 0.0
    dropout: Annotated[float, "before the linear layer of the head"] = 0.0

    # Paper A names the transformations and gives no strengths; these are ours.
    crop: Annotated[
        Crop, "random: a part of the image, validation its centre; whole: all, squeezed to a square"
    ] = "random"
    crop_area_min: Annotated[float, "smallest crop, as a share of the image's area"] = 0.25
    crop_aspect_max: Annotated[float, "largest stretch of a crop (random resizing)"] = 1.333
    hflip_prob: Annotated[float, "probability of a horizontal flip"] = 0.5
    vflip_prob: Annotated[float, "probability of a vertical flip"] = 0.5
    rotate_prob: Annotated[float, "probability of a rotation"] = 0.5
    rotation_mode: Annotated[
        RotationMode, "any: an angle up to rotate_degrees; quarter: by 90, 180 or 270 degrees"
    ] = "any"
    rotate_degrees: Annotated[float, "largest angle, either way"] = 45.0
    brightness: Annotated[float, "largest shift, as a share of full scale"] = 0.2
    contrast: Annotated[float, "largest relative change"] = 0.3
    noise: Annotated[float, "largest deviation of Gaussian noise, as a share of full scale"] = 0.05

    mixup: Annotated[float, "alpha of mixup's Beta distribution; 0: none"] = 0.0
    cutmix: Annotated[float, "alpha of cutmix's; with mixup, half of the samples each"] = 0.0
    mix_prob: Annotated[float, "share of the samples that are mixed at all"] = 1.0

    # A step without finite loss and gradient is skipped; divergence.py tells the rest.
    max_skipped_steps: Annotated[int, "skipped steps in a row before the run rolls back"] = 5
    divergence_ratio: Annotated[
        float, "times the first step's loss: above it the run rolls back"
    ] = 20.0
    rollback_lr_factor: Annotated[float, "factor of the learning rate from a roll-back on"] = 0.2
    max_rollbacks: Annotated[int, "roll-backs before the run fails", Mark.FREE_ON_RESUME] = 3

    device: Annotated[Device, "where to train"] = "auto"
    precision: Annotated[Precision, "of the forward pass"] = "fp32"
    compile: Annotated[bool, "torch.compile; a minute at the start, needs a C++ compiler"] = False
    sync_bn: Annotated[bool, "batch norm over the batches of all GPUs, not of each"] = False
    threads: Annotated[
        int | None, "of torch, per process [cores / processes]", Mark.FREE_ON_RESUME
    ] = None
    loader_threads: Annotated[
        int | None, "of the loader, per process [cores / processes]", Mark.FREE_ON_RESUME
    ] = None
    cache_images: Annotated[
        Choice,
        "keep decoded images in the device's memory; auto: where they take half at most",
        Mark.FREE_ON_RESUME,
    ] = "auto"
    gpu_decode: Annotated[Choice, "decode on the GPU; auto: where a self-test succeeds"] = "auto"

    checkpoint_minutes: Annotated[
        float, "between checkpoints inside an epoch", Mark.FREE_ON_RESUME
    ] = 10.0
    record_ids: Annotated[
        bool, "write which samples each step had to ids-RANK-of-WORLD.jsonl", Mark.FREE_ON_RESUME
    ] = False
    wandb: Annotated[
        bool, "log to Weights & Biases too (WANDB_MODE=offline works)", Mark.FREE_ON_RESUME
    ] = False
    wandb_project: Annotated[str, "project there", Mark.FREE_ON_RESUME] = "micrograph-pretrain"

    def __post_init__(self) -> None:
        smallest = find_arch(self.arch).min_size
        if self.image_size < smallest:
            raise ValueError(
                f"image_size {self.image_size} is under {self.arch}'s {smallest} pixels"
            )
        for name in ("epochs", "patience", "batch_size", "lr_decay_epochs", "max_skipped_steps"):
            _require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("micro_batch_size", "threads", "loader_threads", "lr_reference_batch_size"):
            value = getattr(self, name)
            _require(name, value, value is None or value >= 1, "at least 1")
        for name in _SHARES:
            _require(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "from 0 to 1")
        for name in ("dropout", "label_smoothing", "momentum"):
            _require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "from 0 to below 1")
        _require(
            "clip_grad", self.clip_grad, self.clip_grad is None or self.clip_grad > 0, "above 0"
        )
        _require("divergence_ratio", self.divergence_ratio, self.divergence_ratio > 1, "above 1")
        _require(
            "rollback_lr_factor",
            self.rollback_lr_factor,
            0 < self.rollback_lr_factor < 1,
            "between 0 and 1",
        )
        _require(
            "ema_epochs", self.ema_epochs, self.ema_epochs is None or self.ema_epochs > 0, "above 0"
        )
        for name in ("lr", "lr_decay", "crop_area_min", "checkpoint_minutes"):
            _require(name, getattr(self, name), getattr(self, name) > 0, "above 0")
        _require("crop_area_min", self.crop_area_min, self.crop_area_min <= 1, "at most 1")
        _require("crop_aspect_max", self.crop_aspect_max, self.crop_aspect_max >= 1, "at least 1")
        nonnegative = ("weight_decay", "warmup_epochs", "rotate_degrees", "seed", "mixup", "cutmix")
        for name in (*nonnegative, "max_rollbacks"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "not negative")

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up, for the batch size of this run."""
        return self.lr * (
            self.batch_size / self.lr_reference_batch_size if self.lr_reference_batch_size else 1.0
        )

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix make images of two samples."""
        return bool(self.mixup or self.cutmix) and self.mix_prob > 0

    @property
    def run_folder(self) -> Path:
        """Where the run lives: the same command finds its run again."""
        if self.run_dir is not None:
            return self.run_dir
        return Path("runs") / f"{self.arch}.{resolve_init(self.init).label}"


def _require(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"setting {name!r} must be {wanted}, not {value!r}")
