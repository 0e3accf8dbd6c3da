"""Scanning a corpus: what belongs to which class, in which order, and which folders are refused."""

import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.cli import UserError
from shards.corpus import plain_source
from shards.sources import Listing, is_image_name, list_sources
from shards.write import WriteConfig, write_shards


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


@pytest.mark.parametrize("name", ["a.png", "A.TIF", "b.c.JPEG", "x.bmp", "ø.webp"])
def test_suffix_of_an_image_counts_in_any_case(name: str) -> None:
    assert is_image_name(name)


@pytest.mark.parametrize("name", ["png", "a.txt", "a.png.bak", "a.dm3", "a.", ".png"])
def test_other_suffix_is_no_image(name: str) -> None:
    assert not is_image_name(name)


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


CLASS_NAMES = ["Ni-based (René 88)", "a.b #1", "混合", "x" * 120, "A_B"]
FILE_NAMES = ["plain", "two words", "50% #3 (left)", "v1.2.3", "héros", "混合"]


@pytest.fixture(scope="module")
def odd_provenance(
    make_corpus: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, object]]:
    """Key -> provenance of the shards of a corpus with odd names in it."""
    root = tmp_path_factory.mktemp("odd")
    make_corpus(root / "corpus", dict.fromkeys(CLASS_NAMES, len(FILE_NAMES)))
    for name in CLASS_NAMES:
        for path, stem in zip(sorted((root / "corpus" / name).iterdir()), FILE_NAMES, strict=True):
            path.rename(path.with_name(stem + ".png"))
    write_shards(WriteConfig(source=str(root / "corpus"), out=str(root / "out"), workers=1))
    found = {}
    for path in (root / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    stream = tar.extractfile(member)
                    assert stream is not None
                    found[member.name.removesuffix(".json")] = json.load(stream)
    return found


def test_odd_names_come_through_to_the_provenance(
    odd_provenance: dict[str, dict[str, object]],
) -> None:
    expected = {(name, f"{name}/{stem}.png") for name in CLASS_NAMES for stem in FILE_NAMES}
    assert {(said["class"], said["source"]) for said in odd_provenance.values()} == expected


def test_odd_names_give_safe_keys(odd_provenance: dict[str, dict[str, object]]) -> None:
    assert len(odd_provenance) == len(CLASS_NAMES) * len(FILE_NAMES)
    assert all(re.fullmatch("[0-9a-z_]{1,89}", key) for key in odd_provenance)


def test_keys_show_people_the_class(odd_provenance: dict[str, dict[str, object]]) -> None:
    prefixes = {said["class"]: key.rpartition("_")[0] for key, said in odd_provenance.items()}
    assert prefixes == {
        "Ni-based (René 88)": "ni_based_ren_88",
        "a.b #1": "a_b_1",
        "混合": "class",
        "x" * 120: "x" * 40,
        "A_B": "a_b",
    }


def test_file_name_that_is_no_utf8_comes_through(
    make_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    name = os.fsdecode(b"caf\xe9.png")  # Latin-1, as old instruments write it
    make_corpus(tmp_path / "corpus", {"a": 2})
    (tmp_path / "corpus" / "a" / "img0.png").rename(tmp_path / "corpus" / "a" / name)
    manifest = write_shards(
        WriteConfig(
            source=str(tmp_path / "corpus"), out=str(tmp_path / "out"), workers=1, val_per_class=0
        )
    )
    assert manifest.splits["train"].samples == 2
    assert json.dumps(f"a/{name}").encode() in (tmp_path / "out" / "train-00000.tar").read_bytes()
