"""Public datasets: fetched once, resumed where they broke off, and never trusted unchecked."""

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pooch.downloaders
import pytest
import yaml

from shards import download
from shards.cli import UserError
from shards.fetch import fetch, main
from shards.public import Dataset, RemoteFile, find_table, read_table

CONTENT = np.random.default_rng(0).bytes(300_000)
ETAG = '"first"'
CORPORA = Path(__file__).parents[2] / "configs" / "corpora"


class Origin:
    """What the server does, and what was asked of it."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.etag: str | None = ETAG
        self.statuses: list[int] = []  # answered first, one a request
        self.break_after: int | None = None  # bytes of the next body, then the connection drops
        self.ranges = True  # whether it understands Range
        self.checks_if_range = True
        self.longest_range: int | None = None  # bytes of a 206 answer
        self.says_length = True
        self.requests: list[str | None] = []  # the Range header of each
        self.sent: list[int] = []  # body bytes of each answer
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    origin: Origin

    def do_GET(self) -> None:
        origin, wanted = self.origin, self.headers["Range"]
        origin.requests.append(wanted)
        if self.path == "/api/records/7":
            self._send(200, json.dumps({"files": [self._record_entry()]}).encode(), {})
            return
        if origin.statuses:
            self._send(origin.statuses.pop(0), b"no", {})
            return
        headers = {"ETag": origin.etag} if origin.etag else {}
        condition = self.headers["If-Range"]
        same = condition in (None, origin.etag) or not origin.checks_if_range
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and origin.ranges and same else 0
        if start > len(origin.content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(origin.content)}"})
        elif start:
            body = origin.content[start:][: origin.longest_range]
            last, total = start + len(body) - 1, len(origin.content)
            headers["Content-Range"] = f"bytes {start}-{last}/{total}"
            self._send(206, body, headers)
        else:
            self._send(200, origin.content, headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        if self.origin.says_length:
            self.send_header("Content-Length", str(len(body)))
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        cut, self.origin.break_after = self.origin.break_after, None
        self.origin.sent.append(len(body[:cut]))  # before the client can have read it all
        self.wfile.write(body[:cut])
        self.close_connection = True

    def _record_entry(self) -> dict[str, Any]:
        checksum = "md5:" + hashlib.md5(self.origin.content).hexdigest()
        url = self.origin.url.replace("/file.tar", "/owner/repository-v1.zip")
        return {"key": "owner/repository-v1.zip", "checksum": checksum, "links": {"self": url}}

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0))
    state = Origin()
    handler = type("Handler", (_Handler,), {"origin": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/file.tar"
        yield state
        server.shutdown()
        thread.join()


def dataset(url: str, **changes: Any) -> Dataset:
    file = RemoteFile(url=url, name="file.tar", checksum=changes.pop("checksum", None))
    entry: dict[str, Any] = {
        "name": "steel",
        "title": "Steel",
        "citation": "A. Author, 2020",
        "doi": "10.1/steel",
        "files": (file,),
        "confirmed": True,
    }
    return Dataset(**entry | changes)


def md5(content: bytes) -> str:
    return "md5:" + hashlib.md5(content).hexdigest()


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "FETCHED.json").read_text()))


def break_off(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave 200,000 bytes (less at most one chunk) of the file as `.part`."""
    origin.break_after = 200_000
    with monkeypatch.context() as patch:
        patch.setattr(download, "LONGEST_WAIT", -1.0)  # no second attempt
        with pytest.raises(UserError, match="run again to go on"):
            fetch(dataset(origin.url), tmp_path)
    assert 200_000 - download.CHUNK <= (tmp_path / "steel/file.tar.part").stat().st_size <= 200_000


def test_fetched_files_are_those_of_the_record(origin: Origin, tmp_path: Path) -> None:
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert (folder / "file.tar").read_bytes() == CONTENT
    assert left_behind(folder) == ["FETCHED.json", "file.tar"]
    assert record(folder)["files"]["file.tar"] == {
        "url": origin.url,
        "published": md5(CONTENT),
        "bytes": 300_000,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }


def test_present_files_are_checked_and_not_fetched_again(origin: Origin, tmp_path: Path) -> None:
    fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert len(origin.requests) == 1


def test_a_present_file_that_changed_is_an_error(origin: Origin, tmp_path: Path) -> None:
    folder = fetch(dataset(origin.url), tmp_path)  # no checksum published: FETCHED.json has one
    (folder / "file.tar").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(UserError, match=r"FETCHED\.json says .*delete it and run again"):
        fetch(dataset(origin.url), tmp_path)


def test_a_broken_connection_is_resumed_within_a_run(origin: Origin, tmp_path: Path) -> None:
    origin.break_after = 200_000
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert (folder / "file.tar").read_bytes() == CONTENT
    assert len(origin.requests) == 2
    assert origin.sent[1] <= 100_000 + download.CHUNK


def test_a_later_run_fetches_only_the_missing_bytes(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(origin, tmp_path, monkeypatch)
    have = (tmp_path / "steel/file.tar.part").stat().st_size
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert origin.requests == [None, f"bytes={have}-"]
    assert origin.sent[1] == 300_000 - have
    assert (folder / "file.tar").read_bytes() == CONTENT
    assert left_behind(folder) == ["FETCHED.json", "file.tar"]


def test_a_run_stopped_after_the_last_byte_asks_for_nothing(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(origin, tmp_path, monkeypatch)
    (tmp_path / "steel/file.tar.part").write_bytes(CONTENT)
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert len(origin.requests) == 1
    assert (folder / "file.tar").read_bytes() == CONTENT


@pytest.mark.parametrize("checks_if_range", [True, False])
def test_a_file_that_changed_is_fetched_whole(
    checks_if_range: bool, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(origin, tmp_path, monkeypatch)
    origin.content, origin.etag = CONTENT[::-1], '"second"'
    origin.checks_if_range = checks_if_range
    folder = fetch(dataset(origin.url), tmp_path)
    assert (folder / "file.tar").read_bytes() == CONTENT[::-1]
    # Without If-Range the rest of the new file comes, is recognised by its ETag and thrown away.
    assert len(origin.requests) == (2 if checks_if_range else 3)


def test_a_file_that_became_shorter_is_fetched_whole(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(origin, tmp_path, monkeypatch)
    origin.content, origin.checks_if_range = b"short", False
    folder = fetch(dataset(origin.url), tmp_path)
    assert (folder / "file.tar").read_bytes() == b"short"


def test_a_rest_that_comes_in_pieces_is_put_together(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(origin, tmp_path, monkeypatch)
    origin.longest_range = 40_000
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert (folder / "file.tar").read_bytes() == CONTENT
    assert max(origin.sent[1:]) == 40_000


def test_a_server_without_ranges_sends_the_whole(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(origin, tmp_path, monkeypatch)
    origin.ranges = False
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert origin.sent[1] == 300_000
    assert (folder / "file.tar").read_bytes() == CONTENT


def test_a_part_of_unknown_version_is_not_continued(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(origin, tmp_path, monkeypatch)
    (tmp_path / "steel/file.tar.part.json").unlink()
    folder = fetch(dataset(origin.url), tmp_path)
    assert origin.requests == [None, None]
    assert (folder / "file.tar").read_bytes() == CONTENT


def test_a_part_from_another_address_is_not_continued(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(origin, tmp_path, monkeypatch)
    fetch(dataset(origin.url + "?version=2"), tmp_path)
    assert origin.requests == [None, None]


def test_a_file_without_length_arrives(origin: Origin, tmp_path: Path) -> None:
    origin.says_length, origin.etag = False, None  # as GitHub packs archives
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert (folder / "file.tar").read_bytes() == CONTENT


def test_wrong_bytes_leave_nothing_that_looks_finished(origin: Origin, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"came with {md5(CONTENT).replace(':', ' ')} where"):
        fetch(dataset(origin.url, checksum=md5(b"else")), tmp_path)
    assert left_behind(tmp_path) == []


def test_a_missing_file_is_reported_at_once(origin: Origin, tmp_path: Path) -> None:
    origin.statuses = [404, 404]
    with pytest.raises(UserError, match=r"cannot fetch http://.*/file\.tar: .* 404 Not Found"):
        fetch(dataset(origin.url), tmp_path)
    assert len(origin.requests) == 1
    assert left_behind(tmp_path) == []


def test_a_busy_server_is_asked_again(origin: Origin, tmp_path: Path) -> None:
    origin.statuses = [503, 429]
    fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert len(origin.requests) == 3


def test_without_network_the_error_is_one_line(
    origin: Origin, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {
        "title": "Steel",
        "citation": "A. Author, 2020",
        "doi": "10.1/steel",
        "confirmed": True,
        "files": [{"url": "http://127.0.0.1:9/file.tar", "name": "file.tar"}],
    }
    table = tmp_path / "datasets.yaml"
    table.write_text(yaml.safe_dump({"steel": entry}))
    with pytest.raises(SystemExit) as stopped:
        main(["steel", "--dir", str(tmp_path / "raw"), "--datasets", str(table)])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "error: cannot fetch file.tar from 127.0.0.1:9: Connection refused; run again to go on"
    )


def test_a_disk_without_room_is_reported_before_the_download(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"file\.tar needs 0\.0 GB, but .* has 0\.0 GB free"):
        fetch(dataset(origin.url), tmp_path)


def test_a_full_disk_keeps_what_came(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "steel").mkdir()
    (tmp_path / "steel/file.tar.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .*file\.tar\.part: No space left"):
        fetch(dataset(origin.url), tmp_path)
    assert not (tmp_path / "steel/file.tar").exists()


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
        ({"license": "MIT"}, "unexpected key 'license'"),
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
