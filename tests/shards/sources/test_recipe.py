"""Corpora of several sources: recipes, tables, archives, renamed classes, groups and provenance."""

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image
from written_sets import samples_of

from micrograph.cli import UserError
from micrograph.settings import build_config
from shards.shard_format.schema import SourceInfo, read_manifest, read_rows
from shards.sources.listing import Listing, list_sources
from shards.sources.recipe import SourceSpec, read_corpus
from shards.verification.faults import find_faults
from shards.write import WriteConfig, main


def _png(seed: int, side: int = 48) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _listing(*paths: str | Path, **settings: Any) -> Listing:
    return list_sources([SourceSpec(name="s", path=tuple(map(str, paths)), **settings)])


def _labelled(listing: Listing) -> dict[str, str]:
    return {
        file.name: listing.classes[file.label]
        for source in listing.sources
        for file in source.files
    }


def _write_recipe(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# Recipes


@pytest.mark.parametrize("name", ["micronet", "micronet_public", "nanosem"])
def test_every_recipe_of_the_project_is_read(name: str) -> None:
    corpus = read_corpus(ROOT / "configs" / "corpora" / f"{name}.yaml")
    assert corpus.name == name
    assert len(corpus.sources) == {"micronet": 1, "micronet_public": 3, "nanosem": 1}[name]
    build_config(WriteConfig, {"source": "x", "out": "y", **corpus.settings})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []", "lists no sources"),
        ("sources: [{name: a, paht: x}]", "unknown key 'paht'; nearest is 'path'"),
        ("sources: [{name: A!, path: x}]", "name must be of a-z, 0-9, _ and -, not 'A!'"),
        ("sources: [{name: a}]", "path must be a path or URL"),
        ("sources: [{name: a, path: x}, {name: a, path: y}]", "two sources named 'a'"),
        (
            "sources: [{name: a, path: x, layout: single}]",
            "`layout: single` and `label` go",
        ),
        ("sources: [{name: a, path: x, specimen: '('}]", "is not a regular expression"),
        ("sources: [{name: a, path: x, specimen: 'abc'}]", "must capture the specimen's name"),
        ("sources: [{name: a, path: x, scale: -1}]", "scale must be a positive number"),
        ("sources: [{name: a, path: x, licence: [a]}]", "'licence' must be text"),
        ("sources: [{name: a, path: x, columns: {lable: y}}]", "unknown key 'lable'"),
        ("source: []", "unknown key 'source'; nearest is 'sources'"),
    ],
)
def test_mistake_in_a_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read_corpus(_write_recipe(tmp_path / "c.yaml", text))


# Layouts


@pytest.mark.parametrize(
    ("wrapped", "stray"), [("", ""), ("M/", "M/README.txt"), ("a/b/", "LICENSE")]
)
def test_folders_of_an_archive_are_classes_however_wrapped(
    tmp_path: Path, wrapped: str, stray: str
) -> None:
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for name in ("steel/1.png", "steel/deep/2.png", "brass/1.png"):
            archive.writestr(wrapped + name, b"x")
        if stray:
            archive.writestr(stray, b"x")
    labels = _labelled(_listing(tmp_path / "c.zip"))
    assert {n.removeprefix(wrapped): label for n, label in labels.items() if ".png" in n} == {
        "steel/1.png": "steel",
        "steel/deep/2.png": "steel",
        "brass/1.png": "brass",
    }


def test_one_archive_per_class_needs_no_folders(tmp_path: Path) -> None:
    for name, member in (("Tips.tar", "1.png"), ("Fibres.tar", "Fibres/1.png")):
        with tarfile.open(tmp_path / name, "w") as archive:
            info = tarfile.TarInfo(member)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    listing = _listing(str(tmp_path / "*.tar"))
    assert _labelled(listing) == {"Fibres.tar/Fibres/1.png": "Fibres", "Tips.tar/1.png": "Tips"}


def test_classes_are_merged_renamed_and_dropped_by_a_recipe(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png", "c/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    labels = _labelled(_listing(tmp_path, layout="single", label="powder"))
    assert labels == dict.fromkeys(("a/1.png", "b/1.png", "c/1.png"), "powder")
    labels = _labelled(_listing(tmp_path, classes={"a": "x", "b": "x", "c": None}))
    assert labels == {"a/1.png": "x", "b/1.png": "x"}
    for settings, message in (
        ({"classes": {"d": "x"}}, "has no class 'd', which the recipe renames; it has a, b, c"),
        ({"specimen": "(specimen[0-9]+)"}, r"no path of s matches .*one of its paths is a/1"),
    ):
        with pytest.raises(UserError, match=message):
            _listing(tmp_path, **settings)
    with pytest.raises(UserError, match=r"get it with: python -m shards\.fetch uhcsdb"):
        _listing(tmp_path / "*.tar", dataset="uhcsdb")


# Tables


def _table(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"table.{kind}"
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_table_gives_path_label_group_and_scale(tmp_path: Path, kind: str) -> None:
    (tmp_path / "images").mkdir()
    for number in (1, 2):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"x" * number)
    rows = [
        {"file": "images/1.png", "phase": "alpha", "specimen": "S1", "nm": 2.5},
        {"file": str(tmp_path / "images/2.png"), "phase": "beta", "specimen": None, "nm": None},
    ]
    columns = {"path": "file", "label": "phase", "specimen": "specimen", "scale": "nm"}
    listing = _listing(_table(tmp_path, kind, rows), layout="table", columns=columns, scale=7.0)
    first, second = sorted(listing.sources[0].files, key=lambda file: file.label)
    assert listing.classes == ("alpha", "beta")
    assert (first.specimen, first.scale, first.entry.size) == ("S1", 2.5, 1)
    assert (second.specimen, second.scale, second.entry.size) == (None, 7.0, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "gone.png", "label": "a"}, r"cannot read .*gone\.png.*a table lists it"),
        ({"path": "", "label": "a"}, "row 1: path or label is empty"),
        (
            {"path": "1.png", "phase": "a"},
            "has no column 'label' for the label; it has",
        ),
        ({"path": "1.png", "label": "a", "scale": "wide"}, "row 1: scale must be nm per pixel"),
        ({"path": "1.png", "label": "a", "Lot": "S"}, "has no column 'lot' for the specimen"),
    ],
)
def test_mistake_in_a_table_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "1.png").write_bytes(b"x")
    columns = {name: name for name in ("path", "label", "specimen", "scale")}
    if "Lot" in row:
        columns["specimen"] = "lot"
    with pytest.raises(UserError, match=message):
        _listing(_table(tmp_path, "csv", [row]), layout="table", columns=columns)


# The whole way


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """A set of three sources with colliding file names, one archive, groups and licences."""
    for source in ("one", "two"):
        for number in range(12):
            path = tmp_path / source / "steel" / f"s{number // 3}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_png(1000 * len(source) + number + (500 if source == "two" else 0)))
    with zipfile.ZipFile(tmp_path / "three.zip", "w") as archive:
        for number in range(12):
            archive.writestr(f"brass/{number}.png", _png(9000 + number, side=96))
    recipe = _write_recipe(
        tmp_path / "corpus.yaml",
        f"""
name: merged
settings: {{split: share, val_share: 0.25, profile: exact}}
sources:
  - {{name: one, path: {tmp_path}/one, specimen: '(s[0-9]+)_', licence: MIT, scale: 4.0}}
  - {{name: two, path: {tmp_path}/two, licence: CC-BY-4.0, citation: "Doe 2020"}}
  - {{name: three, path: {tmp_path}/three.zip, restriction: export controlled, scale: 3}}
""",
    )
    flags = ["--max-side", "48", "--workers", "1", "--no-report"]
    main(["--corpus", str(recipe), "--out", str(tmp_path / "out"), *flags])
    return tmp_path / "out"


def test_sources_become_one_set(merged: Path) -> None:
    manifest = read_manifest(merged)
    none = {"licence": None, "restriction": None, "citation": None, "samples": 12}
    assert manifest.sources == (
        SourceInfo(name="one", **(none | {"licence": "MIT"})),
        SourceInfo(name="two", **(none | {"licence": "CC-BY-4.0", "citation": "Doe 2020"})),
        SourceInfo(name="three", **(none | {"restriction": "export controlled"})),
    )
    assert (manifest.name, manifest.options["profile"]) == ("merged", "exact")
    assert manifest.splits["val"].class_counts == (3, 6)
    assert list(find_faults(merged, manifest)) == []
    rows = list(read_rows(merged / "samples.csv"))
    assert len({row["key"] for row in rows}) == 36
    assert {row["source"] for row in rows if row["path"] == "steel/s0_1.png"} == {"one", "two"}
    specimens: dict[str, set[str]] = {}
    for row in rows:
        if row["source"] == "one":
            assert row["specimen"] == row["path"].split("/")[1].split("_")[0]
            specimens.setdefault(row["specimen"], set()).add(row["split"])
    assert len(specimens) == 4
    assert all(len(splits) == 1 for splits in specimens.values())
    samples = samples_of(merged, "train") | samples_of(merged, "val")
    said = [json.loads(parts["json"]) for parts in samples.values()]
    scales = {(content["source"], content.get("nm_per_pixel")) for content in said}
    assert scales == {("one", 4.0), ("two", None), ("three", 6.0)}  # 96 pixels became 48


def test_flag_wins_over_the_corpus(
    tmp_path: Path, merged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "corpus.yaml"
    with pytest.raises(SystemExit):
        main(f"--corpus {recipe} --out {tmp_path}/x --split source --val-source tow".split())
    assert "nearest is 'two'" in capsys.readouterr().err
    flags = ["--split", "source", "--val-source", "two", "--workers", "1", "--no-report"]
    main(["--corpus", str(recipe), "--out", str(tmp_path / "held"), *flags])
    rows = read_rows(tmp_path / "held" / "samples.csv")
    assert {(row["source"], row["split"]) for row in rows} == {
        ("one", "train"),
        ("two", "val"),
        ("three", "train"),
    }


def test_saved_split_is_used_again(tmp_path: Path, merged: Path) -> None:
    flags = ["--split", "file", "--split-file", str(merged), "--seed", "5", "--workers", "1"]
    recipe = str(tmp_path / "corpus.yaml")
    main(["--corpus", recipe, "--out", str(tmp_path / "again"), *flags, "--no-report"])
    first, second = (
        {row["key"]: row["split"] for row in read_rows(folder / "samples.csv")}
        for folder in (merged, tmp_path / "again")
    )
    assert second == first


def test_folds_partition_the_corpus(tmp_path: Path, merged: Path) -> None:
    validating: list[str] = []
    for fold in range(3):
        out = tmp_path / f"fold{fold}"
        flags = ["--split", "folds", "--folds", "3", "--fold", str(fold), "--workers", "1"]
        recipe = str(tmp_path / "corpus.yaml")
        main(["--corpus", recipe, "--out", str(out), *flags, "--no-report"])
        rows = list(read_rows(out / "samples.csv"))
        assert {row["fold"] for row in rows if row["split"] == "val"} == {str(fold)}
        validating += [row["key"] for row in rows if row["split"] == "val"]
    assert len(validating) == len(set(validating)) == 36


# What must not be passed over in silence


def test_two_paths_with_one_name_do_not_become_one_sample(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        path = tmp_path / folder / "images" / "steel" / "1.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(folder.encode())
    with pytest.raises(UserError, match=r"images/steel/1\.png of class steel 2 times; make each"):
        _listing(tmp_path / "a" / "images", tmp_path / "b" / "images")


def test_sources_in_another_order_keep_their_numbers_after_a_kill(
    tmp_path: Path, merged: Path
) -> None:
    text = (tmp_path / "corpus.yaml").read_text()
    head, _, listed = text.partition("sources:\n")
    turned = "\n".join(reversed(listed.splitlines()))
    recipe = _write_recipe(tmp_path / "turned.yaml", f"{head}sources:\n{turned}\n")
    flags = ["--work", str(tmp_path / "work"), "--workers", "1", "--no-report"]
    flags += ["--split", "source", "--val-source", "one"]
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):  # after all the work, which stays in the spool
        main(["--corpus", str(tmp_path / "corpus.yaml"), "--out", f"{tmp_path}/file/x", *flags])
    assert list((tmp_path / "work" / "spool").glob("*.images"))
    main(["--corpus", str(recipe), "--out", str(tmp_path / "y"), *flags])
    rows = read_rows(tmp_path / "y" / "samples.csv")
    assert {(row["source"], row["split"]) for row in rows} == {
        ("one", "val"),
        ("two", "train"),
        ("three", "train"),
    }
