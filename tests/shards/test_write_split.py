"""Writing a shard set: which images validate."""

from collections.abc import Callable
from pathlib import Path

import pytest
from written_sets import sources_of, write_set

from shards.schema import read_index

MakeCorpus = Callable[..., Path]


def test_small_classes_are_warned_of(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(corpus, tmp_path / "out", val_per_class=2)
    assert (
        "2 classes give fewer validation images than asked for: beta 1 of 2, gamma 1 of 2"
        in capsys.readouterr().err
    )


def test_large_classes_are_not_warned_of(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(corpus, tmp_path / "out", val_per_class=1)
    assert "fewer validation" not in capsys.readouterr().err


def test_every_class_validates_alike_when_it_can(corpus: Path, tmp_path: Path) -> None:
    manifest = write_set(corpus, tmp_path / "out", val_per_class=3, max_val_share=0.5)
    assert manifest.splits["val"].class_counts == (3, 3, 3)
    assert manifest.splits["train"].class_counts == (9, 6, 5)


def test_class_of_one_image_trains(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    manifest = write_set(make_corpus(tmp_path / "corpus", {"a": 1, "b": 2}), tmp_path / "out")
    assert manifest.splits["train"].class_counts == (1, 1)
    assert manifest.splits["val"].class_counts == (0, 1)


def test_set_without_validation_has_an_empty_index(corpus: Path, tmp_path: Path) -> None:
    manifest = write_set(corpus, tmp_path / "out", val_per_class=0)
    assert manifest.splits["val"].shards == ()
    assert len(read_index(tmp_path / "out", "val")) == 0


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
