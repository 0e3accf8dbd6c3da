"""Segmenters in a registry: shown as what they are, never taken for encoders, nothing betrayed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import OPEN, SECRET, make_segmenter

from micrograph.cli import UserError
from pretrain.cards.segmenter_card import read_segmenter_card
from pretrain.export.publishing import publish
from pretrain.network.init import resolve_init
from pretrain.publish import main as publish_main
from pretrain.registry.__main__ import main as registry_main
from pretrain.registry.storage.pull import find_encoder, find_segmenter, pull
from shards.shard_format.schema import SourceInfo

NAME, ENCODER = "unet-resnet18.alloy", "resnet18.steels"


@pytest.fixture(autouse=True)
def registry(root: str, export: Path, monkeypatch: pytest.MonkeyPatch, user: None) -> str:
    """The user's default registry, with an encoder in it."""
    monkeypatch.setenv("MICROGRAPH_REGISTRY", root)
    publish(export, "steels", root)
    return root


def test_a_segmenter_is_published_listed_shown_and_compared(
    segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    publish_main([str(segmenter), "--tag", "alloy"])
    assert capsys.readouterr().out.split() == [f"{NAME}@1"]
    registry_main(["list"])
    listed = capsys.readouterr().out.splitlines()
    first_words = [line.split()[0] for line in listed]
    assert first_words == ["encoder", f"{ENCODER}@1", "segmenter", f"{NAME}@1"]
    assert "62.5%" in listed[3] and "matrix, a|<b" in listed[3] and "75.0%" in listed[1]
    registry_main(["list", "--json"])
    kinds = {entry["name"]: entry["kind"] for entry in json.loads(capsys.readouterr().out)}
    assert kinds == {ENCODER: "encoder", NAME: "segmenter"}
    registry_main(["show", NAME])
    shown = capsys.readouterr().out
    assert "Unet on resnet18" in shown and f"downstream.predict {NAME}@1" in shown
    registry_main(["diff", NAME, ENCODER])
    assert "crop_size" in capsys.readouterr().out
    registry_main(["site", "--out", str(tmp_path / "page.html")])
    encoders, segmenters = (tmp_path / "page.html").read_text().split("</section>")[:2]
    assert f'id="{ENCODER}@1"' in encoders and f'id="{NAME}@1"' in segmenters
    assert f"downstream.predict {NAME}@1" in segmenters and "a|&lt;b" in segmenters
    capsys.readouterr()
    registry_main(["verify"])
    assert "2 entries" in capsys.readouterr().err


def test_no_image_no_name_and_no_path_of_the_owner_is_published(segmenter: Path, root: str) -> None:
    publish(segmenter, "alloy", root)
    folder = find_segmenter(NAME)
    assert {path.name for path in folder.iterdir()} == {
        *("best.safetensors", "card.json", "README.md", "entry.json", "claim"),
        *("calibration.json", "ood_reference.safetensors"),
    }
    assert all(b"secret" not in path.read_bytes() for path in folder.iterdir())
    card = read_segmenter_card(folder)
    assert card.init == "unpublished" and card.config == {"lr": 2e-4, "init": "unpublished"}
    unstated = {"licence": None, "restriction": None, "citation": None}
    assert card.sources == (OPEN, SourceInfo(name="the training set", samples=3, **unstated))
    calibration = json.loads((folder / "calibration.json").read_text())
    assert sorted(calibration["ood_scores"].values()) == [1.0, 1.5]


def test_the_calibration_of_another_network_is_not_published(
    tmp_path: Path, segmenter: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (segmenter / "calibration.json").write_text(json.dumps({"sha256": "0" * 64, "ood_scores": {}}))
    publish(segmenter, "alloy", root)
    assert "is of an earlier network" in capsys.readouterr().err
    assert not (pull(NAME) / "calibration.json").exists()
    (segmenter / "calibration.json").unlink()
    publish(segmenter, "alloy", root)
    assert "no warning of unlike images" in " ".join(capsys.readouterr().err.split())
    publish(make_segmenter(tmp_path / "adapted", config={"method": "bn_adapt"}), "adapted", root)
    assert "calibrate" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ask", "name", "said"),
    [
        (find_encoder, NAME, f"{NAME} is a segmenter, not an encoder"),
        (lambda name: resolve_init(name).path, NAME, "downstream.predict"),
        (find_segmenter, ENCODER, f"{ENCODER} is an encoder, not a segmenter"),
        (find_segmenter, "unet-resnet18.aloy", f"nearest is '{NAME}'"),
    ],
)
def test_an_entry_of_another_kind_is_refused(
    segmenter: Path, root: str, ask: Callable[[str], object], name: str, said: str
) -> None:
    publish(segmenter, "alloy", root)
    with pytest.raises(UserError) as error:
        ask(name)
    assert said in str(error.value)
    with pytest.raises(UserError, match="is a segmenter, not an encoder"):
        find_encoder(segmenter)
    with pytest.raises(UserError, match="is an encoder, not a segmenter"):
        find_segmenter(pull(ENCODER))


def test_changed_or_missing_files_are_refused(segmenter: Path, root: str) -> None:
    publish(segmenter, "alloy", root)
    path = Path(root) / NAME / "1" / "calibration.json"
    path.write_bytes(path.read_bytes().replace(b"e", b"m", 1))
    with pytest.raises(UserError, match="is not the file that was published"):
        find_segmenter(NAME)
    (segmenter / "best.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match=r"is not what its card\.json describes"):
        publish(segmenter, "alloy", root)
    (segmenter / "card.json").unlink()
    with pytest.raises(UserError, match="is it a finished run of a segmenter"):
        publish(segmenter, "alloy", root)


def test_a_collapsed_run_is_published_only_on_request(
    tmp_path: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_segmenter(tmp_path / "bad", converged=False, collapse="it predicts matrix only")
    with pytest.raises(UserError, match="collapsed: it predicts matrix only"):
        publish(run, "alloy", root)
    publish_main([str(run), "--tag", "alloy", "--only-converged"])
    assert "left out" in capsys.readouterr().err
    publish(run, "alloy", root, not_converged=True)
    assert "do not use it** (it predicts matrix" in (pull(NAME) / "README.md").read_text()
    registry_main(["list"])
    assert "did not converge" in capsys.readouterr().out


def test_only_what_all_sources_allow_goes_public(
    tmp_path: Path, segmenter: Path, root: str
) -> None:
    with pytest.raises(UserError, match="the training set has no stated licence"):
        publish(segmenter, "alloy", "hf://lab", public=True)
    secret = make_segmenter(tmp_path / "restricted", sources=(OPEN, SECRET))
    with pytest.raises(UserError, match="lab is restricted: export"):
        publish(secret, "alloy", "hf://lab", public=True, licence="MIT")
    publish(secret, "alloy", root, licence="CC-BY-4.0")
    text = (pull(NAME) / "README.md").read_text()
    assert "**Restricted** (lab): export" in text and "| the training set | 3 | CC-BY-4.0 |" in text
    again = publish(pull(NAME), "copy", root)  # keeps what was stated
    sources = read_segmenter_card(pull(str(again))).sources
    assert [source.licence for source in sources] == ["MIT", "own", "CC-BY-4.0"]
    publish(segmenter, "open", root, licence="MIT")
    assert 'license: "mit"' in (pull("unet-resnet18.open") / "README.md").read_text()
    with pytest.raises(UserError, match="the licence of a corpus stands in its recipe"):
        publish(pull(ENCODER), "copy", root, licence="MIT")
