"""Tars and their indexes: plain members, cut as asked, described byte by byte."""

import hashlib
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.catalog import Catalog, images_path
from shards.cli import UserError
from shards.corpus import plain_source
from shards.format.config import WriteConfig
from shards.intake import encode_sources
from shards.schema import Index, ShardInfo
from shards.sources import list_sources
from shards.tars import TarMember, dali_index, list_members, write_split

CONFIG = WriteConfig(source="x", out="y", shard_samples=3, workers=1)

Written = tuple[tuple[ShardInfo, ...], Index]


ORDER = np.array([4, 0, 6, 2, 1, 5, 3])


@pytest.fixture(scope="module")
def catalog(make_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Seven encoded images: four of a, three of b."""
    root = tmp_path_factory.mktemp("tars")
    listing = list_sources([plain_source(str(make_corpus(root / "corpus", {"a": 4, "b": 3})))])
    return encode_sources(listing, root / "spool", CONFIG)


def _write(folder: Path, catalog: Catalog, order: Any = ORDER, workers: int = 1) -> Written:
    return write_split(
        folder,
        "train",
        catalog,
        np.asarray(order, np.int64),
        {0: "first_of_group"},
        replace(CONFIG, workers=workers),
    )


@pytest.fixture
def written(catalog: Catalog, tmp_path: Path) -> Written:
    """The seven as tars of three, in `tmp_path`."""
    return _write(tmp_path, catalog)


def test_split_is_cut_into_tars(written: Written) -> None:
    shards, _ = written
    assert [(shard.name, shard.samples) for shard in shards] == [
        ("train-00000.tar", 3),
        ("train-00001.tar", 3),
        ("train-00002.tar", 1),
    ]


def test_samples_come_in_the_order_asked_for(
    written: Written, catalog: Catalog, tmp_path: Path
) -> None:
    members = [m for shard in written[0] for m in list_members(tmp_path / shard.name)]
    keys = catalog.keys()
    assert [m.key for m in members if m.suffix == "cls"] == [keys[i] for i in ORDER]


def test_members_of_a_sample_lie_together(written: Written, tmp_path: Path) -> None:
    suffixes = [member.suffix for member in list_members(tmp_path / "train-00000.tar")]
    assert suffixes == ["cls", "jpg", "json"] * 3


def test_members_are_plain_files_of_no_one_and_no_time(written: Written, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        for member in tar:
            assert member.isreg()
            assert member.mtime == 0
            assert member.pax_headers == {}  # DALI misreads extensions
            assert (member.uid, member.gid) == (0, 0)
            assert member.offset_data - member.offset == tarfile.BLOCKSIZE


def test_index_row_leads_to_the_image_bytes(
    written: Written, catalog: Catalog, tmp_path: Path
) -> None:
    shards, index = written
    for row, record in zip(index, catalog.records[ORDER], strict=True):
        descriptor = os.open(tmp_path / shards[row["shard"]].name, os.O_RDONLY)
        data = os.pread(descriptor, int(row["size"]), int(row["offset"]))
        os.close(descriptor)
        assert hashlib.sha256(data).digest() == record["image_sha256"].ljust(32, b"\0")
        assert (row["label"], row["height"], row["width"]) == (record["label"], 48, 64)


def test_provenance_is_ascii_json(written: Written, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-00002.tar") as tar:
        (name,) = (name for name in tar.getnames() if name.endswith(".json"))
        stream = tar.extractfile(name)
        assert stream is not None
        said = json.loads(stream.read().decode("ascii"))
    assert (said["class"], said["source"]) == ("a", "a/img3.png")


def test_group_stands_in_the_provenance(written: Written, tmp_path: Path) -> None:
    said = []
    for shard in written[0]:
        with tarfile.open(tmp_path / shard.name) as tar:
            streams = [tar.extractfile(name) for name in tar.getnames() if name.endswith(".json")]
            said += [json.loads(stream.read()) for stream in streams if stream is not None]
    assert [(s["source"], s["group"]) for s in said if "group" in s] == [
        ("a/img0.png", "first_of_group")
    ]


def test_workers_do_not_change_the_bytes(
    written: Written, catalog: Catalog, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shards, index = _write(other, catalog, workers=3)
    assert shards == written[0]  # SHA-256 of each file included
    assert index.tobytes() == written[1].tobytes()


def test_no_samples_give_no_tars(catalog: Catalog, tmp_path: Path) -> None:
    shards, index = _write(tmp_path, catalog, order=[])
    assert (shards, len(index)) == ((), 0)
    assert list(tmp_path.iterdir()) == []


def test_spool_that_changed_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    damaged = tmp_path / "out.partial" / "spool"
    damaged.mkdir(parents=True)
    (chunk,) = catalog.chunks
    data = bytearray(images_path(catalog.spool, chunk).read_bytes())
    data[100] ^= 1
    images_path(damaged, chunk).write_bytes(data)
    with pytest.raises(UserError, match=r"damaged; delete .*out\.partial and run again"):
        _write(tmp_path, replace(catalog, spool=damaged))


def test_members_are_listed_with_offset_and_size(tmp_path: Path) -> None:
    (tmp_path / "k1.cls").write_bytes(b"12")
    (tmp_path / "k1.seg.png").write_bytes(b"x" * 600)
    (tmp_path / "k2.cls").write_bytes(b"3")
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("k1.cls", "k1.seg.png", "k2.cls"):
            tar.add(tmp_path / name, name)
    # A header of 512 bytes before each, and each filled up to a multiple of 512.
    assert list_members(tmp_path / "x.tar") == [
        TarMember("k1", "cls", 512, 2, "k1.cls"),
        TarMember("k1", "seg.png", 1536, 600, "k1.seg.png"),
        TarMember("k2", "cls", 3072, 1, "k2.cls"),
    ]


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100], ids=["empty", "text"])
def test_what_is_no_tar_raises(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(tarfile.TarError):
        list_members(tmp_path / "x.tar")


def test_dali_index_has_a_line_per_sample() -> None:
    members = [
        TarMember("k1", "cls", 512, 2, "k1.cls"),
        TarMember("k1", "jpg", 1536, 600, "k1.jpg"),
        TarMember("k2", "cls", 3072, 1, "k2.cls"),
    ]
    assert dali_index(members) == (
        "v1.2 2\ncls 512 2 k1.cls jpg 1536 600 k1.jpg\ncls 3072 1 k2.cls\n"
    )
