"""Shards from a URL: copied once, checked, resumed after a kill; from real servers."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import flip
from pictures import write_noise
from waiting import wait_for
from written_sets import write_set

from micrograph.cli import UserError
from micrograph.remote_files import filesystem
from pretrain.loading.shard_reader import open_split
from pretrain.loading.staging import RECORDS_NAME, stage
from shards.verify import main as verify


class Server:
    """A web server of one folder: its requests, and where it makes its clients wait."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requests: list[tuple[str, str | None]] = []  # (name, Range header)
        self.pause_after: int | None = None  # bytes of a tar, until `resume` is set
        self.resume = threading.Event()
        self.url = ""

    def tars(self) -> Counter[str]:
        return Counter(name for name, _ in self.requests if name.endswith(".tar"))


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, server_state: Server) -> None:
        self.state = server_state
        super().__init__(*args, directory=str(server_state.folder))

    def do_GET(self) -> None:
        self.state.requests.append((Path(self.path).name, self.headers["Range"]))
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if self.path.endswith(".tar") and self.state.pause_after:
            outputfile.write(source.read(self.state.pause_after))
            self.state.resume.wait(60)
        super().copyfile(source, outputfile)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def heavy_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tars of 360, 180 and 180 kB: more than the 64 kB that come at a time."""
    folder = tmp_path_factory.mktemp("heavy")
    write_noise(folder / "in", ("a", "b"), per_class=4, side=300)
    write_set(folder / "in", folder / "out", profile="exact", shard_samples=4, val_per_class=1)
    return folder / "out"


@pytest.fixture
def server(heavy_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    shutil.copytree(heavy_set, tmp_path / "www" / "set")
    state = Server(tmp_path / "www")
    handler = partial(_Handler, server_state=state)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}/set"
        yield state
        state.resume.set()
        http.shutdown()
        thread.join()


def start(url: str, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pretrain.staging", url, "--cache-dir", str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def at_the_lock(process: subprocess.Popen[str]) -> bool:
    """Whether it has opened the lock's file."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            if link.readlink().name == ".lock":
                return True
    return False


def tar_names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.tar")}


def test_a_staged_set_is_the_whole_set_and_is_copied_once(
    server: Server, heavy_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stage(server.url, tmp_path / "cache")
    verify([str(folder)])
    assert "complete, 8 images" in capsys.readouterr().err
    assert open_split(folder, "train").read(np.arange(6))[0].size > 0
    assert stage(server.url + "/", tmp_path / "cache") == folder
    assert server.tars() == Counter(tar_names(heavy_set))


def test_a_local_folder_is_used_directly(heavy_set: Path) -> None:
    assert stage(str(heavy_set)) == stage(f"file://{heavy_set}") == heavy_set


def test_the_default_cache_follows_xdg(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "xdg" / "micrograph-pretrain" in stage(server.url).parents


def test_a_damaged_cached_file_is_fetched_again(
    server: Server, heavy_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stage(server.url, tmp_path / "cache")
    name = min(tar_names(folder))
    flip(folder / name, 1000)
    (folder / "train.npy").unlink()
    stage(server.url, tmp_path / "cache")
    assert f"{name} is damaged; fetching it again" in " ".join(capsys.readouterr().err.split())
    assert (folder / name).read_bytes() == (heavy_set / name).read_bytes()
    assert (folder / "train.npy").read_bytes() == (heavy_set / "train.npy").read_bytes()
    assert sum(server.tars().values()) == len(tar_names(heavy_set)) + 1


def test_check_finds_damage_behind_an_unchanged_date(
    server: Server, heavy_set: Path, tmp_path: Path
) -> None:
    folder = stage(server.url, tmp_path / "cache")
    path = folder / min(tar_names(folder))
    before = path.stat()
    flip(path, path.stat().st_size - 1)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    stage(server.url, tmp_path / "cache", check=True)
    assert path.read_bytes() == (heavy_set / path.name).read_bytes()


def test_a_damaged_source_is_refused(server: Server, tmp_path: Path) -> None:
    flip(server.folder / "set" / "train-00000.tar", 1000)
    with pytest.raises(UserError, match=r"train-00000.tar has SHA-256 .* the set is damaged"):
        stage(server.url, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("manifest.json"))


def test_a_set_that_changes_at_its_url_gets_another_folder(
    server: Server, shards: Path, tmp_path: Path
) -> None:
    first = stage(server.url, tmp_path / "cache")
    for path in shards.iterdir():
        (server.folder / "set" / path.name).write_bytes(path.read_bytes())
    second = stage(server.url, tmp_path / "cache")
    assert first != second
    assert len(open_split(first, "train")) == 6
    assert len(open_split(second, "train")) == 48


def test_two_processes_at_once_copy_once(server: Server, heavy_set: Path, tmp_path: Path) -> None:
    server.pause_after = 1000
    processes = [start(server.url, tmp_path / "cache") for _ in range(2)]
    wait_for(lambda: all(at_the_lock(process) for process in processes))
    server.resume.set()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert "waiting for another process" in outputs[0][1] + outputs[1][1]
    assert server.tars() == Counter(tar_names(heavy_set))


def test_a_killed_copy_is_resumed(server: Server, heavy_set: Path, tmp_path: Path) -> None:
    server.pause_after = 200_000
    process = start(server.url, tmp_path / "cache")
    first = "train-00000.tar"
    wait_for(lambda: any(p.stat().st_size > 60_000 for p in tmp_path.rglob(f"{first}.part")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "cache").rglob(first))
    server.resume.set()
    folder = stage(server.url, tmp_path / "cache")
    assert any(name == first and byte_range for name, byte_range in server.requests)
    for name in tar_names(heavy_set):
        assert (folder / name).read_bytes() == (heavy_set / name).read_bytes()
    assert not list(folder.glob("*.part*"))


def test_a_full_disk_is_named_before_anything_is_copied(
    server: Server, small_disk: Callable[[int], Any]
) -> None:
    with pytest.raises(UserError, match=r"free some space or choose another --cache-dir"):
        stage(server.url, small_disk(300).folder)
    assert not server.tars()


def test_a_wrong_address_and_a_cache_that_cannot_be_written_are_named(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no shards at .*/nowhere: .* 404"):
        stage(f"{server.url}/nowhere", tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*; name a --cache-dir"):
        stage(server.url, tmp_path / "file")


@pytest.fixture
def s3_set(s3_bucket: Callable[[str], Any], heavy_set: Path) -> str:
    """URL of `heavy_set` in a bucket."""
    s3_bucket("staged").put(f"{heavy_set}/", "staged/set/", recursive=True)
    return "s3://staged/set"


def test_a_copy_from_s3_is_resumed_and_damaged_parts_are_replaced(
    s3_set: str, heavy_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stage(s3_set, tmp_path)
    good, bad = sorted(tar_names(folder))[:2]
    for name in (good, bad):
        content = (folder / name).read_bytes()
        (folder / f"{name}.part").write_bytes(content[:150_000])
        (folder / name).unlink()
    (folder / f"{bad}.part").write_bytes(bytes(150_000))
    (folder / RECORDS_NAME).write_text("{")
    fs, _ = filesystem(s3_set)
    cat_file, starts = fs.cat_file, []

    def counted(path: str, start: int, end: int) -> bytes:
        starts.append((path.rpartition("/")[2], start))
        content: bytes = cat_file(path, start=start, end=end)
        return content

    monkeypatch.setattr(fs, "cat_file", counted)
    stage(s3_set, tmp_path)
    tars = sorted(asked for asked in starts if asked[0].endswith(".tar"))
    assert tars == [(good, 150_000), (bad, 0), (bad, 150_000)]
    verify([str(folder)])
    for name in (good, bad):
        assert (folder / name).read_bytes() == (heavy_set / name).read_bytes()


def test_a_missing_bucket_is_named_and_missing_credentials_are_asked_for(
    s3_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no shards at s3://nowhere/set"):
        stage("s3://nowhere/set", tmp_path)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    filesystem(s3_set)[0].clear_instance_cache()
    with pytest.raises(UserError, match=r"give credentials that may read it \(AWS_PROFILE"):
        stage(s3_set, tmp_path)
