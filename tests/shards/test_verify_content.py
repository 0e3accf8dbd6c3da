"""Verifying content: what is wrong behind good checksums, in the manifest or the tables."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import TAR, edit_index, edit_manifest, edit_samples, faults_of, members, overwrite

from shards.cli import UserError
from shards.schema import (
    file_sha256,
    read_manifest,
    read_rows,
)
from shards.stores import filesystem
from shards.tars import dali_index, list_members
from shards.verify import find_faults, main

Resign = Callable[[Path], None]


@pytest.fixture
def folder(fast_set: Path, tmp_path: Path) -> Path:
    """A copy of `fast_set` to damage."""
    return shutil.copytree(fast_set, tmp_path / "set")


# Wrong content behind good checksums


def test_wrong_label_is_named(folder: Path, resign: Resign) -> None:
    labels = members(folder / TAR, "cls")
    first = (folder / TAR).read_bytes()[labels[0].offset] - ord("0")
    wrong = (first + 1) % 3
    overwrite(folder / TAR, labels[0].offset, str(wrong).encode())
    resign(folder)
    name = ("alpha", "beta", "gamma")[first]
    assert faults_of(folder) == [
        f"{TAR}: sample {labels[0].key}: label {wrong} does not fit class {name!r}",
        f"{TAR}: sample {labels[0].key}: the index row does not describe it",
    ]


@pytest.mark.parametrize("text", [b"x", b"7"])
def test_label_that_is_no_class_is_named(folder: Path, resign: Resign, text: bytes) -> None:
    label = members(folder / TAR, "cls")[0]
    overwrite(folder / TAR, label.offset, text)
    resign(folder)
    faults = faults_of(folder)
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
    fault = f"{TAR}: sample {key}: has the parts jpg, json; expected one image, cls and json"
    assert faults_of(folder)[0] == fault


@pytest.mark.parametrize("column", ["offset", "size", "label", "height", "width"])
def test_edited_index_row_is_named(folder: Path, resign: Resign, column: str) -> None:
    def edit(index: Any) -> None:
        index[column][6] += 1  # the second sample of the second shard

    edit_index(folder, "train", edit)
    resign(folder)
    key = members(folder / TAR, "cls")[1].key
    assert f"{TAR}: sample {key}: the index row does not describe it" in faults_of(folder)


def test_edited_index_row_is_found_by_its_checksum_too(folder: Path) -> None:
    def edit(index: Any) -> None:
        index["width"][6] += 1

    edit_index(folder, "train", edit)
    assert faults_of(folder)[0] == "train.npy: SHA-256 differs from the manifest"


def test_label_beyond_all_classes_is_named(folder: Path, resign: Resign) -> None:
    def edit(index: Any) -> None:
        index["label"][0] = 2**32 - 1  # counting up to it would take 32 GiB

    edit_index(folder, "train", edit)
    resign(folder)
    assert "train.npy: class counts differ from the manifest" in faults_of(folder)


def test_index_row_of_another_shard_is_named(folder: Path, resign: Resign) -> None:
    def edit(index: Any) -> None:
        index["shard"][0] = 1

    edit_index(folder, "train", edit)
    resign(folder)
    assert faults_of(folder) == [
        "train-00000.tar: 5 samples, the index has 4",
        f"{TAR}: 5 samples, the index has 6",
    ]


# An edited manifest


def test_edited_split_count_is_named(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["splits"]["train"]["samples"] = 26

    edit_manifest(folder, edit)
    assert faults_of(folder) == [
        "manifest.json: train counts 26 samples, its shards another number",
        "train.npy: 25 rows for 26 samples",
    ]


def test_edited_class_count_is_named(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["splits"]["train"]["class_counts"] = [9, 9, 7]

    edit_manifest(folder, edit)
    assert faults_of(folder) == ["train.npy: class counts differ from the manifest"]


def test_edited_shard_counts_of_equal_sum_are_named(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        shards = content["splits"]["train"]["shards"]
        shards[0]["samples"], shards[1]["samples"] = 4, 6

    edit_manifest(folder, edit)
    assert faults_of(folder) == [
        "train-00000.tar: 5 samples, the manifest says 4",
        f"{TAR}: 5 samples, the manifest says 6",
    ]


def test_edited_classes_do_not_fit_the_corpus_hash(folder: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["classes"][0] = "aleph"

    edit_manifest(folder, edit)
    faults = faults_of(folder)
    assert faults[0].startswith("manifest.json: corpus_hash is not the hash")
    assert all("does not fit class 'alpha'" in fault for fault in faults[1:])


@pytest.mark.parametrize("found", [0, 2, "1", True, None])
def test_other_schema_version_is_refused(folder: Path, found: Any) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["schema_version"] = found

    edit_manifest(folder, edit)
    with pytest.raises(UserError, match=f"schema_version {found!r}, this version reads 1"):
        read_manifest(folder)


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
    edit_manifest(folder, edit)
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
    assert f"{name}: SHA-256 differs from the manifest" in faults_of(folder)
    (folder / name).unlink()
    assert f"{name}: cannot be read: No such file or directory" in faults_of(folder)


def test_specimen_on_both_sides_is_named(folder: Path) -> None:
    def tear(rows: list[dict[str, str]]) -> None:
        for side in ("train", "val"):
            next(row for row in rows if row["split"] == side)["specimen"] = "grain_7"

    edit_samples(folder, tear)
    assert faults_of(folder) == ["samples.csv: specimen grain_7 is in both splits"]


def test_overlap_across_the_split_is_named(folder: Path) -> None:
    keys = {row["split"]: row["key"] for row in read_rows(folder / "samples.csv")}
    path = folder / "overlaps.csv"
    with path.open("a", newline="") as stream:
        stream.write(f"{keys['val']},{keys['train']},1,2,1,0,0.5,20,0.9\r\n")
    edit_manifest(folder, lambda content: content["files"].update({path.name: file_sha256(path)}))
    assert faults_of(folder) == [
        f"overlaps.csv: {keys['val']} and {keys['train']} overlap across the split"
    ]


def test_sample_that_the_table_puts_elsewhere_is_named(folder: Path) -> None:
    changed = []

    def move(rows: list[dict[str, str]]) -> None:
        row = next(row for row in rows if row["split"] == "train")
        row["split"] = "val"
        changed.append(row["key"])

    edit_samples(folder, move)
    (fault,) = faults_of(folder)
    assert fault.endswith(f"sample {changed[0]}: samples.csv has it in val")


def test_tar_that_the_manifest_does_not_know_is_named(folder: Path) -> None:
    (folder / "train-00009.tar").write_bytes(b"of another run")
    assert faults_of(folder) == [
        "train-00009.tar: is not in the manifest, but readers of *.tar would read it"
    ]


def test_decoding_can_be_sampled(folder: Path, resign: Resign) -> None:
    overwrite(folder / TAR, members(folder / TAR, "jpg")[0].offset, b"GARBAGE!")
    resign(folder)
    manifest = read_manifest(folder)
    assert any("does not decode" in fault for fault in find_faults(folder, manifest))
    assert not any("does not decode" in fault for fault in find_faults(folder, manifest, decode=0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--decode=2", "decode must lie between 0 and 1, not 2.0"),
        ("--decode=-0.1", "decode must lie between 0 and 1, not -0.1"),
        ("--decode=half", "must be a number, not 'half'"),
        ("--workers=0", "workers must be at least 1, not 0"),
    ],
)
def test_setting_out_of_range_is_refused(
    folder: Path, given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(folder), given])
    assert message in capsys.readouterr().err


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
    assert "memory://bucket/set: complete, 29 images" in capsys.readouterr().err
    fs.rm("/bucket/set/train-00001.tar")
    with pytest.raises(SystemExit):
        main(["memory://bucket/set"])
    assert capsys.readouterr().out.startswith("train-00001.tar: cannot be read: memory://bucket")
