"""Files that are cut off, damaged, lying, enormous or no images at all: rejected, or used rightly.

Every kind is made from a seed (hostile_files). All of them stand beside good images in one corpus.
"""

import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import Kind, hostile_kinds
from image_files import image_file, noise, whole_files
from PIL import Image
from written_sets import rejects_of, rows_of, write_set

from shards.images.clean import Cleaned, clean_image
from shards.images.decode import Pixels, Profile, RejectedImage, encode_image, shrink
from shards.shard_format.config import WriteConfig
from shards.shard_format.schema import SPLITS, read_index, read_manifest
from shards.verification.faults import find_faults

CONFIG = WriteConfig(source="x", out="y")
GOOD = 4  # images per class that nothing is wrong with
MAX_RESIDENT = 1_000_000  # kB, of any process of a run: no bomb goes off


# All of them in one corpus


@dataclass(frozen=True)
class Corpus:
    """The files of a corpus by their source names; those that are not hostile are missing."""

    root: Path
    kinds: dict[str, Kind]


@dataclass(frozen=True)
class Written:
    """A run of `shards.write` that took in the hostile corpus."""

    out: Path
    error: str
    seconds: float
    resident: int  # kB, the most that one of its processes had


CLASSES = ("plain", "odd (name) #2.x", os.fsdecode(b"caf\xe9\n\xc2\xb5"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("hostile")
    placed = {}
    for name in CLASSES:
        (root / name).mkdir()
        for number in range(GOOD):
            (root / name / f"good{number}.png").write_bytes(
                image_file(noise(f"good {name!r} {number}"), "PNG")
            )
    for number, kind in enumerate(hostile_kinds()):
        source = f"{CLASSES[number % len(CLASSES)]}/{kind.name}"
        (root / source).write_bytes(kind.data)
        placed[source] = kind
    return Corpus(root, placed)


# Prints the peak memory, in kB, of the largest process that a command starts.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.fixture(scope="module", params=["fast", "exact"])
def written(
    hostile: Corpus, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Written:
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, "-m", "shards.write", "--source", str(hostile.root)]
    command += ["--out", str(folder / "out"), "--profile", request.param]
    command += ["--workers", "2", "--no-report"]
    start = time.monotonic()
    # From a small process: the peak of a forked one begins with the size of these very tests.
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *command], capture_output=True, check=False
    )
    error = done.stderr.decode(errors="replace")
    assert done.returncode == 0, error
    peak = int(done.stdout.split()[-1])
    return Written(folder / "out", error, time.monotonic() - start, peak)


def test_no_hostile_file_ends_a_run_or_makes_it_large_or_slow(written: Written) -> None:
    assert "Traceback" not in written.error
    assert not [line for line in written.error.splitlines() if "Warning" in line]
    assert written.seconds < 60
    assert written.resident < MAX_RESIDENT


def test_every_hostile_file_is_rejected_with_its_reason_or_accepted(
    hostile: Corpus, written: Written
) -> None:
    became = dict.fromkeys(rows_of(written.out), "accepted")
    rejects = rejects_of(written.out)
    assert not rejects.keys() & became.keys()
    assert all(detail for _, detail in rejects.values())
    became |= {path: reason for path, (reason, _) in rejects.items()}
    assert set(hostile.kinds) < set(became)
    assert len(became) == len(hostile.kinds) + GOOD * len(CLASSES)
    wrong = {
        source: became[source]
        for source, kind in hostile.kinds.items()
        if kind.expected is not None and became[source] not in kind.expected
    }
    assert wrong == {}


def test_what_was_accepted_is_a_whole_shard_set(written: Written) -> None:
    assert list(find_faults(written.out, read_manifest(written.out), workers=2)) == []


def test_dali_decodes_all_that_was_accepted(written: Written) -> None:
    dali = pytest.importorskip("nvidia.dali")
    images = list(_stored_images(written.out))
    assert len(images) > 150
    batches = [images[start : start + 16] for start in range(0, len(images), 16)]
    encoded = ([np.frombuffer(data, np.uint8) for data, _, _ in batch] for batch in batches)

    @dali.pipeline_def(batch_size=16, num_threads=2, device_id=None)  # type: ignore[untyped-decorator]
    def decode() -> Any:
        source = dali.fn.external_source(encoded, dtype=dali.types.UINT8)
        return dali.fn.decoders.image(source, device="cpu", output_type=dali.types.RGB)

    pipeline = decode()
    pipeline.build()
    for batch in batches:
        (decoded,) = pipeline.run()
        for number, (data, height, width) in enumerate(batch):
            pixels = np.asarray(decoded[number])
            assert pixels.shape == (height, width, 3)
            assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def _stored_images(folder: Path) -> Iterator[tuple[bytes, int, int]]:
    """Every image as encoded, with the height and width that the index states."""
    manifest = read_manifest(folder)
    for split in SPLITS:
        for row in read_index(folder, split):
            with (folder / manifest.splits[split].shards[row["shard"]].name).open("rb") as stream:
                stream.seek(int(row["offset"]))
                yield stream.read(int(row["size"])), int(row["height"]), int(row["width"])


def test_file_that_needs_too_much_memory_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "in" / "a" / f"{number}.png").write_bytes(image_file(noise(f"{number}"), "PNG"))
    greedy = (tmp_path / "in" / "a" / "1.png").read_bytes()

    def clean(data: bytes, config: WriteConfig) -> Cleaned:
        if data == greedy:
            raise MemoryError
        return clean_image(data, config)

    monkeypatch.setattr("shards.encoding.sample.clean_image", clean)
    write_set(tmp_path / "in", tmp_path / "out")
    reasons = {path: reason for path, (reason, _) in rejects_of(tmp_path / "out").items()}
    assert reasons == {"a/1.png": "fatal"}


# One image after another


def _mutated(data: bytes, generator: random.Random) -> bytes:
    """A few bytes changed, most of them among the first; sometimes a piece cut out or doubled."""
    damaged = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        reach = generator.choice((32, 128, len(damaged), len(damaged)))
        place = generator.randrange(min(reach, len(damaged)))
        damaged[place] = generator.choice((0, 1, 127, 128, 255, generator.randrange(256)))
    start, end = sorted(generator.randrange(len(damaged)) for _ in range(2))
    piece = damaged[start : min(end, start + 64)]
    cut = generator.random()
    if cut < 0.1:
        del damaged[start : start + len(piece)]
    elif cut < 0.2:
        damaged[start:start] = piece
    return bytes(damaged)


@pytest.mark.parametrize("rounds", [10, pytest.param(400, marks=pytest.mark.slow)])
def test_a_damaged_file_is_rejected_or_becomes_an_image(rounds: int) -> None:
    generator = random.Random(rounds)
    whole = list(whole_files().values())
    accepted = 0
    for number in range(rounds * len(whole)):
        data = _mutated(whole[number % len(whole)], generator)
        options = _OPTIONS[number % len(_OPTIONS)]
        try:
            pixels = clean_image(data, options).pixels
        except RejectedImage as reject:
            assert reject.reason in REASONS
            continue
        accepted += 1
        _check_is_stored_in_its_shape(shrink(pixels, 512))
    assert accepted > rounds


REASONS = {"blank", "corrupt", "deep_colour", "empty", "mask", "not_an_image", "annotated"}
REASONS |= {"too_large", "too_small"}
_OPTIONS = (
    CONFIG,
    replace(CONFIG, masks="keep", grey=True),
    replace(CONFIG, data_bars="keep", annotations="discard"),
)


def _check_is_stored_in_its_shape(pixels: Pixels) -> None:
    profiles: tuple[Profile, Profile] = ("fast", "exact")
    for profile in profiles:
        stored = Image.open(io.BytesIO(encode_image(pixels, profile)))
        stored.load()
        assert (stored.height, stored.width) == pixels.shape[:2]
        assert stored.mode == ("L" if pixels.ndim == 2 else "RGB")


@pytest.mark.parametrize("content", ["noise", "bar", "marks", "two", "ramp"])
@pytest.mark.parametrize("colour", [False, True])
def test_image_of_any_shape_is_rejected_or_becomes_an_image(content: str, colour: bool) -> None:
    for shape in ((32, 32), (32, 33), (33, 32), (32, 3000), (3000, 32), (40, 700), (129, 130)):
        pixels = _drawn(content, shape)
        if colour:
            pixels = np.dstack([pixels, 255 - pixels, pixels // 2])
        for options in _OPTIONS:
            try:
                cleaned = clean_image(image_file(pixels, "PNG"), options).pixels
            except RejectedImage as reject:
                assert reject.reason in REASONS
            else:
                _check_is_stored_in_its_shape(cleaned)


def _drawn(content: str, shape: tuple[int, int]) -> Pixels:
    height, width = shape
    pixels: Pixels = noise(content, height, width)
    if content == "bar":
        pixels[-(height // 5) :] = 0
        pixels[-(height // 8) :: 2, ::3] = 255
    elif content == "marks":
        pixels[height // 2, width // 8 :] = 255
        pixels[4:9, 4:9] = 0
        pixels //= 2
    elif content == "two":
        pixels = np.uint8(pixels > 127) * np.uint8(255)
    elif content == "ramp":
        pixels = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    return pixels
