"""Verifying: a whole set passes, and each fault is named, behind good checksums too."""

import csv
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.cli import UserError
from shards.schema import (
    INDEX_DTYPE,
    SAMPLE_COLUMNS,
    SourceInfo,
    file_sha256,
    read_index,
    read_manifest,
    read_rows,
    write_index,
)
from shards.stores import filesystem
from shards.tars import TarMember, dali_index, list_members
from shards.verify import find_faults, main
from shards.write import WriteConfig, write_shards

Resign = Callable[[Path], None]
TAR = "train-00001.tar"


@pytest.fixture
def folder(fast_set: Path, tmp_path: Path) -> Path:
    """A copy of `fast_set` to damage."""
    return shutil.copytree(fast_set, tmp_path / "set")


def _faults(folder: Path) -> list[str]:
    return list(find_faults(folder, read_manifest(folder)))


def _members(tar: Path, suffix: str) -> list[TarMember]:
    return [member for member in list_members(tar) if member.suffix == suffix]


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(data)


def _flip(path: Path, offset: int, mask: int = 1) -> None:
    _overwrite(path, offset, bytes([path.read_bytes()[offset] ^ mask]))


def _edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    edit(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def _edit_index(folder: Path, split: str, edit: Callable[[Any], None]) -> None:
    index = np.array(read_index(folder, split))
    edit(index)
    write_index(folder, split, index)


def _edit_samples(folder: Path, edit: Callable[[list[dict[str, str]]], None]) -> None:
    """Change samples.csv and sign it."""
    path = folder / "samples.csv"
    rows = list(read_rows(path))
    edit(rows)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, SAMPLE_COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
    _edit_manifest(folder, lambda content: content["files"].update({path.name: file_sha256(path)}))


# Exit codes


@pytest.mark.parametrize("name", ["fast_set", "exact_set"])
def test_whole_set_is_silent_on_stdout(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    main([str(request.getfixturevalue(name))])  # no SystemExit: code 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "whole, 29 images, 3 classes" in captured.err


def test_faulty_set_exits_with_1_and_prints_the_faults(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "val-00000.idx").unlink()
    with pytest.raises(SystemExit) as stopped:
        main([str(folder)])
    assert stopped.value.code == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("val-00000.tar: cannot be read: ")
    assert "val-00000.idx" in line


def test_missing_manifest_exits_with_2_and_names_the_writer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        main([str(folder)])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert "manifest.json is missing" in captured.err
    assert "python -m shards.write" in captured.err


def test_set_without_validation_is_whole(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = WriteConfig(source=str(corpus), out=str(out), val_per_class=0, report=False, workers=1)
    write_shards(config)
    assert _faults(out) == []


def test_resigned_set_is_whole(folder: Path, resign: Resign) -> None:
    resign(folder)  # else the tests that resign would find its own faults
    assert _faults(folder) == []


# Damaged files


def test_flipped_byte_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = _members(folder / TAR, "jpg")[2]
    _flip(folder / TAR, image.offset + image.size // 2)
    with pytest.raises(SystemExit) as stopped:
        main([str(folder)])
    assert stopped.value.code == 1
    faults = capsys.readouterr().out.splitlines()
    assert faults[0] == f"{TAR}: SHA-256 differs from the manifest"
    assert faults[1] == f"{TAR}: sample {image.key}: image bytes differ from their SHA-256"
    assert all(image.key in fault for fault in faults[1:])


def test_flipped_byte_is_found_by_the_sample_itself(folder: Path, resign: Resign) -> None:
    image = _members(folder / TAR, "jpg")[2]
    _flip(folder / TAR, image.offset + image.size // 2)
    resign(folder)
    assert f"{TAR}: sample {image.key}: image bytes differ from their SHA-256" in _faults(folder)


def test_image_that_does_not_decode_is_named(folder: Path, resign: Resign) -> None:
    image = _members(folder / TAR, "jpg")[0]
    _overwrite(folder / TAR, image.offset, b"GARBAGE!")
    resign(folder)
    assert any(f"sample {image.key}: image does not decode" in fault for fault in _faults(folder))


@pytest.mark.parametrize("middle", [True, False], ids=["middle of an image", "nothing left"])
def test_truncated_shard_is_named(folder: Path, middle: bool) -> None:
    size = (folder / TAR).stat().st_size
    image = _members(folder / TAR, "jpg")[2]
    keep = image.offset + image.size // 2 if middle else 0
    os.truncate(folder / TAR, keep)
    faults = _faults(folder)
    assert faults[:2] == [
        f"{TAR}: {keep} bytes, the manifest says {size}",
        f"{TAR}: SHA-256 differs from the manifest",
    ]
    assert faults[2].startswith(f"{TAR}: cannot be read: ")


def test_shard_cut_between_samples_is_named(folder: Path, resign: Resign) -> None:
    last = _members(folder / TAR, "cls")[-1]
    os.truncate(folder / TAR, last.offset - 512)  # a good tar, without its last sample
    (folder / "train-00001.idx").write_text(dali_index(list_members(folder / TAR)))
    resign(folder)
    assert _faults(folder) == [
        f"{TAR}: 4 samples, the manifest says 5",
        f"{TAR}: 4 samples, the index has 5",
    ]


def test_missing_shard_is_named_and_the_others_are_looked_at(folder: Path) -> None:
    (folder / TAR).unlink()
    _flip(folder / "val-00000.tar", _members(folder / "val-00000.tar", "jpg")[0].offset + 200)
    faults = _faults(folder)
    assert faults[0].startswith(f"{TAR}: cannot be read: [Errno 2]")
    assert faults[1] == "val-00000.tar: SHA-256 differs from the manifest"


def test_damaged_dali_index_is_named(folder: Path) -> None:
    _flip(folder / "train-00001.idx", 10, mask=0x80)  # no ASCII any more
    assert _faults(folder) == [
        "train-00001.idx: SHA-256 differs from the manifest",
        f"train-00001.idx: does not describe {TAR}",
    ]


def test_dali_index_of_another_tar_is_named(folder: Path, resign: Resign) -> None:
    shutil.copyfile(folder / "train-00002.idx", folder / "train-00001.idx")
    resign(folder)
    assert _faults(folder) == [f"train-00001.idx: does not describe {TAR}"]


@pytest.mark.parametrize("name", ["train", "val"])
def test_missing_index_is_named(folder: Path, name: str) -> None:
    (folder / f"{name}.npy").unlink()
    (fault,) = _faults(folder)
    assert fault.startswith(f"{name}.npy: cannot read index")


@pytest.mark.parametrize("offset", [0, 10, 15, 20, 25, 60])
def test_damaged_index_header_is_named(folder: Path, offset: int) -> None:
    _flip(folder / "train.npy", offset, mask=2)
    assert _faults(folder)[0].startswith("train.npy: ")


def test_truncated_index_is_named(folder: Path) -> None:
    os.truncate(folder / "train.npy", (folder / "train.npy").stat().st_size - 1)
    (fault,) = _faults(folder)
    assert fault.startswith("train.npy: cannot read index")


@pytest.mark.parametrize(
    "index",
    [np.zeros(25, np.int64), np.zeros((5, 5), INDEX_DTYPE), np.zeros((), INDEX_DTYPE)],
    ids=["type", "table", "scalar"],
)
def test_index_of_another_layout_is_named(folder: Path, index: np.ndarray[Any, Any]) -> None:
    np.save(folder / "train.npy", index)
    (fault,) = _faults(folder)
    assert "has another layout" in fault


def _places(folder: Path) -> Iterator[tuple[str, int, int]]:
    generator = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".tar", ".idx", ".npy"):
            size = path.stat().st_size
            for _ in range(4):
                yield path.name, int(generator.integers(size)), 1 << int(generator.integers(8))


def test_no_flipped_bit_goes_unseen(folder: Path) -> None:
    places = list(_places(folder))
    assert len(places) == 4 * 14
    for name, offset, mask in places:
        _flip(folder / name, offset, mask)
        assert _faults(folder), (name, offset, mask)
        _flip(folder / name, offset, mask)
    assert _faults(folder) == []


# Wrong content behind good checksums


def test_wrong_label_is_named(folder: Path, resign: Resign) -> None:
    labels = _members(folder / TAR, "cls")
    first = (folder / TAR).read_bytes()[labels[0].offset] - ord("0")
    wrong = (first + 1) % 3
    _overwrite(folder / TAR, labels[0].offset, str(wrong).encode())
    resign(folder)
    name = ("alpha", "beta", "gamma")[first]
    assert _faults(folder) == [
        f"{TAR}: sample {labels[0].key}: label {wrong} does not fit class {name!r}",
        f"{TAR}: sample {labels[0].key}: the index row does not describe it",
    ]


@pytest.mark.parametrize("text", [b"x", b"7"])
def test_label_that_is_no_class_is_named(folder: Path, resign: Resign, text: bytes) -> None:
    label = _members(folder / TAR, "cls")[0]
    _overwrite(folder / TAR, label.offset, text)
    resign(folder)
    faults = _faults(folder)
    assert faults
    assert all(fault.startswith(f"{TAR}: sample {label.key}: label ") for fault in faults[:1])


def test_sample_without_its_label_is_named(folder: Path, resign: Resign) -> None:
    key = list_members(folder / TAR)[0].key
    with tarfile.open(folder / TAR) as old, tarfile.open(folder / "new", "w") as new:
        for member in old:
            if member.name != f"{key}.cls":
                new.addfile(member, old.extractfile(member))
    (folder / "new").replace(folder / TAR)
    (folder / "train-00001.idx").write_text(dali_index(list_members(folder / TAR)))
    resign(folder)
    fault = f"{TAR}: sample {key}: has the parts jpg, json, wants one image, cls and json"
    assert _faults(folder)[0] == fault


@pytest.mark.parametrize("column", ["offset", "size", "label", "height", "width"])
def test_edited_index_row_is_named(folder: Path, resign: Resign, column: str) -> None:
    def edit(index: Any) -> None:
        index[column][6] += 1  # the second sample of the second shard

    _edit_index(folder, "train", edit)
    resign(folder)
    key = _members(folder / TAR, "cls")[1].key
    assert f"{TAR}: sample {key}: the index row does not describe it" in _faults(folder)


def test_edited_index_row_is_found_by_its_checksum_too(folder: Path) -> None:
    def edit(index: Any) -> None:
        index["width"][6] += 1

    _edit_index(folder, "train", edit)
    assert _faults(folder)[0] == "train.npy: SHA-256 differs from the manifest"


def test_label_beyond_all_classes_is_named(folder: Path, resign: Resign) -> None:
    def edit(index: Any) -> None:
        index["label"][0] = 2**32 - 1  # counting up to it would take 32 GiB

    _edit_index(folder, "train", edit)
    resign(folder)
    assert "train.npy: class counts differ from the manifest" in _faults(folder)


def test_index_row_of_another_shard_is_named(folder: Path, resign: Resign) -> None:
    def edit(index: Any) -> None:
        index["shard"][0] = 1

    _edit_index(folder, "train", edit)
    resign(folder)
    assert _faults(folder) == [
        "train-00000.tar: 5 samples, the index has 4",
        f"{TAR}: 5 samples, the index has 6",
    ]


# An edited manifest


def test_edited_split_count_is_named(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["splits"]["train"]["samples"] = 26

    _edit_manifest(folder, edit)
    assert _faults(folder) == [
        "manifest.json: train counts 26 samples, its shards another number",
        "train.npy: 25 rows for 26 samples",
    ]


def test_edited_class_count_is_named(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["splits"]["train"]["class_counts"] = [9, 9, 7]

    _edit_manifest(folder, edit)
    assert _faults(folder) == ["train.npy: class counts differ from the manifest"]


def test_edited_shard_counts_of_equal_sum_are_named(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        shards = content["splits"]["train"]["shards"]
        shards[0]["samples"], shards[1]["samples"] = 4, 6

    _edit_manifest(folder, edit)
    assert _faults(folder) == [
        "train-00000.tar: 5 samples, the manifest says 4",
        f"{TAR}: 5 samples, the manifest says 6",
    ]


def test_edited_classes_do_not_fit_the_corpus_hash(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["classes"][0] = "aleph"

    _edit_manifest(folder, edit)
    faults = _faults(folder)
    assert faults[0].startswith("manifest.json: corpus_hash does not follow")
    assert all("does not fit class 'alpha'" in fault for fault in faults[1:])


@pytest.mark.parametrize("found", [0, 3, "1", None])
def test_other_schema_version_is_refused(folder: Path, found: Any) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["schema_version"] = found

    _edit_manifest(folder, edit)
    with pytest.raises(UserError, match=f"schema_version {found!r}, this version reads 2"):
        read_manifest(folder)


def test_manifest_of_version_1_is_read(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["schema_version"] = 1
        for key in ("name", "sources", "decisions", "split", "files"):
            del content[key]

    _edit_manifest(folder, edit)
    manifest = read_manifest(folder)
    assert (manifest.schema_version, manifest.split) == (2, {"rule": "per_class"})
    assert manifest.sources == (
        SourceInfo(name="", samples=29, licence=None, restriction=None, citation=None),
    )
    assert _faults(folder) == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content.pop("mean"),
        lambda content: content.update(surplus=1),
        lambda content: content.update(splits=[]),
        lambda content: content["splits"]["val"].pop("shards"),
        lambda content: content["splits"]["val"]["shards"][0].pop("sha256"),
    ],
    ids=["mean", "surplus", "splits", "shards", "sha256"],
)
def test_manifest_with_other_fields_is_damaged(
    folder: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    _edit_manifest(folder, edit)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe"])
def test_manifest_that_is_no_json_cannot_be_read(folder: Path, data: bytes) -> None:
    (folder / "manifest.json").write_bytes(data)
    with pytest.raises(UserError, match=r"cannot read .*manifest\.json"):
        read_manifest(folder)


# Tables, sampling, object stores


@pytest.mark.parametrize("name", ["samples.csv", "overlaps.csv", "rejects.jsonl"])
def test_edited_or_missing_table_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    assert f"{name}: SHA-256 differs from the manifest" in _faults(folder)
    (folder / name).unlink()
    assert f"{name}: cannot be read: No such file or directory" in _faults(folder)


def test_specimen_on_both_sides_is_named(folder: Path) -> None:
    def tear(rows: list[dict[str, str]]) -> None:
        for side in ("train", "val"):
            next(row for row in rows if row["split"] == side)["specimen"] = "grain_7"

    _edit_samples(folder, tear)
    assert _faults(folder) == ["samples.csv: specimen grain_7 lies on both sides of the split"]


def test_overlap_across_the_split_is_named(folder: Path) -> None:
    keys = {row["split"]: row["key"] for row in read_rows(folder / "samples.csv")}
    path = folder / "overlaps.csv"
    with path.open("a", newline="") as stream:
        stream.write(f"{keys['val']},{keys['train']},1,2,1,0,0.5,20,0.9\r\n")
    _edit_manifest(folder, lambda content: content["files"].update({path.name: file_sha256(path)}))
    assert _faults(folder) == [
        f"overlaps.csv: {keys['val']} and {keys['train']} overlap across the split"
    ]


def test_sample_that_the_table_puts_elsewhere_is_named(folder: Path) -> None:
    changed = []

    def move(rows: list[dict[str, str]]) -> None:
        row = next(row for row in rows if row["split"] == "train")
        row["split"] = "val"
        changed.append(row["key"])

    _edit_samples(folder, move)
    (fault,) = _faults(folder)
    assert fault.endswith(f"sample {changed[0]}: samples.csv has it in val")


def test_tar_that_the_manifest_does_not_know_is_named(folder: Path) -> None:
    (folder / "train-00009.tar").write_bytes(b"of another run")
    assert _faults(folder) == [
        "train-00009.tar: is not in the manifest, yet who reads *.tar reads it too"
    ]


def test_decoding_can_be_sampled(folder: Path, resign: Resign) -> None:
    _overwrite(folder / TAR, _members(folder / TAR, "jpg")[0].offset, b"GARBAGE!")
    resign(folder)
    manifest = read_manifest(folder)
    assert any("does not decode" in fault for fault in find_faults(folder, manifest))
    assert not any("does not decode" in fault for fault in find_faults(folder, manifest, decode=0))


@pytest.mark.parametrize("share", ["2", "-0.1", "half"])
def test_share_to_decode_is_checked(
    folder: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(folder), "--decode", share])
    assert f"must lie between 0 and 1, not {share!r}" in capsys.readouterr().err


def test_threads_name_the_same_faults(folder: Path) -> None:
    for path in folder.glob("*.tar"):
        path.write_bytes(path.read_bytes()[:2000])
    manifest = read_manifest(folder)
    assert list(find_faults(folder, manifest, workers=4)) == list(find_faults(folder, manifest))


def test_set_at_a_url_is_looked_at_tar_by_tar(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fs, _ = filesystem("memory://bucket")
    fs.put(f"{folder}/", "/bucket/set/", recursive=True)
    main(["memory://bucket/set"])
    assert "memory://bucket/set: whole, 29 images" in capsys.readouterr().err
    fs.rm("/bucket/set/train-00001.tar")
    with pytest.raises(SystemExit):
        main(["memory://bucket/set"])
    assert capsys.readouterr().out.startswith("train-00001.tar: cannot be read: memory://bucket")
