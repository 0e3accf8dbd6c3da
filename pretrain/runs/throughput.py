"""Throughput: images per second, the fraction of time spent waiting for data, time left.

Imports no torch.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, TypeVar

from micrograph.cli import progress_bar
from pretrain.runs.metrics_log import Record

if TYPE_CHECKING:
    from pretrain.loading.loader import Step

T = TypeVar("T")

_LATEST = 5  # epochs from which the time of the next ones is estimated


class ThroughputMeter:
    """Measures the speed of one process in all epochs of a run; shows a bar if `visible`."""

    def __init__(self, epochs: int, steps_per_epoch: int, *, visible: bool) -> None:
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._visible = visible
        self._started = self._ended = time.monotonic()
        self._waited = 0.0  # seconds of this epoch
        self._seen = 0  # images of this epoch, all processes

    def watch(self, steps: Iterable["Step"], epoch: int, first: int) -> Iterator["Step"]:
        """Yield the steps of `epoch` from number `first` on, and time them.

        The time until a step or one of its batches arrives counts as waiting for data.
        """
        self._started = self._ended = time.monotonic()
        self._waited, self._seen = 0.0, 0
        with progress_bar(visible=self._visible) as bar:
            name = f"epoch {epoch + 1}/{self._epochs}"
            task = bar.add_task(name, total=self._steps_per_epoch, completed=first, note="")
            for step in self._timed(steps):
                yield replace(step, batches=self._timed(step.batches))
                self._seen += step.samples
                self._ended = time.monotonic()
                note = "{images_per_second:.0f} img/s, wait {data_wait:.0%}"  # fits into 80 columns
                bar.update(task, advance=1, note=note.format(**self.measured()))

    def measured(self) -> dict[str, float]:
        """Measurements of the epoch so far; `data_wait` is a fraction of the time."""
        seconds = max(self._ended - self._started, 1e-9)
        return {
            "images_per_second": self._seen / seconds,
            "data_wait": self._waited / seconds if self._seen else 0.0,
        }

    def _timed(self, items: Iterable[T]) -> Iterator[T]:
        iterator = iter(items)
        while True:
            asked = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._waited += time.monotonic() - asked
            yield item


def seconds_left(records: Sequence[Record], epochs: int) -> float | None:
    """Seconds until the last of `epochs` ends, from the latest ones; None before the first."""
    latest = [record["epoch_seconds"] for record in records[-_LATEST:] if "epoch_seconds" in record]
    return median(latest) * (epochs - records[-1]["epoch"]) if latest else None


def duration(seconds: float) -> str:
    """A readable time span: `35 s`, `12 min`, `3 h 12 min`, `2 d 3 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
