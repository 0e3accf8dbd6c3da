"""Scanning a corpus: what belongs to which class, in which order, and which folders are refused."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from written_sets import write_set

from micrograph.cli import UserError
from shards.format.schema import read_rows
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


def _paths(listing: Listing) -> list[str]:
    return [file.name for file in listing.sources[0].files]


def test_a_folder_is_a_class(tmp_path: Path) -> None:
    source = scan_folder(_tree(tmp_path, "steel/1.png", "brass/1.png", "brass/2.tif"))
    assert source.classes == ("brass", "steel")
    assert [(file.name, file.label) for file in source.sources[0].files] == [
        ("brass/1.png", 0),
        ("brass/2.tif", 0),
        ("steel/1.png", 1),
    ]


def test_nested_folders_belong_to_the_first_level(tmp_path: Path) -> None:
    source = scan_folder(_tree(tmp_path, "a/1.png", "a/old/deep/2.png", "b/only/nested/3.png"))
    assert source.classes == ("a", "b")
    assert [file.label for file in source.sources[0].files] == [0, 0, 1]
    assert _paths(source) == ["a/1.png", "a/old/deep/2.png", "b/only/nested/3.png"]


def test_classes_and_files_come_in_natural_order(tmp_path: Path) -> None:
    names = ["c10/x2.png", "c10/x10.png", "c10/x1.png", "c9/x.png"]
    source = scan_folder(_tree(tmp_path, *names))
    assert source.classes == ("c9", "c10")
    assert _paths(source) == ["c9/x.png", "c10/x1.png", "c10/x2.png", "c10/x10.png"]


def test_numbers_of_equal_value_have_a_fixed_order(tmp_path: Path) -> None:
    source = scan_folder(_tree(tmp_path, "a/i2.png", "a/i02.png", "a/i002.png"))
    assert _paths(source) == ["a/i002.png", "a/i02.png", "a/i2.png"]


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    source = scan_folder(
        _tree(tmp_path, "a/1.png", "a/.DS_Store", "a/._1.png", "a/.thumbs/1.png", ".git/x.png")
    )
    assert source.classes == ("a",)
    assert _paths(source) == ["a/1.png"]


def test_size_and_time_of_a_file_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a" / "1.png"
    path.parent.mkdir()
    path.write_bytes(b"12345")
    os.utime(path, ns=(7, 1234567890))
    (file,) = scan_folder(tmp_path).sources[0].files
    assert (file.entry.size, file.entry.stamp) == (5, "1234567890")


def test_other_files_are_listed_for_the_rejects(tmp_path: Path) -> None:
    source = scan_folder(_tree(tmp_path, "a/1.png", "a/notes.txt"))
    assert _paths(source) == ["a/1.png", "a/notes.txt"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.png", "A.TIF", "b.c.JPEG", "x.bmp", "ø.webp"], True),
        (["png", "a.txt", "a.png.bak", "a.dm3", "a.", ".png"], False),
    ],
)
def test_suffix_of_an_image_counts_in_any_case(names: list[str], expected: bool) -> None:
    assert {is_image_name(name) for name in names} == {expected}


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such folder or file: .*nowhere.*one folder per class"):
        scan_folder(tmp_path / "nowhere")


def test_file_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder, an archive nor a table"):
        scan_folder(_tree(tmp_path, "image.png") / "image.png")


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no class folders in"):
        scan_folder(_tree(tmp_path, "1.png", "2.png", ".hidden/3.png"))


@pytest.mark.parametrize("content", [[], ["b/notes.txt"], ["b/.1.png"]])
def test_class_folder_without_images_is_named(tmp_path: Path, content: list[str]) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match=r"class folder .*/b has no images"):
        scan_folder(_tree(tmp_path, "a/1.png", *content))


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
