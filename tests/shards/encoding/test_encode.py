"""Encoding the sources: useless files are listed and left out; a spool is used again."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from written_sets import rejects_of, rows_of, save_noise, write_set

from micrograph.cli import UserError
from shards.encoding.encode import encode_sources
from shards.encoding.spool import Catalog, images_path
from shards.shard_format.config import WriteConfig
from shards.sources.listing import list_sources
from shards.sources.recipe import plain_source
from shards.verification.faults import find_faults

MakeCorpus = Callable[..., Path]


def _encode(root: Path, spool: Path, **settings: Any) -> Catalog:
    config = WriteConfig(source=str(root), out="unused", workers=1, **settings)
    return encode_sources(list_sources([plain_source(str(root))]), spool, config)


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
    save_noise(root / "b" / "tiny.png", 31, 64)
    (root / "b" / "png_inside.jpg").write_bytes(whole)
    return root


def test_useless_files_are_listed_and_counted_and_the_others_written(
    flawed_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_set(flawed_corpus, tmp_path / "out")
    assert (
        "9 files rejected (blank 1, corrupt 1, duplicate 1, empty 1, not_an_image 4, too_small 1)"
        in capsys.readouterr().err
    )
    good = {f"{name}/img{number}.png" for name in "ab" for number in range(3)}
    assert rows_of(tmp_path / "out").keys() == good
    reasons = {path: reason for path, (reason, _) in rejects_of(tmp_path / "out").items()}
    assert reasons == {
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
    assert manifest.rejected == Counter(reasons.values())


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
    manifest = write_set(root, tmp_path / "out", masks="keep")
    assert rejects_of(tmp_path / "out")["a/odd.png"][0] == reason
    assert list(find_faults(tmp_path / "out", manifest)) == []


# A spool that a killed run left; tests/shards/test_kills.py kills them


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
        write_set(root, tmp_path / "out")
    save_noise(root / "c" / "1.png", 48, 64)
    write_set(root, tmp_path / "out")
    assert "c/1.png" in rows_of(tmp_path / "out")
