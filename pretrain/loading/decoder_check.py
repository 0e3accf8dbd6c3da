"""Check the GPU decoder on real samples, in a subprocess, because a bad one can crash.

python -m pretrain.loading.decoder_check --shards data/shards

DALI decodes JPEG on the GPU (`mixed`) by nvImageCodec, whose builds differ: one of 0.9 fails on
some data-centre GPUs and kills the process on others (nvImageCodec issue 55), and a wrong picture
raises no error. A child process therefore decodes samples of the shards with both decoders and
compares them; after a crash, a hang or a difference, the run decodes on the CPU.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from micrograph.cli import UserError, program
from micrograph.settings import load_config
from pretrain.loading.shard_reader import ShardReader, open_split

# host: TurboJPEG and Pillow, no GPU. cpu: DALI decodes on the CPU, the GPU does the rest.
# mixed (DALI's word): the GPU decodes, too.
DecodeName = Literal["host", "cpu", "mixed"]

PROBE_SAMPLES = 16
PROBE_TIMEOUT = 180.0  # seconds; a cold start of CUDA and DALI takes ten to thirty
# Mean of the absolute difference, of 255. JPEG decoders round the cosine transform differently (by
# a level) and interpolate chroma differently (by some at edges); a wrong picture is off by tens.
PROBE_TOLERANCE = 2.0


@dataclass(frozen=True, slots=True)
class DecodePath:
    """The decoder that a loader uses, and why."""

    name: DecodeName
    reason: str


def choose_decode_path(
    data: ShardReader,
    gpu: int | None,
    *,
    timeout: float = PROBE_TIMEOUT,
    probe: Sequence[str] | None = None,
) -> DecodePath:
    """The fastest decoder that gives correct images for `data` on GPU number `gpu`.

    None is the CPU, where nothing needs a check. `probe` is the command of the self-test; it prints
    one line of JSON with `worst` (the largest mean difference of an image, of 255) and `samples`.
    """
    if gpu is None:
        return DecodePath("host", "no GPU is used")
    command = probe or [
        *(sys.executable, "-m", "pretrain.loading.decoder_check"),
        *("--shards", str(data.folder), "--split", data.split, "--gpu", str(gpu)),
    ]
    fault = _fault(command, timeout)
    if fault is not None:
        return DecodePath("cpu", f"the GPU decoder {fault}")
    return DecodePath("mixed", "the GPU decoder agrees with the CPU's")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Decode samples of a shard set with DALI's CPU and GPU decoders and compare the images."""

    shards: Annotated[Path, "folder made by python -m shards.write"] = Path("data/shards")
    split: Annotated[Literal["train", "val"], "which samples"] = "train"
    gpu: Annotated[int | None, "number of the GPU, or none: the CPU against itself"] = 0


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(ProbeConfig, argv)
    data = open_split(config.shards, config.split)
    if not len(data):
        raise UserError(f"{config.shards} has no samples in {config.split!r}")
    ids = np.unique(np.linspace(0, len(data) - 1, PROBE_SAMPLES).astype(np.int64))
    encoded, channels = data.read(ids), data.manifest.channels
    expected = _decode(encoded, channels, None)
    found = _decode(encoded, channels, config.gpu)
    worst = max(map(_difference, expected, found))
    print(json.dumps({"worst": worst, "samples": len(ids)}))


def _fault(command: Sequence[str], timeout: float) -> str | None:
    """Run the self-test; returns what is wrong with the GPU decoder, or None."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"gave no image within {timeout:g} s"
    if done.returncode < 0:
        return f"crashed ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return f"failed: {last[0]}"
    try:
        worst = float(json.loads(done.stdout.strip().splitlines()[-1])["worst"])
    except (ValueError, KeyError, IndexError, TypeError):
        return "gave no result"
    if not worst <= PROBE_TOLERANCE:  # so that NaN counts as a difference
        return f"gives different images (off by {worst:.1f} of 255 in the mean)"
    return None


def _decode(
    encoded: list[npt.NDArray[np.uint8]], channels: int, gpu: int | None
) -> list[npt.NDArray[Any]]:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=len(encoded), num_threads=2, device_id=gpu, prefetch_queue_depth=1
    )
    def decoder() -> Any:
        return fn.decoders.image(
            fn.external_source(lambda: encoded, batch=True, dtype=types.UINT8),
            device="cpu" if gpu is None else "mixed",
            output_type=types.GRAY if channels == 1 else types.RGB,
        )

    pipeline = decoder()
    pipeline.build()
    (images,) = pipeline.run()
    images = images.as_cpu()
    return [np.array(images.at(number)) for number in range(len(encoded))]


def _difference(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """Mean absolute difference of two images, of 255; infinite if their shapes differ."""
    if expected.shape != found.shape:
        return float("inf")
    return float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).mean())


if __name__ == "__main__":
    main()
