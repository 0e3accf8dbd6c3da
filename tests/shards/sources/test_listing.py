"""Scanning a corpus: what belongs to which class, in which order, and which folders are refused."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from written_sets import write_set

from micrograph.cli import UserError
from shards.shard_format.schema import read_rows
from shards.sources.listing import Listing, is_image_name, list_sources
from shards.sources.recipe import plain_source


def _tree(root: Path, *paths: str) -> Path:
    """Make the files with one byte each; scanning looks at names only."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def scan_folder(root: Path) -> Listing:
    return list_sources([plain_source(str(root))])


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["brass/1.png", "brass/2.tif", "steel/1.png"], ["brass", "steel"]),
        # Nested folders belong to the first level.
        (["a/1.png", "a/old/deep/2.png", "b/only/nested/3.png"], ["a", "b"]),
        # In natural order; numbers of equal value have a fixed one.
        (["c9/x.png", "c10/x1.png", "c10/x002.png", "c10/x02.png", "c10/x2.png"], ["c9", "c10"]),
        (["a/1.png", "a/notes.txt"], ["a"]),  # the notes for the rejects
    ],
)
def test_first_folders_are_the_classes(
    tmp_path: Path, files: list[str], classes: list[str]
) -> None:
    hidden = ["a/.DS_Store", "a/._1.png", "a/.thumbs/1.png", ".git/x.png"]
    listing = scan_folder(_tree(tmp_path, *reversed(files), *hidden))
    found = listing.sources[0].files
    assert list(listing.classes) == classes
    assert [file.name for file in found] == files
    assert all(file.name.startswith(f"{classes[file.label]}/") for file in found)


@pytest.mark.parametrize(
    ("files", "place", "message"),
    [
        ([], "nowhere", r"no such folder or file: .*nowhere.*one folder per class"),
        (["image.png"], "image.png", "neither a folder, an archive nor a table"),
        (["1.png", "2.png", ".hidden/3.png"], "", "no class folders in"),
        (["a/1.png", "b/notes.txt"], "", r"class folder .*/b has no images"),
        (["a/1.png", "b/.1.png"], "", r"class folder .*/b has no images"),
    ],
)
def test_other_layouts_are_refused(
    tmp_path: Path, files: list[str], place: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        scan_folder(_tree(tmp_path, *files) / place)


def test_size_and_time_of_a_file_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a" / "1.png"
    path.parent.mkdir()
    path.write_bytes(b"12345")
    os.utime(path, ns=(7, 1234567890))
    (file,) = scan_folder(tmp_path).sources[0].files
    assert (file.entry.size, file.entry.stamp) == (5, "1234567890")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "A.TIF", "b.c.JPEG", "x.bmp", "ø.webp"], True),
        (["png", "a.txt", "a.png.bak", "a.dm3", "a.", ".png"], False),
    ],
)
def test_suffix_of_an_image_counts_in_any_case(names: list[str], expected: bool) -> None:
    assert {is_image_name(name) for name in names} == {expected}


def test_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    _tree(tmp_path, "a/1.png")
    (tmp_path / "a" / "gone.png").symlink_to("moved_away.png")
    with pytest.raises(UserError, match=r"cannot read .*a/gone\.png"):
        scan_folder(tmp_path)


CLASS_PREFIXES = {
    "Ni-based (René 88)": "ni_based_ren_88",
    "a.b #1": "a_b_1",
    "混合": "class",
    "x" * 120: "x" * 40,
    "A_B": "a_b",
}


def test_odd_names_give_safe_keys_that_show_the_class(
    make_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    # tests/shards/test_hostile.py has odd names of files.
    root = make_corpus(tmp_path / "corpus", dict.fromkeys(CLASS_PREFIXES, 6))
    write_set(root, tmp_path / "out")
    rows = list(read_rows(tmp_path / "out" / "samples.csv"))
    keys = {row["key"]: row["class"] for row in rows}
    assert len(keys) == 6 * len(CLASS_PREFIXES)
    assert all(re.fullmatch("[0-9a-z_]{1,89}", key) for key in keys)
    assert {name: key.rpartition("_")[0] for key, name in keys.items()} == CLASS_PREFIXES
    assert {row["path"].split("/")[0] for row in rows} == set(CLASS_PREFIXES)
