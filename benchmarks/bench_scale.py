"""How time, memory and disk grow with the corpus, up to the size of MicroNet.

python benchmarks/bench_scale.py --work DIR [IMAGES ...]

Makes a corpus of distinct grey images of 54 classes (random fields of a spectrum per class, 192
pixels wide, JPEG and PNG by turns), in which every hundredth image is a shifted crop of the field
of the one before it. Then writes shards with all checks, opens them and verifies them, each in a
process of its own. 110,861 images take 3 GB beside the shards.
"""

import argparse
import csv
import io
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 54  # as MicroNet
SIDE, SHIFT = 192, 64  # pixels
PLANTED = 100
OPEN = """
import time; start = time.perf_counter()
from pathlib import Path
from pretrain.loading.shard_reader import open_split
folder = Path({folder!r})
for split in ("train", "val"):
    data = open_split(folder, split)
    data.read([0])
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpora")
    parser.add_argument("images", type=int, nargs="*", default=[1_000, 10_000])
    options = parser.parse_args()
    print("  images  write s  img/s  peak MB  index MB  tars MB  open s  verify s  planted  found")
    for images in options.images:
        corpus, out = options.work / f"corpus{images}", options.work / f"shards{images}"
        make_corpus(corpus, images)
        shutil.rmtree(out, ignore_errors=True)
        seconds, peak = _run("shards.write", "--source", str(corpus), "--out", str(out))
        verify, _ = _run("shards.verify", str(out))
        index = sum((out / name).stat().st_size for name in ("train.npy", "val.npy"))
        tars = sum(path.stat().st_size for path in out.glob("*.tar"))
        opened = _open_seconds(out)
        found = _found(out)
        planted = len(range(1, images, PLANTED))
        print(
            f"{images:8,}{seconds:9.1f}{images / seconds:7.0f}{peak:9.0f}{index / 1e6:10.1f}"
            f"{tars / 1e6:9.0f}{opened:8.2f}{verify:10.1f}{planted:9,}{found:7,}",
            flush=True,
        )


def make_corpus(folder: Path, images: int) -> None:
    """`folder/class_NN/IMAGE.jpg|png`; made once."""
    done = folder / ".made"
    if done.exists():
        return
    for label in range(CLASSES):
        (folder / f"class_{label:02d}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(_make, [folder] * images, range(images), chunksize=500))
    done.touch()


def _make(folder: Path, number: int) -> None:
    copy = number % PLANTED == 1 and number > 0
    origin = number - 1 if copy else number  # a planted image shows the field before it
    label = origin * 7919 % CLASSES
    field = _field(origin, label)
    corner = SHIFT if copy else 0
    pixels = field[corner : corner + SIDE, corner : corner + SIDE]
    kind = ("JPEG", "PNG")[number % 2]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **({"quality": 90} if kind == "JPEG" else {}))
    name = f"{number:06d}.{'jpg' if kind == 'JPEG' else 'png'}"
    (folder / f"class_{label:02d}" / name).write_bytes(stream.getvalue())


def _field(number: int, label: int) -> np.ndarray:
    """A random field of the class's grain size, elongation and contrast, `uint8`."""
    size = SIDE + SHIFT
    rng = np.random.default_rng(number)
    frequency = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    grain = 2.0 + 6.0 * (label % 9) / 9
    stretch = 1.0 + (label // 9) / 3
    squared = (stretch * frequency[0]) ** 2 + (frequency[1] / stretch) ** 2
    noise = rng.standard_normal((size, size), dtype=np.float32)
    smooth = np.fft.irfft2(np.fft.rfft2(noise) * np.exp(-2 * (np.pi * grain) ** 2 * squared / 4))
    values = np.tanh(smooth / smooth.std() * (0.5 + label % 4)) * 80 + 128
    return np.clip(values + 6 * noise, 0, 255).astype(np.uint8)


def _run(module: str, *arguments: str) -> tuple[float, float]:
    """Seconds, and the largest resident size in MB of the whole process tree."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(map(_resident, [process.pid, *_children(process.pid)])))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{module} {' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - start, peak / 1e6


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _resident(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * resource.getpagesize()


def _open_seconds(folder: Path) -> float:
    code = OPEN.format(folder=str(folder))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return float(result.stdout)


def _found(folder: Path) -> int:
    """How many planted pairs lie in one group."""
    groups = {}
    with (folder / "samples.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            groups[int(Path(row["path"]).stem)] = row["group"]
    pairs = ((groups.get(n), groups.get(n - 1)) for n in groups if n % PLANTED == 1)
    return sum(one == other != "" for one, other in pairs)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
