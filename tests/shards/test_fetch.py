"""Downloads of public datasets: once, resumed after an interruption, checked."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from flaky_server import CONTENT, Origin, dataset, left_behind, md5, record

from micrograph import download
from micrograph.cli import UserError
from shards.fetch import fetch, main


@pytest.fixture
def part(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """200,000 bytes (less at most one chunk) of the file, left by a run that broke off."""
    part = tmp_path / "steel/file.tar.part"
    origin.break_after = 200_000
    with monkeypatch.context() as patch:
        patch.setattr(download, "LONGEST_WAIT", -1.0)  # no second attempt
        with pytest.raises(UserError, match="run again to resume"):
            fetch(dataset(origin.url), tmp_path)
    assert 200_000 - download.CHUNK <= part.stat().st_size <= 200_000
    return part


def test_a_file_is_fetched_once_and_recorded(origin: Origin, tmp_path: Path) -> None:
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert (folder / "file.tar").read_bytes() == CONTENT
    assert left_behind(folder) == ["FETCHED.json", "file.tar"]
    assert record(folder)["files"]["file.tar"] == {
        "url": origin.url,
        "published": md5(CONTENT),
        "bytes": 300_000,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
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
    origin: Origin, part: Path, tmp_path: Path
) -> None:
    have = part.stat().st_size
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert [wanted for _, wanted in origin.requests] == [None, f"bytes={have}-"]
    assert origin.sent[1] == 300_000 - have
    assert (folder / "file.tar").read_bytes() == CONTENT
    assert left_behind(folder) == ["FETCHED.json", "file.tar"]


def test_a_run_stopped_after_the_last_byte_downloads_nothing(
    origin: Origin, part: Path, tmp_path: Path
) -> None:
    part.write_bytes(CONTENT)
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert origin.sent[1:] == [0]
    assert (folder / "file.tar").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("changes", "requests"),
    [
        ({"ranges": False}, 2),  # sends the whole
        ({"longest_range": 40_000}, 4),
        ({"content": CONTENT[::-1], "etag": '"second"'}, 2),
        # Without If-Range the rest of the new file comes, and its ETag shows that it is another.
        ({"content": CONTENT[::-1], "etag": '"second"', "checks_if_range": False}, 3),
        ({"content": b"short", "checks_if_range": False}, 3),
    ],
)
def test_a_later_run_ends_in_the_file_that_the_server_has_now(
    changes: dict[str, Any], requests: int, origin: Origin, part: Path, tmp_path: Path
) -> None:
    vars(origin).update(changes)
    folder = fetch(dataset(origin.url), tmp_path)
    assert (folder / "file.tar").read_bytes() == origin.content
    assert len(origin.requests) == requests


@pytest.mark.parametrize("case", ["no version", "another address", "damaged"])
def test_a_part_that_is_not_the_beginning_of_the_file_is_dropped(
    case: str, origin: Origin, part: Path, tmp_path: Path
) -> None:
    if case == "no version":
        part.with_name("file.tar.part.json").unlink()
    elif case == "damaged":
        part.write_bytes(bytes(part.stat().st_size))
    url = origin.url + "?version=2" * (case == "another address")
    folder = fetch(dataset(url, checksum=md5(CONTENT)), tmp_path)
    assert (folder / "file.tar").read_bytes() == CONTENT
    asked = [False, True, False] if case == "damaged" else [False, False]
    assert [wanted is not None for _, wanted in origin.requests] == asked


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
        "error: cannot fetch file.tar from 127.0.0.1:9: Connection refused; run again to resume"
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
