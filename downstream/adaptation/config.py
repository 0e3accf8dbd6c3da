"""The settings of `downstream.adapt` with their defaults and sources. Imports no torch.

Sources: B is paper B; ASN is AdaptSegNet (Tsai et al. 2018, arXiv:1802.10349); DAFormer (Hoyer et
al. 2022, arXiv:2111.14887) and MIC (Hoyer et al. 2023, arXiv:2212.01322) replace values of B that
are in its unavailable supplement.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, get_args

from downstream.finetune.config import Augmentation
from downstream.network.dilation import DILATIONS, dilation_error
from micrograph.setting_marks import Mark
from pretrain.cards.archs import TIMM_PREFIX, find_arch

MethodName = Literal[
    "source_only", "bn_adapt", "adaptsegnet", "advent", "mean_teacher", "target_supervised"
]
DomainName = Literal["source", "target"]
Network = Literal["DeepLabV2", "Unet"]
BnMode = Literal["frozen", "shared", "domain"]
Style = Literal["none", "fda"]
Gan = Literal["bce", "ls"]
DiscriminatorInput = Literal["softmax", "entropy"]
DiscriminatorCrop = Literal["tile_core", "none"]
Optimizer = Literal["adamw", "adam", "sgd"]
AdaptPrecision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The parts of a method; a method is a row of `METHODS`."""

    discriminator: DiscriminatorInput | None = None  # None: not adversarial
    teacher: bool = False
    bn_adapt: bool = False  # re-estimate statistics on the target after training
    target_labels: bool = False  # train on them: a reference, not adaptation


METHODS: Mapping[MethodName, Parts] = MappingProxyType(
    {
        "source_only": Parts(),
        "bn_adapt": Parts(bn_adapt=True),
        "adaptsegnet": Parts(discriminator="softmax"),
        "advent": Parts(discriminator="entropy"),
        "mean_teacher": Parts(teacher=True),
        "target_supervised": Parts(target_labels=True),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptConfig:
    """Adapt a segmenter from a labelled source domain to an unlabelled target domain."""

    study: Annotated[Path, "YAML file, such as configs/downstream/domains/*.yaml", Mark.PRIVATE]
    data: Annotated[Path | None, "folder of images [that of the study]", Mark.LOCATION] = None
    target: Annotated[str | None, "domain to adapt to; optional for source_only"] = None
    method: Annotated[MethodName, "source_only and target_supervised are references"] = (
        "adaptsegnet"
    )
    teacher: Annotated[bool, "add self-training with a mean teacher to another method"] = False
    style: Annotated[Style, "fda: give source images low frequencies of the target"] = "none"
    run_dir: Annotated[Path, "output folder", Mark.LOCATION] = Path("runs/adapt")
    seed: Annotated[int, "random seed of weights, order and augmentation"] = 0
    folds: Annotated[int | None, "folds of the source, by specimen [study's; 5 (B)]"] = None
    fold: Annotated[int, "fold used for validation, from 0"] = 0

    network: Annotated[Network, "DeepLabV2 (ASN, B), or smp's Unet"] = "DeepLabV2"
    arch: Annotated[str | None, "encoder [that of --init, else resnet101 (ASN, B)]"] = None
    init: Annotated[str, "random, imagenet, folder or file of an encoder, or a registry name"] = (
        "random"
    )
    dilations: Annotated[tuple[int, ...], "of the head; published code uses 6 12"] = DILATIONS
    multi_level: Annotated[bool, "add an auxiliary head on the second last stage (ASN)"] = True
    one_logit: Annotated[bool, "for two classes: one logit, binary cross entropy (B)"] = True
    bn: Annotated[BnMode, "batch norm statistics: frozen, shared (ASN), per domain"] = "domain"
    bn_affine: Annotated[bool, "train scale and shift of batch norm (ASN: no)"] = True

    tile_core: Annotated[int | None, "scored centre of a tile in pixels [study's; 512 (B)]"] = None
    context_margin: Annotated[int | None, "unscored pixels around it [study's; 62 (B)]"] = None
    compat_padding: Annotated[bool, "include mirrored pixels in the loss (B does not say)"] = False
    augmentation: Annotated[Augmentation, "of both domains (B: extended)"] = "extended"
    batch_size: Annotated[int, "tiles of each domain per step (B)"] = 8
    steps: Annotated[int, "optimizer steps (B: 3000 epochs of 14)"] = 42_000

    optimizer: Annotated[Optimizer, "of the segmenter (B: Adam; ASN: SGD; DAFormer)"] = "adamw"
    lr: Annotated[float, "learning rate of the encoder (DAFormer; ASN: 2.5e-4)"] = 6e-5
    head_lr_factor: Annotated[float, "lr of the heads, as a multiple of lr (ASN, DAFormer)"] = 10.0
    weight_decay: Annotated[float, "(DAFormer; ASN: 5e-4)"] = 0.01
    momentum: Annotated[float, "of sgd (ASN)"] = 0.9
    warmup_steps: Annotated[int, "steps of linear warm-up (DAFormer; ASN: 0)"] = 1500
    poly_power: Annotated[float, "exponent of the polynomial decay of lr (ASN, B)"] = 0.9
    schedule_steps: Annotated[
        int | None, "step at which lr reaches 0 [steps] (ASN: 250k, stopped at 150k)"
    ] = None

    aux_weight: Annotated[float, "weight of the auxiliary head's cross entropy (ASN)"] = 0.1
    adv_weight: Annotated[float, "weight of the adversarial loss (ASN; its README: 5e-4)"] = 0.001
    adv_aux_weight: Annotated[float, "weight of the auxiliary one (ASN; its README: 5e-5)"] = 0.0002
    gan: Annotated[Gan, "bce (ASN, B) or least squares (better, says ASN's README)"] = "bce"
    discriminator_lr: Annotated[float, "learning rate of discriminators (ASN)"] = 1e-4
    discriminator_crop: Annotated[
        DiscriminatorCrop, "what discriminators see of a tile; none: all (B does not say)"
    ] = "tile_core"

    fda_beta: Annotated[float, "highest replaced frequency, cycles per pixel (FDA)"] = 0.01
    ema: Annotated[float, "decay of the teacher's weights per step (DAFormer, MIC)"] = 0.999
    pseudo_threshold: Annotated[
        float, "confidence above which a pixel adds to its image's weight (DAFormer, MIC)"
    ] = 0.968
    teacher_weight: Annotated[float, "weight of the consistency loss (MIC)"] = 1.0
    mask_block: Annotated[int, "side of masked blocks in pixels (MIC, halved)"] = 32
    mask_ratio: Annotated[float, "fraction of masked blocks (MIC)"] = 0.7

    precision: Annotated[AdaptPrecision, "of the segmenter; discriminators use fp32"] = "fp32"
    threads: Annotated[int | None, "CPU threads of torch [all cores]", Mark.FREE_ON_RESUME] = None
    log_steps: Annotated[int, "steps per line of metrics.jsonl"] = 50
    checkpoint_minutes: Annotated[float, "minutes between checkpoints", Mark.FREE_ON_RESUME] = 5.0

    def __post_init__(self) -> None:
        if self.arch is not None:
            find_arch(self.arch)
            ours = self.network == "DeepLabV2" and not self.arch.startswith(TIMM_PREFIX)
            if ours and (fault := dilation_error(self.arch)):
                raise ValueError(fault)
        for name in ("steps", "batch_size", "log_steps", "mask_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"setting {name!r} must be at least 1, not {getattr(self, name)}")
        if self.fold < 0 or (self.folds is not None and self.fold >= self.folds):
            raise ValueError(f"there is no fold {self.fold} of {self.folds}; folds count from 0")
        for name in ("lr", "discriminator_lr", "head_lr_factor"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        weights = ("aux_weight", "adv_weight", "adv_aux_weight", "teacher_weight", "weight_decay")
        for name in (*weights, "warmup_steps", "poly_power"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")
        for name in ("ema", "pseudo_threshold", "mask_ratio", "momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)}")
        if not 0 < self.fda_beta <= 0.5:
            raise ValueError(f"fda_beta must be above 0 and at most 0.5, not {self.fda_beta}")
        if self.schedule_steps is not None and self.schedule_steps < self.steps:
            raise ValueError(
                f"schedule_steps ({self.schedule_steps}) must not be below steps ({self.steps})"
            )
        if min(self.dilations, default=0) < 1:
            raise ValueError(f"dilations must be positive, and at least one: {self.dilations}")
        self._check_method()

    def _check_method(self) -> None:
        parts = self.parts
        if self.target is None and self.uses_target:
            raise ValueError(
                f"method {self.method} with style {self.style} needs a --target of the study"
            )
        if parts.target_labels and (self.teacher or self.style != "none"):
            raise ValueError("target_supervised cannot be combined with a teacher or a style")

    @property
    def parts(self) -> Parts:
        """The parts of the method, with a teacher if requested."""
        row = METHODS[self.method]
        return replace(row, teacher=row.teacher or self.teacher)

    @property
    def has_aux(self) -> bool:
        """Whether there is an auxiliary head."""
        return self.multi_level and self.network == "DeepLabV2"

    @property
    def trains_on_target(self) -> bool:
        """Whether the network is trained on unlabelled target images."""
        return self.parts.discriminator is not None or self.parts.teacher

    @property
    def training_bn(self) -> BnMode:
        """`bn`, but shared if only one domain is trained on."""
        return "shared" if self.bn == "domain" and not self.trains_on_target else self.bn

    @property
    def uses_target(self) -> bool:
        """Whether the run uses target images before scoring."""
        parts = self.parts
        others = parts.bn_adapt or parts.target_labels or self.style != "none"
        return self.trains_on_target or others


assert set(METHODS) == set(get_args(MethodName))
