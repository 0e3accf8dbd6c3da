"""Probe scores recorded in a registry: reproducible, and shown beside the entries."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import make_export
from safetensors.torch import save
from torch import nn

from downstream.recommend import main
from micrograph.cli import EXIT_USER_ERROR
from pretrain.cards.entry_names import parse_name
from pretrain.export.publishing import publish
from pretrain.network.classifier import bare_encoder, init_random
from pretrain.registry.__main__ import main as registry_main
from pretrain.registry.site.contents import read_entry
from pretrain.registry.site.scores import PROBE, TransferScore, attach_score
from pretrain.registry.storage.folder_store import open_registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two ResNet-18: `sees` has random weights, `blind` a first convolution of zeros."""
    root = tmp_path_factory.mktemp("registry")
    for tag in ("blind", "sees"):
        torch.manual_seed(3)
        encoder = bare_encoder("resnet18")
        init_random(encoder, "resnet18")
        if tag == "blind":
            nn.init.zeros_(encoder.get_parameter("conv1.weight"))
        export = make_export(root / tag, weights=save(encoder.state_dict()))
        publish(export, tag, str(root / "encoders"))
    return str(root / "encoders")


@pytest.fixture(scope="module")
def recorded(
    registry: str, textures: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """What `recommend.json` holds after a call that recorded the scores as `squares`."""
    folder = tmp_path_factory.mktemp("recommend")
    recipe = folder / "halves.yaml"
    recipe.write_text("folds: 2\n")
    place = ["--config", str(recipe), "--registry", registry, "--out", str(folder)]
    main([str(textures), *place, "--record", "squares"])
    content: dict[str, object] = json.loads((folder / "recommend.json").read_text())
    return content


def shown_score(registry: str, name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    registry_main(["show", name, "--registry", registry, "--json"])
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    return dict(score)


def test_an_encoder_that_sees_scores_above_a_blind_one(
    recorded: dict[str, object], registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sees = shown_score(registry, "resnet18.sees", capsys)
    blind = shown_score(registry, "resnet18.blind", capsys)
    assert sees["miou"] > 0.9 and (sees["images"], sees["folds"]) == (4, 2)
    assert blind["miou"] < 0.6
    assert sees["random_miou"] == blind["random_miou"]  # of the architecture


def test_recorded_scores_are_those_of_the_report(
    recorded: dict[str, object], registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ranked = recorded["ranked"]
    assert isinstance(ranked, list)
    mious = {item["encoder"]: item["miou"] for item in ranked}
    assert mious.keys() == {"resnet18.sees@1", "resnet18.blind@1", "random resnet18"}
    score = shown_score(registry, "resnet18.sees", capsys)
    assert score["label"] == "squares"
    assert score["miou"] == mious["resnet18.sees@1"]
    assert score["random_miou"] == mious["random resnet18"]


def test_recorded_scores_appear_with_the_entry(
    recorded: dict[str, object], registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    miou = shown_score(registry, "resnet18.sees", capsys)["miou"]
    registry_main(["list", "--registry", registry])
    heading, *rows = capsys.readouterr().out.splitlines()
    assert "squares " in heading and len(rows) == 2
    registry_main(["show", "resnet18.sees", "--registry", registry])
    assert "4 images in " in " ".join(capsys.readouterr().out.split())
    registry_main(["site", registry, "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "best on squares " in page and f"{miou:.1%}" in page
    registry_main(["verify", "--registry", registry])  # what was sealed is as it was


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--record", "Two words"], "a label is up to 40 of a-z"),
        (["--record", "squares", "--seed", "1"], "--record needs --seed 0"),
        (["--record", "squares", "--encoders", "resnet18"], "--record needs encoders of the"),
    ],
)
def test_mistakes_are_reported_before_the_probe(
    more: list[str],
    message: str,
    registry: str,
    textures: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(textures), "--registry", registry, *more])
    assert end.value.code == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"encoder_sha256": "0" * 64}, {"miou": 7}, {"label": "../x"}, {"schema_version": 9}]
)
def test_an_invalid_score_is_reported_and_hides_no_encoder(
    change: dict[str, object], registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store, name = open_registry(registry), parse_name("resnet18.sees@1")
    card = read_entry(store, name).card
    score = TransferScore(
        **{"schema_version": 1, "probe": PROBE, "label": "other", "images": 3, "folds": 3},
        **{"encoder_sha256": card.sha256, "data_sha256": "d" * 64, "scored": "2026-01-02"},
        **{"miou": 0.5, "random_miou": 0.25, "iou": {"a": 0.5, "b": None}},
    )
    attach_score(store, name, score)
    assert score in read_entry(store, name).scores
    (path,) = Path(registry).glob("resnet18.sees/1/scores/other-*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    registry_main(["list", "--registry", registry])
    printed = capsys.readouterr()
    assert "resnet18.sees@1" in printed.out and "other" not in printed.out
    assert "it is not shown" in printed.err
    path.unlink()
