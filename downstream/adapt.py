"""Adapt a segmenter from a labelled source domain to unlabelled images of a target domain.

python -m downstream.adapt --study configs/downstream/domains/bainite.yaml --target T1
python -m downstream.adapt --config configs/downstream/adapt/paper-b.yaml --study … --target T2
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from downstream.adaptation.build import (
    RunData,
    build_network,
    cut_pools,
    decoder_options,
    read_data,
)
from downstream.adaptation.config import AdaptConfig, DomainName
from downstream.adaptation.methods.batchnorm import adapt_bn, export_state, use_domain
from downstream.adaptation.run_folder import (
    ScoredDomain,
    check_same_study,
    collapse_of,
    data_sha256,
    describe,
    write_kept,
    write_masks,
    write_results,
)
from downstream.adaptation.training import Trainer, open_run, train
from downstream.domains.evaluate import score_images
from downstream.domains.prepare import find_target, prepare_target
from downstream.domains.study import SOURCE, DomainStudy
from downstream.network.models import bare_model
from downstream.network.segmenter import EncoderOrigin, Segmenter
from downstream.network.two_heads import to_uda_network
from micrograph.cli import console, log_with_time_and_rank, program, warn
from micrograph.settings import load_config
from pretrain.network.timm_models import encoder_options
from pretrain.runs.interruption import Interruption
from pretrain.runs.resume_check import finished_results
from pretrain.runs.run_folder import RunPaths


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(AdaptConfig, argv)
    log_with_time_and_rank()
    with Interruption() as interruption:
        results = adapt(config, interruption)
    _print_table(results)
    print(config.run_dir)


def adapt(config: AdaptConfig, interruption: Interruption | None = None) -> dict[str, Any]:
    """Train and score as configured; return the content of the run's `results.json`.

    A finished run is only read; an unfinished one is resumed. Raises `UserError` for unusable
    domains or weights.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = read_data(config)
    paths = RunPaths(config.run_dir)
    check_same_study(paths, data.study)
    found = finished_results(config.run_dir, config, lambda: data_sha256(data), str(config.study))
    return found or _run(paths, config, data, interruption or Interruption())


def _run(
    paths: RunPaths, config: AdaptConfig, data: RunData, interruption: Interruption
) -> dict[str, Any]:
    with open_run(config, lambda: interruption.requested) as run:
        for name in data.study.targets:
            find_target(data.study, name)  # a missing one fails before days of training
        torch.manual_seed(config.seed)
        segmenter, origin = build_network(config, data.study)
        trainer = Trainer(segmenter, config, data.study, *cut_pools(config, data), run)
        describe(paths, data)
        run.begin(config)
        interruption.defer()
        state = train(trainer)
        networks = _networks_to_keep(trainer, config, data.study, origin)
        domains = _score(networks, config, data)
        collapse = collapse_of(state, domains, data.study.class_names)
        write_masks(paths, domains)
        kept = networks["target"].model.state_dict()
        card = write_kept(paths, kept, origin, config, data.study, domains, collapse)
        results = write_results(paths, config, data, card, trainer, state, domains)
        run.end(state)
    if collapse:
        warn(f"this run collapsed: {collapse}")
    return results


def _networks_to_keep(
    trainer: Trainer, config: AdaptConfig, study: DomainStudy, origin: EncoderOrigin
) -> dict[str, Segmenter]:
    """The network to keep, as it will be loaded, with the statistics of each domain."""

    def load(domain: DomainName) -> Segmenter:
        model = bare_model(
            config.network,
            origin.arch,
            len(study.classes),
            encoder_options(origin.arch),
            decoder_options(config),
        )
        with use_domain(trainer.kept, domain):
            model.load_state_dict(export_state(trainer.kept))
        device = trainer.segmenter.device
        return Segmenter(to_uda_network(model), origin.mean, origin.std, device)

    networks = {"source": load("source"), "target": load("target")}
    if config.parts.bn_adapt:
        target = networks["target"]
        adapt_bn(target.model, trainer.target_batches())
    return networks


def _score(
    networks: Mapping[str, Segmenter], config: AdaptConfig, data: RunData
) -> dict[str, ScoredDomain]:
    """Score the source's validation images and every target's test images.

    Only here, after training, are test labels of targets read.
    """
    study = data.study
    own = score_images(networks["source"], study, data.val, config.batch_size)
    domains = {SOURCE: ScoredDomain("val", not config.parts.target_labels, own)}
    for name in study.targets:
        test = prepare_target(study, name).test
        if not test:
            warn(f"target {name} has no test images, so it is not scored")
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
        f"{results['method']}, style {results['style']}: {results['finished']}, kept: "
        f"{results['kept']}; {results['seconds_per_step']:.2f} s a step",
        markup=False,
        soft_wrap=True,
    )
    Console().print(table)


if __name__ == "__main__":
    main()
