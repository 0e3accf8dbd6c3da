"""The shift report: distances from the source, changed pixels, and no label of a target used."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SMALL_ARCH
from torch import nn

from downstream.adapt import adapt
from downstream.adaptation.build import read_data
from downstream.adaptation.config import AdaptConfig
from downstream.adaptation.shift_signals import (
    Source,
    describe_source,
    mean_signals,
    measure_shift,
)
from downstream.domains.prepare import prepare_source
from downstream.network.models import create_model
from downstream.network.segmenter import Segmenter
from downstream.network.two_heads import to_uda_network
from downstream.shift_report import main, open_source, target_images
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD


@pytest.fixture(scope="session")
def run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the toy source, hardly trained."""
    folder = tmp_path_factory.mktemp("shift") / "run"
    adapt(
        AdaptConfig(
            study=toy,
            method="source_only",
            run_dir=folder,
            network="Unet",
            arch=SMALL_ARCH,
            batch_size=2,
            steps=12,
            warmup_steps=0,
            lr=1e-3,
            optimizer="adam",
            augmentation="basic",
            threads=1,
        )
    )
    return folder


@pytest.fixture(scope="session")
def source(run: Path) -> Source:
    return open_source(run, None, None, 4)


def test_the_unit_of_the_distance_is_the_sources_validation_images(source: Source) -> None:
    _, val = prepare_source(source.study)
    distances = [signals.feature_distance for signals in measure_shift(source, val)]
    assert np.median(distances) == pytest.approx(1)


def test_another_detector_is_farther_than_new_specimens(source: Source) -> None:
    """`turned` is inverted back: images like the source's own."""
    found = {
        name: mean_signals(measure_shift(source, target_images(source.study, name)))
        for name in ("faded", "turned")
    }
    assert found["faded"].feature_distance > 1.5 * found["turned"].feature_distance
    assert found["faded"].changed_pixels > found["turned"].changed_pixels


def test_no_label_of_a_target_is_used(source: Source) -> None:
    images = target_images(source.study, "faded")
    assert [image.mask is None for image in images] == [True] * 4 + [False] * 2
    blind = [replace(image, mask=None, native_mask=None) for image in images]
    assert measure_shift(source, images) == measure_shift(source, blind)


def test_a_network_without_batch_norm_has_a_feature_distance_only(config: AdaptConfig) -> None:
    data = read_data(config)
    torch.manual_seed(0)
    model = to_uda_network(create_model("Unet", "vgg11", 2))
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):  # of the decoder
            model.set_submodule(name, nn.Identity())
    segmenter = Segmenter(model, IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu"))
    source = describe_source(segmenter, data.study, data.train[:2], data.val[:1], 4)
    (signals,) = measure_shift(source, data.val[:1])
    assert math.isnan(signals.changed_pixels)
    assert signals.feature_distance == pytest.approx(1)


def test_the_program_reports_each_target_and_how_often_its_signals_are_right(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run), "--target", "turned", "--threads", "1"])
    printed = capsys.readouterr().out
    assert str(run / "shift_report.json") in printed
    report = json.loads((run / "shift_report.json").read_text())
    for name in ("feature_distance", "changed_pixels"):
        assert f"right on {report['hit_rates'][name]:.0%} of 32 drawn shifts" in printed
    (turned,) = report["targets"].values()
    assert f"{turned['feature_distance']:.2f}" in printed
    assert len(turned["images"]) == 6
    mean = np.mean([image["changed_pixels"] for image in turned["images"]])
    assert turned["changed_pixels"] == pytest.approx(mean)


def test_other_runs_and_missing_files_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = other / "config.yaml"
    lines = config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if not line.startswith("study:")))
    for arguments, message in (
        ([str(tmp_path / "absent")], "give the --run-dir of downstream.adapt"),
        ([str(other)], "has no study"),
        ([str(run), "--target", "fadd"], "fadd"),
        ([str(run), "--study", str(tmp_path / "gone.yaml")], "gone.yaml"),
        (["--target", "faded"], "RUN"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
