"""Corpora read from, and shard sets written to, an S3 store: moto's server, a real endpoint."""

import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written_sets import files_of, write_set

from micrograph.cli import UserError
from micrograph.remote_files import filesystem
from shards.shard_format.schema import read_manifest, read_rows
from shards.verify import main as verify

pytest.importorskip("s3fs", reason="needs pip install '.[s3]'")

MakeCorpus = Callable[..., Path]


@pytest.fixture
def bucket(s3_bucket: Callable[[str], Any]) -> str:
    """URL of an empty bucket."""
    s3_bucket("micrographs")
    return "s3://micrographs"


def _write(source: str, out: str, **settings: Any) -> None:
    write_set(source, out, **({"shard_samples": 5} | settings))


def test_shards_from_s3_are_those_from_the_folder(
    bucket: str, corpus: Path, fast_set: Path, tmp_path: Path
) -> None:
    fs, _ = filesystem(bucket)
    fs.put(f"{corpus}/", "micrographs/corpus/", recursive=True)
    _write(f"{bucket}/corpus", str(tmp_path / "out"), workers=2)
    assert files_of(tmp_path / "out") == files_of(fast_set)


def test_archive_on_s3_is_read_in_place(bucket: str, corpus: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for path in corpus.rglob("*.png"):
            archive.write(path, path.relative_to(corpus))
    fs, _ = filesystem(bucket)
    fs.put_file(str(tmp_path / "c.zip"), "micrographs/c.zip")
    _write(f"{bucket}/c.zip", str(tmp_path / "out"))
    assert len(list(read_rows(tmp_path / "out" / "samples.csv"))) == 29


def test_set_on_s3_is_whole_and_equal(
    bucket: str, corpus: Path, fast_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(str(corpus), f"{bucket}/deep/set", work=tmp_path / "work")
    fs, _ = filesystem(bucket)
    fs.get("micrographs/deep/set/", str(tmp_path / "copy"), recursive=True)
    assert files_of(tmp_path / "copy") == files_of(fast_set)
    assert not (tmp_path / "work").exists()
    verify([f"{bucket}/deep/set"])
    assert "complete, 29 images" in capsys.readouterr().err


def test_finished_set_on_s3_is_left_alone(bucket: str, corpus: Path, tmp_path: Path) -> None:
    filesystem(bucket)[0].pipe_file("micrographs/set/manifest.json", b"{}")
    with pytest.raises(UserError, match="holds a shard set; choose another --out"):
        _write(str(corpus), f"{bucket}/set", work=tmp_path / "work")


def test_upload_that_breaks_off_leaves_no_manifest_and_goes_on(
    bucket: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, _ = filesystem(bucket)  # fsspec keeps one instance: the one that the upload uses
    put, sent = fs.put_file, threading.Event()

    def fail_late(local: str, remote: str, **options: Any) -> Any:
        if sent.is_set():
            raise OSError("connection lost")
        if remote.endswith("train-00001.tar"):
            sent.set()
        return put(local, remote, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fs, "put_file", fail_late)
        with pytest.raises(
            UserError, match=r"cannot upload .*connection lost.*keeps the finished files"
        ):
            _write(str(corpus), f"{bucket}/set", work=tmp_path / "work")
    assert not fs.exists("micrographs/set/manifest.json")
    made = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "work" / "spool").glob("*.images")}
    _write(str(corpus), f"{bucket}/set", work=tmp_path / "work")
    assert made
    fs.get_file("micrographs/set/manifest.json", str(tmp_path / "manifest.json"))
    assert read_manifest(tmp_path).splits["train"].samples == 25


def test_lost_bucket_is_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="s3://nowhere"):
        _write("s3://nowhere/corpus", str(tmp_path / "out"))
