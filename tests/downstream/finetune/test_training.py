"""The two stages: the best kept over both, resume exact, batches whole, divergence noticed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import SMALL_ARCH

from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import LabelledSet, read_labelled_set
from downstream.finetune.training import (
    State,
    Trainer,
    build_segmenter,
    epoch_batches,
    fine_tune,
    open_run,
)
from downstream.scoring.metrics import Scores, score
from micrograph.cli import EXIT_INTERRUPTED
from pretrain.runs.checkpoint import load_checkpoint
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.skips import MAX_SKIPPED_STEPS

CPU = torch.device("cpu")


@pytest.fixture
def config(squares: Path, tmp_path: Path) -> SegmentConfig:
    (tmp_path / "run").mkdir()
    return SegmentConfig(
        data=squares,
        run_dir=tmp_path / "run",
        crop_size=32,
        batch_size=2,
        patience=2,
        max_epochs=3,
        lr=1e-3,
        threads=1,
        arch=SMALL_ARCH,
    )


def trainer(config: SegmentConfig) -> tuple[Trainer, LabelledSet]:
    torch.manual_seed(config.seed)
    data = read_labelled_set(config)
    segmenter, _ = build_segmenter(config, len(data.classes), CPU)
    return Trainer(segmenter, config, data, open_run(config)), data


def scores(micro_iou: float) -> Scores:
    return replace(score(torch.tensor([[1, 1], [1, 1]])), micro_iou=micro_iou)


def test_an_early_stop_in_stage_two_never_loses_the_best_of_stage_one(
    config: SegmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The scores are given, the weights are real: each epoch marks them with its number.
    found, _ = trainer(config)
    given = iter([0.5, 0.8, 0.6, 0.7, 0.7, 0.4, 0.3])
    monkeypatch.setattr(Trainer, "validate", lambda self: scores(next(given)))
    bias = found.segmenter.model.segmentation_head[0].bias
    state = found.resume()
    marks = []
    while not state.finished:
        marks.append((state.stage, float(bias.detach()[0])))
        with torch.no_grad():
            bias[0] = state.epoch + 1
        state = found.end_epoch(state)
    # Stage 1 ends by its bound of three epochs, stage 2 by patience: two without a rise over 0.8.
    assert [stage for stage, _ in marks] == [1, 1, 1, 2, 2]
    assert marks[3][1] == 2  # stage 2 begins from the best weights, those of epoch 2
    assert (state.best_epoch, state.best_stage, state.best_score) == (2, 1, 0.8)
    assert state.finished == "no better micro IoU in 2 epochs"
    found.restore_best()
    assert float(bias.detach()[0]) == 2


def test_the_second_stage_has_its_own_learning_rate_and_the_encoder_a_share(
    config: SegmentConfig,
) -> None:
    found, _ = trainer(replace(config, encoder_lr_factor=0.1))
    state = found.resume()
    assert [group["lr"] for group in found._optimizer.param_groups] == pytest.approx([1e-4, 1e-3])
    for _ in range(3):
        state = found.end_epoch(found.train_epoch(state))
    assert state.stage == 2
    assert [group["lr"] for group in found._optimizer.param_groups] == pytest.approx([1e-6, 1e-5])
    assert [record["stage"] for record in read_metrics(config.run_dir)] == [1, 1, 1]


# Asked before each of an epoch's three steps and before it is validated. Stage 2 has an Adam of its
# own, and begins after nine steps.
@pytest.mark.parametrize(("asked", "steps"), [(1, 0), (4, 3), (15, 11)])
def test_a_resumed_run_equals_an_uninterrupted_one(
    config: SegmentConfig, asked: int, steps: int
) -> None:
    config = replace(config, patience=10, samples_per_epoch=6)
    whole, data = trainer(config)
    end = fine_tune(whole.segmenter, config, data, open_run(config))
    expected = [{**r, "minutes": 0} for r in read_metrics(config.run_dir)]

    again = replace(config, run_dir=config.run_dir.with_name("again"))
    again.run_dir.mkdir()
    calls = iter([False] * (asked - 1) + [True])
    cut, _ = trainer(again)
    with pytest.raises(SystemExit) as stop:
        fine_tune(cut.segmenter, again, data, open_run(again, lambda: next(calls)))
    assert stop.value.code == EXIT_INTERRUPTED
    found = load_checkpoint(again.run_dir / "checkpoints", State)
    assert found is not None and found[0].step == steps
    other, _ = trainer(replace(again, seed=5))  # its first weights must not matter
    resumed = fine_tune(other.segmenter, again, data, open_run(again))
    assert replace(resumed, minutes=0) == replace(end, minutes=0)
    assert [{**r, "minutes": 0} for r in read_metrics(again.run_dir)] == expected
    own = other.segmenter.model.state_dict()
    assert all(torch.equal(v, own[n]) for n, v in whole.segmenter.model.state_dict().items())


def test_a_loss_that_is_not_finite_ends_the_run(config: SegmentConfig) -> None:
    found, data = trainer(config)
    with torch.no_grad():
        found.segmenter.model.segmentation_head[0].bias.fill_(float("nan"))
    longer = replace(config, max_epochs=50, patience=50)
    before = [buffer.clone() for buffer in found.segmenter.model.buffers()]
    state = fine_tune(found.segmenter, longer, data, open_run(longer))
    assert state.finished == f"diverged: no finite loss in {MAX_SKIPPED_STEPS} steps"
    assert state.skipped_steps == MAX_SKIPPED_STEPS
    after = list(found.segmenter.model.buffers())
    assert all(torch.equal(now, then) for now, then in zip(after, before, strict=True))


def test_max_minutes_ends_a_run(config: SegmentConfig) -> None:
    found, data = trainer(replace(config, max_minutes=1e-9))
    state = fine_tune(found.segmenter, found.config, data, found.run)
    assert state == replace(state, epoch=1, finished="1e-09 minutes are over")


@pytest.mark.parametrize(
    ("images", "batch_size", "samples", "sizes"),
    [
        (10, 6, None, [6, 4]),
        (1, 6, None, [2]),
        (7, 6, None, [7]),
        (4, 2, 9, [2, 2, 2, 3]),
        (3, 6, 12, [6, 6]),
    ],
)
def test_an_epoch_has_every_image_once_and_no_batch_of_one(
    images: int, batch_size: int, samples: int | None, sizes: list[int]
) -> None:
    config = SegmentConfig(data=Path(), batch_size=batch_size, samples_per_epoch=samples)
    batches = list(epoch_batches(images, config, epoch=3))
    assert [len(batch) for batch in batches] == sizes
    drawn = [position for batch in batches for position in batch]
    counts = [drawn.count(position) for position in range(images)]
    assert max(counts) - min(counts) <= 1
    assert batches == list(epoch_batches(images, config, epoch=3))
