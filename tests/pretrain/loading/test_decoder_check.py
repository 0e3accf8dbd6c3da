"""Whatever the GPU decoder does, a decoder is chosen: real child processes."""

import json
import sys
from pathlib import Path

import pytest
import torch

from pretrain.loading.decoder_check import choose_decode_path
from pretrain.loading.shard_reader import open_split


def child(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_without_a_gpu_there_is_no_self_test(shards: Path) -> None:
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
def test_a_bad_gpu_decoder_is_replaced_by_the_cpu(shards: Path, code: str, reason: str) -> None:
    timeout = 1 if "sleep" in code else 60
    path = choose_decode_path(open_split(shards, "train"), 0, timeout=timeout, probe=child(code))
    assert path.name == "cpu"
    assert reason in path.reason


def test_a_decoder_that_passes_the_self_test_is_used(shards: Path) -> None:
    # The CPU decoder against itself: the same program as on a GPU, but for the device.
    probe = [sys.executable, "-m", "pretrain.loading.decoder_check", "--gpu", "none"]
    probe += ["--shards", str(shards)]
    path = choose_decode_path(open_split(shards, "train"), 0, probe=probe)
    assert path.name == "mixed", path.reason


@pytest.mark.gpu
def test_the_chosen_path_decodes_on_this_gpu(shards: Path) -> None:
    path = choose_decode_path(open_split(shards, "train"), torch.cuda.current_device())
    print(json.dumps({"path": path.name, "reason": path.reason}))
    assert path.name in ("mixed", "cpu")
