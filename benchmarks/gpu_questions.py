"""What only a GPU tells of DALI's decoders; each question in a process that a bad build may kill.

    python benchmarks/gpu_questions.py [--corpus DIR] [--device cpu]

Do decoders of regions work (nvImageCodec 0.9 broke them on some GPUs)? Does a grey JPEG survive
`ANY_DATA`? How fast is decoding, by threads and share of the JPEG engine? What does a damaged image
do, and what comes after it? Do 16 bits of JPEG 2000 come out exactly? bench_gpu.py asks them too.
"""

import argparse
import functools
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

from pretrain.loading.decoder_check import PROBE_TOLERANCE
from shards.synthetic.corpus import corpus_jobs, drawn

CORPUS = Path(os.environ.get("MICROGRAPHS", "micrographs"))  # drawn where it is not there
FULL, CAPPED = (741, 1048), (362, 512)  # the size of most micrographs of MicroNet; of our shards
COUNT = 64
DRAWN_PER_CLASS = 16
RUNS = 3  # of a pipeline, since the faults known so far do not always come at the first
LIMIT = 180.0  # seconds for an answer
TIMED = 1.0  # seconds per rate
WINDOW = ((100, 150), (300, 420))  # y, x: first and size

Encoded = list[npt.NDArray[np.uint8]]
Pixels = npt.NDArray[Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder per class [drawn]")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--answer", choices=QUESTIONS, help="here, and nothing else")
    options = parser.parse_args()
    if options.answer:
        QUESTIONS[options.answer](options.corpus, "mixed" if options.device == "gpu" else "cpu")
        return
    for name in QUESTIONS:
        print(f"{name}:", flush=True)
        flags = ["--answer", name, "--corpus", str(options.corpus), "--device", options.device]
        if fault := _answer([sys.executable, "-u", __file__, *flags]):  # -u: a crash loses no line
            print(fault, flush=True)


def _answer(command: Sequence[str]) -> str:
    """Let it print what it finds as it comes; how it ended, unless well."""
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"no more within {LIMIT:g} s"
    if done.returncode < 0:
        return f"CRASHED: {signal.Signals(-done.returncode).name}"
    return "FAILED: " + " ".join(done.stderr.split())[-600:] if done.returncode else ""


def roi_random_crop(corpus: Path, device: str) -> None:
    for crop in _runs(_jpegs(corpus, FULL), device, fn.decoders.image_random_crop):
        spread = np.mean([image.std() for image in crop])
        print(f"works: {len(crop)} crops, deviation within one {spread:.0f} of 255")


def roi_slice(corpus: Path, device: str) -> None:
    encoded = _jpegs(corpus, FULL)
    (top, left), (height, width) = WINDOW
    whole = next(_runs(encoded, "cpu", fn.decoders.image))
    wanted = [image[top : top + height, left : left + width] for image in whole]
    decoder = functools.partial(
        fn.decoders.image_slice, start=[top, left], shape=[height, width], axes=[0, 1]
    )
    for got in _runs(encoded, device, decoder):
        print(_verdict(got, wanted))


def any_data(corpus: Path, device: str) -> None:
    encoded = _jpegs(corpus, FULL)
    wanted = next(_runs(encoded, "cpu", fn.decoders.image))
    for got in _runs(encoded, device, fn.decoders.image, output_type=types.ANY_DATA):
        print(f"{_verdict(got, wanted)}; {got[0].shape[2]} channel(s)")


def rates(corpus: Path, device: str) -> None:
    most = len(os.sched_getaffinity(0))
    counts = sorted({min(count, most) for count in (4, 8, 16)})
    loads = (0.0, 0.25, 0.5, 0.75, 1.0) if device == "mixed" else (0.0,)
    print("images/s          " + "".join(f"{count:>4} threads" for count in counts))
    for size in (FULL, CAPPED):
        encoded = _jpegs(corpus, size)
        for load in loads:
            row = [_rate(encoded, device, count, load) for count in counts]
            name = f"{size[1]} x {size[0]}, hw {load:.2f}"
            print(f"{name:18}" + "".join(f"{rate:>12,.0f}" for rate in row), flush=True)


def damaged(corpus: Path, device: str) -> None:
    good = _jpegs(corpus, FULL)
    kinds = {"cut short": good[0][: len(good[0]) // 2], "garbage": good[0].copy()}
    kinds["garbage"][600:] = np.random.default_rng(0).integers(0, 255, len(good[0]) - 600)
    for name, bad in kinds.items():
        batches = [[*good[1:], bad], *[good] * RUNS]
        pipeline = _pipeline(batches, device, fn.decoders.image, depth=1)
        try:
            pipeline.run()
            print(f"{name}: no error, a picture comes out")
        except RuntimeError as error:
            print(f"{name}: an exception, {' '.join(str(error).split())[:120]} …")
        try:
            images = _host(pipeline.run())
            print(f"{name}: the next batch has {len(images)} pictures")
        except RuntimeError as error:
            print(f"{name}: no batch after it, {' '.join(str(error).split())[:120]} …")


def jpeg2000_16_bit(corpus: Path, device: str) -> None:
    rng = np.random.default_rng(0)
    wanted = [rng.integers(0, 2**16, (200, 300)).astype(np.uint16) for _ in range(8)]
    encoded = [_encoded(Image.fromarray(image), "JPEG2000") for image in wanted]
    for got in _runs(encoded, device, fn.decoders.image, dtype=types.UINT16):
        equal = sum(np.array_equal(a[..., 0], b) for a, b in zip(got, wanted, strict=True))
        print(f"{equal} of {len(wanted)} pictures equal bit for bit, {got[0].dtype}")


QUESTIONS: dict[str, Callable[[Path, str], None]] = {
    "decoders.image_random_crop": roi_random_crop,
    "decoders.image_slice": roi_slice,
    "a grey JPEG as ANY_DATA": any_data,
    "decoding alone": rates,
    "a damaged image": damaged,
    "16 bits of JPEG 2000": jpeg2000_16_bit,
}


def micrographs(corpus: Path, scratch: Path) -> Path:
    """`corpus` where it is, else a drawn one."""
    if corpus.is_dir():
        return corpus
    folder = scratch / "corpus"
    for _ in drawn(corpus_jobs(folder, DRAWN_PER_CLASS, max(FULL), seed=0)):
        pass
    return folder


def _jpegs(corpus: Path, size: tuple[int, int]) -> Encoded:
    """Grey JPEGs of real texture, all of one size (height, width)."""
    with tempfile.TemporaryDirectory() as scratch:
        files = sorted(path for path in micrographs(corpus, Path(scratch)).rglob("*.*"))
        chosen = files[:: max(1, len(files) // COUNT)][:COUNT]
        images = [Image.open(path).convert("L").resize(size[::-1]) for path in chosen]
    return [_encoded(image, "JPEG", quality=90) for image in images]


def _encoded(image: Image.Image, kind: str, **options: Any) -> npt.NDArray[np.uint8]:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return np.frombuffer(stream.getvalue(), np.uint8)


def _runs(encoded: Encoded, device: str, decoder: Any, **options: Any) -> Iterator[list[Pixels]]:
    pipeline = _pipeline(lambda: encoded, device, decoder, **options)
    for _ in range(RUNS):
        yield _host(pipeline.run())


def _rate(encoded: Encoded, device: str, threads: int, load: float) -> float:
    options = {"hw_decoder_load": load} if device == "mixed" else {}
    pipeline = _pipeline(lambda: encoded, device, fn.decoders.image, threads=threads, **options)
    for _ in range(RUNS):
        pipeline.run()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < TIMED:
        pipeline.run()
        done += len(encoded)
    return done / (time.perf_counter() - started)


def _pipeline(
    source: Callable[[], Encoded] | Sequence[Encoded],
    device: str,
    decoder: Any,
    *,
    threads: int = 4,
    depth: int = 2,
    **options: Any,
) -> Any:
    """Decoded images; in `options`, what the decoder takes."""
    options = {"output_type": types.GRAY} | options

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=COUNT,
        num_threads=threads,
        device_id=0 if device == "mixed" else None,
        prefetch_queue_depth=depth,
    )
    def decoding() -> Any:
        encoded = fn.external_source(source, batch=True, dtype=types.UINT8)
        return decoder(encoded, device=device, **options)

    pipeline = decoding()
    pipeline.build()
    return pipeline


def _host(outputs: Any) -> list[Pixels]:
    images = outputs[0].as_cpu()
    return [np.array(images.at(number)) for number in range(len(images))]


def _verdict(got: Sequence[Pixels], wanted: Sequence[Pixels]) -> str:
    pairs = zip(got, wanted, strict=True)  # one channel is held against three
    worst = max(float(np.abs(a.astype(float) - b.astype(float)).mean()) for a, b in pairs)
    right = "right" if worst <= PROBE_TOLERANCE else "WRONG"
    return f"{right}: off by {worst:.2f} of 255 in the mean of the worst picture"


if __name__ == "__main__":
    main()
