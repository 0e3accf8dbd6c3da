"""Tars and their indexes: plain members, cut as asked, described byte by byte."""

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from micrograph.cli import UserError
from shards.encoding.encode import encode_sources
from shards.encoding.spool import Catalog, images_path
from shards.shard_format.config import WriteConfig
from shards.shard_format.schema import Index, ShardInfo
from shards.sources.listing import list_sources
from shards.sources.recipe import plain_source
from shards.writing.tar_files import TarMember, dali_index, list_members, write_split

CONFIG = WriteConfig(source="x", out="y", shard_samples=3, workers=1)

Written = tuple[tuple[ShardInfo, ...], Index]


ORDER = np.array([4, 0, 6, 2, 1, 5, 3])


@pytest.fixture(scope="module")
def catalog(make_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Seven encoded images: four of a, three of b."""
    root = tmp_path_factory.mktemp("tars")
    listing = list_sources([plain_source(str(make_corpus(root / "corpus", {"a": 4, "b": 3})))])
    return encode_sources(listing, root / "spool", CONFIG)


def _write(folder: Path, catalog: Catalog) -> Written:
    return write_split(folder, "train", catalog, ORDER, {0: "first_of_group"}, CONFIG)


@pytest.fixture
def written(catalog: Catalog, tmp_path: Path) -> Written:
    """The seven as tars of three, in `tmp_path`."""
    return _write(tmp_path, catalog)


def test_samples_come_in_the_order_asked_for_with_their_members_together(
    written: Written, catalog: Catalog, tmp_path: Path
) -> None:
    members = [m for shard in written[0] for m in list_members(tmp_path / shard.name)]
    keys = catalog.keys()
    assert [m.key for m in members[::3]] == [keys[i] for i in ORDER]
    assert [m.suffix for m in members] == ["cls", "jpg", "json"] * len(ORDER)


def test_members_are_plain_files_of_no_one_and_no_time(written: Written, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-00000.tar") as tar:
        for member in tar:
            assert member.isreg()
            assert member.mtime == 0
            assert member.pax_headers == {}  # DALI misreads extensions
            assert (member.uid, member.gid) == (0, 0)
            assert member.offset_data - member.offset == tarfile.BLOCKSIZE


def test_group_stands_in_the_provenance(written: Written, tmp_path: Path) -> None:
    said = []
    for shard in written[0]:
        with tarfile.open(tmp_path / shard.name) as tar:
            streams = [tar.extractfile(name) for name in tar.getnames() if name.endswith(".json")]
            said += [json.loads(stream.read()) for stream in streams if stream is not None]
    assert [(s["path"], s["group"]) for s in said if "group" in s] == [
        ("a/img0.png", "first_of_group")
    ]


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


def test_dali_index_has_a_line_per_sample() -> None:
    members = [
        TarMember("k1", "cls", 512, 2, "k1.cls"),
        TarMember("k1", "jpg", 1536, 600, "k1.jpg"),
        TarMember("k2", "cls", 3072, 1, "k2.cls"),
    ]
    assert dali_index(members) == (
        "v1.2 2\ncls 512 2 k1.cls jpg 1536 600 k1.jpg\ncls 3072 1 k2.cls\n"
    )
