"""A labelled source and unlabelled target images become a segmenter for the target.

python -m downstream.adapt --study configs/downstream/domains/bainite.yaml --target T1
python -m downstream.adapt --config configs/downstream/adapt/paper-b.yaml --study … --target T2
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from downstream.models import bare_model
from downstream.seg.metrics import score
from downstream.seg.run_folder import RunPaths, check_same_run, read_or_run
from downstream.seg.segmenter import Origin, Segmenter, default_device, initial_network
from downstream.uda.batches import TilePool, cut_tiles
from downstream.uda.batchnorm import adapt_bn, export_state, use_domain
from downstream.uda.config import FREE_SETTINGS, AdaptConfig, DomainName
from downstream.uda.domains import SOURCE, DomainStudy, read_study
from downstream.uda.evaluate import score_images, total_confusion
from downstream.uda.networks import to_uda_network
from downstream.uda.prepare import PreparedImage, find_target, prepare_source, prepare_target
from downstream.uda.run_folder import (
    RunData,
    ScoredDomain,
    check_same_study,
    collapse_of,
    data_sha256,
    describe,
    write_kept,
    write_masks,
    write_results,
)
from downstream.uda.training import Oracle, Trainer, train
from pretrain.processes import Interruption
from pretrain.timm_models import encoder_options
from shards.cli import UserError, console, program, warn
from shards.settings import load_config

DEFAULT_ARCH = "resnet101"  # AdaptSegNet, paper B


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(AdaptConfig, argv)
    with Interruption() as interruption:
        results = adapt(config, interruption)
    _print_table(results)
    print(config.run_dir)


def adapt(config: AdaptConfig, interruption: Interruption | None = None) -> dict[str, Any]:
    """Train and score as configured; returns what `results.json` of the run's folder holds.

    A finished run is only read; an unfinished one goes on. Raises `UserError` for domains or
    weights that do not fit.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = read_data(config)
    paths = RunPaths(config.run_dir)
    check_same_run(paths, config, FREE_SETTINGS, lambda: data_sha256(data), str(config.study))
    check_same_study(paths, data.study)
    return read_or_run(paths, lambda: _run(paths, config, data, interruption))


def _run(
    paths: RunPaths, config: AdaptConfig, data: RunData, interruption: Interruption | None
) -> dict[str, Any]:
    for name in data.study.targets:
        find_target(data.study, name)  # what is not there is told before days of training
    torch.manual_seed(config.seed)
    segmenter, origin = build_network(config, data.study)
    trainer = Trainer(segmenter, config, data.study, *cut_pools(config, data))
    oracle = _oracle(config, data, origin) if config.oracle else None
    describe(paths, config, data)  # what could not even begin leaves the folder free
    if interruption is None:
        state = train(trainer, oracle=oracle)
    else:
        interruption.defer()  # from here on there is something to save
        state = train(trainer, lambda: interruption.requested, oracle)
    networks = _kept_networks(trainer, config, data.study, origin)
    domains = _score(networks, config, data)
    collapse = collapse_of(state, domains, data.study.class_names)
    write_masks(paths, domains)
    kept = networks["target"].model.state_dict()
    options = _decoder_options(config)
    card = write_kept(paths, kept, origin, config, data.study, domains, options, collapse)
    results = write_results(paths, config, data, card, trainer, state, domains)
    shutil.rmtree(paths.checkpoints, ignore_errors=True)
    if collapse:
        warn(f"this run collapsed: {collapse}")
    return results


def read_data(config: AdaptConfig) -> RunData:
    """The images that training and validation see; the targets' test images come when all is done.

    No label of a target is read unless the method is a reference that is supervised by them.
    """
    study = read_study(config.study, config.data)
    inner = study.tile_core if config.inner is None else config.inner
    ring = study.context_margin if config.ring is None else config.ring
    study = replace(study, tile_core=inner, context_margin=ring)
    if config.target is not None:
        study.target(config.target)  # a misspelt one is told before any image is read
    train, val = prepare_source(study, config.folds, config.fold)
    target: tuple[PreparedImage, ...] = ()
    if config.uses_target:
        assert config.target is not None
        labelled = config.parts.target_labels
        target = prepare_target(study, config.target, with_labels=labelled).train
    return RunData(study, train, val, target)


def build_network(config: AdaptConfig, study: DomainStudy) -> tuple[Segmenter, Origin]:
    model, origin = initial_network(
        config.network,
        config.arch,
        config.init,
        len(study.classes),
        default_arch=DEFAULT_ARCH,
        decoder_options=_decoder_options(config),
    )
    return Segmenter(to_uda_network(model), origin.mean, origin.std, default_device()), origin


def cut_pools(config: AdaptConfig, data: RunData) -> tuple[TilePool, TilePool | None]:
    """What is learnt from with labels, and what without."""
    study, compat = data.study, config.compat_padding
    if config.parts.target_labels:
        return cut_tiles(study, data.target, labelled=True, compat_padding=compat), None
    source = cut_tiles(study, data.train, labelled=True, compat_padding=compat)
    if not config.uses_target:
        return source, None
    return source, cut_tiles(study, data.target, labelled=False, compat_padding=compat)


def _decoder_options(config: AdaptConfig) -> dict[str, Any]:
    """What `bare_model` takes beside the encoder's name."""
    if config.network == "Unet":
        return {}
    return {
        "dilations": list(config.dilations),
        "aux": config.multi_level,
        "one_logit": config.one_logit,
    }


def _oracle(config: AdaptConfig, data: RunData, origin: Origin) -> Oracle:
    """What the target's test labels would say of a training at any moment."""
    if config.target is None:
        raise UserError("--oracle needs a --target, whose labels it may look at")
    images = prepare_target(data.study, config.target).test
    if all(image.native_mask is None for image in images):
        raise UserError(f"--oracle needs labelled test images; target {config.target} has none")

    def miou(trainer: Trainer) -> float:
        network = _kept_networks(trainer, config, data.study, origin)["target"]
        found = total_confusion(score_images(network, data.study, images, config.batch_size))
        assert found is not None  # some are labelled
        return score(found).miou

    return miou


def _kept_networks(
    trainer: Trainer, config: AdaptConfig, study: DomainStudy, origin: Origin
) -> dict[str, Segmenter]:
    """What the run keeps, as it will be loaded: for the source, and for the target.

    They differ only in batch norm's statistics, where each domain has its own.
    """

    def plain(domain: DomainName) -> Segmenter:
        options = encoder_options(origin.arch)
        model = bare_model(
            config.network, origin.arch, len(study.classes), options, _decoder_options(config)
        )
        with use_domain(trainer.kept, domain):
            model.load_state_dict(export_state(trainer.kept))
        device = trainer.segmenter.device
        return Segmenter(to_uda_network(model), origin.mean, origin.std, device)

    networks = {"source": plain("source"), "target": plain("target")}
    if config.parts.bn_adapt:
        target = networks["target"]
        adapt_bn(target.model, trainer.target_batches())
    return networks


def _score(
    networks: Mapping[str, Segmenter], config: AdaptConfig, data: RunData
) -> dict[str, ScoredDomain]:
    """The source's validation images and every target's test images, as the kept networks see them.

    Here, when all is trained, the targets' test labels are read.
    """
    study = data.study
    own = score_images(networks["source"], study, data.val, config.batch_size)
    domains = {SOURCE: ScoredDomain("val", not config.parts.target_labels, own)}
    for name in study.targets:
        test = prepare_target(study, name).test
        if not test:
            warn(f"target {name} has no test images; nothing is scored there")
            continue
        network = networks["target"]
        adapted = config.uses_target and name == config.target
        scored = score_images(network, study, test, config.batch_size)
        domains[name] = ScoredDomain("test", adapted, scored)
    return domains


def _print_table(results: dict[str, Any]) -> None:
    names = results["classes"]
    table = Table("", "mIoU", *(f"IoU {name}" for name in names), f"{names[-1]}, found", "true")
    table.box = None
    for domain, scores in results["domains"].items():
        label = (
            f"{domain} ({scores['split']}{', adapted to' if domain == results['target'] else ''})"
        )
        ious = scores["iou"] or {}
        true = (scores["phase_fraction_true"] or {}).get(names[-1])
        values = [scores["miou"], *(ious.get(name) for name in names)]
        values += [scores["phase_fraction"][names[-1]], true]
        table.add_row(label, *("-" if v is None else f"{v:.1%}" for v in values))
    console.print(
        f"{results['method']}, style {results['style']}: {results['finished']}, kept the "
        f"{results['kept']}; {results['seconds_per_step']:.2f} s a step",
        markup=False,
        soft_wrap=True,
    )
    Console().print(table)
    if (oracle := results["oracle"]) is not None:
        console.print(
            f"oracle (target labels): {oracle['miou']:.1%} at step {oracle['step']}", markup=False
        )


if __name__ == "__main__":
    main()
