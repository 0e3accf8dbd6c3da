"""Writing that ends in an error: what it says, and what it leaves behind."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from written_sets import files_of, write_set

from micrograph.cli import UserError
from micrograph.locks import lock_folder
from shards.write import WriteConfig

MakeCorpus = Callable[..., Path]


def _finished(folder: Path) -> list[Path]:
    return list(folder.rglob("manifest.json"))


def test_class_whose_images_are_all_rejected_is_an_error(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 3})
    (root / "b").mkdir()
    (root / "b" / "1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"class b: all images were rejected, b/1\.png as empty"):
        write_set(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not _finished(tmp_path)


def test_out_must_be_new_or_empty(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="used exists and is not empty"):
        write_set(corpus, tmp_path / "used")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="exists"):
        write_set(corpus, tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"):
        write_set(corpus, tmp_path / "file" / "out")
    (tmp_path / "empty").mkdir()
    write_set(corpus, tmp_path / "empty")
    assert files_of(tmp_path / "used") == {"mine.txt": b"precious"}
    assert (tmp_path / "file").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"used", "file", "empty"}


def test_second_run_to_the_same_out_is_refused(corpus: Path, tmp_path: Path) -> None:
    refused = pytest.raises(UserError, match=r"another process is at work in .*out\.partial")
    with lock_folder(tmp_path / "out.partial", None), refused:
        write_set(corpus, tmp_path / "out")
    write_set(corpus, tmp_path / "out")


@pytest.mark.parametrize("place", ["work", "out.partial"])
def test_folder_of_other_things_is_not_worked_in(corpus: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / place / "deep").mkdir(parents=True)
    (tmp_path / place / "deep" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds files that no run made; choose a new or empty"):
        write_set(corpus, tmp_path / "out", work=tmp_path / place)
    assert (tmp_path / place / "deep" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("setting", ["out", "work"])
def test_nothing_is_made_in_the_source(
    make_corpus: MakeCorpus, tmp_path: Path, setting: str
) -> None:
    root = make_corpus(tmp_path / "corpus", {"a": 3})
    folders = {"out": tmp_path / "out", "work": tmp_path / "work"} | {setting: root / "new"}
    with pytest.raises(UserError, match=r"new is inside the source .*corpus; choose one outside"):
        write_set(root, folders["out"], work=folders["work"])
    assert [path.name for path in root.iterdir()] == ["a"]


def test_work_on_another_file_system_is_copied(
    corpus: Path, fast_set: Path, tmp_path: Path
) -> None:
    with TemporaryDirectory(dir="/dev/shm") as work:
        if Path(work).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("no second file system at hand")
        write_set(corpus, tmp_path / "out", work=Path(work) / "w", shard_samples=5)
        assert list(Path(work).iterdir()) == []
    assert files_of(tmp_path / "out") == files_of(fast_set)


def test_leftovers_of_other_options_do_not_get_into_the_set(
    corpus: Path, tmp_path: Path, fast_set: Path
) -> None:
    partial = tmp_path / "out.partial"
    (partial / "spool").mkdir(parents=True)
    (partial / "spool" / ".shards-write").touch()
    (partial / "spool" / "0123.images").write_bytes(b"half a chunk")
    for name in ("train-00009.tar", "train-00009.idx", "manifest.json"):
        (partial / name).write_bytes(b"from a run with smaller shards")
    write_set(corpus, tmp_path / "out", shard_samples=5)
    assert files_of(tmp_path / "out") == files_of(fast_set)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_side": 31}, "max_side must be at least 32 pixels, not 31"),
        ({"val_per_class": -1}, "val_per_class must not be negative, but is -1"),
        ({"max_val_share": 0.0}, r"max_val_share must be between 0 and 1, not 0\.0"),
        ({"max_val_share": 1.0}, r"max_val_share must be between 0 and 1, not 1\.0"),
        ({"max_side": 70_000}, "max_side must be at most 65500 pixels in a JPEG"),
        ({"shard_samples": 0}, "must be at least 1"),
        ({"workers": 0}, "must be at least 1"),
        ({"out": "."}, r"out must name a folder to create, not '\.'"),
        ({"val_share": 1.0}, r"val_share must be between 0 and 1, not 1\.0"),
        ({"split": "folds", "split_overlaps": True}, "split_overlaps goes with per_class or share"),
        ({"folds": 3, "fold": 3}, "fold must be in 0 to 2, not 3"),
        ({"corpus": Path("x.yaml")}, "give either --source or --corpus"),
        ({"source": None}, "give either --source or --corpus"),
    ],
)
def test_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WriteConfig(**({"source": "x", "out": "y"} | settings))
