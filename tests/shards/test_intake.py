"""Taking files in: useless ones are listed and left out, and a killed run goes on."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards.catalog import Catalog, images_path
from shards.cli import UserError
from shards.corpus import plain_source
from shards.format.config import WriteConfig
from shards.intake import CHUNK_FILES, encode_sources
from shards.schema import Manifest
from shards.sources import list_sources
from shards.verify import find_faults
from shards.write import write_shards

MakeCorpus = Callable[..., Path]


def _write(source: Path, out: Path, **settings: Any) -> Manifest:
    quiet = {"workers": 1, "report": False}
    return write_shards(WriteConfig(source=str(source), out=str(out), **(quiet | settings)))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _sources(folder: Path) -> list[str]:
    """The source of every sample, sorted."""
    found = []
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    found.append(json.load(stream)["source"])
    return sorted(found)


def _rejects(folder: Path) -> dict[str, str]:
    lines = (folder / "rejects.jsonl").read_text().splitlines()
    return {said["path"]: said["reason"] for said in map(json.loads, lines)}


def _encode(root: Path, spool: Path, **settings: Any) -> Catalog:
    config = WriteConfig(source=str(root), out="unused", workers=1, **settings)
    return encode_sources(list_sources([plain_source(str(root))]), spool, config)


def _save_noise(path: Path, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


# What cannot be used


@pytest.fixture
def flawed_corpus(make_corpus: MakeCorpus, tmp_path: Path) -> Path:
    """Two classes of three good images, and beside them every kind of useless file."""
    root = make_corpus(tmp_path / "flawed", {"a": 3, "b": 3})
    (root / "a" / "empty.png").write_bytes(b"")
    (root / "a" / "table.png").write_text("grain,size\n1,12\n")
    (root / "a" / "notes.txt").write_text("25 kV")
    (root / "a" / "README").write_text("by the microscope")
    whole = (root / "b" / "img0.png").read_bytes()
    (root / "b" / "half.png").write_bytes(whole[: len(whole) // 2])
    (root / "b" / "image.bak").write_bytes(whole)  # an image, but its name does not say so
    Image.new("L", (64, 48), 9).save(root / "b" / "blank.tif")
    _save_noise(root / "b" / "tiny.png", 31, 64)
    (root / "b" / "png_inside.jpg").write_bytes(whole)
    return root


def test_useless_files_are_listed_with_their_reasons(flawed_corpus: Path, tmp_path: Path) -> None:
    manifest = _write(flawed_corpus, tmp_path / "out")
    assert _rejects(tmp_path / "out") == {
        "a/README": "not_an_image",
        "a/empty.png": "empty",
        "a/notes.txt": "not_an_image",
        "a/table.png": "not_an_image",
        "b/blank.tif": "blank",
        "b/half.png": "corrupt",
        "b/image.bak": "not_an_image",
        "b/png_inside.jpg": "duplicate",  # decodes, but is a copy
        "b/tiny.png": "too_small",
    }
    assert manifest.rejected == {
        "blank": 1,
        "corrupt": 1,
        "duplicate": 1,
        "empty": 1,
        "not_an_image": 4,
        "too_small": 1,
    }


def test_the_rest_goes_on(flawed_corpus: Path, tmp_path: Path) -> None:
    _write(flawed_corpus, tmp_path / "out")
    good = [f"{name}/img{number}.png" for name in "ab" for number in range(3)]
    assert _sources(tmp_path / "out") == good


def test_rejects_are_counted_on_stderr(
    flawed_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(flawed_corpus, tmp_path / "out")
    assert (
        "9 files rejected (blank 1, corrupt 1, duplicate 1, empty 1, not_an_image 4, too_small 1)"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("shape", "reason"), [((40, 800), "too_small"), ((48, 64), "blank")], ids=["narrow", "faint"]
)
def test_image_that_storing_would_spoil_is_rejected(
    make_corpus: MakeCorpus, tmp_path: Path, shape: tuple[int, int], reason: str
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 3})
    # 800 x 40 becomes 512 x 26; a chess board of 100 and 101 becomes flat as JPEG.
    board = (np.indices(shape).sum(0) % 2 + 100).astype(np.uint8)
    Image.fromarray(board).save(root / "a" / "odd.png")
    manifest = _write(root, tmp_path / "out", masks="keep")
    assert _rejects(tmp_path / "out") == {"a/odd.png": reason}
    assert list(find_faults(tmp_path / "out", manifest)) == []


# A killed run


def _start(source: Path, out: Path, *flags: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shards.write", "--source", str(source), "--out", str(out)]
    return subprocess.Popen(
        [*command, *flags], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def _wait_for_the_first_chunk(spool: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not list(spool.glob("*.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def endless_corpus(make_corpus: MakeCorpus, tmp_path: Path) -> Path:
    """Two chunks of work, the second of which never ends: its last file is a pipe."""
    root = make_corpus(tmp_path / "corpus", {"a": CHUNK_FILES + 3})
    os.mkfifo(root / "a" / "img99.png")
    return root


def test_killed_run_goes_on_and_ends_in_the_same_bytes(
    endless_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    process = _start(endless_corpus, out, "--workers", "1")
    _wait_for_the_first_chunk(tmp_path / "out.partial" / "spool", process)
    process.kill()
    process.wait()
    assert not out.exists()
    assert not list(tmp_path.rglob("manifest.json"))

    (endless_corpus / "a" / "img99.png").unlink()
    _save_noise(endless_corpus / "a" / "img99.png", 48, 64)
    _write(endless_corpus, out)
    assert "decode and encode (1)" in capsys.readouterr().err  # only what was missing
    _write(endless_corpus, tmp_path / "undisturbed")
    assert _files(out) == _files(tmp_path / "undisturbed")
    assert not (tmp_path / "out.partial").exists()


def test_workers_of_a_killed_run_end_with_it(endless_corpus: Path, tmp_path: Path) -> None:
    process = _start(endless_corpus, tmp_path / "out", "--workers", "2")
    _wait_for_the_first_chunk(tmp_path / "out.partial" / "spool", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while (alive := [pid for pid in children if _runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in alive:
        os.kill(int(pid), signal.SIGKILL)  # ours, and they would stay for ever
    assert len(children) >= 2
    assert alive == []


def _runs(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_half_written_chunk_is_made_anew(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    source = make_corpus(tmp_path / "corpus", {"a": 3})
    first = _encode(source, tmp_path / "spool")
    images = images_path(tmp_path / "spool", first.chunks[0])
    whole = images.read_bytes()
    images.write_bytes(whole[:100])
    images.with_suffix(".json").unlink()  # its presence says that the chunk is done
    again = _encode(source, tmp_path / "spool")
    assert again.records.tobytes() == first.records.tobytes()
    assert images.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [{"profile": "exact"}, {"max_side": 50}, {"grey": True}],
    ids=["profile", "max_side", "grey"],
)
def test_chunk_of_other_options_is_not_reused(
    make_corpus: MakeCorpus, tmp_path: Path, change: dict[str, Any]
) -> None:
    source = make_corpus(tmp_path / "corpus", {"a": 3}, colour=True)
    first = _encode(source, tmp_path / "spool")
    second = _encode(source, tmp_path / "spool", **change)
    assert first.records["image_sha256"][0] != second.records["image_sha256"][0]


def test_file_that_changed_since_a_failed_run_is_read_again(
    make_corpus: MakeCorpus, corpus: Path, tmp_path: Path
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 3, "b": 3})
    with pytest.raises(UserError, match="class c"):  # an error keeps the spool, as a kill does
        (root / "c").mkdir()
        (root / "c" / "1.png").write_bytes(b"")
        _write(root, tmp_path / "out")
    _save_noise(root / "c" / "1.png", 48, 64)
    _write(root, tmp_path / "out")
    assert "c/1.png" in _sources(tmp_path / "out")
