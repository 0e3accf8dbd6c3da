"""The choice of a decoder survives whatever the GPU decoder does: real child processes."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pretrain.loading.decoder_check import choose_decode_path
from pretrain.loading.shard_reader import open_split


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_without_a_gpu_nothing_is_tested(shards: Path) -> None:
    path = choose_decode_path(open_split(shards, "train"), None, probe=["does-not-exist"])
    assert path.name == "host"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed (SIGSEGV)"),
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("raise RuntimeError('no such codec')", "failed: RuntimeError: no such codec"),
        ("import time; time.sleep(60)", "no image within 1 s"),
        ('print(\'{"worst": 31.0, "samples": 16}\')', "off by 31.0 of 255"),
        ('print(\'{"worst": NaN, "samples": 16}\')', "different images"),
        ("print('half a li')", "no result"),
        ("pass", "no result"),
    ],
)
def test_a_bad_gpu_decoder_leaves_decoding_to_the_cpu(shards: Path, code: str, reason: str) -> None:
    timeout = 1 if "sleep" in code else 60
    path = choose_decode_path(open_split(shards, "train"), 0, timeout=timeout, probe=child(code))
    assert path.name == "cpu"
    assert reason in path.reason


def test_the_self_test_decodes_real_samples_and_a_good_one_is_trusted(shards: Path) -> None:
    # The CPU decoder against itself: the same program as on a GPU, but for the device.
    probe = [
        sys.executable,
        "-m",
        "pretrain.loading.decoder_check",
        "--shards",
        str(shards),
        "--gpu",
        "none",
    ]
    path = choose_decode_path(open_split(shards, "train"), 0, probe=probe)
    assert path.name == "mixed", path.reason


def test_different_images_are_found(shards: Path, tmp_path: Path) -> None:
    # What a decoder that shifts by half a picture would give.
    code = (
        "import json, numpy as np\n"
        "from pathlib import Path\n"
        "from pretrain.loading.decoder_check import _decode, _difference\n"
        "from pretrain.loading.shard_reader import open_split\n"
        f"data = open_split(Path({str(shards)!r}), 'train')\n"
        "(image,) = _decode(data.read(np.array([0])), 1, None)\n"
        "print(json.dumps({'worst': _difference(image, np.roll(image, 32, 0)), 'samples': 1}))"
    )
    path = choose_decode_path(open_split(shards, "train"), 0, probe=child(code))
    assert path.name == "cpu"
    assert "different images" in path.reason


@pytest.mark.gpu
def test_the_chosen_path_decodes_on_this_gpu(shards: Path) -> None:
    path = choose_decode_path(open_split(shards, "train"), torch.cuda.current_device())
    print(json.dumps({"path": path.name, "reason": path.reason}))
    assert path.name in ("mixed", "cpu")
