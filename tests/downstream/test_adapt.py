"""The loop: resuming, divergence, which labels are not read, what a run folder refuses."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from downstream.adapt import adapt
from downstream.adaptation.build import build_network, cut_pools, read_data
from downstream.adaptation.config import AdaptConfig
from downstream.adaptation.methods.method import cross_entropy
from downstream.adaptation.training import State, Trainer, open_run, train
from downstream.domains.study import read_domain_study
from downstream.domains.tile_plan import IGNORE
from downstream.inference.config import PredictConfig
from downstream.predict import predict
from micrograph.cli import EXIT_INTERRUPTED, UserError
from pretrain.cards.segmenter_card import read_segmenter_card, write_segmenter_card
from pretrain.runs.skips import MAX_SKIPPED_STEPS
from pretrain.runs.status import read_status


def trainer(config: AdaptConfig, interrupted: Callable[[], bool] = lambda: False) -> Trainer:
    torch.manual_seed(config.seed)
    data = read_data(config)
    segmenter, _ = build_network(config, data.study)
    config.run_dir.mkdir(parents=True, exist_ok=True)
    run = open_run(config, interrupted)
    return Trainer(segmenter, config, data.study, *cut_pools(config, data), run)


def weights(found: Trainer) -> dict[str, torch.Tensor]:
    return dict(found.segmenter.model.state_dict())


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def records(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def test_discriminators_without_weight_are_source_only_bit_for_bit(config: AdaptConfig) -> None:
    config = replace(config, bn="frozen", augmentation="extended")
    alone = trainer(replace(config, method="source_only", run_dir=config.run_dir / "a"))
    for method in ("adaptsegnet", "advent"):
        run_dir = config.run_dir / method
        both = trainer(
            replace(config, method=method, adv_weight=0.0, adv_aux_weight=0.0, run_dir=run_dir)
        )
        real = trainer(replace(config, method=method, adv_weight=1.0, run_dir=config.run_dir / "r"))
        for found in (alone, both, real):
            state = State()
            for _ in range(3):
                state = found.train_step(state)
        assert equal(weights(alone), weights(both))
        assert not equal(weights(alone), weights(real))
        alone = trainer(alone.config)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "adaptsegnet", "teacher": True, "style": "fda", "augmentation": "extended"},
        {"method": "mean_teacher", "network": "Unet", "optimizer": "sgd", "bn": "shared"},
    ],
)
def test_killed_and_resumed_is_uninterrupted_with_discriminators_and_teacher(
    config: AdaptConfig, changed: dict[str, Any]
) -> None:
    config = replace(config, steps=5, warmup_steps=2, **changed)
    whole = adapt(config)
    again = replace(config, run_dir=config.run_dir.with_name("again"))
    calls = iter([False, False, False, True])  # inside a window of the log
    cut = trainer(again, lambda: next(calls))
    with pytest.raises(SystemExit) as stop:
        train(cut)
    assert stop.value.code == EXIT_INTERRUPTED
    with (again.run_dir / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "loss_so')  # a kill in the middle of a line
    resumed = adapt(again)
    assert equal(
        load_file(config.run_dir / "best.safetensors"),
        load_file(again.run_dir / "best.safetensors"),
    )
    assert records(config.run_dir) == records(again.run_dir)
    for results in (whole, resumed):
        del results["seconds_per_step"]
    assert whole == resumed


@pytest.mark.parametrize("method", ["adaptsegnet", "mean_teacher", "bn_adapt"])
def test_no_target_label_is_read_in_training(
    config: AdaptConfig, toy: Path, tmp_path: Path, method: Any
) -> None:
    kept = []
    for number, spoil in enumerate((None, _scramble, _remove)):
        root = tmp_path / f"copy{number}"
        shutil.copytree(toy.parent, root)
        if spoil is not None:
            for folder in ("train_annot", "test_annot"):
                spoil(root / "faded" / folder)
        run_dir = tmp_path / f"run{number}"
        changed = replace(config, method=method, data=root, run_dir=run_dir, steps=2)
        results = adapt(changed)
        kept.append(load_file(run_dir / "best.safetensors"))
        assert (results["domains"]["faded"]["miou"] is None) == (spoil is _remove)
    assert equal(kept[0], kept[1]) and equal(kept[0], kept[2])


def _scramble(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for path in folder.iterdir():
        shape = np.asarray(Image.open(path)).shape
        Image.fromarray((255 * rng.integers(0, 2, shape)).astype(np.uint8)).save(path)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def test_perfect_logits_have_no_loss_and_ignored_pixels_do_not_count() -> None:
    target = torch.zeros(1, 10, 10, dtype=torch.long)
    target[0, 0, :4] = 1  # 4 % foreground: a second activation would leave 0.678
    z = torch.where(target == 1, 20.0, -20.0)[:, None]
    logits = torch.cat([torch.zeros_like(z), z], 1)  # one logit
    assert cross_entropy(logits, target) < 0.01
    spoiled = logits.clone()
    spoiled[:, 1, 5:] = 50.0
    ignored = target.clone()
    ignored[:, 5:] = IGNORE
    assert cross_entropy(spoiled, target) > 1
    assert cross_entropy(spoiled, ignored) < 0.01
    assert cross_entropy(logits, torch.full_like(target, IGNORE)) == 0


def test_logits_are_float32_if_the_network_computes_in_bf16(config: AdaptConfig) -> None:
    found = trainer(replace(config, teacher=True, precision="bf16"))
    features: list[torch.dtype] = []
    found.segmenter.model.get_submodule("encoder").register_forward_hook(
        lambda module, inputs, maps: features.append(maps[-1].dtype)
    )
    outputs = found._predict(torch.zeros(2, 3, 64, 64), "target", 0, "target_network")
    assert outputs.aux is not None
    assert outputs.main.dtype == outputs.aux.dtype == torch.float32
    assert found.train_step(State()).skipped_steps == 0
    assert features == [torch.bfloat16] * 4  # source, target and masked target in a step


def test_steps_without_finite_numbers_change_nothing_and_end_the_run(config: AdaptConfig) -> None:
    found = trainer(replace(config, steps=50, adv_weight=float("inf")))
    before = {name: value.clone() for name, value in weights(found).items()}
    state = train(found)
    assert state.finished == f"diverged: no finite loss and gradient in {MAX_SKIPPED_STEPS} steps"
    assert state.skipped_steps == MAX_SKIPPED_STEPS
    assert equal(before, weights(found))


def test_a_folder_holds_one_run_and_a_finished_one_is_read(config: AdaptConfig) -> None:
    results = adapt(replace(config, steps=2))
    status = read_status(config.run_dir)
    assert status is not None and (status.state, status.step, status.steps) == ("finished", 2, 2)
    assert not {"study", "data", "run_dir"} & read_segmenter_card(config.run_dir).config.keys()
    stamp = (config.run_dir / "results.json").stat().st_mtime_ns
    assert adapt(replace(config, steps=2)) == results
    assert (config.run_dir / "results.json").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="holds a run with adv_weight"):
        adapt(replace(config, steps=2, adv_weight=0.5))


def test_a_changed_study_is_refused(config: AdaptConfig, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(config.study.read_text())
    config = replace(config, study=study, steps=1, method="source_only")
    adapt(config)
    study.write_text(study.read_text().replace("tile_core: 48", "tile_core: 32"))
    with pytest.raises(UserError, match="tile_core 48, but study study now has 32"):
        adapt(config)
    study.write_text(
        study.read_text().replace("tile_core: 32", "tile_core: 48\norientation: hflip")
    )
    with pytest.raises(UserError, match="orientation any"):
        adapt(config)


def test_a_run_that_cannot_start_leaves_the_folder_free(
    config: AdaptConfig, tmp_path: Path
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(config.study.parent, root)
    shutil.rmtree(root / "faded" / "test_annot")
    shutil.rmtree(root / "inverted")
    config = replace(config, steps=1)
    with pytest.raises(UserError, match="nowhere"):
        adapt(replace(config, init="nowhere"))
    with pytest.raises(UserError, match="inverted"):  # a target that is only scored
        adapt(replace(config, data=root))
    assert {path.name for path in config.run_dir.iterdir()} == {".lock"}
    adapt(config)


def test_contradictory_settings_are_refused(config: AdaptConfig) -> None:
    with pytest.raises(ValueError, match="needs a --target"):
        replace(config, target=None)
    with pytest.raises(ValueError, match="vgg16"):
        replace(config, arch="vgg16")
    replace(config, arch="vgg16", network="Unet")
    replace(config, target=None, method="source_only")
    with pytest.raises(UserError, match="faded"):
        adapt(replace(config, target="fadde"))


def test_prediction_prepares_images_as_training_did(config: AdaptConfig, tmp_path: Path) -> None:
    adapt(replace(config, target="turned", method="bn_adapt", steps=1, lr=1e-5))
    card = read_segmenter_card(config.run_dir)
    assert card.preparation == {"scale": 1.0, "invert": True, "crop_bar": False}
    domain = read_domain_study(config.study).target("turned")
    image = min((domain.data / domain.test[0]).iterdir())
    plain = tmp_path / "plain"
    shutil.copytree(config.run_dir, plain)
    write_segmenter_card(plain, replace(card, preparation={}))
    with Image.open(image) as opened:
        Image.fromarray(255 - np.asarray(opened)).save(tmp_path / image.name)
    found = [
        predict(PredictConfig(runs=(run,), images=(str(path),), out=run / "out"))[0]
        for run, path in ((config.run_dir, image), (plain, tmp_path / image.name))
    ]
    fractions = [json.loads(record.read_text())["member_fractions"] for record in found]
    assert fractions[0] == fractions[1]
