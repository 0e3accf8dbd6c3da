"""The numbers of a shard set, and how they are printed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from written_sets import write_set

from micrograph.cli import UserError
from shards.report.set_stats import human_bytes, set_stats
from shards.shard_format.schema import read_manifest
from shards.stats import main


def test_contents_are_counted_without_opening_a_tar(exact_set: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exact_set, tmp_path / "set", ignore=shutil.ignore_patterns("*.tar"))
    stats = set_stats(folder, read_manifest(folder))
    counted = {row.name: (row.images, round(row.share, 4)) for row in stats.classes}
    # 12, 9 and 8 of 29 images, in corpus order.
    assert counted == {"alpha": (12, 0.4138), "beta": (9, 0.3103), "gamma": (8, 0.2759)}
    assert stats.splits == {"train": 25, "val": 4}
    assert sum(row.val for row in stats.classes) == 4
    assert (stats.height.min, stats.height.median, stats.height.max) == (48, 48, 48)
    assert (stats.width.min, stats.width.median, stats.width.max) == (64, 64, 64)
    assert (stats.classes[0].median_height, stats.classes[0].median_width) == (48, 64)
    assert (stats.grey, stats.coloured) == (28, 1)
    assert stats.bytes["train"] > 0


def test_missing_table_leaves_gaps_but_a_damaged_index_is_an_error(
    exact_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(exact_set, tmp_path / "set")
    (folder / "samples.csv").unlink()
    stats = set_stats(folder, read_manifest(folder))
    assert (stats.grey, stats.coloured) == (None, None)
    main([str(folder), "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(asdict(stats)))
    (folder / "val.npy").write_bytes(b"not an array")
    with pytest.raises(UserError, match=r"val\.npy"):
        set_stats(folder, read_manifest(folder))


def test_tables_go_to_stdout(fast_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(fast_set)])
    printed = capsys.readouterr()
    for expected in ("alpha", "beta", "gamma", "per_class", "41.4%", "64 x 48", "not stated"):
        assert expected in printed.out
    assert printed.err == ""


def test_names_are_printed_as_they_are(
    make_corpus: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = make_corpus(tmp_path / "corpus", {"[red]no style": 3, "line\nbreak": 3})
    write_set(corpus, tmp_path / "set")
    main([str(tmp_path / "set")])
    printed = capsys.readouterr().out
    assert "[red]no style" in printed
    assert "line\ufffdbreak" in printed


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (64_604_160, "64.6 MB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_bytes_are_said_in_three_digits(count: int, said: str) -> None:
    assert human_bytes(count) == said
