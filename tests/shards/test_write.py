"""Writing a shard set: layout, bytes, split, statistics, and what an error leaves behind."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shards.cli import UserError
from shards.schema import INDEX_DTYPE, Manifest, read_index, read_manifest
from shards.sources import is_image_name
from shards.verify import find_faults
from shards.write import WriteConfig, main, write_shards

MakeCorpus = Callable[..., Path]


def _write(source: Path, out: Path, **settings: Any) -> Manifest:
    quiet = {"workers": 1, "report": False}
    return write_shards(WriteConfig(source=str(source), out=str(out), **(quiet | settings)))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _samples(folder: Path, split: str) -> dict[str, dict[str, bytes]]:
    """Key -> suffix -> bytes, over all tars of a split, in order."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, suffix = member.name.split(".", 1)
                stream = tar.extractfile(member)
                assert stream is not None
                samples.setdefault(key, {})[suffix] = stream.read()
    return samples


def _sources(folder: Path, split: str) -> list[str]:
    return [json.loads(parts["json"])["source"] for parts in _samples(folder, split).values()]


def _stored_images(folder: Path, split: str, suffix: str) -> list[np.ndarray[Any, Any]]:
    return [
        np.asarray(Image.open(io.BytesIO(parts[suffix])))
        for parts in _samples(folder, split).values()
    ]


def _save(path: Path, *shape: int, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


# Layout and manifest


def test_a_shard_set_has_these_files(fast_set: Path) -> None:
    # 29 images, a fifth of each class validating (2 + 1 + 1): 25 in tars of 5, and 4.
    train = [f"train-0000{number}.{suffix}" for number in range(5) for suffix in ("idx", "tar")]
    others = ["manifest.json", "overlaps.csv", "rejects.jsonl", "samples.csv"]
    others += ["train.npy", "val.npy"]
    assert sorted(_files(fast_set)) == sorted([*train, "val-00000.idx", "val-00000.tar", *others])


def test_a_sample_is_image_label_and_provenance(fast_set: Path) -> None:
    for parts in _samples(fast_set, "train").values():
        assert set(parts) == {"jpg", "cls", "json"}


def test_label_is_the_class_index_in_ascii_digits(fast_set: Path) -> None:
    labels = {"alpha": b"0", "beta": b"1", "gamma": b"2"}
    for parts in _samples(fast_set, "train").values():
        assert parts["cls"] == labels[json.loads(parts["json"])["class"]]


def test_provenance_leads_back_to_the_source_file(fast_set: Path, corpus: Path) -> None:
    for parts in _samples(fast_set, "val").values():
        said = json.loads(parts["json"])
        source = (corpus / said["source"]).read_bytes()
        assert said == {
            "class": said["source"].split("/")[0],
            "source": said["source"],
            "source_sha256": hashlib.sha256(source).hexdigest(),
            "image_sha256": hashlib.sha256(parts["jpg"]).hexdigest(),
            "height": 48,
            "width": 64,
            "notes": [],
        }


def test_every_image_is_in_exactly_one_split(fast_set: Path, corpus: Path) -> None:
    written = Counter(_sources(fast_set, "train") + _sources(fast_set, "val"))
    assert written == {path.relative_to(corpus).as_posix(): 1 for path in corpus.rglob("*.png")}


def test_manifest_counts_what_was_written(fast_set: Path) -> None:
    manifest = read_manifest(fast_set)
    assert manifest.classes == ("alpha", "beta", "gamma")
    assert manifest.splits["train"].samples == 25
    assert manifest.splits["train"].class_counts == (10, 8, 7)
    assert [shard.samples for shard in manifest.splits["train"].shards] == [5, 5, 5, 5, 5]
    assert manifest.splits["val"].samples == 4
    assert manifest.splits["val"].class_counts == (2, 1, 1)
    assert manifest.rejected == {}


def test_manifest_states_version_and_imagenet_normalisation(fast_set: Path) -> None:
    manifest = read_manifest(fast_set)
    assert manifest.schema_version == 2
    assert manifest.tool.startswith("micrograph-pretrain ")
    assert manifest.mean == (0.485, 0.456, 0.406)
    assert manifest.std == (0.229, 0.224, 0.225)


def test_manifest_records_the_options_that_decide_the_content(fast_set: Path) -> None:
    assert read_manifest(fast_set).options == {
        "profile": "fast",
        "max_side": 512,
        "grey": False,
        "data_bars": "crop",
        "overlays": "keep",
        "masks": "reject",
        "near_duplicates": True,
        "group_pattern": None,
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
    files = _files(fast_set)
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
    labels = [int(parts["cls"]) for parts in _samples(fast_set, "train").values()]
    assert index["label"].tolist() == labels


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
    _write(here, tmp_path / "one", workers=1, shard_samples=6)
    _write(there, tmp_path / "two", workers=2, shard_samples=6)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"profile": "exact"}, {"max_side": 48}, {"val_per_class": 1}]
)
def test_corpus_hash_changes_with_the_content(
    corpus: Path, tmp_path: Path, fast_set: Path, change: dict[str, Any]
) -> None:
    changed = _write(corpus, tmp_path / "out", **({"shard_samples": 5} | change))
    assert changed.corpus_hash != read_manifest(fast_set).corpus_hash


def test_samples_are_shuffled_over_classes_and_shards(fast_set: Path) -> None:
    first_shard = read_index(fast_set, "train")["label"][:5].tolist()
    assert len(set(first_shard)) > 1
    assert first_shard != sorted(first_shard)


def test_the_seed_decides_the_order(corpus: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        _write(corpus, tmp_path / str(seed), seed=seed, val_per_class=0)
    first, second = (_sources(tmp_path / str(seed), "train") for seed in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)


# What an error leaves


def _finished(folder: Path) -> list[Path]:
    return list(folder.rglob("manifest.json"))


def test_class_whose_images_are_all_rejected_is_an_error(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 3})
    (root / "b").mkdir()
    (root / "b" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"class b: all images were rejected, b/1\.png as empty"):
        _write(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not _finished(tmp_path)


def test_out_that_is_in_use_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="out exists and is not empty"):
        _write(corpus, out)
    assert _files(tmp_path / "out") == {"mine.txt": b"precious"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_out_that_is_a_file_is_left_alone(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(UserError, match="exists"):
        _write(corpus, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_second_run_to_the_same_out_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    descriptor = os.open(tmp_path / "out.partial", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match=r"another run is writing in .*out\.partial"):
        _write(corpus, tmp_path / "out")
    os.close(descriptor)
    _write(corpus, tmp_path / "out")


@pytest.mark.parametrize("place", ["work", "out.partial"])
def test_folder_of_other_things_is_not_worked_in(corpus: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / place / "deep").mkdir(parents=True)
    (tmp_path / place / "deep" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds other things than a run; choose a new or empty"):
        _write(corpus, tmp_path / "out", work=tmp_path / place)
    assert (tmp_path / place / "deep" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("setting", ["out", "work"])
def test_nothing_is_made_in_the_source(
    make_corpus: MakeCorpus, tmp_path: Path, setting: str
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 3})
    folders = {"out": tmp_path / "out", "work": tmp_path / "work"} | {setting: root / "new"}
    with pytest.raises(UserError, match=r"new lies in the source .*corpus; choose one outside"):
        _write(root, folders["out"], work=folders["work"])
    assert [path.name for path in root.iterdir()] == ["a"]


def test_work_on_another_file_system_is_copied(
    corpus: Path, fast_set: Path, tmp_path: Path
) -> None:
    with TemporaryDirectory(dir="/dev/shm") as work:
        if Path(work).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("no second file system at hand")
        _write(corpus, tmp_path / "out", work=Path(work) / "w", shard_samples=5)
        assert list(Path(work).iterdir()) == []
    assert _files(tmp_path / "out") == _files(fast_set)


def test_empty_out_is_used(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    _write(corpus, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_out_under_a_file_cannot_be_written(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"):
        _write(corpus, tmp_path / "file" / "out")


def test_leftovers_of_other_options_do_not_get_into_the_set(
    corpus: Path, tmp_path: Path, fast_set: Path
) -> None:
    partial = tmp_path / "out.partial"
    (partial / "spool").mkdir(parents=True)
    (partial / "spool" / ".shards-write").touch()
    (partial / "spool" / "0123.images").write_bytes(b"half a chunk")
    for name in ("train-00009.tar", "train-00009.idx", "manifest.json"):
        (partial / name).write_bytes(b"from a run with smaller shards")
    _write(corpus, tmp_path / "out", shard_samples=5)
    assert _files(tmp_path / "out") == _files(fast_set)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_side": 31}, "max_side must be at least 32 pixels, not 31"),
        ({"val_per_class": -1}, "val_per_class must not be negative, but is -1"),
        ({"max_val_share": 0.0}, r"max_val_share must lie between 0 and 1, not 0\.0"),
        ({"max_val_share": 1.0}, r"max_val_share must lie between 0 and 1, not 1\.0"),
        ({"max_side": 70_000}, "max_side must be at most 65500 pixels in a JPEG"),
        ({"shard_samples": 0}, "must be at least 1"),
        ({"workers": 0}, "must be at least 1"),
        ({"out": "."}, r"out must name a folder to create, not '\.'"),
        ({"val_share": 1.0}, r"val_share must lie between 0 and 1, not 1\.0"),
        ({"split": "folds", "split_overlaps": True}, "split_overlaps goes with per_class or share"),
        ({"folds": 3, "fold": 3}, "fold must lie in 0 to 2, not 3"),
        ({"corpus": Path("x.yaml")}, "give either --source or --corpus"),
        ({"source": None}, "give either --source or --corpus"),
    ],
)
def test_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WriteConfig(**({"source": "x", "out": "y"} | settings))


# The split


def test_small_classes_are_warned_of(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(corpus, tmp_path / "out", val_per_class=2)
    assert (
        "2 classes give fewer validation images than asked for: beta 1 of 2, gamma 1 of 2"
        in capsys.readouterr().err
    )


def test_large_classes_are_not_warned_of(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(corpus, tmp_path / "out", val_per_class=1)
    assert "fewer validation" not in capsys.readouterr().err


def test_every_class_validates_alike_when_it_can(corpus: Path, tmp_path: Path) -> None:
    manifest = _write(corpus, tmp_path / "out", val_per_class=3, max_val_share=0.5)
    assert manifest.splits["val"].class_counts == (3, 3, 3)
    assert manifest.splits["train"].class_counts == (9, 6, 5)


def test_class_of_one_image_trains(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = _write(make_corpus(tmp_path / "corpus", {"a": 1, "b": 2}), tmp_path / "out")
    assert manifest.splits["train"].class_counts == (1, 1)
    assert manifest.splits["val"].class_counts == (0, 1)


def test_set_without_validation_has_an_empty_index(corpus: Path, tmp_path: Path) -> None:
    manifest = _write(corpus, tmp_path / "out", val_per_class=0)
    assert manifest.splits["val"].shards == ()
    assert len(read_index(tmp_path / "out", "val")) == 0


def test_more_images_of_one_class_leave_the_others_split_alone(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    for number, classes in enumerate([{"a": 10, "b": 10}, {"a": 10, "b": 20}]):
        _write(make_corpus(tmp_path / f"corpus{number}", classes), tmp_path / f"out{number}")
    before, after = (
        {path for path in _sources(tmp_path / f"out{number}", "val") if path.startswith("a/")}
        for number in (0, 1)
    )
    assert len(before) == 2
    assert after == before


# Channels and statistics


def test_grey_corpus_has_one_channel(fast_set: Path) -> None:
    assert read_manifest(fast_set).channels == 1
    assert {image.ndim for image in _stored_images(fast_set, "train", "jpg")} == {2}


def test_one_coloured_image_makes_three_channels(exact_set: Path) -> None:
    assert read_manifest(exact_set).channels == 3


def test_grey_option_makes_one_channel(colour_corpus: Path, tmp_path: Path) -> None:
    assert _write(colour_corpus, tmp_path / "out", grey=True).channels == 1
    assert {image.ndim for image in _stored_images(tmp_path / "out", "train", "jpg")} == {2}


def test_pixel_statistics_of_grey_are_those_of_the_stored_images(
    corpus: Path, tmp_path: Path
) -> None:
    manifest = _write(corpus, tmp_path / "out", profile="exact")
    pixels = np.concatenate([i.ravel() for i in _stored_images(tmp_path / "out", "train", "png")])
    assert manifest.pixel_mean == pytest.approx([(pixels / 255).mean()], abs=1e-6)
    assert manifest.pixel_std == pytest.approx([(pixels / 255).std()], abs=1e-6)


def test_grey_image_counts_in_every_channel_of_a_coloured_corpus(
    colour_corpus: Path, tmp_path: Path
) -> None:
    manifest = _write(colour_corpus, tmp_path / "out", profile="exact", val_per_class=0)
    images = _stored_images(tmp_path / "out", "train", "png")
    assert Counter(image.ndim for image in images) == {2: 28, 3: 1}
    pixels = np.concatenate(
        [np.dstack([i] * 3).reshape(-1, 3) if i.ndim == 2 else i.reshape(-1, 3) for i in images]
    )
    assert manifest.pixel_mean == pytest.approx((pixels / 255).mean(0), abs=1e-6)
    assert manifest.pixel_std == pytest.approx((pixels / 255).std(0), abs=1e-6)
    assert len(set(manifest.pixel_mean)) == 3


def test_pixel_statistics_of_jpeg_are_close_to_those_of_the_stored_images(fast_set: Path) -> None:
    manifest = read_manifest(fast_set)
    pixels = np.concatenate([i.ravel() for i in _stored_images(fast_set, "train", "jpg")])
    # Measured before encoding; JPEG moves single pixels, hardly their mean.
    assert manifest.pixel_mean == pytest.approx([(pixels / 255).mean()], abs=0.002)
    assert manifest.pixel_std == pytest.approx([(pixels / 255).std()], abs=0.002)


# Profiles


def test_exact_profile_stores_the_source_pixels(exact_set: Path, colour_corpus: Path) -> None:
    for split in ("train", "val"):
        for parts in _samples(exact_set, split).values():
            source = Image.open(colour_corpus / json.loads(parts["json"])["source"])
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
    _save(tmp_path / "corpus" / "a" / "1.png", 400, 600)
    _write(tmp_path / "corpus", tmp_path / "out", **settings)
    (row,) = read_index(tmp_path / "out", "train")
    (parts,) = _samples(tmp_path / "out", "train").values()
    assert (row["width"], row["height"]) == expected
    assert Image.open(io.BytesIO(parts.get("jpg") or parts["png"])).size == expected


# Real micrographs


@pytest.mark.slow
def test_real_micrographs_are_written_whole(tmp_path: Path) -> None:
    beside = Path(__file__).parents[3] / "shared" / "data" / "corpus"
    source = Path(os.environ.get("MICROGRAPHS", beside))
    if not source.is_dir():
        pytest.skip("no real micrographs: set MICROGRAPHS to a folder of class folders")
    manifest = _write(source, tmp_path / "out", workers=2)
    images = [path for path in source.rglob("*") if path.is_file() and is_image_name(path.name)]
    assert sum(split.samples for split in manifest.splits.values()) == len(images)
    assert list(find_faults(tmp_path / "out", manifest)) == []
