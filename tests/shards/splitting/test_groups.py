"""Copies go, conflicts are named, and what overlaps stays on one side of the split."""

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_images import real_corpus
from written_sets import rejects_of, rows_of, write_set

from micrograph.cli import UserError
from shards.shard_format.schema import read_manifest, read_rows
from shards.synthetic.corpus import draw

MakeCorpus = Callable[..., Path]


def test_copies_in_other_formats_go_and_name_the_first(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 5, "b": 5})
    image = Image.open(root / "a" / "img0.png")
    image.save(root / "a" / "img9.tif")
    Image.merge("RGB", [image] * 3).save(root / "a" / "img8.bmp")
    write_set(root, tmp_path / "out")
    assert rejects_of(tmp_path / "out") == {
        "a/img8.bmp": ("duplicate", "same pixels as a/img0.png of class a"),
        "a/img9.tif": ("duplicate", "same pixels as a/img0.png of class a"),
    }


def test_pixels_with_two_labels_are_left_out_and_named(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 5, "b": 5})
    shutil.copy(root / "a" / "img0.png", root / "b" / "x.png")
    shutil.copy(root / "a" / "img0.png", root / "a" / "x.png")
    manifest = write_set(root, tmp_path / "out")
    assert manifest.rejected == {"conflicting_labels": 3}
    rejects = rejects_of(tmp_path / "out")
    assert rejects["a/img0.png"] == ("conflicting_labels", "same pixels as a/x.png of class a")
    assert rejects["b/x.png"] == ("conflicting_labels", "same pixels as a/img0.png of class a")
    shutil.copytree(root / "a", root / "c")
    with pytest.raises(UserError, match=r"class a: all images were rejected, a/img0\.png as confl"):
        write_set(root, tmp_path / "again")


@pytest.fixture(scope="module")
def fields() -> dict[str, np.ndarray]:
    return {name: draw(name, 420, seed=3, index=0)[0] for name in ("grains", "precipitates")}


@pytest.mark.parametrize(
    "change",
    [
        lambda field: field[80:336, 60:316],
        lambda field: np.asarray(Image.fromarray(field[:256, :256]).resize((180, 180))),
        lambda field: np.asarray(Image.fromarray(field[40:240, 40:240]).resize((256, 256))),
        lambda field: (field[:256, :256] * 0.8 + 20).astype(np.uint8),
        lambda field: np.asarray(Image.fromarray(field).rotate(4))[40:296, 40:296],
    ],
    ids=["shifted", "rescaled", "magnified", "fainter", "turned"],
)
def test_near_duplicates_are_bound(
    tmp_path: Path, fields: dict[str, np.ndarray], change: Callable[[np.ndarray], np.ndarray]
) -> None:
    for name, field in fields.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(field[:256, :256]).save(tmp_path / "in" / name / "first.png")
        Image.fromarray(change(field)).save(tmp_path / "in" / name / "second.png")
    write_set(tmp_path / "in", tmp_path / "out")
    samples = rows_of(tmp_path / "out")
    for name in fields:
        first, second = (samples[f"{name}/{which}.png"] for which in ("first", "second"))
        assert first["group"] == second["group"] == first["key"]
        assert first["split"] == second["split"]


def test_search_can_be_left_out(tmp_path: Path, fields: dict[str, np.ndarray]) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    field = fields["grains"]
    for corner in (0, 40):
        crop = Image.fromarray(field[corner : corner + 256, corner : corner + 256])
        crop.save(tmp_path / "in" / "a" / f"{corner}.png")
    write_set(tmp_path / "in", tmp_path / "out", near_duplicates=False)
    assert {row["group"] for row in rows_of(tmp_path / "out").values()} == {""}


def test_pattern_binds_what_it_captures(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 12, "b": 12})
    pattern = r"/img(\d)\d*\.png"  # img1, img10, img11: one specimen, whatever the class
    write_set(root, tmp_path / "out", specimen_pattern=pattern, max_val_share=0.5)
    sides: dict[str, set[str]] = {}
    for row in rows_of(tmp_path / "out").values():
        sides.setdefault(row["specimen"], set()).add(row["split"])
    assert len(sides) == 10
    assert all(len(found) == 1 for found in sides.values())
    assert {side for found in sides.values() for side in found} == {"train", "val"}


# Real micrographs


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`am_melt_pool` and `shale_sem`, whose overlaps are known from their file names."""
    source = real_corpus()
    names = ("am_melt_pool", "shale_sem")
    if not all((source / name).is_dir() for name in names):
        pytest.skip("no real micrographs: set MICROGRAPHS to a folder of class folders")
    root = tmp_path_factory.mktemp("real")
    (root / "in").mkdir()
    for name in names:
        (root / "in" / name).symlink_to(source / name)
    write_set(root / "in", root / "out", split_overlaps=True, workers=2)
    return root / "out"


def _found(folder: Path, name: str) -> set[frozenset[str]]:
    paths = {row["key"]: path for path, row in rows_of(folder).items()}
    pairs = (
        frozenset((paths[o["first"]], paths[o["second"]]))
        for o in read_rows(folder / "overlaps.csv")
    )
    return {pair for pair in pairs if all(path.startswith(f"{name}/") for path in pair)}


def _shale_place(path: str) -> tuple[int, int]:
    """Column and row: 46 tiles lie below one another, 128 of their 256 pixels apart."""
    return divmod(int(re.findall(r"\d+", path)[-1]), 46)


def _beside(pair: tuple[str, ...], most: int = 2) -> bool:
    """Whether two tiles of the mosaic overlap: by half at 1 step, by a quarter at 2 (diagonal)."""
    (column, row), (other_column, other_row) = map(_shale_place, pair)
    across, down = abs(column - other_column), abs(row - other_row)
    return max(across, down) <= 1 and across + down <= most


def test_all_overlapping_crops_of_the_melt_pool_are_found(real: Path) -> None:
    boxes = {}
    for path in rows_of(real):
        if match := re.match(r"am_melt_pool/(.*)_(\d+)_(\d+)_(\d+)_(\d+)\.png", path):
            boxes[path] = (match[1], *map(int, match.groups()[1:]))
    known = set()
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        wide = min(a[3], b[3]) - max(a[1], b[1])
        high = min(a[4], b[4]) - max(a[2], b[2])
        if a[0] == b[0] and wide > 0 and high > 0:
            known.add(frozenset((one, other)))
    assert len(known) == 51
    assert known <= _found(real, "am_melt_pool")


def test_shale_mosaic_is_one_piece_and_nothing_apart_is_bound(real: Path) -> None:
    places = {path: _shale_place(path) for path in rows_of(real) if "shale" in path}
    known = {frozenset(pair) for pair in itertools.combinations(places, 2) if _beside(pair, 1)}
    pairs = _found(real, "shale_sem")
    assert pairs <= {frozenset(pair) for pair in itertools.combinations(places, 2) if _beside(pair)}
    assert len(known & pairs) >= 0.98 * len(known)  # the half-overlapping ones
    piece = {next(iter(places))}
    while more := {p for pair in pairs if pair & piece for p in pair} - piece:
        piece |= more
    assert len(piece) == 101


def test_cut_mosaic_leaks_nothing(real: Path) -> None:
    manifest = read_manifest(real)
    assert manifest.split_report["cut"]["shale_sem"]["val"] >= 10
    samples = {row["key"]: row for row in rows_of(real).values()}
    for overlap in read_rows(real / "overlaps.csv"):
        sides = {samples[overlap[end]]["split"] for end in ("first", "second")}
        assert sides != {"train", "val"}
    split = {row["path"]: row["split"] for row in samples.values() if "shale" in row["path"]}
    for one, other in itertools.combinations(split, 2):  # by the names, not by what was found
        if _beside((one, other)):
            assert {split[one], split[other]} != {"train", "val"}


def test_rule_that_leaves_a_class_untrained_says_so(
    make_corpus: MakeCorpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 4, "b": 8})
    # All of a are one specimen, which lies in one fold or the other.
    settings = {"specimen_pattern": "^(a)/", "split": "folds", "folds": 2}
    manifests = [write_set(root, tmp_path / str(fold), fold=fold, **settings) for fold in range(2)]
    reports = [manifest.split_report for manifest in manifests]
    assert sorted(r["validation_only"] + r["training_only"] for r in reports) == [["a"], ["a"]]
    assert {len(r["validation_only"]) for r in reports} == {0, 1}
    assert "1 classes have validation but no training images: a" in capsys.readouterr().err
