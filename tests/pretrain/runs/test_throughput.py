"""Speed: images per second, the fraction of waiting, and the time left."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pretrain.loading.loader import Batch, Step
from pretrain.runs.throughput import ThroughputMeter, duration, seconds_left

BATCH = Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, dtype=torch.int64), np.zeros(1, np.int64))


def sleep(seconds: float) -> float:
    """Sleep for about so long; returns for how long."""
    begun = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - begun


def slow_steps(count: int, seconds: float, slept: list[float]) -> Iterator[Step]:
    """Steps of 8 images whose only batch comes after `seconds`; notes how long each took."""

    def batches() -> Iterator[Batch]:
        slept.append(sleep(seconds))
        yield BATCH

    for number in range(count):
        yield Step(number, 8, 1, batches())


def test_waiting_for_batches_is_measured() -> None:
    meter = ThroughputMeter(epochs=1, steps_per_epoch=5, visible=False)
    waited: list[float] = []
    trained: list[float] = []
    for step in meter.watch(slow_steps(5, 0.06, waited), 0, 0):
        for _ in step.batches:
            trained.append(sleep(0.02))
    measured, seconds = meter.measured(), sum(waited) + sum(trained)  # 0.4 where nothing else runs
    assert measured["data_wait"] == pytest.approx(sum(waited) / seconds, abs=0.1)
    assert measured["images_per_second"] == pytest.approx(40 / seconds, rel=0.3)


def test_an_epoch_with_no_step_left_has_no_speed() -> None:
    meter = ThroughputMeter(epochs=1, steps_per_epoch=5, visible=False)
    assert list(meter.watch(iter(()), 0, 5)) == []
    assert meter.measured()["images_per_second"] == meter.measured()["data_wait"] == 0


def test_time_left_follows_from_the_latest_epochs() -> None:
    assert seconds_left([], 10) is None
    lines = [{"epoch": n, "epoch_seconds": s} for n, s in enumerate((90, 10, 10, 12, 11, 70), 1)]
    assert seconds_left(lines, 10) == 4 * 11  # neither the first nor one that was disturbed counts
    assert seconds_left(lines, 6) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h 0 min"), (200_000, "2 d 8 h")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
