"""Writing shards, side by side: ours with all checks, the loop most people write, other tools.

python benchmarks/bench_write.py [--corpus DIR] [--workers N] [--repeat N] [--profiles fast]

Images per second from the same files, start of processes and imports included, the median of
`--repeat` turns; then what each check costs, in milliseconds of one processor per image. The plain
loop is a single process: Pillow opens, scales (`thumbnail`) and encodes, webdataset's TarWriter
writes. litdata and mosaicml-streaming are measured where they are installed.
"""

import argparse
import hashlib
import io
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from shards.duplicates.fingerprint import compute_fingerprint
from shards.images.annotations import find_annotations
from shards.images.clean import clean_image
from shards.images.databar import find_data_bar
from shards.images.decode import decode_raw, encode_image, shrink, to_eight_bits
from shards.shard_format.config import FAST_MAX_SIDE, Profile, WriteConfig

PROFILES: tuple[Profile, ...] = ("fast", "exact")
Encode = Callable[[Path], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = os.environ.get("MICROGRAPHS")
    parser.add_argument(
        "--corpus", type=Path, default=given, required=not given, help="a folder [$MICROGRAPHS]"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--profiles", nargs="+", default=PROFILES, choices=PROFILES)
    options = parser.parse_args()
    files = sorted(path for path in options.corpus.rglob("*") if path.is_file())
    print(f"{len(files)} images, {options.workers} workers, median of {options.repeat}")
    for profile in options.profiles:
        _side_by_side(profile, files, options)
    _costs(files[:: max(1, len(files) // 200)])


def _side_by_side(profile: Profile, files: list[Path], options: argparse.Namespace) -> None:
    ways: dict[str, Callable[[Path], Any]] = {
        "plain loop (RGB)": lambda out: _plain(files, profile, "RGB", out),
        "plain loop (mode kept)": lambda out: _plain(files, profile, None, out),
        "ours": lambda out: _ours(options, profile, out),
        "ours, no near-duplicates": lambda out: _ours(
            options, profile, out, "--no-near-duplicates"
        ),
        "decode + encode alone": lambda out: _limit(files, profile, options.workers),
    }
    if find_spec("litdata"):
        ways["litdata optimize"] = lambda out: _litdata(files, profile, options.workers, out)
    if find_spec("streaming"):
        ways["mosaicml MDSWriter"] = lambda out: _mds(files, profile, out)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(options.repeat):  # in turns, so that a busy machine is so for all
            for name, way in ways.items():
                out = Path(scratch) / f"{profile}{turn}{name}"
                start = time.perf_counter()
                way(out)
                rates[name].append(len(files) / (time.perf_counter() - start))
        tars = Path(scratch) / f"{profile}0ours"
        start = time.perf_counter()
        subprocess.run(
            ["tar", "cf", str(Path(scratch) / "x.tar"), "-C", str(tars), "."], check=True
        )
        rates["tar cf of the same bytes"] = [len(files) / (time.perf_counter() - start)]
    plain = statistics.median(rates["plain loop (mode kept)"])
    print(f"\n{profile}:")
    for name, found in rates.items():
        rate = statistics.median(found)
        spread = f"{min(found):.0f} to {max(found):.0f}"
        print(f"  {name:28s}{rate:9.0f} images/s{rate / plain:8.2f} x   ({spread})", flush=True)


def _child(function: str, *arguments: object) -> None:
    """Run one of this file's functions in a fresh process, as a person's script would be."""
    code = f"import bench_write as b; b.{function}(*{arguments!r})"
    folder = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env={**os.environ})


def _plain(files: list[Path], profile: Profile, mode: str | None, out: Path) -> None:
    _child("plain_loop", list(map(str, files)), profile, mode, str(out))


def plain_loop(files: Iterable[str], profile: Profile, mode: str | None, out: str) -> None:
    from webdataset import TarWriter

    with TarWriter(out) as sink:
        for number, name in enumerate(files):
            sample = {"__key__": f"{number:06d}", "cls": "0", "json": {"file": name}}
            sink.write(sample | {SUFFIX[profile]: _pillow(name, profile, mode)})


SUFFIX = {"fast": "jpg", "exact": "png"}


def _pillow(name: str, profile: Profile, mode: str | None) -> bytes:
    image = Image.open(name)
    if mode or image.mode not in ("L", "RGB"):
        image = image.convert(mode or "RGB")
    stream = io.BytesIO()
    if profile == "fast":
        image.thumbnail((FAST_MAX_SIDE, FAST_MAX_SIDE))
        image.save(stream, "JPEG", quality=95)
    else:
        image.save(stream, "PNG")
    return stream.getvalue()


def _ours(options: argparse.Namespace, profile: Profile, out: Path, *flags: str) -> None:
    command = [sys.executable, "-m", "shards.write", "--source", str(options.corpus)]
    command += ["--out", str(out), "--profile", profile, "--workers", str(options.workers)]
    subprocess.run(
        [*command, "--no-report", *flags],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _limit(files: list[Path], profile: Profile, workers: int) -> None:
    """Our decoder, scaling and encoder in as many processes; nothing checked, nothing written."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        list(pool.map(decode_encode, map(str, files), [profile] * len(files), chunksize=32))


def decode_encode(name: str, profile: Profile) -> int:
    pixels = to_eight_bits(decode_raw(Path(name).read_bytes()).values).pixels
    return len(encode_image(shrink(pixels, FAST_MAX_SIDE if profile == "fast" else None), profile))


def _litdata(files: list[Path], profile: Profile, workers: int, out: Path) -> None:
    _child("litdata_optimize", list(map(str, files)), profile, workers, str(out))


def litdata_optimize(files: list[str], profile: Profile, workers: int, out: str) -> None:
    from functools import partial

    import litdata

    litdata.optimize(
        fn=partial(litdata_sample, profile=profile),
        inputs=files,
        output_dir=out,
        num_workers=workers,
        chunk_bytes="64MB",
    )


def litdata_sample(name: str, profile: Profile) -> dict[str, Any]:
    return {"image": _pillow(name, profile, None), "label": 0}


def _mds(files: list[Path], profile: Profile, out: Path) -> None:
    _child("mds_write", list(map(str, files)), profile, str(out))


def mds_write(files: list[str], profile: Profile, out: str) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=out, columns={"image": "bytes", "label": "int"}, hashes=["sha1"]) as sink:
        for name in files:
            sink.write({"image": _pillow(name, profile, None), "label": 0})


def _costs(files: list[Path]) -> None:
    data = [path.read_bytes() for path in files]
    raw = _timed("decode", decode_raw, data)
    pixels = [
        image.pixels for image in _timed("grey or colour", to_eight_bits, [r.values for r in raw])
    ]
    _timed("data bar", find_data_bar, pixels)
    _timed("burnt-in marks", find_annotations, pixels)
    config = WriteConfig(source="x", out="y")
    _timed("(the four above and masks)", lambda d: clean_image(d, config), data)
    small = _timed("scale", lambda p: shrink(p, FAST_MAX_SIDE), pixels)
    _timed("encode, fast", lambda p: encode_image(p, "fast"), small)
    _timed("encode, exact", lambda p: encode_image(p, "exact"), pixels)
    _timed("hash of file", lambda d: hashlib.sha256(d).digest(), data)
    _timed("near-duplicate fingerprint", compute_fingerprint, small)


def _timed(name: str, function: Callable[[Any], Any], inputs: list[Any]) -> list[Any]:
    start = time.process_time()
    outputs = [function(value) for value in inputs]
    spent = (time.process_time() - start) / len(inputs) * 1000
    print(f"  {name:32s}{spent:7.2f} ms", flush=True)
    return outputs


if __name__ == "__main__":
    main()
