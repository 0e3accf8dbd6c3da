"""The registry: what is published is found by its name, never changed, and used offline."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pretrain.card import read_card
from pretrain.publish import main as publish_main
from pretrain.publish import publish
from pretrain.registry.__main__ import main as registry_main
from pretrain.registry.names import new_name, parse_name
from pretrain.registry.pull import find_encoder, pull
from pretrain.registry.stores import open_registry
from shards.cli import UserError
from shards.schema import SourceInfo
from shards.stores import filesystem
from tests.material.exports import make_export

SECRET = SourceInfo(name="lab", samples=4, licence="own", restriction="export", citation=None)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return make_export(tmp_path / "export")


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "regis[t]ry *")  # what a pattern would take for something else


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's default registry, and a cache of one's own."""
    monkeypatch.delenv("MICROGRAPH_REGISTRY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def entries(root: str) -> dict[str, tuple[int, ...]]:
    return open_registry(root).entries()


def test_an_encoder_is_published_listed_and_found_by_its_name(
    export: Path, root: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_main([str(export), "--tag", "first", "--registry", root])
    assert capsys.readouterr().out.split() == ["resnet18.first@1"]
    shutil.rmtree(export)
    make_export(export, config={"lr": 0.02, "epochs": 3})
    publish_main([str(export), "--tag", "first", "--registry", root])
    assert entries(root) == {"resnet18.first": (1, 2)}
    monkeypatch.setenv("MICROGRAPH_REGISTRY", root)
    registry_main(["list"])
    listed = capsys.readouterr().out
    assert "resnet18.first@2" in listed and "75.0%" in listed and "@1" not in listed
    registry_main(["list", "--all"])
    assert "resnet18.first@1" in capsys.readouterr().out
    registry_main(["show", "resnet18.first", "--json"])
    assert json.loads(capsys.readouterr().out)["card"]["metrics"]["top1"] == 0.75
    folder = find_encoder("resnet18.first@2")
    assert read_card(folder) == read_card(export)
    registry_main(["site", "--all", "--out", str(export / "page.html")])
    assert (export / "page.html").read_text().count("<details ") == 2
    registry_main(["verify"])
    assert "2 entries" in capsys.readouterr().err


def test_where_it_was_trained_is_not_told(tmp_path: Path, root: str) -> None:
    home = str(tmp_path / "secret")
    config = {"lr": 0.01, "init": f"{home}/a.b"}
    publish(make_export(tmp_path / "one", init=f"{home}/a.b", config=config), "first", root)
    folder = pull("resnet18.first", root)
    assert all("secret" not in path.read_text() for path in folder.rglob("*.[jm]*"))
    assert read_card(folder).init == "unpublished"
    assert "Trained on from an encoder that is not published." in (folder / "README.md").read_text()
    publish(make_export(tmp_path / "two", init="vgg11.a@1", config=config), "first", root)
    assert read_card(pull("resnet18.first", root)).init == "vgg11.a@1"


@pytest.mark.parametrize("command", [["list"], ["site"], ["verify"], ["show", "resnet18.first"]])
def test_a_folder_that_is_not_there_is_no_empty_registry(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = [str(tmp_path / "mistyped")]
    with pytest.raises(SystemExit) as end:
        registry_main([*command, *([] if command == ["site"] else ["--registry"]), *missing])
    assert end.value.code == 2
    assert "no such folder" in capsys.readouterr().err


def test_the_model_card_tells_everything_and_takes_no_markup_from_names(
    export: Path, root: str
) -> None:
    publish(export, "first", root)
    text = (pull("resnet18.first", root) / "README.md").read_text()
    for told in ("| top1 | 75.0% |", "| martensite | 100.0% |", "| steels | 48 | MIT |", "lr 0.01"):
        assert told in text
    assert "| a&lt;b\\|c | 50.0% |" in text and "a<b" not in text
    assert 'create_model("Unet", "resnet18.first", classes=3)' in text
    assert '\nlicense: "mit"\n' in text


@pytest.mark.parametrize("file", ["encoder.safetensors", "timm/model.safetensors", "README.md"])
def test_one_flipped_bit_is_refused(export: Path, root: str, file: str) -> None:
    publish(export, "first", root)
    path = Path(root) / "resnet18.first" / "1" / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{file} is not the file that was published")):
        pull("resnet18.first", root)
    with pytest.raises(SystemExit):
        registry_main(["verify", "--registry", root])


def test_a_tampered_card_is_refused(
    export: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(export, "first", root)
    publish(export, "other", root)
    path = Path(root) / "resnet18.first" / "1" / "card.json"
    path.write_text(path.read_text().replace('"MIT"', '"own"'))
    with pytest.raises(UserError, match="not the file that was published"):
        pull("resnet18.first", root)
    with pytest.raises(SystemExit):
        registry_main(["list", "--registry", root])
    told = capsys.readouterr()
    assert "resnet18.other@1" in told.out and "card.json is not the file" in told.err


def test_an_entry_under_another_name_is_refused(export: Path, root: str) -> None:
    publish(export, "first", root)
    (Path(root) / "resnet18.first").rename(Path(root) / "resnet18.best")
    with pytest.raises(UserError, match=r"is of 'resnet18\.first', not of resnet18\.best"):
        pull("resnet18.best", root)
    (Path(root) / "resnet18.best").rename(Path(root) / "resnet50.first")
    with pytest.raises(UserError, match=r"not of resnet50\.first"):
        pull("resnet50.first", root)


@pytest.mark.parametrize("file", ["../../escape", "/etc/passwd", "timm/../../x", "a\nb", ".bashrc"])
def test_a_seal_that_names_files_elsewhere_is_refused(export: Path, root: str, file: str) -> None:
    publish(export, "first", root)
    path = Path(root) / "resnet18.first" / "1" / "entry.json"
    content = json.loads(path.read_text())
    content["files"][file] = {"bytes": 1, "sha256": "0" * 64}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not to be used"):
        pull("resnet18.first", root)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "../resnet18.first",
        "/tmp/resnet18.first",
        "resnet18..first",
        "resnet18.first\n",
        "resnet18.fir st",
        "resnet18.first@0",
        "resnet18.first@1@2",
        "resnet18.-first",
        "resnet18.First",
        "r\u00e9snet18.first",
        "resnet18." + "a" * 96,
    ],
)
def test_a_name_that_is_none_is_refused(name: str, root: str) -> None:
    with pytest.raises(UserError, match="is no name in a registry"):
        pull(name, root)


def test_the_last_dot_parts_arch_and_tag() -> None:
    name = parse_name("tu-vit_small_patch16_224.augreg_in21k.micro_2@12")
    assert (name.arch, name.tag) == ("tu-vit_small_patch16_224.augreg_in21k", "micro_2")
    assert str(name) == "tu-vit_small_patch16_224.augreg_in21k.micro_2@12"
    with pytest.raises(UserError, match="a dot ends the arch"):
        new_name("resnet18", "v1.0")
    with pytest.raises(UserError, match="nearest is 'resnet18'"):
        new_name("resnet-18", "first")


def test_a_wrong_name_is_answered_with_the_nearest(export: Path, root: str) -> None:
    publish(export, "micronet", root)
    with pytest.raises(UserError, match=r"nearest is 'resnet18\.micronet'"):
        pull("resnet18.micrnet", root)
    with pytest.raises(UserError, match="if that is a name in a registry, say in which"):
        find_encoder("resnet18.micronet")
    with pytest.raises(UserError, match=r"a name in a registry \(ARCH\.TAG\) would"):
        find_encoder("runs/typo/export")


@pytest.mark.parametrize("tag", ["v1.0", "a b", "Mine", "a--b", "a-"])
def test_a_tag_is_refused_before_anything_is_done(tag: str, root: str) -> None:
    with pytest.raises(UserError, match=f"a tag is of a-z, 0-9, _ and single -, not '{tag}'"):
        publish(Path("no run at all"), tag, root)


def test_what_did_not_converge_is_published_only_when_asked_for_and_marked(
    tmp_path: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = make_export(tmp_path / "failed", "vgg11", converged=False)
    with pytest.raises(UserError, match=r"did not converge.*--not-converged"):
        publish(failed, "first", root)
    assert not Path(root).exists()
    publish_main([str(failed), "--tag", "first", "--registry", root, "--not-converged"])
    registry_main(["list", "--registry", root])
    assert "did not converge" in capsys.readouterr().out
    assert (
        "**This training did not converge" in (pull("vgg11.first", root) / "README.md").read_text()
    )


def test_an_export_that_is_not_whole_is_not_published(export: Path, root: str) -> None:
    (export / "encoder.safetensors").write_bytes(b"weightS")
    with pytest.raises(UserError, match="not what its card describes"):
        publish(export, "first", root)
    with pytest.raises(UserError, match="no training run in"):
        publish(export.parent, "first", root)


def test_two_encoders_are_compared(
    export: Path, root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(export, "first", root)
    publish(make_export(tmp_path / "b", config={"lr": 0.02, "epochs": 3}), "first", root)
    registry_main(["diff", "resnet18.first@1", "resnet18.first@2", "--registry", root])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["config.lr", "0.01", "0.02"] and len(lines) == 2


@pytest.fixture
def bucket(s3_bucket: Callable[[str], Any]) -> str:
    """A registry in a bucket."""
    s3_bucket("encoders")
    return "s3://encoders/deep/registry"


def test_a_bucket_that_is_not_there_is_no_empty_registry(
    bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    registry_main(["list", "--registry", bucket])
    assert f"{bucket} holds nothing yet" in " ".join(capsys.readouterr().err.split())
    for url in ("s3://encoder/deep/registry", "http://127.0.0.1:9/encoders"):
        with pytest.raises(SystemExit):
            registry_main(["list", "--registry", url])
        assert f"error: cannot list {url}: " in capsys.readouterr().err


def test_from_s3_it_is_copied_once_checked_and_used_offline(
    export: Path,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(export, "first", bucket)
    folder = pull("resnet18.first", bucket)
    assert folder.is_relative_to(tmp_path / "cache")
    capsys.readouterr()
    assert pull("resnet18.first", bucket) == folder
    (folder / "encoder.safetensors").write_bytes(b"broken!")
    assert pull("resnet18.first", bucket) == folder
    assert "fetching it again" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    filesystem(bucket)[0].clear_instance_cache()
    assert pull("resnet18.first@1", bucket) == folder  # asks nobody
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("botocore.config.Config.OPTION_DEFAULTS", _impatient())
    assert pull("resnet18.first", bucket) == folder
    assert "using resnet18.first@1, the newest in the cache" in capsys.readouterr().err


def test_from_a_web_server_it_is_copied_and_used_when_that_is_gone(
    export: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(export, "first", root)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=root)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        folder = pull("resnet18.first", url)
        with pytest.raises(UserError, match=r"nearest is 'resnet18\.first'"):
            pull("resnet18.fisrt", url)
        server.shutdown()
    capsys.readouterr()
    assert pull("resnet18.first", url) == folder
    assert "using resnet18.first@1, the newest in the cache" in capsys.readouterr().err


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _impatient() -> dict[str, Any]:
    from botocore.config import Config

    return {**Config.OPTION_DEFAULTS, "retries": {"max_attempts": 0}, "connect_timeout": 1}


def test_a_version_that_changed_after_it_was_copied_is_refused(
    export: Path, bucket: str, tmp_path: Path
) -> None:
    publish(export, "first", bucket)
    pull("resnet18.first", bucket)
    forged = make_export(tmp_path / "forged", weights=b"forged")
    publish(forged, "first", str(tmp_path / "elsewhere"))
    fs, _ = filesystem(bucket)
    place = "encoders/deep/registry/resnet18.first/1"
    fs.put(f"{tmp_path}/elsewhere/resnet18.first/1/", f"{place}/", recursive=True)
    with pytest.raises(UserError, match="is not what it was when"):
        pull("resnet18.first", bucket)


def test_the_registry_is_listed_where_torch_is_not_installed(export: Path, root: str) -> None:
    publish(export, "first", root)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from pretrain.registry.__main__ import main\n"
        f"main(['list', '--registry', {root!r}]); main(['show', 'resnet18.first'])"
    )
    environment = os.environ | {"MICROGRAPH_REGISTRY": root}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0 and "create_model" in result.stdout, result.stderr
