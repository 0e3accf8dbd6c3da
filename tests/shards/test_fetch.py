"""Public datasets: fetched once, resumed where they broke off, and never trusted unchecked."""

import hashlib
from pathlib import Path

import pytest
import yaml
from origin import CONTENT, Origin, dataset, left_behind, md5, record

from shards import download
from shards.cli import UserError
from shards.fetch import fetch, main


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


def test_a_damaged_part_is_fetched_again(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(origin, tmp_path, monkeypatch)
    part = tmp_path / "steel/file.tar.part"
    part.write_bytes(bytes(part.stat().st_size))
    folder = fetch(dataset(origin.url, checksum=md5(CONTENT)), tmp_path)
    assert (folder / "file.tar").read_bytes() == CONTENT
    assert [bool(wanted) for wanted in origin.requests] == [False, True, False]


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
