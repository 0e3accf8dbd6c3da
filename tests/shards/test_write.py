"""Writing a shard set: layout, bytes, statistics, profiles, validation."""

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from real_images import real_corpus
from written_sets import files_of, samples_of, save_noise, sources_of, stored_images, write_set

from shards.shard_format.schema import INDEX_DTYPE, read_index, read_manifest
from shards.sources.listing import is_image_name
from shards.verification.faults import find_faults
from shards.write import main

MakeCorpus = Callable[..., Path]


# Layout and manifest


def test_a_shard_set_has_these_files(fast_set: Path) -> None:
    # 29 images, a fifth of each class validating (2 + 1 + 1): 25 in tars of 5, and 4.
    train = [f"train-0000{number}.{suffix}" for number in range(5) for suffix in ("idx", "tar")]
    others = ["manifest.json", "overlaps.csv", "rejects.jsonl", "samples.csv"]
    others += ["train.npy", "val.npy"]
    assert sorted(files_of(fast_set)) == sorted([*train, "val-00000.idx", "val-00000.tar", *others])


def test_a_sample_is_image_label_and_provenance(fast_set: Path, corpus: Path) -> None:
    for key, parts in samples_of(fast_set, "val").items():
        assert set(parts) == {"jpg", "cls", "json"}
        said = json.loads(parts["json"])
        assert parts["cls"] == {"alpha": b"0", "beta": b"1", "gamma": b"2"}[said["class"]], key
        assert said == {
            "class": said["path"].split("/")[0],
            "path": said["path"],
            "file_sha256": hashlib.sha256((corpus / said["path"]).read_bytes()).hexdigest(),
            "image_sha256": hashlib.sha256(parts["jpg"]).hexdigest(),
            "height": 48,
            "width": 64,
            "notes": [],
        }


def test_every_image_is_in_exactly_one_split(fast_set: Path, corpus: Path) -> None:
    written = Counter(sources_of(fast_set, "train") + sources_of(fast_set, "val"))
    assert written == {path.relative_to(corpus).as_posix(): 1 for path in corpus.rglob("*.png")}


def test_manifest_describes_the_set(fast_set: Path) -> None:
    manifest = read_manifest(fast_set)
    assert manifest.schema_version == 1
    assert manifest.tool.startswith("micrograph-pretrain ")
    assert manifest.classes == ("alpha", "beta", "gamma")
    train, val = manifest.splits["train"], manifest.splits["val"]
    assert (train.samples, train.class_counts) == (25, (10, 8, 7))
    assert [shard.samples for shard in train.shards] == [5, 5, 5, 5, 5]
    assert (val.samples, val.class_counts) == (4, (2, 1, 1))
    assert manifest.rejected == {}
    assert (manifest.mean, manifest.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_manifest_records_the_options_that_decide_the_content(fast_set: Path) -> None:
    assert read_manifest(fast_set).options == {
        "profile": "fast",
        "max_side": 512,
        "grey": False,
        "data_bars": "crop",
        "annotations": "keep",
        "masks": "reject",
        "near_duplicates": True,
        "specimen_pattern": None,
        "licence": None,
        "restriction": None,
        "split": "per_class",
        "val_per_class": 50,
        "max_val_share": 0.2,
        "val_share": 0.2,
        "folds": 5,
        "fold": 0,
        "val_source": None,
        "split_overlaps": False,
        "seed": 0,
        "shard_samples": 5,
    }


def test_manifest_holds_the_hash_of_every_tar_and_index(fast_set: Path) -> None:
    files = files_of(fast_set)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, split in read_manifest(fast_set).splits.items():
        assert split.index_sha256 == digests[f"{name}.npy"]
        for shard in split.shards:
            assert shard.bytes == len(files[shard.name])
            assert shard.sha256 == digests[shard.name]
            assert shard.idx_sha256 == digests[shard.name.replace(".tar", ".idx")]


def test_index_row_gives_size_and_label_of_each_sample(fast_set: Path) -> None:
    index = read_index(fast_set, "train")
    assert index.dtype == INDEX_DTYPE
    assert index["shard"].tolist() == [number for number in range(5) for _ in range(5)]
    assert set(zip(index["height"].tolist(), index["width"].tolist(), strict=True)) == {(48, 64)}
    labels = [int(parts["cls"]) for parts in samples_of(fast_set, "train").values()]
    assert index["label"].tolist() == labels
    assert len(set(labels[:5])) > 1  # the classes are shuffled
    assert labels[:5] != sorted(labels[:5])


def test_program_prints_the_folder(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"  # parents are made
    main(["--source", str(corpus), "--out", str(out), "--workers", "1"])
    assert capsys.readouterr().out == f"{out}\n"
    assert (out / "manifest.json").exists()


# Equal input, equal bytes


def test_bytes_depend_on_neither_workers_nor_place(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    here = make_corpus(tmp_path / "here", {"a": 25, "b": 15})  # 40 files are two chunks of work
    (here / "b" / "broken.png").write_bytes(b"\x89PNG")
    there = shutil.copytree(here, tmp_path / "elsewhere" / "corpus", copy_function=shutil.copyfile)
    write_set(here, tmp_path / "one", workers=1, shard_samples=6)
    write_set(there, tmp_path / "two", workers=2, shard_samples=6)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"profile": "exact"}, {"max_side": 48}, {"val_per_class": 1}]
)
def test_corpus_hash_changes_with_the_content(
    corpus: Path, tmp_path: Path, fast_set: Path, change: dict[str, Any]
) -> None:
    changed = write_set(corpus, tmp_path / "out", **({"shard_samples": 5} | change))
    assert changed.corpus_hash != read_manifest(fast_set).corpus_hash
    if "seed" in change:
        first, second = (sources_of(folder, "train") for folder in (fast_set, tmp_path / "out"))
        assert [path for path in first if path in second] != [p for p in second if p in first]


# Channels and statistics


def test_grey_images_and_those_made_grey_have_one_channel(
    fast_set: Path, colour_corpus: Path, tmp_path: Path
) -> None:
    write_set(colour_corpus, tmp_path / "out", grey=True)
    for folder in (fast_set, tmp_path / "out"):
        assert read_manifest(folder).channels == 1
        assert {image.ndim for image in stored_images(folder, "train", "jpg")} == {2}


def test_pixel_statistics_are_those_of_the_stored_images_grey_ones_in_every_channel(
    colour_corpus: Path, tmp_path: Path
) -> None:
    manifest = write_set(colour_corpus, tmp_path / "out", profile="exact", val_per_class=0)
    images = stored_images(tmp_path / "out", "train", "png")
    assert Counter(image.ndim for image in images) == {2: 28, 3: 1}
    pixels = np.concatenate(
        [np.dstack([i] * 3).reshape(-1, 3) if i.ndim == 2 else i.reshape(-1, 3) for i in images]
    )
    assert manifest.pixel_mean == pytest.approx((pixels / 255).mean(0), abs=1e-6)
    assert manifest.pixel_std == pytest.approx((pixels / 255).std(0), abs=1e-6)
    assert len(set(manifest.pixel_mean)) == 3
    grey = write_set(colour_corpus, tmp_path / "grey", profile="exact", grey=True, val_per_class=0)
    pixels = np.concatenate([i.ravel() for i in stored_images(tmp_path / "grey", "train", "png")])
    assert grey.pixel_mean == pytest.approx([(pixels / 255).mean()], abs=1e-6)
    assert grey.pixel_std == pytest.approx([(pixels / 255).std()], abs=1e-6)


# Profiles


def test_exact_profile_stores_the_source_pixels(exact_set: Path, colour_corpus: Path) -> None:
    for split in ("train", "val"):
        for parts in samples_of(exact_set, split).values():
            source = Image.open(colour_corpus / json.loads(parts["json"])["path"])
            stored = Image.open(io.BytesIO(parts["png"]))
            assert stored.format == "PNG"
            assert np.array_equal(np.asarray(stored), np.asarray(source))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (512, 341)),  # the cap of the fast profile
        ({"max_side": 300}, (300, 200)),
        ({"max_side": 1000}, (600, 400)),
        ({"profile": "exact"}, (600, 400)),
        ({"profile": "exact", "max_side": 300}, (300, 200)),
    ],
)
def test_longest_side_is_capped(
    tmp_path: Path, settings: dict[str, Any], expected: tuple[int, int]
) -> None:
    (tmp_path / "corpus" / "a").mkdir(parents=True)
    save_noise(tmp_path / "corpus" / "a" / "1.png", 400, 600)
    write_set(tmp_path / "corpus", tmp_path / "out", **settings)
    (row,) = read_index(tmp_path / "out", "train")
    (parts,) = samples_of(tmp_path / "out", "train").values()
    assert (row["width"], row["height"]) == expected
    assert Image.open(io.BytesIO(parts.get("jpg") or parts["png"])).size == expected


# Which images validate


def test_small_classes_are_warned_of(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(corpus, tmp_path / "out", val_per_class=2)
    assert (
        "2 classes give fewer validation images than asked for: beta 1 of 2, gamma 1 of 2"
        in capsys.readouterr().err
    )
    write_set(corpus, tmp_path / "few", val_per_class=1)
    assert "fewer validation" not in capsys.readouterr().err


def test_every_class_validates_alike_when_it_can(corpus: Path, tmp_path: Path) -> None:
    manifest = write_set(corpus, tmp_path / "out", val_per_class=3, max_val_share=0.5)
    assert manifest.splits["val"].class_counts == (3, 3, 3)
    assert manifest.splits["train"].class_counts == (9, 6, 5)


def test_more_images_of_one_class_leave_the_others_split_alone(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    for number, classes in enumerate([{"a": 10, "b": 10}, {"a": 10, "b": 20}]):
        write_set(make_corpus(tmp_path / f"corpus{number}", classes), tmp_path / f"out{number}")
    before, after = (
        {path for path in sources_of(tmp_path / f"out{number}", "val") if path.startswith("a/")}
        for number in (0, 1)
    )
    assert len(before) == 2
    assert after == before


# Real micrographs


@pytest.mark.slow
def test_real_micrographs_are_written_whole(tmp_path: Path) -> None:
    source = real_corpus()
    manifest = write_set(source, tmp_path / "out", workers=2)
    images = [path for path in source.rglob("*") if path.is_file() and is_image_name(path.name)]
    assert sum(split.samples for split in manifest.splits.values()) == len(images)
    assert list(find_faults(tmp_path / "out", manifest)) == []
