"""The page that shows a corpus: what must be on it, and what must never be."""

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import damage
import numpy as np
import pytest
from html_page import Page
from PIL import Image
from written_sets import write_set

import shards
from shards.report import thumbnails
from shards.report.__main__ import main
from shards.report.build import write_report
from shards.report.reject_reasons import REASONS
from shards.report.selection import MOST_PICTURES, choose, spread, spread_over
from shards.shard_format.read_tables import Sample, Tables
from shards.shard_format.schema import (
    OVERLAP_COLUMNS,
    Manifest,
    SourceInfo,
    read_manifest,
    read_rows,
)
from shards.sources.listing import list_sources
from shards.sources.recipe import plain_source
from shards.write import WriteConfig, write_shards

SECTIONS = [
    "Summary",
    "Images per class",
    "Warnings",
    "Classes",
    "Rejects",
    "Data bars",
    "Annotations",
    "Near-duplicates and groups",
    "Image sizes",
    "Options",
]


@pytest.fixture
def copied(fast_set: Path, tmp_path: Path) -> Path:
    """`fast_set`, to be changed."""
    return shutil.copytree(fast_set, tmp_path / "set")


@pytest.fixture
def odd_corpus(make_corpus: Callable[..., Path], tmp_path: Path) -> Path:
    """Two classes with a file of every kind that is rejected."""
    corpus = make_corpus(tmp_path / "odd", {"one": 6, "two": 6})
    folder = corpus / "one"
    Image.new("L", (64, 48), 77).save(folder / "blank.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[:30, :30], mask[40:] = 1, 2
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(folder / "tiny.png")
    shutil.copy(folder / "img0.png", folder / "same.png")
    shutil.copy(folder / "img1.png", corpus / "two" / "other_label.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("by hand")
    return corpus


def page_of(folder: Path, manifest: Manifest | None = None, source: Path | None = None) -> Page:
    listing = None if source is None else list_sources([plain_source(str(source))])
    write_report(folder, manifest or read_manifest(folder), listing)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def edit_samples(folder: Path, column: str, values: Sequence[str]) -> list[dict[str, str]]:
    """Set `column` of the first rows of samples.csv; the rows as they are then."""

    def edit(rows: list[dict[str, str]]) -> None:
        for row, value in zip(rows, values, strict=False):
            row[column] = value

    damage.edit_samples(folder, edit)
    return list(read_rows(folder / "samples.csv"))


def write_pair(folder: Path, first: str, second: str, **numbers: float) -> None:
    row = {"rotation": 0.0, "overlap_fraction": 0.5, "matches": 9, "score": 0.9, **numbers}
    with (folder / "overlaps.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, OVERLAP_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerow({"first": first, "second": second, **row})


def test_sections_stand_in_their_order_and_in_the_contents(copied: Path) -> None:
    page = page_of(copied)
    assert page.titles == SECTIONS
    assert "Not searched for: --annotations find ." in page.text
    links = [link for link in page.values("a", "href") if not link.startswith("#class-")]
    anchors = page.values("section", "id")
    assert links[: len(anchors)] == [f"#{anchor}" for anchor in anchors]


def test_page_needs_nothing_from_outside(copied: Path, corpus: Path) -> None:
    page = page_of(copied, source=corpus)
    assert page.count("script") == page.count("link") == 0
    assert page.count("img") > 0
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in page.values("img", "src"))
    assert all(link.startswith("#") for link in page.values("a", "href"))
    assert "url(" not in (copied / "report.html").read_text()


def test_writing_makes_the_page_and_the_command_makes_the_same(
    odd_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    write_set(odd_corpus, folder, report=True)
    first = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    main([str(folder), "--source", str(odd_corpus)])
    assert (folder / "report.html").read_bytes() == first
    assert str(tmp_path).encode() not in first
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"


def test_every_class_shows_images_of_both_splits(copied: Path) -> None:
    edit_samples(copied, "split", ["val"] * 3)  # of alpha, whose 12 images come first
    page = page_of(copied)
    assert page.count("figure", "val") >= 2
    shown = [str(a["alt"]) for t, a in page.tags if t == "img"]
    assert len([name for name in shown if name.startswith("alpha/")]) == 8
    assert len([name for name in shown if name.startswith("gamma/")]) == 8


def test_each_reason_is_explained_with_its_files(
    odd_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "set"
    write_set(odd_corpus, written)
    assert "python -m shards.report DIR --source PATH" in page_of(written).text
    page = page_of(written, source=odd_corpus)
    for expected in (
        "blank 1 Every pixel has the same value.",
        "conflicting labels 2 The same pixels are in more than one class",
        "duplicate 1 The same pixels as an image that was kept",
        "empty 1 The file has no bytes.",
        "mask 1 So few values",
        "not an image 1 Not an image by its suffix or content.",
        "too small 1 A side is shorter than the 32 pixels",
        "one/tiny.png 20 x 20 pixels",
        "one/notes.txt — suffix .txt",
    ):
        assert expected in page.text
    shown = page.values("img", "alt")
    drawn = {"blank", "mask", "tiny", "same", "img1"}
    assert {name for name in drawn if f"one/{name}.png" in shown} == drawn

    monkeypatch.setattr(thumbnails, "MAX_FILE_BYTES", 10)  # too large to read, as if missing
    page = page_of(written, source=odd_corpus)
    # blank, mask, tiny, same and the two of conflicting labels
    assert "6 files could not be shown" in page.text
    assert page.text.count("not available") == 6


def test_sources_of_a_recipe_are_named_and_read(odd_corpus: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "both.yaml"
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", odd_corpus)
    recipe.write_text(
        f"name: both\nsources:\n- {{name: plain, path: {odd_corpus}}}\n"
        f"- {{name: packed, path: {archive}, restriction: none of yours}}\n"
    )
    out = tmp_path / "set"
    write_shards(WriteConfig(corpus=recipe, out=str(out), workers=1))
    first = (out / "report.html").read_bytes()
    main([str(out), "--corpus", str(recipe)])
    assert (out / "report.html").read_bytes() == first
    page = Page(first.decode())
    assert "Corpus both" in page.text
    assert "packed: one/tiny.png" in page.values("img", "alt")
    assert "Restricted images. packed : none of yours." in page.text


def test_the_cut_of_a_data_bar_is_drawn_in_the_file(copied: Path, corpus: Path) -> None:
    edit_samples(copied, "data_bar", ["bottom 40/48", "top 6/48"])
    page = page_of(copied, source=corpus)
    lines = [tuple(map(str, a.values())) for t, a in page.tags if t == "line"]
    assert lines == [("0", "40", "64", "40"), ("0", "6", "64", "6")]
    cuts = [(a["y"], a["height"]) for t, a in page.tags if t == "rect"]
    assert cuts == [("40", "8"), ("0", "6")]
    assert "bottom bar, cut at row 40 of 48" in page.text


@pytest.mark.parametrize(
    ("place", "outlines"),
    [
        # The second's 64 x 48 at half size from (16, 8); the first's corners the other way round.
        (
            {"x": 16, "y": 8, "scale": 0.5},
            [
                "16.0,8.0 48.0,8.0 48.0,32.0 16.0,32.0",
                "-32.0,-16.0 96.0,-16.0 96.0,80.0 -32.0,80.0",
            ],
        ),
        # By a quarter, x becomes y: (64, 0) -> (0, 64), and (0, 48) -> (-48, 0).
        (
            {"x": 0, "y": 0, "scale": 1, "rotation": np.pi / 2},
            ["0.0,0.0 0.0,64.0 -48.0,64.0 -48.0,0.0", "0.0,0.0 0.0,-64.0 48.0,-64.0 48.0,-0.0"],
        ),
    ],
    ids=["scaled", "rotated"],
)
def test_the_outlines_of_a_pair_are_drawn_in_each_other(
    copied: Path, place: dict[str, float], outlines: list[str]
) -> None:
    rows = edit_samples(copied, "group", [])
    write_pair(copied, rows[0]["key"], rows[1]["key"], **place)
    drawn = page_of(copied).values("polygon", "points")
    assert [line.replace("-0.0", "0.0") for line in drawn] == [
        line.replace("-0.0", "0.0") for line in outlines
    ]
    edit_samples(copied, "split", ["left_out"])
    assert page_of(copied).count("polygon") == 0


def test_marks_are_framed_where_the_provenance_has_them(copied: Path) -> None:
    key = edit_samples(copied, "annotations", ["3"])[0]["key"]
    # Stored at 48 x 64 pixels, found in 96 x 128: the boxes' pixels are half as large.
    said = json.dumps({"annotations": {"of": [96, 128], "boxes": [[20, 40, 32, 88]]}}).encode()
    for idx in copied.glob("*.idx"):
        content = idx.read_text()
        if f" {key}.json" in content:
            tar = idx.with_suffix(".tar")
            place = rf"json \d+ \d+ {key}\.json"
            new = f"json {tar.stat().st_size} {len(said)} {key}.json"
            idx.write_text(re.sub(place, new, content))
            with tar.open("ab") as stream:
                stream.write(said)
    page = page_of(copied)
    box = next(a for t, a in page.tags if t == "rect")
    margin = 64 / 150
    left, top, width, height = (float(str(box[name])) for name in ("x", "y", "width", "height"))
    assert (left, top) == pytest.approx((20 - margin, 10 - margin), abs=1e-3)
    assert (width, height) == pytest.approx((24 + 2 * margin, 6 + 2 * margin), abs=1e-3)
    assert "alpha, 3 marks" in page.text


def test_groups_of_several_classes_come_with_a_warning(copied: Path) -> None:
    rows = edit_samples(copied, "group", [])
    places = [i for i, row in enumerate(rows) if row["class"] in ("alpha", "beta")]
    edit_samples(copied, "group", [rows[places[0]]["key"]] * len(places))
    page = page_of(copied, replace(read_manifest(copied), decisions={"groups": 1}))
    assert "1 group of several classes." in page.text
    assert "21 images of alpha, beta" in page.text


def test_what_needs_a_decision_comes_with_a_warning(exact_set: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exact_set, tmp_path / "set")
    manifest = read_manifest(folder)
    source = SourceInfo(
        name="lab", samples=29, licence="CC-BY-4.0", restriction="ITAR only", citation="Lab, 2026"
    )
    page = page_of(folder, replace(manifest, sources=(source,)))
    assert "Restricted images. lab : ITAR only." in page.text
    assert "No licence stated" not in page.text
    assert "Lab, 2026" in page.text
    assert "Coloured: 1 of 29 images" in page.text
    counts = manifest.splits["val"].class_counts
    empty = replace(manifest.splits["val"], class_counts=(0, *counts[1:]))
    page = page_of(folder, replace(manifest, splits={**manifest.splits, "val": empty}))
    assert "Only for training: 1 of 3 classes" in page.text
    assert page.text.count("trains only") == 1
    empty = replace(manifest.splits["val"], class_counts=(0,) * len(counts), samples=0)
    page = page_of(folder, replace(manifest, splits={**manifest.splits, "val": empty}))
    assert "No validation images." in page.text


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_names_cannot_break_the_page(make_corpus: Callable[..., Path], tmp_path: Path) -> None:
    hostile = "<i>&\"' \u202e" + "x" * 180  # its bytes just fit into a file system
    corpus = make_corpus(tmp_path / "corpus", {"plain": 3, hostile: 3})
    image = (corpus / "plain" / "img0.png").read_bytes()
    Path(os.fsdecode(os.fsencode(corpus / "plain") + b"/\xff\xfe<b>.png")).write_bytes(image[:200])
    (corpus / "plain" / "new\nline.png").write_bytes(image)  # a duplicate
    write_set(corpus, tmp_path / "set")
    page = page_of(tmp_path / "set", source=corpus)
    raw = (tmp_path / "set" / "report.html").read_bytes().decode("utf-8")  # strictly
    kinds = ("train", "val", "all", "frame")
    assert page.count("i") == sum(page.count("i", kind) for kind in kinds)  # all are the page's
    assert "<b>.png" not in raw
    assert "\u202e" not in raw
    assert "plain/\ufffd\ufffd<b>.png" in page.text
    assert "plain/new\ufffdline.png" in page.text
    assert "x" * 180 in page.text


def test_damaged_tables_and_tars_leave_gaps(copied: Path) -> None:
    rows = edit_samples(copied, "height", ["not a number"])
    for tar in copied.glob("*.tar"):
        tar.write_bytes(tar.read_bytes()[:600])
    (copied / "rejects.jsonl").write_text("{not json\n")
    page = page_of(copied)
    assert "not available" in page.text
    assert not any(rows[0]["path"] in name for name in page.values("span", "title"))
    for name in ("samples.csv", "overlaps.csv", "rejects.jsonl"):
        (copied / name).unlink()
    page = page_of(copied)
    assert page.titles == SECTIONS
    assert "There is no samples.csv" in page.text


def _sample(number: int, class_name: str, split: str = "train") -> Sample:
    return Sample(str(number), split, class_name, "", f"{number}.png", "", 48, 64, 1, None, 0)


def test_many_classes_show_fewer_images_each() -> None:
    names = [f"class {number}" for number in range(700)]
    samples = [_sample(10 * n + i, name) for n, name in enumerate(names) for i in range(10)]
    sheets = choose(Tables(samples, [], []), names).sheets
    assert sum(map(len, sheets.values())) <= MOST_PICTURES
    names = names[:100]
    sheets = choose(Tables(samples, [], []), names).sheets
    assert {len(shown) for shown in sheets.values()} == {6}


def test_every_reason_is_put_into_words() -> None:
    raised = {"duplicate", "conflicting_labels"}  # not exceptions, as the others
    for module in Path(shards.__file__).parent.rglob("*.py"):
        raised |= set(re.findall(r'RejectedImage\(\s*"(\w+)"', module.read_text()))
    assert raised == set(REASONS)


def test_a_sheet_takes_more_of_one_split_where_the_other_has_few() -> None:
    samples = [_sample(n, "alpha", "train" if n < 2 else "val") for n in range(20)]
    shown = choose(Tables(samples, [], []), ["alpha"]).sheets["alpha"]
    assert [sample.split for sample in shown] == ["train"] * 2 + ["val"] * 6
    samples = [_sample(n, "alpha", "train" if n < 19 else "val") for n in range(20)]
    shown = choose(Tables(samples, [], []), ["alpha"]).sheets["alpha"]
    assert [sample.split for sample in shown] == ["train"] * 7 + ["val"]


def test_a_spread_over_kinds_gives_each_a_turn() -> None:
    items = ["a"] * 50 + ["b"] * 2 + ["c"]
    assert spread_over(items, 3, str) == ["a", "b", "c"]
    assert spread_over(items, 6, str) == ["a", "a", "a", "b", "b", "c"]
    assert len(set(spread_over([f"{n}" for n in range(20)], 5, str))) == 5
    assert spread(range(100), 4) == [12, 37, 62, 87]  # over the whole order
    assert spread(range(3), 8) == [0, 1, 2]
    assert spread([], 8) == []
