"""Segmenters in a registry: shown as what they are, checked alike, never taken for encoders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.card import Card, write_card
from pretrain.inits import resolve_init
from pretrain.publish import main as publish_main
from pretrain.publish import publish
from pretrain.registry.__main__ import main as registry_main
from pretrain.registry.pull import find_encoder, find_segmenter, pull
from pretrain.segmenter_card import SegmenterCard, read_segmenter_card, write_segmenter_card
from shards.cli import UserError
from shards.schema import IMAGENET_MEAN, IMAGENET_STD, SourceInfo, file_sha256

STEELS = SourceInfo(name="steels", samples=48, licence="MIT", restriction=None, citation="A. B.")
SECRET = SourceInfo(name="lab", samples=4, licence="own", restriction="export", citation=None)
NAME = "unet-resnet18.alloy"


def make_run(folder: Path, **changes: Any) -> Path:
    """A folder as downstream.segment and downstream.calibrate leave it, a few bytes for weights."""
    folder.mkdir()
    (folder / "best.safetensors").write_bytes(b"network")
    (folder / "ood_reference.safetensors").write_bytes(b"features")
    (folder / "scores.png").write_bytes(b"a picture of my images")
    splits = {"train": ["secret-1", "secret-2"], "val": ["secret-3"], "test": ["secret-4"]}
    (folder / "data.json").write_text(json.dumps({"splits": splits}))
    facts: dict[str, Any] = {
        "schema_version": 1,
        "decoder": "Unet",
        "arch": "resnet18",
        "encoder_options": {},
        "init": str(folder / "secret.export"),
        "encoder_sha256": "e" * 64,
        "classes": ("matrix=rest", "a|<b=#0000ff"),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "crop_size": 64,
        "orientation": "any",
        "micro_iou_classes": "all",
        "converged": True,
        "collapse": "",
        "metrics": {"micro_iou": 0.625, "miou": None},
        "sources": (STEELS,),
        "config": {"lr": 2e-4, "init": "/secret"},
        "versions": {"torch": "2.15.0"},
        "sha256": file_sha256(folder / "best.safetensors"),
    }
    card = SegmenterCard(**(facts | changes))
    write_segmenter_card(folder, card)
    calibration = {
        "sha256": card.sha256,
        "ood_scores": {"train/secret-1": 1.5, "val/secret-3": 1.0},
    }
    (folder / "calibration.json").write_text(json.dumps(calibration))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry with an encoder, the user's default."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    registry = str(tmp_path / "registry")
    monkeypatch.setenv("MICROGRAPH_REGISTRY", registry)
    export = tmp_path / "export"
    export.mkdir()
    (export / "encoder.safetensors").write_bytes(b"encoder")
    facts: dict[str, Any] = {
        **{"schema_version": 4, "arch": "resnet18", "timm_name": "resnet18", "init": "random"},
        **{"timm_features": "equal", "timm_difference": 0.0, "encoder_options": {}, "init_tag": ""},
        **{"classes": ("a", "b"), "channels": 1, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        **{"image_size": 32, "converged": True, "metrics": {"top1": 0.75}, "class_accuracy": None},
        **{"corpus_hash": "c" * 64, "sources": (STEELS,), "config": {}, "versions": {}},
        "sha256": file_sha256(export / "encoder.safetensors"),
    }
    write_card(export, Card(**facts))
    publish(export, "steels", registry)
    return registry


def test_a_segmenter_is_published_listed_shown_and_compared(
    run: Path, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_main([str(run), "--tag", "alloy"])
    assert capsys.readouterr().out.split() == [f"{NAME}@1"]
    registry_main(["list"])
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == [
        "encoder",
        "resnet18.steels@1",
        "segmenter",
        f"{NAME}@1",
    ]
    assert "62.5%" in listed[3] and "matrix, a|<b" in listed[3] and "75.0%" in listed[1]
    registry_main(["list", "--json"])
    kinds = {entry["name"]: entry["kind"] for entry in json.loads(capsys.readouterr().out)}
    assert kinds == {"resnet18.steels": "encoder", NAME: "segmenter"}
    registry_main(["show", NAME])
    shown = capsys.readouterr().out
    assert "Unet on resnet18" in shown and f"downstream.predict {NAME}@1" in shown
    registry_main(["diff", NAME, "resnet18.steels"])
    assert "crop_size" in capsys.readouterr().out
    registry_main(["site", "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    encoders, segmenters = page.split("</section>")[:2]
    assert 'id="resnet18.steels@1"' in encoders and f'id="{NAME}@1"' in segmenters
    assert f"downstream.predict {NAME}@1" in segmenters and "a|&lt;b" in segmenters
    capsys.readouterr()
    registry_main(["verify"])
    assert "2 entries" in capsys.readouterr().err


def test_no_image_no_name_and_no_path_of_the_owner_is_told(run: Path, root: str) -> None:
    publish(run, "alloy", root)
    folder = find_segmenter(NAME)
    assert {path.name for path in folder.iterdir()} == {
        *("best.safetensors", "card.json", "README.md", "entry.json", "claim"),
        *("calibration.json", "ood_reference.safetensors"),
    }
    assert all(b"secret" not in path.read_bytes() for path in folder.iterdir())
    card = read_segmenter_card(folder)
    assert card.init == "unpublished" and card.config == {"lr": 2e-4, "init": "unpublished"}
    own = SourceInfo(
        name="the training set", samples=3, licence=None, restriction=None, citation=None
    )
    assert card.sources == (STEELS, own)
    assert sorted(json.loads((folder / "calibration.json").read_text())["ood_scores"].values()) == [
        1.0,
        1.5,
    ]


def test_a_calibration_of_another_network_stays_behind(
    tmp_path: Path, run: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "calibration.json").write_text(json.dumps({"sha256": "0" * 64, "ood_scores": {}}))
    publish(run, "alloy", root)
    assert "is of an earlier network" in capsys.readouterr().err
    assert not (pull(NAME) / "calibration.json").exists()
    (run / "calibration.json").unlink()
    publish(run, "alloy", root)
    said = " ".join(capsys.readouterr().err.split())
    assert "no warning of unlike images" in said
    publish(make_run(tmp_path / "adapted", config={"method": "bn_adapt"}), "adapted", root)
    assert "downstream.calibrate" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ask", "name", "said"),
    [
        (find_encoder, NAME, f"{NAME} is a segmenter, not an encoder"),
        (lambda name: resolve_init(name).path, NAME, "downstream.predict"),
        (find_segmenter, "resnet18.steels", "resnet18.steels is an encoder, not a segmenter"),
        (find_segmenter, "unet-resnet18.aloy", f"nearest is '{NAME}'"),
    ],
)
def test_another_kind_is_explained(
    run: Path, root: str, ask: Callable[[str], object], name: str, said: str
) -> None:
    publish(run, "alloy", root)
    with pytest.raises(UserError) as error:
        ask(name)
    assert said in str(error.value)


def test_a_runs_folder_is_no_encoder_either(run: Path, root: str) -> None:
    with pytest.raises(UserError, match="is a segmenter, not an encoder"):
        find_encoder(run)
    with pytest.raises(UserError, match="is an encoder, not a segmenter"):
        find_segmenter(pull("resnet18.steels"))


@pytest.mark.parametrize("file", ["best.safetensors", "card.json", "calibration.json"])
def test_a_changed_file_is_refused(run: Path, root: str, file: str) -> None:
    name = publish(run, "alloy", root)
    path = Path(root) / name.folder / "1" / file
    path.write_bytes(path.read_bytes().replace(b"e", b"m", 1))
    with pytest.raises(UserError, match="is not the file that was published"):
        find_segmenter(NAME)


def test_another_network_than_the_cards_is_not_published(run: Path, root: str) -> None:
    (run / "best.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match=r"is not what its card\.json describes"):
        publish(run, "alloy", root)


def test_an_unfinished_run_is_not_published(run: Path, root: str) -> None:
    (run / "card.json").unlink()
    with pytest.raises(UserError, match=r"is it a finished run of downstream\.segment"):
        publish(run, "alloy", root)


def test_a_collapsed_run_is_refused_unless_asked_for(
    tmp_path: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "bad", converged=False, collapse="it predicts matrix everywhere")
    with pytest.raises(UserError, match="collapsed: it predicts matrix everywhere"):
        publish(run, "alloy", root)
    publish_main([str(run), "--tag", "alloy", "--only-converged"])
    assert "left out" in capsys.readouterr().err
    publish(run, "alloy", root, not_converged=True)
    assert "do not use it** (it predicts matrix" in (pull(NAME) / "README.md").read_text()
    registry_main(["list"])
    assert "did not converge" in capsys.readouterr().out


def test_only_what_all_sources_allow_goes_public(tmp_path: Path, run: Path, root: str) -> None:
    with pytest.raises(UserError, match="the training set has no stated licence"):
        publish(run, "alloy", "hf://lab", public=True)
    secret = make_run(tmp_path / "secret", sources=(STEELS, SECRET))
    with pytest.raises(UserError, match="lab is restricted: export"):
        publish(secret, "alloy", "hf://lab", public=True, licence="MIT")
    publish(secret, "alloy", root, licence="CC-BY-4.0")
    text = (pull(NAME) / "README.md").read_text()
    assert "**Restricted** (lab): export" in text and "| the training set | 3 | CC-BY-4.0 |" in text
    again = publish(pull(NAME), "copy", root)  # what was stated stays
    assert [s.licence for s in read_segmenter_card(pull(str(again))).sources] == [
        "MIT",
        "own",
        "CC-BY-4.0",
    ]
    publish(run, "open", root, licence="MIT")
    assert 'license: "mit"' in (pull("unet-resnet18.open") / "README.md").read_text()


def test_a_licence_is_not_put_on_a_corpus(root: str) -> None:
    with pytest.raises(UserError, match="that of a corpus stands in its recipe"):
        publish(pull("resnet18.steels"), "copy", root, licence="MIT")
