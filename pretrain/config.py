"""Every setting of a pre-training run, with its default, meaning and source. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from micrograph.setting_marks import Mark
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

_BOUNDS: tuple[tuple[Callable[[float], bool], str, str], ...] = (
    (
        lambda value: value >= 1,
        "at least 1",
        "epochs patience batch_size lr_decay_epochs max_skipped_steps micro_batch_size threads "
        "loader_threads lr_reference_batch_size crop_aspect_max",
    ),
    (
        lambda value: 0 <= value <= 1,
        "from 0 to 1",
        "hflip_prob vflip_prob rotate_prob brightness contrast noise class_weight_power "
        "class_balance_power mix_prob",
    ),
    (lambda value: 0 <= value < 1, "from 0 to below 1", "dropout label_smoothing momentum"),
    (lambda value: value > 0, "above 0", "lr lr_decay checkpoint_minutes clip_grad ema_epochs"),
    (lambda value: 0 < value <= 1, "above 0 and at most 1", "crop_area_min"),
    (lambda value: 0 < value < 1, "between 0 and 1", "rollback_lr_factor"),
    (lambda value: value > 1, "above 1", "divergence_ratio"),
    (
        lambda value: value >= 0,
        "not negative",
        "weight_decay warmup_epochs rotate_degrees seed mixup cutmix max_rollbacks",
    ),
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
        Path | None, "cache for shards from a URL [~/.cache/micrograph-pretrain]", Mark.LOCATION
    ] = None
    run_dir: Annotated[Path | None, "folder of this run [runs/ARCH.INIT]", Mark.LOCATION] = None
    image_size: Annotated[int, "side of the training crops in pixels"] = 224
    seed: Annotated[int, "of initial weights, sample order and augmentation"] = 0

    epochs: Annotated[int, "at most; early stopping usually ends the run before", Mark.LENGTH] = 300
    patience: Annotated[
        int, "epochs without a better validation top-1 before stopping", Mark.LENGTH
    ] = 30
    batch_size: Annotated[int, "global: over all processes and accumulated micro-batches"] = 1024
    micro_batch_size: Annotated[
        int | None, "per process and forward pass [the largest that fits]", Mark.FREE_ON_RESUME
    ] = None

    optimizer: Annotated[Optimizer, "sgd with momentum; adam and adamw with torch's betas"] = "sgd"
    lr: Annotated[float, "peak learning rate"] = 0.1
    lr_reference_batch_size: Annotated[
        int | None,
        "batch size for which lr is given; lr is scaled in proportion [lr is not scaled]",
    ] = None
    momentum: Annotated[float, "of sgd"] = 0.9
    weight_decay: Annotated[float, "L2 penalty; decoupled from the gradient in adamw only"] = 1e-4
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
        float | None, "half-life of averaged weights, which the run then keeps [no averaging]"
    ] = None
    loss: Annotated[Loss, "cross_entropy; bce: a sigmoid per class, as paper B"] = "cross_entropy"
    class_weight_power: Annotated[
        float, "power of the inverse class frequency in the loss; 1: all classes weigh the same"
    ] = 0.0
    class_balance_power: Annotated[
        float, "power of the inverse class frequency in sampling; 1: all classes equally often"
    ] = 0.0
    label_smoothing: Annotated[float, "fraction of the target spread over all classes"] = 0.0
    dropout: Annotated[float, "before the linear layer of the head"] = 0.0

    # Paper A names the transformations and gives no strengths; these are ours.
    crop: Annotated[
        Crop, "random: a part of the image, validation its centre; whole: all, squeezed to a square"
    ] = "random"
    crop_area_min: Annotated[float, "smallest crop, as a fraction of the image's area"] = 0.25
    crop_aspect_max: Annotated[float, "largest stretch of a crop (random resizing)"] = 1.333
    hflip_prob: Annotated[float, "probability of a horizontal flip"] = 0.5
    vflip_prob: Annotated[float, "probability of a vertical flip"] = 0.5
    rotate_prob: Annotated[float, "probability of a rotation"] = 0.5
    rotation_mode: Annotated[
        RotationMode, "any: an angle up to rotate_degrees; quarter: by 90, 180 or 270 degrees"
    ] = "any"
    rotate_degrees: Annotated[float, "largest angle, either way"] = 45.0
    brightness: Annotated[float, "largest shift, as a fraction of full scale"] = 0.2
    contrast: Annotated[float, "largest relative change"] = 0.3
    noise: Annotated[
        float, "largest standard deviation of Gaussian noise, as a fraction of full scale"
    ] = 0.05

    mixup: Annotated[float, "alpha of mixup's Beta distribution; 0: off"] = 0.0
    cutmix: Annotated[
        float, "alpha of cutmix's Beta distribution; 0: off; with mixup, half of the samples each"
    ] = 0.0
    mix_prob: Annotated[float, "fraction of the samples that are mixed"] = 1.0

    # A step without finite loss and gradient is skipped (training/divergence.py).
    max_skipped_steps: Annotated[int, "skipped steps in a row before the run rolls back"] = 5
    divergence_ratio: Annotated[
        float, "the run rolls back at a loss this many times that of the first step"
    ] = 20.0
    rollback_lr_factor: Annotated[float, "factor on the learning rate after each roll-back"] = 0.2
    max_rollbacks: Annotated[int, "roll-backs before the run fails", Mark.FREE_ON_RESUME] = 3

    device: Annotated[Device, "device to train on"] = "auto"
    precision: Annotated[Precision, "of the forward pass"] = "fp32"
    compile: Annotated[bool, "torch.compile; takes a minute at the start, needs a C++ compiler"] = (
        False
    )
    sync_bn: Annotated[bool, "batch norm over the batches of all GPUs, not of each one"] = False
    threads: Annotated[
        int | None, "of torch, per process [cores / processes]", Mark.FREE_ON_RESUME
    ] = None
    loader_threads: Annotated[
        int | None, "of the loader, per process [cores / processes]", Mark.FREE_ON_RESUME
    ] = None
    cache_images: Annotated[
        Choice,
        "keep decoded images in the device's memory; auto: if they take at most half of it",
        Mark.FREE_ON_RESUME,
    ] = "auto"
    gpu_decode: Annotated[Choice, "decode on the GPU; auto: if a self-test succeeds"] = "auto"

    checkpoint_minutes: Annotated[
        float, "between checkpoints inside an epoch", Mark.FREE_ON_RESUME
    ] = 10.0
    record_ids: Annotated[
        bool, "write the samples of each step to ids-RANK-of-WORLD.jsonl", Mark.FREE_ON_RESUME
    ] = False
    wandb: Annotated[
        bool, "also log to Weights & Biases (WANDB_MODE=offline works)", Mark.FREE_ON_RESUME
    ] = False
    wandb_project: Annotated[str, "Weights & Biases project", Mark.FREE_ON_RESUME] = (
        "micrograph-pretrain"
    )

    def __post_init__(self) -> None:
        smallest = find_arch(self.arch).min_size
        if self.image_size < smallest:
            raise ValueError(
                f"image_size {self.image_size} is under {self.arch}'s {smallest} pixels"
            )
        for holds, bounds, names in _BOUNDS:
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not holds(value):
                    raise ValueError(f"setting {name!r} must be {bounds}, not {value!r}")

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up, for this run's batch size."""
        return self.lr * (
            self.batch_size / self.lr_reference_batch_size if self.lr_reference_batch_size else 1.0
        )

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on."""
        return bool(self.mixup or self.cutmix) and self.mix_prob > 0

    @property
    def run_folder(self) -> Path:
        """The run's folder; the same command always gives the same."""
        if self.run_dir is not None:
            return self.run_dir
        return Path("runs") / f"{self.arch}.{resolve_init(self.init).label}"
