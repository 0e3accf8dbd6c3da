"""Whole training runs with options that paper A's recipe leaves off."""

from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from networks import SMALL_ARCH
from safetensors.torch import load_file
from torch import nn
from training_runs import newest, position, run_flags

from pretrain.config import TrainConfig
from pretrain.export.encoder import export_encoder
from pretrain.loading.loader import Step
from pretrain.loading.sample_order import EpochSampler
from pretrain.network.classifier import build_classifier
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.skips import BufferSnapshot
from pretrain.train import Training, take_step
from pretrain.train import main as train
from pretrain.training.ema import build_ema
from pretrain.training.optim import build_optimizer

ALL_OPTIONS = (
    f"--optimizer adam --lr {1e-3} --ema-epochs 0.5 --mixup 0.4 --cutmix 1 --mix-prob 0.7 "
    "--class-balance-power 0.5 --class-weight-power 0.5 --dropout 0.2 --loss bce --clip-grad 1"
).split()


@pytest.fixture(autouse=True)
def _own_precision() -> Iterator[None]:
    """accelerate fixes a process's precision with the first run; each test has its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def flags(shards: Path, run: Path, *more: str) -> list[str]:
    return run_flags(shards, run, "--epochs", "2", *more)


def test_a_run_with_all_options_resumes_bit_for_bit(
    shards: Path, tmp_path: Path, fork_server: Any
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(flags(shards, whole, *ALL_OPTIONS))
    every_step = flags(shards, killed, *ALL_OPTIONS, "--checkpoint-minutes", "1e-6")
    fork_server.start(every_step, stops=(0, "step", 9, SIGKILL))
    assert fork_server.wait() == [-SIGKILL], fork_server.log.read_text()
    assert position(killed) == (1, 2)
    train(every_step)
    (progress, state), (other_progress, other_state) = newest(whole), newest(killed)
    assert progress == other_progress
    torch.testing.assert_close(other_state, state, rtol=0, atol=0)  # model, optimizer, average


def test_the_averaged_weights_are_kept_and_bf16_stores_fp32(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(flags(shards, run, "--epochs", "1", "--ema-epochs", "1", "--precision", "bf16"))
    state = newest(run)[1]
    model, average = state["model"], state["ema"]
    kept = load_file(RunPaths(run).best)
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32, torch.int64}
    assert all(torch.equal(kept[name], average[name]) for name in kept)
    assert not torch.equal(model["linear.weight"], average["linear.weight"])
    (record,) = read_metrics(run)
    assert np.isfinite(record["val_loss"])


def test_accumulating_equals_one_large_batch_without_batch_norm(
    shards: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / size for size in ("8", "4")]
    for run in runs:
        more = ["--arch", "tu-test_convnext", "--epochs", "1", "--lr", "0.01"]
        train(flags(shards, run, *more, "--micro-batch-size", run.name))
    whole, accumulated = (load_file(RunPaths(run).best) for run in runs)
    assert whole.keys() == accumulated.keys()
    for name in whole:
        assert torch.allclose(whole[name], accumulated[name], rtol=0, atol=1e-5), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_that_fp16_skips_changes_no_average(optimizer: Any) -> None:
    accelerator = Accelerator(cpu=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    accelerator.scaler = scaler
    config = TrainConfig(arch="resnet18", optimizer=optimizer, ema_epochs=1.0)
    plain: Any = nn.Linear(2, 2)
    before = plain.weight.clone()
    ema = build_ema(plain, config)
    assert ema is not None
    model, steps = accelerator.prepare(plain, build_optimizer(plain, config))
    sampler = EpochSampler(samples=8, batch_size=8, micro_batch_size=8, seed=0)
    unused: Any = None
    training = Training(
        config=config,
        accelerator=accelerator,
        run=unused,
        sampler=sampler,
        meter=unused,
        objective=unused,
        model=model,
        optimizer=steps,
        ema=ema,
        snapshot=BufferSnapshot(model),
    )
    for scale, stepped in ((1e9, False), (1e-30, True)):
        accelerator.backward(model(torch.full((1, 2), scale)).sum())
        assert take_step(training, 1, Step(0, 8, 1, iter(()))) is stepped
        assert torch.equal(plain.weight, before) is not stepped
        assert torch.equal(ema.model.weight, before) is not stepped
        steps.zero_grad()
    assert scaler.get_scale() == 2.0**119


def test_a_gradient_is_clipped_to_the_limit(shards: Path, tmp_path: Path) -> None:
    run, limit, lr = tmp_path / "run", 1e-3, 0.1
    settings = ["--clip-grad", str(limit), "--lr", str(lr), "--momentum", "0", "--seed", "3"]
    train(flags(shards, run, *settings, "--weight-decay", "0", "--epochs", "1"))
    torch.manual_seed(3)
    before = build_classifier(SMALL_ARCH, "random", 3, 0.0)
    after = load_file(RunPaths(run).best)
    moved = sum(
        (after[name] - tensor).double().square().sum().item()
        for name, tensor in before.named_parameters()
    )
    assert 0 < moved**0.5 <= 6 * lr * limit * 1.01  # six steps, each of at most rate times limit


@pytest.mark.slow  # a C++ compiler at work
def test_a_compiled_run_exports_under_the_usual_names(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(flags(shards, run, "--compile", "--epochs", "1", "--ema-epochs", "1"))
    names = list(build_classifier(SMALL_ARCH, "random", 3, 0.0).state_dict())
    state = newest(run)[1]
    assert list(state["model"]) == list(state["ema"]) == names
    assert export_encoder(run, tmp_path / "out").arch == SMALL_ARCH
