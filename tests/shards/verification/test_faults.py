"""Verifying: a good set passes, and each fault is named, also behind good checksums."""

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import pytest
from damage import (
    TAR,
    edit_index,
    edit_manifest,
    edit_samples,
    faults_of,
    flip,
    members,
    overwrite,
)
from written_sets import write_set

from shards.shard_format.schema import INDEX_DTYPE, file_sha256, read_manifest, read_rows
from shards.verification.faults import find_faults
from shards.writing.tar_files import dali_index, list_members

IDX, VAL_TAR = "train-00001.idx", "val-00000.tar"
DIFFERS = "SHA-256 differs from the manifest"
Resign = Callable[[Path], None]
# What each fault begins with, in order; ... where more may follow.
Expected = list[str | EllipsisType]
Damage = Callable[[Path], Expected]


def _check(faults: list[str], expected: Expected) -> None:
    if expected[-1] is ...:
        expected = expected[:-1]
        faults = faults[: len(expected)]
    assert len(faults) == len(expected), faults
    for fault, start in zip(faults, expected, strict=True):
        assert fault.startswith(str(start))


def _changed(change: Callable[[Path], object], *expected: str | EllipsisType) -> Damage:
    def damage(folder: Path) -> Expected:
        change(folder)
        return list(expected)

    return damage


def _manifest(edit: Callable[[dict[str, Any]], object], *expected: str | EllipsisType) -> Damage:
    return _changed(lambda folder: edit_manifest(folder, edit), *expected)  # type: ignore[arg-type]


def _index(column: str, row: int, value: int, *expected: str | EllipsisType) -> Damage:
    """Set a column of a row of train.npy."""

    def edit(index: Any) -> None:
        index[column][row] = value

    return _changed(lambda folder: edit_index(folder, "train", edit), *expected)


# Damaged files


def _flipped_image(folder: Path) -> Expected:
    image = members(folder / TAR, "jpg")[2]
    flip(folder / TAR, image.offset + image.size // 2)
    return [f"{TAR}: {DIFFERS}", f"{TAR}: sample {image.key}: image bytes differ", ...]


def _tar_cut_in_an_image(folder: Path) -> Expected:
    size, image = (folder / TAR).stat().st_size, members(folder / TAR, "jpg")[2]
    keep = image.offset + image.size // 2
    os.truncate(folder / TAR, keep)
    bytes_ = f"{TAR}: {keep} bytes, the manifest says {size}"
    return [bytes_, f"{TAR}: {DIFFERS}", f"{TAR}: cannot be read: ", ...]


def _missing_tar_and_a_damaged_one(folder: Path) -> Expected:
    (folder / TAR).unlink()
    flip(folder / VAL_TAR, members(folder / VAL_TAR, "jpg")[0].offset + 200)
    return [f"{TAR}: cannot be read: [Errno 2]", f"{VAL_TAR}: {DIFFERS}", ...]


def _dali_index_that_is_not_ascii(folder: Path) -> Expected:
    flip(folder / IDX, 10, mask=0x80)
    return [f"{IDX}: {DIFFERS}", f"{IDX}: does not describe {TAR}"]


def _specimen_in_both_splits(folder: Path) -> Expected:
    def separate(rows: list[dict[str, str]]) -> None:
        for split in ("train", "val"):
            next(row for row in rows if row["split"] == split)["specimen"] = "grain_7"

    edit_samples(folder, separate)
    return ["samples.csv: specimen grain_7 is in both splits"]


def _overlap_across_the_split(folder: Path) -> Expected:
    keys = {row["split"]: row["key"] for row in read_rows(folder / "samples.csv")}
    path = folder / "overlaps.csv"
    with path.open("a", newline="") as stream:
        stream.write(f"{keys['val']},{keys['train']},1,2,1,0,0.5,20,0.9\r\n")
    edit_manifest(folder, lambda content: content["files"].update({path.name: file_sha256(path)}))
    return [f"overlaps.csv: {keys['val']} and {keys['train']} overlap across the split"]


def _sample_in_another_split(folder: Path) -> Expected:
    key = next(row["key"] for row in read_rows(folder / "samples.csv") if row["split"] == "train")
    edit_samples(folder, lambda rows: [r.update(split="val") for r in rows if r["key"] == key])  # type: ignore[arg-type, return-value]
    (tar,) = (
        path.name
        for path in folder.glob("train-*.tar")
        if key in {member.key for member in list_members(path)}
    )
    return [f"{tar}: sample {key}: samples.csv has it in val"]


def _split(content: dict[str, Any]) -> dict[str, Any]:
    return content["splits"]["train"]  # type: ignore[no-any-return]


DAMAGES: dict[str, Damage] = {
    "flipped bit of an image": _flipped_image,
    "tar cut in an image": _tar_cut_in_an_image,
    "empty tar": _changed(
        lambda folder: os.truncate(folder / TAR, 0),
        f"{TAR}: 0 bytes, the manifest says ",
        f"{TAR}: {DIFFERS}",
        f"{TAR}: cannot be read: ",
        ...,
    ),
    "missing tar and a damaged one": _missing_tar_and_a_damaged_one,
    "missing DALI index": _changed(
        lambda folder: (folder / "val-00000.idx").unlink(), f"{VAL_TAR}: cannot be read: "
    ),
    "DALI index that is not ASCII": _dali_index_that_is_not_ascii,
    "missing index": _changed(
        lambda folder: (folder / "train.npy").unlink(), "train.npy: cannot read index"
    ),
    "truncated index": _changed(
        lambda folder: os.truncate(folder / "train.npy", 500), "train.npy: cannot read index"
    ),
    "index of another type": _changed(
        lambda folder: np.save(folder / "train.npy", np.zeros(25, np.int64)), "train.npy: index"
    ),
    "index of one number": _changed(
        lambda folder: np.save(folder / "train.npy", np.zeros((), INDEX_DTYPE)), "train.npy: index"
    ),
    "edited index row": _index("width", 6, 65, f"train.npy: {DIFFERS}", ...),
    "split count": _manifest(
        lambda content: _split(content).update(samples=26),
        "manifest.json: train counts 26 samples, its shards another number",
        "train.npy: 25 rows for 26 samples",
    ),
    "class counts": _manifest(
        lambda content: _split(content).update(class_counts=[9, 9, 7]),
        "train.npy: class counts differ from the manifest",
    ),
    "shard counts of equal sum": _manifest(
        lambda content: [
            shard.update(samples=n)
            for shard, n in zip(_split(content)["shards"], (4, 6), strict=False)
        ],
        "train-00000.tar: 5 samples, the manifest says 4",
        f"{TAR}: 5 samples, the manifest says 6",
    ),
    "class name": _manifest(
        lambda content: content["classes"].__setitem__(0, "aleph"),
        "manifest.json: corpus_hash is not the hash",
        ...,
    ),
    "tar of another run": _changed(
        lambda folder: (folder / "train-00009.tar").write_bytes(b"of another run"),
        "train-00009.tar: is not in the manifest, but readers of *.tar would read it",
    ),
    "specimen in both splits": _specimen_in_both_splits,
    "overlap across the split": _overlap_across_the_split,
    "sample in another split": _sample_in_another_split,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named(folder: Path, damage: Damage) -> None:
    expected = damage(folder)
    _check(faults_of(folder), expected)


# Wrong content behind good checksums


def _no_jpeg(folder: Path) -> Expected:
    image = members(folder / TAR, "jpg")[0]
    overwrite(folder / TAR, image.offset, b"GARBAGE!")
    sample = f"{TAR}: sample {image.key}: image "
    return [f"{sample}bytes differ", f"{sample}does not decode"]


def _flipped_image_resigned(folder: Path) -> Expected:
    return _flipped_image(folder)[1:]


def _tar_cut_between_samples(folder: Path) -> Expected:
    last = members(folder / TAR, "cls")[-1]
    os.truncate(folder / TAR, last.offset - 512)  # a good tar, without its last sample
    (folder / IDX).write_text(dali_index(list_members(folder / TAR)))
    return [f"{TAR}: 4 samples, the manifest says 5", f"{TAR}: 4 samples, the index has 5"]


def _dali_index_of_another_tar(folder: Path) -> Expected:
    shutil.copyfile(folder / "train-00002.idx", folder / IDX)
    return [f"{IDX}: does not describe {TAR}"]


def _wrong_label(folder: Path) -> Expected:
    label = members(folder / TAR, "cls")[0]
    right = (folder / TAR).read_bytes()[label.offset] - ord("0")
    wrong = (right + 1) % 3
    overwrite(folder / TAR, label.offset, str(wrong).encode())
    name = ("alpha", "beta", "gamma")[right]
    sample = f"{TAR}: sample {label.key}: "
    return [
        f"{sample}label {wrong} does not fit class {name!r}",
        f"{sample}the index row does not describe it",
    ]


def _label(text: bytes) -> Damage:
    def damage(folder: Path) -> Expected:
        label = members(folder / TAR, "cls")[0]
        overwrite(folder / TAR, label.offset, text)
        return [f"{TAR}: sample {label.key}: label ", ...]

    return damage


def _sample_without_its_label(folder: Path) -> Expected:
    key = list_members(folder / TAR)[0].key
    with tarfile.open(folder / TAR) as old, tarfile.open(folder / "new", "w") as new:
        for member in old:
            if member.name != f"{key}.cls":
                new.addfile(member, old.extractfile(member))
    (folder / "new").replace(folder / TAR)
    (folder / IDX).write_text(dali_index(list_members(folder / TAR)))
    parts = "has the parts jpg, json; expected one image, cls and json"
    return [f"{TAR}: sample {key}: {parts}", ...]


def test_threads_and_samples_of_the_images(folder: Path, resign: Resign) -> None:
    _no_jpeg(folder)
    resign(folder)
    manifest = read_manifest(folder)
    faults = list(find_faults(folder, manifest))
    assert list(find_faults(folder, manifest, workers=4)) == faults
    undecoded = list(find_faults(folder, manifest, decode=0))
    assert [fault for fault in faults if fault not in undecoded] == faults[1:]


def _edited_row(column: str) -> Damage:
    def damage(folder: Path) -> Expected:
        def edit(index: Any) -> None:
            index[column][6] += 1  # the second sample of the second shard

        edit_index(folder, "train", edit)
        key = members(folder / TAR, "cls")[1].key
        counts = ["train.npy: class counts differ"] if column == "label" else []
        return [*counts, f"{TAR}: sample {key}: the index row does not describe it"]

    return damage


RESIGNED: dict[str, Damage] = {
    "flipped bit of an image": _flipped_image_resigned,
    "no JPEG": _no_jpeg,
    "tar cut between samples": _tar_cut_between_samples,
    "DALI index of another tar": _dali_index_of_another_tar,
    "wrong label": _wrong_label,
    "label that is no number": _label(b"x"),
    "label that is no class": _label(b"7"),
    "sample without its label": _sample_without_its_label,
    **{f"edited {name}": _edited_row(name) for name in ("offset", "size", "label", "height")},
    "edited width": _edited_row("width"),
    # Counting up to it would take 32 GiB.
    "label beyond all classes": _index("label", 0, 2**32 - 1, "train.npy: class counts", ...),
    "row of another shard": _index(
        "shard",
        0,
        1,
        "train-00000.tar: 5 samples, the index has 4",
        f"{TAR}: 5 samples, the index has 6",
    ),
}


@pytest.mark.parametrize("damage", RESIGNED.values(), ids=RESIGNED)
def test_damage_behind_good_checksums_is_named(
    folder: Path, resign: Resign, damage: Damage
) -> None:
    expected = damage(folder)
    resign(folder)
    _check(faults_of(folder), expected)


def test_good_set_has_no_faults(folder: Path, resign: Resign) -> None:
    resign(folder)  # else the tests that resign would find its own faults
    assert faults_of(folder) == []


def test_set_without_validation_has_no_faults(corpus: Path, tmp_path: Path) -> None:
    write_set(corpus, tmp_path / "out", val_per_class=0)
    assert faults_of(tmp_path / "out") == []


@pytest.mark.parametrize("offset", [0, 10, 15, 20, 25, 60])
def test_damaged_index_header_is_named(folder: Path, offset: int) -> None:
    flip(folder / "train.npy", offset, mask=2)
    assert faults_of(folder)[0].startswith("train.npy: ")


@pytest.mark.parametrize("name", ["samples.csv", "overlaps.csv", "rejects.jsonl"])
def test_edited_or_missing_table_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    assert f"{name}: {DIFFERS}" in faults_of(folder)
    (folder / name).unlink()
    assert f"{name}: cannot be read: No such file or directory" in faults_of(folder)


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
        flip(folder / name, offset, mask)
        assert faults_of(folder), (name, offset, mask)
        flip(folder / name, offset, mask)
    assert faults_of(folder) == []
