"""An encoder is published once, listed, shown, compared, and what its card promises is kept."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from exports import make_export

from micrograph.cli import UserError
from pretrain.cards.encoder_card import read_card
from pretrain.cards.entry_names import new_name, parse_name
from pretrain.export.publishing import publish
from pretrain.publish import main as publish_main
from pretrain.registry.__main__ import main as registry_main
from pretrain.registry.storage.folder_store import open_registry
from pretrain.registry.storage.pull import find_encoder, pull


def test_an_encoder_is_published_listed_and_found_by_its_name(
    export: Path, root: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_main([str(export), "--tag", "first", "--registry", root])
    assert capsys.readouterr().out.split() == ["resnet18.first@1"]
    shutil.rmtree(export)
    make_export(export, config={"lr": 0.02, "epochs": 3})
    publish_main([str(export), "--tag", "first", "--registry", root])
    assert open_registry(root).entries() == {"resnet18.first": (1, 2)}
    monkeypatch.setenv("MICROGRAPH_REGISTRY", root)
    capsys.readouterr()
    registry_main(["list"])
    listed = capsys.readouterr().out
    assert "resnet18.first@2" in listed and "75.0%" in listed and "@1" not in listed
    registry_main(["list", "--all"])
    assert "resnet18.first@1" in capsys.readouterr().out
    registry_main(["show", "resnet18.first", "--json"])
    assert json.loads(capsys.readouterr().out)["card"]["metrics"]["top1"] == 0.75
    assert read_card(find_encoder("resnet18.first@2")) == read_card(export)
    registry_main(["diff", "resnet18.first@1", "resnet18.first@2"])
    _, *changed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in changed] == [["config.lr", "0.01", "0.02"]]
    registry_main(["site", "--all", "--out", str(export / "page.html")])
    assert (export / "page.html").read_text().count("<details ") == 2
    registry_main(["verify"])
    assert "2 entries" in capsys.readouterr().err


def test_no_path_of_the_owner_is_published(tmp_path: Path, root: str) -> None:
    home = str(tmp_path / "secret")
    config = {"lr": 0.01, "init": f"{home}/a.b"}  # no card holds the private settings
    publish(make_export(tmp_path / "one", init=f"{home}/a.b", config=config), "first", root)
    folder = pull("resnet18.first", root)
    assert all("secret" not in path.read_text() for path in folder.rglob("*.[jm]*"))
    assert read_card(folder).init == "unpublished"
    assert "Trained on from an encoder that is not published." in (folder / "README.md").read_text()
    publish(make_export(tmp_path / "two", init="vgg11.a@1", config=config), "first", root)
    assert read_card(pull("resnet18.first", root)).init == "vgg11.a@1"


def test_the_model_card_is_complete_and_no_name_is_markup(export: Path, root: str) -> None:
    publish(export, "first", root)
    text = (pull("resnet18.first", root) / "README.md").read_text()
    for line in ("| top1 | 75.0% |", "| martensite | 100.0% |", "| steels | 48 | MIT |", "lr 0.01"):
        assert line in text
    assert "| a&lt;b\\|c | 50.0% |" in text and "a<b" not in text
    assert 'create_model("Unet", "resnet18.first", classes=3)' in text
    assert '\nlicense: "mit"\n' in text


def test_a_failed_training_is_published_only_on_request_and_marked(
    tmp_path: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = make_export(tmp_path / "failed", "vgg11", converged=False)
    with pytest.raises(UserError, match=r"did not converge.*--not-converged"):
        publish(failed, "first", root)
    assert not Path(root).exists()
    publish_main([str(failed), "--tag", "first", "--registry", root, "--not-converged"])
    registry_main(["list", "--registry", root])
    assert "did not converge" in capsys.readouterr().out
    readme = (pull("vgg11.first", root) / "README.md").read_text()
    assert "**This training did not converge" in readme


def test_an_incomplete_export_is_not_published(export: Path, root: str) -> None:
    (export / "encoder.safetensors").write_bytes(b"weightS")
    with pytest.raises(UserError, match="not what its card describes"):
        publish(export, "first", root)
    with pytest.raises(UserError, match="no training run in"):
        publish(export.parent, "first", root)


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "../resnet18.first", "/tmp/resnet18.first", "resnet18..first"),
        *("resnet18.first@0", "resnet18.first@1@2", "resnet18.-first", "resnet18.First"),
        *("r\u00e9snet18.first", "resnet18.first\n", "resnet18.fir st", "resnet18." + "a" * 96),
    ],
)
def test_an_invalid_name_is_refused(name: str, root: str) -> None:
    with pytest.raises(UserError, match="is not a name in a registry"):
        pull(name, root)


def test_the_last_dot_separates_arch_and_tag(root: str) -> None:
    name = parse_name("tu-vit_small_patch16_224.augreg_in21k.micro_2@12")
    assert (name.arch, name.tag) == ("tu-vit_small_patch16_224.augreg_in21k", "micro_2")
    assert str(name) == "tu-vit_small_patch16_224.augreg_in21k.micro_2@12"
    for tag in ("v1.0", "a b", "Mine", "a--b", "a-"):  # refused before anything is done
        with pytest.raises(UserError, match=f"a tag is of a-z, 0-9, _ and single -, not '{tag}'"):
            publish(Path("no run at all"), tag, root)
    with pytest.raises(UserError, match="a dot ends the arch"):
        new_name("resnet18", "v1.0")
    with pytest.raises(UserError, match="nearest is 'resnet18'"):
        new_name("resnet-18", "first")


def test_an_unknown_name_gets_the_nearest(export: Path, root: str) -> None:
    publish(export, "micronet", root)
    with pytest.raises(UserError, match=r"nearest is 'resnet18\.micronet'"):
        pull("resnet18.micrnet", root)
    with pytest.raises(UserError, match="if it is a name in a registry, name the registry"):
        find_encoder("resnet18.micronet")
    with pytest.raises(UserError, match=r"a name in a registry \(ARCH\.TAG\) would"):
        find_encoder("runs/typo/export")


def test_the_registry_is_listed_where_torch_is_not_installed(export: Path, root: str) -> None:
    publish(export, "first", root)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pretrain.registry.__main__ import main\n"
        "main(['list']); main(['show', 'resnet18.first'])"
    )
    environment = os.environ | {"MICROGRAPH_REGISTRY": root}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0 and "create_model" in result.stdout, result.stderr
