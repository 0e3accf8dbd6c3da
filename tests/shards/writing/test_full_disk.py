"""A disk that is full, a source that goes or changes: one clear line, and the run can resume."""

import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures import write_noise
from written_sets import files_of, save_noise, write_set

from micrograph import remote_files as stores
from shards.encoding.encode import CHUNK_FILES
from shards.shard_format.schema import MANIFEST_NAME
from shards.write import main

PER_CLASS, SIDE = 24, 96
SmallDisk = Callable[[int], Any]  # of so many kilobytes

FLAGS = ("--profile", "exact", "--shard-samples", "20", "--no-report")


@pytest.fixture(scope="module")
def large_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images that do not compress, 450 kB: two chunks of work."""
    root = tmp_path_factory.mktemp("large")
    _fill(root)
    return root


def _fill(root: Path) -> None:
    write_noise(root, ("a", "b"), PER_CLASS, SIDE)


@pytest.fixture(scope="module")
def undisturbed(large_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    main(["--source", str(large_corpus), "--out", str(out), "--workers", "1", *FLAGS])
    return files_of(out)


def _check_is_one_clear_line(error: str, *parts: str) -> None:
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, error
    assert all(part in lines[0] for part in parts), lines[0]


# A full disk


def _write_until_it_fits(
    source: Path, disk: Any, workers: int, undisturbed: dict[str, bytes], *, by_pages: bool
) -> set[str]:
    """Run, let the disk grow, run again, to the end; the files that a failed run had begun."""
    out, begun = disk.folder / "out", set()
    command = [sys.executable, "-m", "shards.write", "--source", str(source), "--out", str(out)]
    command += [*FLAGS, "--workers", str(workers)]
    while True:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode == 0:
            break
        assert run.returncode == 2, (disk.kilobytes, run.returncode, run.stderr)
        _check_is_one_clear_line(run.stderr, "No space left on device", str(disk.folder))
        assert not out.exists()
        found = {path.relative_to(disk.folder) for path in disk.folder.rglob("*.*")}
        assert {path.parts[0] for path in found} <= {"out.partial"}
        begun |= {path.name if len(path.parts) == 2 else path.suffix for path in found}
        disk.grow(_larger(disk.kilobytes, begun) if by_pages else disk.kilobytes * 4 // 3)
    assert files_of(out) == undisturbed
    assert [path.name for path in disk.folder.iterdir()] == ["out"]
    return begun


def _larger(kilobytes: int, begun: set[str]) -> int:
    """By one page from the last tar on, behind which small files come; faster before."""
    if "val-00000.tar" in begun:
        return kilobytes + 4
    return kilobytes + 16 if "train-00000.tar" in begun else kilobytes * 9 // 8 + 4


def test_full_disk_is_said_and_a_larger_one_goes_on(
    large_corpus: Path, undisturbed: dict[str, bytes], small_disk: SmallDisk
) -> None:
    begun = _write_until_it_fits(large_corpus, small_disk(200), 1, undisturbed, by_pages=False)
    assert {".images", ".records", "train-00000.tar"} <= begun


@pytest.mark.slow
def test_disk_may_be_full_in_any_file(
    large_corpus: Path, undisturbed: dict[str, bytes], small_disk: SmallDisk
) -> None:
    begun = _write_until_it_fits(large_corpus, small_disk(4), 2, undisturbed, by_pages=True)
    assert {"train.npy", "val-00000.tar", "val.npy", "samples.csv", MANIFEST_NAME} <= begun


_LIMITED = (
    "import resource, sys; limit = int(sys.argv[1]); "
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)); "
    "from shards.write import main; main(sys.argv[2:])"
)


@pytest.mark.parametrize(
    ("limit", "workers", "where"),
    [
        (1000, 2, "out.partial/spool"),
        (200_000, 1, "out.partial/spool"),
        (350_000, 1, "out.partial"),  # a chunk's images fit in, a tar does not
    ],
    ids=["chunk", "most of a chunk", "tar"],
)
def test_file_that_may_not_grow_is_said_and_the_run_goes_on(
    large_corpus: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    limit: int,
    workers: int,
    where: str,
) -> None:
    out = tmp_path / "out"
    arguments = ["--source", str(large_corpus), "--out", str(out), *FLAGS]
    arguments += ["--shard-samples", "2048"]  # the last one counts
    command = [sys.executable, "-c", _LIMITED, str(limit), *arguments, "--workers", str(workers)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    _check_is_one_clear_line(run.stderr, "File too large", str(tmp_path / where))
    assert not out.exists()
    assert not list(tmp_path.rglob(MANIFEST_NAME))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    main(["--source", str(large_corpus), "--out", str(out), *FLAGS, "--workers", "1"])
    assert files_of(out) == undisturbed


# A source that goes or changes


@pytest.fixture
def own_corpus(tmp_path: Path) -> Path:
    """As `large_corpus`, to be spoilt."""
    _fill(tmp_path / "own")
    return tmp_path / "own"


def _fails(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["--source", str(source), "--out", str(out), "--workers", "1", *FLAGS])
    assert caught.value.code == 2
    assert not out.exists()
    return capsys.readouterr().err


def _check_goes_on(
    source: Path, out: Path, chunks_left: int, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--source", str(source), "--out", str(out), "--workers", "1", *FLAGS])
    assert f"decode and encode ({chunks_left})" in capsys.readouterr().err
    anew = out.with_name("anew")
    write_set(source, anew, profile="exact", shard_samples=20)
    assert files_of(out) == files_of(anew)


def _reads(monkeypatch: pytest.MonkeyPatch, number: int, after: object) -> None:
    """Let `after(path)` happen once the `number`th file has been read."""
    read, count = stores._read_local, iter(range(1, 10_000))

    def read_and_spoil(path: Path) -> bytes:
        data = read(path)
        if next(count) == number:
            after(path)  # type: ignore[operator]
        return data

    monkeypatch.setattr(stores, "_read_local", read_and_spoil)


@pytest.mark.parametrize("change", ["vanishes", "is replaced"])
def test_source_that_changes_while_it_is_read_is_named_and_the_run_resumes(
    own_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    def spoil(path: Path) -> None:
        if change == "vanishes":
            own_corpus.rename(tmp_path / "elsewhere")
        else:
            save_noise(path, SIDE, SIDE, seed=1)

    with monkeypatch.context() as patch:
        _reads(patch, CHUNK_FILES + 5, spoil)
        error = _fails(own_corpus, tmp_path / "out", capsys)
    why = {"vanishes": "No such file or directory", "is replaced": "changed while it was read"}
    _check_is_one_clear_line(error, f"{own_corpus}/b/", why[change])
    assert len(list((tmp_path / "out.partial" / "spool").glob("*.json"))) == 1
    if change == "vanishes":
        (tmp_path / "elsewhere").rename(own_corpus)
    _check_goes_on(own_corpus, tmp_path / "out", 1, capsys)


def test_file_that_is_written_all_the_time_is_said(
    own_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = own_corpus / "b" / "9.png"
    data, ended = busy.read_bytes(), threading.Event()

    def write_on() -> None:
        while not ended.is_set():
            busy.write_bytes(data)  # of equal size and content: its time alone tells

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        error = _fails(own_corpus, tmp_path / "out", capsys)
    finally:
        ended.set()
        writer.join()
    _check_is_one_clear_line(error, str(busy), "changed while it was read")
    _check_goes_on(own_corpus, tmp_path / "out", 1, capsys)
