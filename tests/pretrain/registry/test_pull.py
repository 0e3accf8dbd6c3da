"""A published entry is copied once, every byte checked, and used offline."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from exports import make_export
from flaky_server import serving

from micrograph.cli import UserError
from micrograph.remote_files import filesystem
from pretrain.export.publishing import publish
from pretrain.registry.__main__ import main as registry_main
from pretrain.registry.storage.pull import pull


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_licence(card: Path) -> None:
    card.write_text(card.read_text().replace('"MIT"', '"own"'))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("encoder.safetensors", flip_bit),
        ("timm/model.safetensors", flip_bit),
        ("README.md", flip_bit),
        ("card.json", change_licence),
    ],
)
def test_a_changed_file_is_refused(
    file: str,
    change: Callable[[Path], None],
    export: Path,
    root: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish(export, "first", root)
    publish(export, "other", root)
    change(Path(root) / "resnet18.first" / "1" / file)
    said = f"{file} is not the file that was published"
    with pytest.raises(UserError, match=re.escape(said)):
        pull("resnet18.first", root)
    with pytest.raises(SystemExit):
        registry_main(["verify", "--registry", root])
    assert "1 of 2 are damaged" in capsys.readouterr().err
    if file == "card.json":
        with pytest.raises(SystemExit):
            registry_main(["list", "--registry", root])
        printed = capsys.readouterr()
        assert "resnet18.other@1" in printed.out and said in printed.err


def test_an_entry_of_another_name_version_or_place_is_refused(export: Path, root: str) -> None:
    publish(export, "first", root)
    path = Path(root) / "resnet18.first" / "1" / "entry.json"
    text = path.read_text()
    path.write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UserError, match="schema_version 2, this version reads 1"):
        pull("resnet18.first", root)
    for file in ("../../escape", "/etc/passwd", "timm/../../x", "a\nb", ".bashrc"):
        content = json.loads(text)
        content["files"][file] = {"bytes": 1, "sha256": "0" * 64}
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match="must not be used"):
            pull("resnet18.first", root)
    path.write_text(text)
    (Path(root) / "resnet18.first").rename(Path(root) / "resnet50.first")
    with pytest.raises(UserError, match=r"is of 'resnet18\.first', not of resnet50\.first"):
        pull("resnet50.first", root)


@pytest.mark.parametrize("command", [["list"], ["verify"], ["show", "resnet18.first"], ["site"]])
def test_a_missing_folder_is_no_empty_registry(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MICROGRAPH_REGISTRY", str(tmp_path / "mistyped"))
    with pytest.raises(SystemExit) as end:
        registry_main(command)
    assert end.value.code == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_missing_bucket_is_no_empty_registry(
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
    (folder / "encoder.safetensors").write_bytes(b"broken!")
    capsys.readouterr()
    assert pull("resnet18.first", bucket) == folder
    assert "fetching it again" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    filesystem(bucket)[0].clear_instance_cache()
    assert pull("resnet18.first@1", bucket) == folder  # asks nobody
    assert capsys.readouterr().err == ""
    from botocore.config import Config  # of the s3 extra

    impatient = {**Config.OPTION_DEFAULTS, "retries": {"max_attempts": 0}, "connect_timeout": 1}
    monkeypatch.setattr("botocore.config.Config.OPTION_DEFAULTS", impatient)
    assert pull("resnet18.first", bucket) == folder
    assert "using resnet18.first@1, the newest in the cache" in capsys.readouterr().err


def test_from_a_web_server_it_is_copied_and_used_when_that_is_gone(
    export: Path, root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(export, "first", root)
    with serving(Path(root)) as server:
        url = server.url
        folder = pull("resnet18.first", url)
        with pytest.raises(UserError, match=r"nearest is 'resnet18\.first'"):
            pull("resnet18.fisrt", url)
    capsys.readouterr()
    assert pull("resnet18.first", url) == folder
    assert "using resnet18.first@1, the newest in the cache" in capsys.readouterr().err


def test_a_version_that_changed_after_it_was_copied_is_refused(
    export: Path, bucket: str, tmp_path: Path
) -> None:
    publish(export, "first", bucket)
    pull("resnet18.first", bucket)
    publish(make_export(tmp_path / "forged", weights=b"forged"), "first", str(tmp_path / "other"))
    fs, _ = filesystem(bucket)
    place = "encoders/deep/registry/resnet18.first/1"
    fs.put(f"{tmp_path}/other/resnet18.first/1/", f"{place}/", recursive=True)
    with pytest.raises(UserError, match="has changed since it was copied"):
        pull("resnet18.first", bucket)
