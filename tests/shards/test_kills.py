"""`shards.write` is killed at any moment: nothing looks finished, and it ends in the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from written_sets import files_of

from shards.shard_format.schema import MANIFEST_NAME
from shards.synthetic.classes import TEXTURES
from shards.synthetic.corpus import draw

CLASSES, PER_CLASS, SIDE = list(TEXTURES)[:5], 32, 40  # 160 images: five chunks, four tars
SEED = 7
TOO_LONG = 120  # seconds for one run


def _command(source: Path, out: Path, workers: int) -> list[str]:
    command = [sys.executable, "-m", "shards.write", "--source", str(source), "--out", str(out)]
    return [*command, "--shard-samples", "50", "--no-report", "--workers", str(workers)]


def _run(source: Path, out: Path, workers: int) -> float:
    """Run to the end; the seconds that it took."""
    start = time.monotonic()
    subprocess.run(_command(source, out, workers), check=True, capture_output=True)
    return time.monotonic() - start


@dataclass(frozen=True)
class Undisturbed:
    """What a run of one process that nobody kills makes, and how long it takes."""

    files: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def drawn_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    for name in CLASSES:
        (root / name).mkdir()
        for number in range(PER_CLASS):
            image = Image.fromarray(draw(name, SIDE, SEED, number)[0])
            image.save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def undisturbed(drawn_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    seconds = _run(drawn_corpus, out, workers=1)
    return Undisturbed(files_of(out), seconds)


# At random moments


class _Harassed:
    """A shard set in the making, whose runs are killed."""

    def __init__(self, source: Path, out: Path, undisturbed: dict[str, bytes]) -> None:
        self.source = source
        self.out = out
        self.partial = out.with_name(f"{out.name}.partial")
        self.undisturbed = undisturbed
        self._workers: set[str] = set()  # of killed runs

    def kill_after(self, seconds: float, *, whole_group: bool) -> bool:
        """Start a run and kill it then; False when it was through before."""
        process = subprocess.Popen(
            _command(self.source, self.out, workers=2),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            self._workers |= _children(process.pid)
            if whole_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
        else:
            self.check_finished()
            return False
        self._check_unfinished()
        return True

    def check_finished(self) -> None:
        assert files_of(self.out) == self.undisturbed
        assert [path.name for path in self.out.parent.iterdir()] == [self.out.name]
        shutil.rmtree(self.out)

    def check_no_worker_is_left(self) -> None:
        deadline = time.monotonic() + 20
        while (alive := list(filter(_runs, self._workers))) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in alive:
            os.kill(int(pid), signal.SIGKILL)  # ours, and they would stay for ever
        assert alive == []

    def _check_unfinished(self) -> None:
        if self.out.exists():  # between the last rename and the end of the process
            self.check_finished()
            return
        manifests = list(self.out.parent.rglob(MANIFEST_NAME))
        assert manifests in ([], [self.partial / MANIFEST_NAME])


def _children(pid: int) -> set[str]:
    try:
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return set()


def _runs(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_run_that_is_killed_again_and_again_ends_in_the_same_bytes(
    drawn_corpus: Path, undisturbed: Undisturbed, tmp_path: Path, kills: int
) -> None:
    harassed = _Harassed(drawn_corpus, tmp_path / "out", undisturbed.files)
    generator = random.Random(SEED)
    done, anew = 0, True
    while done < kills:
        if anew:  # else what was done stays, and the early phases are over at once
            shutil.rmtree(harassed.partial, ignore_errors=True)
        moment = generator.uniform(0, undisturbed.seconds)
        # The next run begins at once, while workers of a killed parent may still be ending.
        if harassed.kill_after(moment, whole_group=generator.random() < 0.5):
            done += 1
            anew = not anew
    _run(drawn_corpus, tmp_path / "out", workers=2)
    harassed.check_no_worker_is_left()
    harassed.check_finished()


def test_run_goes_on_when_a_worker_is_killed(
    drawn_corpus: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        _command(drawn_corpus, out, workers=2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    spool = tmp_path / "out.partial" / "spool"
    deadline = time.monotonic() + TOO_LONG
    while not list(spool.glob("*.reading")):  # a worker is at work
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for pid in _children(process.pid):
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(int(pid), signal.SIGKILL)
            break
    assert process.wait(TOO_LONG) == 0
    assert files_of(out) == undisturbed.files


# Before every single thing that it does to a file

# argv: the corpus, OUT, and a slice of the operations. Forks, since importing takes the longest;
# prints the number of operations, and a line about each run that went wrong.
_SWEEP = """
import contextlib, hashlib, io, os, shutil, signal, sys
from pathlib import Path
from shards.write import main

source, out, chosen = sys.argv[1], Path(sys.argv[2]), slice(*map(int, sys.argv[3:]))
partial = out.with_name(out.name + ".partial")
ARGV = ["--source", source, "--out", str(out), "--workers", "1", "--no-report"]
ARGV += ["--shard-samples", "8"]
WRITING = os.O_WRONLY | os.O_RDWR
OPERATIONS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")

def is_operation(event, args):
    if event == "open":
        return str(args[0]).startswith(str(out)) and bool(args[2] & WRITING)
    return event in OPERATIONS and str(partial.parent) in str(args[0]) + os.getcwd()

def run(last, counted=None):
    pid = os.fork()
    if pid == 0:
        seen = 0
        def hook(event, args):
            nonlocal seen
            if is_operation(event, args):
                seen += 1
                if seen == last:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        with contextlib.redirect_stdout(io.StringIO()):
            main(ARGV)
        if counted is not None:
            os.write(counted, str(seen).encode())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def digests():
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir()}

reading, writing = os.pipe()
assert run(0, writing) == 0
operations = int(os.read(reading, 20))
wanted = digests()
shutil.rmtree(out)
for number in range(1, operations + 1)[chosen]:
    if run(number) != -signal.SIGKILL:
        print("not killed at operation", number)
    if out.exists():
        print("there is a shard set after a kill at operation", number)
    manifests = [path for path in out.parent.rglob("manifest.json") if path.parent != partial]
    if manifests:
        print("a manifest after a kill at operation", number, manifests)
    if run(0) != 0 or digests() != wanted or partial.exists():
        print("the run after a kill at operation", number, "went wrong")
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)
print(operations)
"""


def _sweep(corpus: Path, out: Path, first: int, end: int, step: int) -> Iterator[str]:
    command = [sys.executable, "-c", _SWEEP, str(corpus), str(out), *map(str, (first, end, step))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    yield from done.stdout.splitlines()


def test_kill_before_one_of_the_last_renames(corpus: Path, tmp_path: Path) -> None:
    # The seventh from the end renames the spool, and the last one the whole set.
    *faults, operations = _sweep(corpus, tmp_path / "out", -7, 10**6, 6)
    assert faults == []
    assert int(operations) > 20


@pytest.mark.slow
def test_kill_before_any_file_is_opened_renamed_or_removed(corpus: Path, tmp_path: Path) -> None:
    *faults, operations = _sweep(corpus, tmp_path / "out", 0, 10**6, 1)
    assert faults == []
    assert int(operations) > 20
