"""What a run needs before its first step: images, tiles, network, and the parts of its method."""

from dataclasses import dataclass, replace
from typing import Any

from downstream.adaptation.config import AdaptConfig
from downstream.adaptation.methods.adversarial import AdversarialTraining
from downstream.adaptation.methods.method import TargetMethod
from downstream.adaptation.methods.self_training import SelfTraining
from downstream.domains.batches import TilePool, cut_tiles
from downstream.domains.prepare import PreparedImage, prepare_source, prepare_target
from downstream.domains.study import DomainStudy, read_domain_study
from downstream.network.segmenter import EncoderOrigin, Segmenter, default_device, initial_network
from downstream.network.two_heads import to_uda_network

DEFAULT_ARCH = "resnet101"  # AdaptSegNet, paper B


@dataclass(frozen=True, slots=True)
class RunData:
    """The images of a run; of the target only those that training sees."""

    study: DomainStudy
    train: tuple[PreparedImage, ...]  # source
    val: tuple[PreparedImage, ...]  # source
    target: tuple[PreparedImage, ...]  # without masks, unless the method is supervised by them


def read_data(config: AdaptConfig) -> RunData:
    """Read the images that training and validation see; targets' test images are read later.

    No label of a target is read unless the method is a reference that is supervised by them.
    """
    study = read_domain_study(config.study, config.data)
    core = study.tile_core if config.tile_core is None else config.tile_core
    margin = study.context_margin if config.context_margin is None else config.context_margin
    study = replace(study, tile_core=core, context_margin=margin)
    if config.target is not None:
        study.target(config.target)  # a typo fails before any image is read
    train, val = prepare_source(study, config.folds, config.fold)
    target: tuple[PreparedImage, ...] = ()
    if config.uses_target:
        assert config.target is not None
        labelled = config.parts.target_labels
        target = prepare_target(study, config.target, with_labels=labelled).train
    return RunData(study, train, val, target)


def build_network(config: AdaptConfig, study: DomainStudy) -> tuple[Segmenter, EncoderOrigin]:
    """The network before training, and the origin of its encoder."""
    model, origin = initial_network(
        config.network,
        config.arch,
        config.init,
        len(study.classes),
        default_arch=DEFAULT_ARCH,
        decoder_options=decoder_options(config),
    )
    return Segmenter(to_uda_network(model), origin.mean, origin.std, default_device()), origin


def build_methods(
    config: AdaptConfig, segmenter: Segmenter, study: DomainStudy
) -> dict[str, TargetMethod]:
    """What the configured method adds to a step; empty if it only trains with labels."""
    parts = config.parts
    methods: dict[str, TargetMethod] = {}
    if parts.discriminator is not None:
        methods["adversarial"] = AdversarialTraining(config, parts.discriminator, segmenter, study)
    if parts.teacher:
        methods["self_training"] = SelfTraining(config, segmenter, len(study.classes))
    return methods


def cut_pools(config: AdaptConfig, data: RunData) -> tuple[TilePool, TilePool | None]:
    """The tiles to train on with labels, and those to adapt to without."""
    study, compat = data.study, config.compat_padding
    if config.parts.target_labels:
        return cut_tiles(study, data.target, labelled=True, compat_padding=compat), None
    source = cut_tiles(study, data.train, labelled=True, compat_padding=compat)
    if not config.uses_target:
        return source, None
    return source, cut_tiles(study, data.target, labelled=False, compat_padding=compat)


def decoder_options(config: AdaptConfig) -> dict[str, Any]:
    """The decoder options of `bare_model`."""
    if config.network == "Unet":
        return {}
    return {
        "dilations": list(config.dilations),
        "aux": config.multi_level,
        "one_logit": config.one_logit,
    }
