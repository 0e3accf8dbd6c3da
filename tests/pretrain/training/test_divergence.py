"""A run that diverges: it skips steps, rolls back, and fails with a clear message."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from micrograph.cli import EXIT_USER_ERROR, UserError
from pretrain.config import TrainConfig
from pretrain.export.__main__ import main as export
from pretrain.runs.checkpoint import load_checkpoint
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.skips import BufferSnapshot
from pretrain.runs.status import read_status
from pretrain.train import main as train
from pretrain.training.divergence import (
    Diverged,
    after_rollback,
    chance_warning,
    check_divergence,
    count_step,
    gradient_norm,
    is_good,
)
from pretrain.training.metrics import Scores
from pretrain.training.progress import Progress

CONFIG = TrainConfig(arch="vgg11", max_skipped_steps=3, max_rollbacks=2, rollback_lr_factor=0.1)


def scores(*confusion: tuple[int, ...], loss: float = 1.0) -> Scores:
    total = sum(map(sum, confusion))
    recalls = [row[i] / sum(row) for i, row in enumerate(confusion) if sum(row)]
    return Scores(
        loss=loss,
        top1=sum(row[i] for i, row in enumerate(confusion)) / total,
        top5=1.0,
        balanced_accuracy=sum(recalls) / len(recalls),
        dominant_share=max(map(sum, zip(*confusion, strict=True))) / total,
        confusion=confusion,
    )


def test_a_skipped_step_adds_nothing_to_the_loss() -> None:
    progress = count_step(Progress(), 8, 16.0, finite=True)
    progress = count_step(progress, 8, math.nan, finite=False)
    assert (progress.step, progress.loss_sum, progress.first_loss) == (2, 16.0, 2.0)
    assert (progress.skipped_steps, progress.skipped_in_a_row, progress.skipped_samples) == (
        1,
        1,
        8,
    )
    progress = count_step(progress, 8, 8.0, finite=True)
    assert (progress.skipped_steps, progress.skipped_in_a_row, progress.loss_sum) == (1, 0, 24.0)


def test_only_skipped_steps_in_a_row_mean_divergence() -> None:
    progress = Progress()
    for sound in (False, False, True, False, False):
        progress = count_step(progress, 8, 8.0, finite=sound)
        check_divergence(CONFIG, progress, 1.0 if sound else math.nan)
    progress = count_step(progress, 8, 8.0, finite=False)
    with pytest.raises(Diverged, match="3 steps in a row without finite loss"):
        check_divergence(CONFIG, progress, math.nan)


def test_a_loss_far_above_the_first_means_divergence() -> None:
    progress = Progress(first_loss=2.0)
    check_divergence(CONFIG, progress, 40.0)
    with pytest.raises(Diverged, match="grew from 2 to 41"):
        check_divergence(CONFIG, progress, 41.0)


def test_a_nan_in_one_gradient_shows_in_the_norm() -> None:
    model, accelerator = nn.Linear(3, 2), Accelerator(cpu=True)
    model(torch.ones(1, 3)).sum().backward()
    assert gradient_norm(model, accelerator) == pytest.approx(math.sqrt(6 + 2))
    assert model.bias.grad is not None
    model.bias.grad[0] = math.nan
    assert not math.isfinite(gradient_norm(model, accelerator))


def test_running_statistics_are_restored_after_a_bad_batch() -> None:
    norm = nn.BatchNorm1d(2)
    snapshot = BufferSnapshot(norm)
    for _ in range(2):
        norm(torch.randn(8, 2))
        snapshot.save()
    before = [buffer.clone() for buffer in norm.buffers()]
    norm(torch.full((8, 2), math.nan))
    assert norm.running_mean is not None and norm.running_mean.isnan().all()
    snapshot.restore()
    assert all(now.equal(then) for now, then in zip(norm.buffers(), before, strict=True))
    assert norm.num_batches_tracked == 2


def test_a_roll_back_keeps_counts_and_the_best_epoch() -> None:
    now = Progress(epoch=4, step=2, rollbacks=1, lr_factor=0.1, skipped_steps=7, best_top1=0.5)
    now = replace(now, lost_epochs=2)
    progress = after_rollback(CONFIG, Progress(epoch=3), Diverged("", now))
    assert progress.epoch + progress.lost_epochs == now.epoch + now.lost_epochs  # keeps rising
    assert (progress.epoch, progress.step, progress.rollbacks) == (3, 0, 2)
    assert progress.lr_factor == pytest.approx(0.01)
    assert (progress.skipped_steps, progress.best_top1) == (7, 0.5)


def test_too_many_roll_backs_are_an_error_with_a_remedy() -> None:
    fault = Diverged("the loss grew", Progress(rollbacks=2))
    with pytest.raises(
        UserError, match=r"the loss grew, after 2 roll-backs.*--lr below 0\.1.*vgg11"
    ):
        after_rollback(CONFIG, Progress(), fault)


def test_only_a_sound_validation_is_rolled_back_to() -> None:
    progress = Progress(first_loss=1.0)
    assert is_good(CONFIG, progress, scores((1, 0), (0, 1)))
    assert not is_good(CONFIG, progress, scores((1, 0), (0, 1), loss=math.nan))
    assert not is_good(CONFIG, progress, scores((1, 0), (0, 1), loss=21.0))
    assert not is_good(CONFIG, Progress(skipped_in_a_row=1), scores((1, 0), (0, 1)))


@pytest.mark.parametrize("lr", ["1e3", "1e30"])  # the loss explodes; it is not finite
def test_a_hopeless_learning_rate_fails_and_exports_nothing(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], lr: str
) -> None:
    run = tmp_path / "wild"
    with pytest.raises(SystemExit) as end:
        train([*tiny, "--run-dir", str(run), "--lr", lr])
    assert end.value.code == EXIT_USER_ERROR
    output = capsys.readouterr().err
    assert output.count("back to the initial state, continuing with") == 3
    assert "0.2 times the learning rate (roll-back 1 of 3)" in output
    assert "error: training diverged: " in output
    assert f"start again with an --lr below {float(lr):g}, in a new --run-dir" in output
    status = read_status(run)
    assert status is not None and status.state == "failed" and "diverged" in status.reason
    with pytest.raises(SystemExit):
        export([str(run)])
    assert "no finished epoch" in capsys.readouterr().err


def test_a_high_learning_rate_is_lowered_until_it_learns(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "recovers"
    base = [*tiny, "--run-dir", str(run), "--lr", "1e3", "--rollback-lr-factor", "2e-5"]
    train([*base, "--epochs", "2"])
    assert "back to the initial state, continuing with 2e-05 times" in capsys.readouterr().err
    assert [record["epoch"] for record in read_metrics(run)] == [1, 2]
    assert [record["lr"] for record in read_metrics(run)] == pytest.approx([0.02, 0.02])
    found = load_checkpoint(RunPaths(run).checkpoints, Progress)
    assert found is not None and found[0].rollbacks == 1
    train([*base, "--epochs", "3"])  # a new process: the rate is still the lower one
    assert read_metrics(run)[-1]["lr"] == pytest.approx(0.02)
    status = read_status(run)
    assert status is not None and (status.state, status.epoch) == ("finished", 3)


@pytest.fixture
def warn_after() -> Callable[[int], str]:
    guess = scores(*((0,) * number + (5,) + (0,) * (9 - number) for number in [0] * 10))
    assert not guess.converged

    def warning(epochs: int, steps: int = 1000, arch: str = "vgg11") -> str:
        progress = Progress(epoch=epochs, chance_epochs=epochs)
        return chance_warning(TrainConfig(arch=arch), progress, guess, steps)

    return warning


def test_chance_level_gives_few_warnings(warn_after: Callable[[int], str]) -> None:
    assert [epochs for epochs in range(1, 50) if warn_after(epochs)] == [5, 10, 20, 40]


def test_a_warning_of_chance_level_has_a_remedy(warn_after: Callable[[int], str]) -> None:
    warning = warn_after(5)
    assert "balanced accuracy 10.0% of 10 classes, 100% of the predictions are one class" in warning
    assert "no batch norm: diverges at lr 0.1, try 0.01" in warning
    assert "--lr below 0.1" in warn_after(5, arch="resnet18")
    assert "only 5 steps so far: wait, or use a --batch-size below 1024" in warn_after(5, steps=1)


def test_a_run_that_has_learned_gets_no_warning() -> None:
    progress = Progress(epoch=9, chance_epochs=5, best_converged=True)
    assert not chance_warning(CONFIG, progress, scores((1, 0), (1, 0)), 1000)


def test_a_run_at_chance_level_is_marked_also_in_its_export(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "guesses"
    train([*tiny, "--run-dir", str(run), "--lr", "1e-9", "--epochs", "5"])
    output = capsys.readouterr().err
    assert "5 epochs at chance level" in output
    assert "not converged: its best epoch is at chance level" in output
    status = read_status(run)
    assert status is not None and status.converged is False
    export([str(run)])
    assert "at chance level" in capsys.readouterr().err
