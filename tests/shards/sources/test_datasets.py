"""The table of public datasets, and those that are not simply one file at an address."""

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pooch.downloaders
import pytest
import yaml
from checkout import ROOT
from flaky_server import CONTENT, Origin, dataset, left_behind, record

from micrograph.cli import UserError
from shards.fetch import fetch, main
from shards.sources.datasets import find_table, read_table

CORPORA = ROOT / "configs" / "corpora"


def test_a_dataset_without_addresses_says_where_to_go(tmp_path: Path) -> None:
    by_hand = dataset("", files=())
    with pytest.raises(UserError) as error:
        fetch(by_hand, tmp_path)
    text = str(error.value)
    assert "https://doi.org/10.1/steel" in text and str(tmp_path / "steel") in text


def test_what_was_put_there_by_hand_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "steel").mkdir()
    (tmp_path / "steel/images.zip").write_bytes(CONTENT)
    folder = fetch(dataset("", files=()), tmp_path)
    expected = hashlib.sha256(CONTENT).hexdigest()
    assert record(folder)["files"]["images.zip"]["sha256"] == expected


def test_a_doi_record_names_its_files_and_they_are_unpacked_flat(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("mirror-1/micrographs/1.png", b"image")
        archive.writestr("mirror-1/metadata.csv", b"path\n1.png\n")
        archive.writestr("mirror-1/README.md", b"not wanted")
    origin.content = memory.getvalue()
    here = origin.url.removesuffix("/file.tar")
    zenodo = pooch.downloaders.ZenodoRepository
    monkeypatch.setattr(zenodo, "base_api_url", f"{here}/api/records")
    monkeypatch.setattr(pooch.downloaders, "doi_to_url", _zenodo_page)
    folder = fetch(dataset("", files="record", unpack="flat"), tmp_path)
    assert left_behind(folder) == ["1.png", "FETCHED.json", "metadata.csv", "repository-v1.zip"]
    assert (folder / "1.png").read_bytes() == b"image"
    asked = len(origin.requests)
    fetch(dataset("", files="record", unpack="flat"), tmp_path)  # without the network, then
    assert len(origin.requests) == asked


def _zenodo_page(doi: str, **settings: object) -> str:
    return "https://zenodo.org/records/7"


def test_the_list_shows_every_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    lines = capsys.readouterr().out.splitlines()[1:]
    table = read_table(find_table())
    assert [line.split()[0] for line in lines] == list(table)


def test_an_unknown_name_gets_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["uhcsbd", "--dir", str(tmp_path)])
    assert "unknown dataset 'uhcsbd'; nearest is 'uhcsdb'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doi": None}, "needs a doi or a landing page"),
        ({"confirmed": False}, "needs a note that says why"),
        ({"license": "MIT"}, "unknown setting 'license'; nearest is 'licence'"),
        ({"files": [{"url": "ftp://x", "name": "x"}]}, "must be an http address"),
        ({"files": [{"url": "https://x/y", "name": "sub/y"}]}, "must be a plain file name"),
        ({"files": [{"url": "https://x/y", "name": "y", "md5": "0"}]}, "32 hexadecimal digits"),
    ],
)
def test_a_wrong_entry_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    entry = {"title": "Steel", "citation": "me", "doi": "10.1/steel", "confirmed": True}
    path = tmp_path / "datasets.yaml"
    path.write_text(yaml.safe_dump({"steel": entry | change}))
    with pytest.raises(UserError, match=f"dataset steel: .*{message}"):
        read_table(path)


@pytest.mark.parametrize("recipe", ["micronet", "micronet_public", "nanosem"])
def test_the_recipes_name_datasets_of_the_table(recipe: str) -> None:
    content = yaml.safe_load((CORPORA / f"{recipe}.yaml").read_text(encoding="utf-8"))
    table = read_table(CORPORA / "datasets.yaml")
    for source in content["sources"]:
        if source.get("dataset"):
            assert source["path"].startswith(f"data/raw/{source['dataset']}/")
            assert source["licence"] == table[source["dataset"]].licence


def test_a_recipe_fetches_all_of_its_datasets_and_names_those_it_could_not(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_hand = {"title": "T", "citation": "me", "landing": "https://example.org", "confirmed": True}
    there = {**by_hand, "files": [{"url": origin.url, "name": "file.tar"}], "licence": "MIT"}
    table = {"first": by_hand, "second": there}
    (tmp_path / "datasets.yaml").write_text(json.dumps(table))
    sources = [{"name": name, "path": "x", "dataset": name} for name in table]
    (tmp_path / "both.yaml").write_text(json.dumps({"sources": sources}))
    flags = ["--datasets", str(tmp_path / "datasets.yaml"), "--dir", str(tmp_path / "raw")]
    with pytest.raises(SystemExit) as stopped:
        main(["both", *flags])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'raw' / 'second'}\n"
    assert "no file addresses are known for first" in captured.err
    assert (tmp_path / "raw" / "second" / "file.tar").read_bytes() == origin.content
