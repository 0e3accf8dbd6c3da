"""A whole training on a GPU: every precision, streamed and cached images, and resumed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from pretrain.doctor.__main__ import main as doctor
from pretrain.export.encoder import export_encoder
from pretrain.runs.checkpoint import load_checkpoint
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths
from pretrain.train import main as train
from pretrain.training.progress import Progress

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(autouse=True)
def _own_precision() -> Iterator[None]:
    """accelerate fixes a process's precision with the first run; each test has its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("precision", "cached", "more"),
    [
        ("bf16", "always", ["--compile"]),
        ("fp16", "never", ["--mixup", "0.2", "--cutmix", "1"]),
        ("fp32", "never", ["--ema-epochs", "1", "--gpu-decode", "never"]),
    ],
)
def test_a_run_learns_and_is_resumed(
    shards: Path, tmp_path: Path, precision: str, cached: str, more: list[str]
) -> None:
    run = tmp_path / "run"
    flags = ["--arch", "resnet18", "--shards", str(shards), "--image-size", "64", "--lr", "0.02"]
    flags += ["--batch-size", "16", "--micro-batch-size", "4", "--run-dir", str(run)]
    flags += ["--device", "gpu", "--precision", precision, "--cache-images", cached, *more]
    train([*flags, "--epochs", "2"])
    train([*flags, "--epochs", "8"])
    records = read_metrics(run)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert min(record["train_loss"] for record in records[1:]) < records[0]["train_loss"]
    found = load_checkpoint(RunPaths(run).checkpoints, Progress)
    assert found is not None and found[0].skipped_in_a_row == 0
    assert export_encoder(run, tmp_path / "out").arch == "resnet18"


def test_the_doctor_passes_on_a_gpu(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--arch", "resnet18", "--shards", str(shards), "--image-size", "64"]
    doctor([*flags, "--batch-size", "16", "--device", "gpu", "--run-dir", str(tmp_path / "run")])
    assert "GPU-hours" in capsys.readouterr().out
