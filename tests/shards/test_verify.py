"""Verifying: a whole set passes, and each damaged file is named."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import TAR, faults_of, flip, members, overwrite

from shards.schema import (
    INDEX_DTYPE,
)
from shards.tars import dali_index, list_members
from shards.verify import main
from shards.write import WriteConfig, write_shards

Resign = Callable[[Path], None]


@pytest.fixture
def folder(fast_set: Path, tmp_path: Path) -> Path:
    """A copy of `fast_set` to damage."""
    return shutil.copytree(fast_set, tmp_path / "set")


# Exit codes


@pytest.mark.parametrize("name", ["fast_set", "exact_set"])
def test_whole_set_is_silent_on_stdout(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    main([str(request.getfixturevalue(name))])  # no SystemExit: code 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "complete, 29 images, 3 classes" in captured.err


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
    assert faults_of(out) == []


def test_resigned_set_is_whole(folder: Path, resign: Resign) -> None:
    resign(folder)  # else the tests that resign would find its own faults
    assert faults_of(folder) == []


# Damaged files


def test_flipped_byte_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = members(folder / TAR, "jpg")[2]
    flip(folder / TAR, image.offset + image.size // 2)
    with pytest.raises(SystemExit) as stopped:
        main([str(folder)])
    assert stopped.value.code == 1
    faults = capsys.readouterr().out.splitlines()
    assert faults[0] == f"{TAR}: SHA-256 differs from the manifest"
    assert faults[1] == f"{TAR}: sample {image.key}: image bytes differ from their SHA-256"
    assert all(image.key in fault for fault in faults[1:])


def test_flipped_byte_is_found_by_the_sample_itself(folder: Path, resign: Resign) -> None:
    image = members(folder / TAR, "jpg")[2]
    flip(folder / TAR, image.offset + image.size // 2)
    resign(folder)
    assert f"{TAR}: sample {image.key}: image bytes differ from their SHA-256" in faults_of(folder)


def test_image_that_does_not_decode_is_named(folder: Path, resign: Resign) -> None:
    image = members(folder / TAR, "jpg")[0]
    overwrite(folder / TAR, image.offset, b"GARBAGE!")
    resign(folder)
    assert any(f"sample {image.key}: image does not decode" in fault for fault in faults_of(folder))


@pytest.mark.parametrize("middle", [True, False], ids=["middle of an image", "nothing left"])
def test_truncated_shard_is_named(folder: Path, middle: bool) -> None:
    size = (folder / TAR).stat().st_size
    image = members(folder / TAR, "jpg")[2]
    keep = image.offset + image.size // 2 if middle else 0
    os.truncate(folder / TAR, keep)
    faults = faults_of(folder)
    assert faults[:2] == [
        f"{TAR}: {keep} bytes, the manifest says {size}",
        f"{TAR}: SHA-256 differs from the manifest",
    ]
    assert faults[2].startswith(f"{TAR}: cannot be read: ")


def test_shard_cut_between_samples_is_named(folder: Path, resign: Resign) -> None:
    last = members(folder / TAR, "cls")[-1]
    os.truncate(folder / TAR, last.offset - 512)  # a good tar, without its last sample
    (folder / "train-00001.idx").write_text(dali_index(list_members(folder / TAR)))
    resign(folder)
    assert faults_of(folder) == [
        f"{TAR}: 4 samples, the manifest says 5",
        f"{TAR}: 4 samples, the index has 5",
    ]


def test_missing_shard_is_named_and_the_others_are_looked_at(folder: Path) -> None:
    (folder / TAR).unlink()
    flip(folder / "val-00000.tar", members(folder / "val-00000.tar", "jpg")[0].offset + 200)
    faults = faults_of(folder)
    assert faults[0].startswith(f"{TAR}: cannot be read: [Errno 2]")
    assert faults[1] == "val-00000.tar: SHA-256 differs from the manifest"


def test_damaged_dali_index_is_named(folder: Path) -> None:
    flip(folder / "train-00001.idx", 10, mask=0x80)  # no ASCII any more
    assert faults_of(folder) == [
        "train-00001.idx: SHA-256 differs from the manifest",
        f"train-00001.idx: does not describe {TAR}",
    ]


def test_dali_index_of_another_tar_is_named(folder: Path, resign: Resign) -> None:
    shutil.copyfile(folder / "train-00002.idx", folder / "train-00001.idx")
    resign(folder)
    assert faults_of(folder) == [f"train-00001.idx: does not describe {TAR}"]


@pytest.mark.parametrize("name", ["train", "val"])
def test_missing_index_is_named(folder: Path, name: str) -> None:
    (folder / f"{name}.npy").unlink()
    (fault,) = faults_of(folder)
    assert fault.startswith(f"{name}.npy: cannot read index")


@pytest.mark.parametrize("offset", [0, 10, 15, 20, 25, 60])
def test_damaged_index_header_is_named(folder: Path, offset: int) -> None:
    flip(folder / "train.npy", offset, mask=2)
    assert faults_of(folder)[0].startswith("train.npy: ")


def test_truncated_index_is_named(folder: Path) -> None:
    os.truncate(folder / "train.npy", (folder / "train.npy").stat().st_size - 1)
    (fault,) = faults_of(folder)
    assert fault.startswith("train.npy: cannot read index")


@pytest.mark.parametrize(
    "index",
    [np.zeros(25, np.int64), np.zeros((5, 5), INDEX_DTYPE), np.zeros((), INDEX_DTYPE)],
    ids=["type", "table", "scalar"],
)
def test_index_of_another_layout_is_named(folder: Path, index: np.ndarray[Any, Any]) -> None:
    np.save(folder / "train.npy", index)
    (fault,) = faults_of(folder)
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
        flip(folder / name, offset, mask)
        assert faults_of(folder), (name, offset, mask)
        flip(folder / name, offset, mask)
    assert faults_of(folder) == []
