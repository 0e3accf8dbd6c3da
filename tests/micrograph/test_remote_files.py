"""Folders, archives and URLs give the same files, and a file that changes is named."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from micrograph.cli import UserError
from micrograph.remote_files import Entry, filesystem, natural_key, open_store, read_ahead

FILES = {"steel/1.png": b"one", "steel/deep/2.png": b"twotwo", "brass (½)/#3.tif": b"three"}
HIDDEN = {"steel/.thumb.png": b"x", ".git/config": b"x"}


def _folder(root: Path) -> str:
    for name, data in {**FILES, **HIDDEN}.items():
        (root / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "f" / name).write_bytes(data)
    return str(root / "f")


def _zip(root: Path) -> str:
    with zipfile.ZipFile(root / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("steel")
        for name, data in {**FILES, **HIDDEN, "__MACOSX/steel/._1.png": b"x"}.items():
            archive.writestr(name, data)
    return str(root / "c.zip")


def _tar(root: Path, kind: str) -> str:
    path = root / f"c.tar{'.' if kind else ''}{kind}"
    with tarfile.open(path, f"w:{kind}") as archive:  # type: ignore[call-overload]
        for name, data in {**FILES, **HIDDEN}.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def _memory(root: Path) -> str:
    fs, _ = filesystem("memory://")
    for name, data in {**FILES, **HIDDEN}.items():
        fs.pipe_file(f"{root}/{name}", data)
    return f"memory:/{root}"


KINDS: dict[str, Callable[[Path], str]] = {
    "folder": _folder,
    "zip": _zip,
    "tar": lambda root: _tar(root, ""),
    "tar.gz": lambda root: _tar(root, "gz"),
    "tar.bz2": lambda root: _tar(root, "bz2"),
    "tar.xz": lambda root: _tar(root, "xz"),
    "url": _memory,
}


@pytest.fixture(params=KINDS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield KINDS[request.param](tmp_path)


def test_store_gives_every_visible_file_in_any_order(location: str) -> None:
    store = open_store(location)
    entries = store.entries()
    assert {entry.path: entry.size for entry in entries} == {n: len(d) for n, d in FILES.items()}
    for entry in [*reversed(entries), *entries]:
        assert store.read(entry) == FILES[entry.path]


def test_reading_ahead_keeps_the_order(location: str) -> None:
    store = open_store(location)
    entries = store.entries() * 7
    assert list(read_ahead(store, entries)) == [FILES[entry.path] for entry in entries]


def test_archive_at_a_url_is_read_in_place(tmp_path: Path) -> None:
    fs, _ = filesystem("memory://")
    for path in (_zip(tmp_path), _tar(tmp_path, "gz")):
        url = f"memory://archives/{Path(path).name}"
        fs.pipe_file(url, Path(path).read_bytes())
        store = open_store(url)
        assert {entry.path: store.read(entry) for entry in store.entries()} == FILES


@pytest.mark.parametrize("change", ["grown", "rewritten at equal size", "replaced tar"])
def test_file_that_changes_after_the_listing_is_named(tmp_path: Path, change: str) -> None:
    path = Path(_tar(tmp_path, "")) if "tar" in change else Path(_folder(tmp_path), "steel/1.png")
    store = open_store(str(path if "tar" in change else tmp_path / "f"))
    entry = next(entry for entry in store.entries() if entry.path == "steel/1.png")
    path.write_bytes(path.read_bytes() + b"more" * (change == "grown"))
    if change != "grown":
        os.utime(path, ns=(0, 1))
    with pytest.raises(UserError, match=rf"{path.name}.* changed while it was read"):
        store.read(entry)


def test_file_that_is_gone_is_named(location: str) -> None:
    store = open_store(location)
    if location.endswith((".tar", ".gz", ".bz2", ".xz")):
        pytest.skip("a tar has no names: the file at that place is there or the tar is cut")
    with pytest.raises(UserError, match=r"cannot read .*gone\.png"):
        store.read(Entry("gone.png", 3, ""))


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz"])
@pytest.mark.parametrize("data", [b"", b"no archive" * 100])
def test_what_is_no_archive_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=f"cannot read .*{name}"):
        open_store(str(tmp_path / name)).entries()


@pytest.mark.parametrize(
    ("kind", "share"), [("", 2048), ("", 2500), ("gz", 0.5), ("bz2", 0.5), ("xz", 0.5)]
)
def test_truncated_tar_is_named(tmp_path: Path, kind: str, share: float) -> None:
    path = Path(_tar(tmp_path, kind))
    size = share if share > 1 else share * path.stat().st_size  # 2048: between two members
    path.write_bytes(path.read_bytes()[: int(size)])
    with pytest.raises(UserError, match=r"cannot read .*c\.tar"):
        open_store(str(path)).entries()


def test_damaged_zip_member_is_named(tmp_path: Path) -> None:
    path = Path(_zip(tmp_path))
    store = open_store(str(path))
    entries = store.entries()
    data = bytearray(path.read_bytes())
    place = data.index(b"steel/deep/2.png") + len("steel/deep/2.png")
    data[place] ^= 0xFF
    path.write_bytes(data)
    bad = next(entry for entry in entries if entry.path == "steel/deep/2.png")
    with pytest.raises(UserError, match=r"cannot read steel/deep/2\.png of .*c\.zip"):
        open_store(str(path)).read(bad)


def test_unknown_protocol_is_named() -> None:
    with pytest.raises(UserError, match="cannot open nonsense://x"):
        open_store("nonsense://x")


def test_natural_key_counts() -> None:
    assert sorted(["a10", "a9", "b1", "a09"], key=natural_key) == ["a09", "a9", "a10", "b1"]


def test_linked_folders_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "1.png").write_bytes(b"one")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "steel").symlink_to(tmp_path / "elsewhere")
    names = [entry.path for entry in open_store(str(tmp_path / "corpus")).entries()]
    assert names == ["steel/deep/1.png"]
