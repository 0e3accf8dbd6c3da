"""Everything about speed that only a GPU can tell, in one go.

    python benchmarks/bench_gpu.py [--corpus DIR]                 a quarter of an hour; or in two:
    python benchmarks/bench_gpu.py --parts loader questions
    python benchmarks/bench_gpu.py --parts training
    python benchmarks/bench_gpu.py --parts training --archs resnet50 --trace trace

loader: the loader alone. questions: of DALI's decoders (gpu_questions.py).
training: the trainer's own epoch (bf16, channels last, all guards) on one fixed batch, on full-size
micrographs as they stream, and on 512-px ones kept decoded; eager and compiled. The share of the
fixed batch's rate and of waiting for data are what the loader costs.

Each measurement has a process of its own, so that none inherits another's memory, compiled code or
fault; what fails is named in the end, the others' figures stand. Without --corpus and MICROGRAPHS,
micrographs are drawn. `--device cpu` tries out the program.
"""

import argparse
import itertools
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from gpu_questions import CORPUS, micrographs
from gpu_speed import LOADER_BATCH, add_settings

from micrograph.cli import cores
from pretrain.loading.decoder_check import choose_decode_path
from pretrain.loading.shard_reader import open_split
from shards.shard_format.config import JPEG_MAX_SIDE, WriteConfig
from shards.write import write_shards

PARTS = ("loader", "questions", "training")
SETS = {"full size": JPEG_MAX_SIDE, "512 px": 512}  # longest sides
PUBLISHED = (
    "ResNet-50 elsewhere, images/s: 2,470 NVIDIA's DeepLearningExamples (one A100, DALI, AMP), "
    "about 2,600 timm (A100, synthetic), about 3,040 per A100 FFCV (160 to 192 px)"
)
LIMIT = 400.0  # seconds for one measurement; gpu_questions.py bounds each answer itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder per class [drawn]")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--archs", nargs="+", default=["resnet50", "efficientnet-b4", "resnet18"])
    parser.add_argument("--eager-only", action="store_true", help="without torch.compile")
    add_settings(parser)
    options = parser.parse_args()
    _tell_machine(options.device)
    with tempfile.TemporaryDirectory() as scratch:
        if failed := _measure_all(options, Path(scratch)):
            sys.exit(f"failed: {'; '.join(failed)}")


def _measure_all(options: argparse.Namespace, scratch: Path) -> list[str]:
    """Run each measurement that is asked for; what failed, and how."""
    corpus = micrographs(options.corpus, scratch)
    sets: dict[str, Path] = {}
    own: list[str] = []
    if set(options.parts) - {"questions"}:
        sets = _write_sets(corpus, scratch)
        own += ["--gpu-decode", _told_decoder(sets["full size"], options.device)]
        for name in ("seconds", "batch_size", "image_size", "precision", "trace", "device"):
            if (value := getattr(options, name)) is not None:
                own += [f"--{name.replace('_', '-')}", str(value)]
    failed = []
    if "loader" in options.parts:
        print(f"\nloader alone, {options.image_size} px, batches of {LOADER_BATCH}")
        print("aim: over 10,000 images/s decoding, over 100,000 from memory", flush=True)
        for name, how in itertools.product(sets, ("streaming", "cached")):
            failed += _run("gpu_speed", "loader", name, how, "--shards", str(sets[name]), *own)
    if "questions" in options.parts:
        print(flush=True)
        asked = ["--corpus", str(corpus), "--device", options.device]
        failed += _run("gpu_questions", *asked, limit=None)  # killed, its child would go on
    if "training" in options.parts:
        print(
            f"\ntraining, {options.precision}, {options.image_size} px, batch {options.batch_size}"
        )
        print(PUBLISHED)
        head = f"{'images/s':>10}{'of fixed':>10}{'waiting':>9}"
        print(f"{'':44}{head}   aim: over 95 %, under 3 %", flush=True)
        shards = ["--shards", str(sets["full size"]), "--small", str(sets["512 px"])]
        for arch in options.archs:
            for how in ("eager", "compiled")[: 1 if options.eager_only else 2]:
                failed += _run("gpu_speed", "training", arch, how, *shards, *own)
    return failed


def _run(script: str, *flags: str, limit: float | None = LIMIT) -> list[str]:
    """Nothing, or what is to be said of a failure; its own words are on the screen."""
    name = " ".join([script, *flags[:3]])
    file = Path(__file__).with_name(f"{script}.py")
    try:
        done = subprocess.run([sys.executable, "-u", str(file), *flags], timeout=limit)
    except subprocess.TimeoutExpired:
        return [f"{name} (not done in {limit:g} s)"]
    return [f"{name} (exit code {done.returncode})"] if done.returncode else []


def _told_decoder(shards: Path, device: str) -> str:
    """The setting for who decodes, found out once for all measurements."""
    if device == "cpu":
        return "auto"
    path = choose_decode_path(open_split(shards, "train"), 0)
    print(f"decoding by {path.name}: {path.reason}", flush=True)
    return "always" if path.name == "mixed" else "never"


def _tell_machine(device: str) -> None:
    if device == "gpu":
        gpu = torch.cuda.get_device_properties(0)
        print(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    names = ("torch", "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13", "accelerate")
    known = [f"{name} {_version(name)}" for name in names]
    print(
        ", ".join([f"{cores()} cores", f"Python {platform.python_version()}", *known]), flush=True
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except ImportError:
        return "under another name"


def _write_sets(corpus: Path, folder: Path) -> dict[str, Path]:
    sets = {}
    for name, side in SETS.items():
        out = sets[name] = folder / name.replace(" ", "-")
        write_shards(
            WriteConfig(
                source=str(corpus),
                out=str(out),
                max_side=side,
                near_duplicates=False,
                report=False,
            )
        )
        index = open_split(out, "train").index
        mean = (index["height"].astype(float) * index["width"]).mean() / 1e6
        print(f"{name}: {len(index)} images, {mean:.2f} megapixels in the mean", flush=True)
    return sets


if __name__ == "__main__":
    main()
