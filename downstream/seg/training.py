"""Fine-tuning: Adam in two stages, each to its patience, the best kept over both, resumable.

Paper A, "Training Segmentation Models": lr 2e-4, then 1e-5 from the best so far, each until the
validation IoU has not risen for 30 epochs. With one training image an epoch is a single step.
"""

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from downstream.config import SegmentConfig
from downstream.seg.augment import build_augmentation
from downstream.seg.dataset import LabelledImage, LabelledSet
from downstream.seg.losses import CrossEntropyDice, class_weights
from downstream.seg.metrics import Scores, confusion, score
from downstream.seg.run_folder import RunPaths, read_metrics, write_metrics
from downstream.seg.segmenter import Segmenter
from pretrain.checkpoint import Progress, load_checkpoint, save_checkpoint
from pretrain.status import EXIT_INTERRUPTED
from shards.cli import console, progress_bar

StateDict = dict[str, torch.Tensor]

MAX_SKIPPED = 10  # steps in a row whose loss is not finite
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """How far a fine-tuning is: everything that its loop must remember."""

    stage: int = 1
    epoch: int = 0  # completed, both stages
    stage_epoch: int = 0
    step: int = 0
    epoch_step: int = 0  # completed, of the epoch after
    losses: int = 0  # of that epoch so far, finite ones, and their sum
    loss_sum: float = 0.0
    stale_epochs: int = 0  # of this stage, since the best of both
    best_score: float = -1.0  # micro IoU on the validation images
    best_epoch: int = 0
    best_stage: int = 1
    minutes: float = 0.0
    skipped: int = 0  # steps in a row without a finite loss
    skipped_total: int = 0
    finished: str = ""  # why it ended; empty while it goes on


def fine_tune(
    segmenter: Segmenter,
    config: SegmentConfig,
    data: LabelledSet,
    interrupted: Callable[[], bool] = lambda: False,
) -> State:
    """Train until the last stage ends; the segmenter then holds the best weights of both.

    Goes on from the checkpoint in the run's folder. Exits with `EXIT_INTERRUPTED`, saved, when
    asked to stop.
    """
    trainer = Trainer(segmenter, config, data)
    state = trainer.resume()
    with progress_bar() as bar:
        task = bar.add_task(f"fine-tune {config.run_dir.name}", total=None, note="")
        while not state.finished:
            state = trainer.train_epoch(state, interrupted)
            state = trainer.end_epoch(state)
            note = f"stage {state.stage}, best {state.best_score:.1%}"
            bar.update(task, completed=state.epoch, note=note)
    trainer.restore_best()
    return state


class Trainer:
    """What changes in training: the weights, their optimizer, and the best so far."""

    def __init__(self, segmenter: Segmenter, config: SegmentConfig, data: LabelledSet) -> None:
        self.segmenter, self.config, self.data = segmenter, config, data
        self.paths = RunPaths(config.run_dir)
        classes = len(data.classes)
        self.weights = class_weights((item.mask for item in data.train), classes, config.balance)
        weights = torch.tensor(self.weights, device=segmenter.device)
        self._loss = CrossEntropyDice(config.cross_entropy_share, weights)
        self._augment = build_augmentation(
            config.augmentation, config.orientation, config.crop_size
        )
        self._items = [_on_device(item, segmenter.device) for item in data.train]
        self._optimizer = self._build_optimizer(1)
        self._scaler = torch.amp.GradScaler(enabled=config.precision == "fp16")
        self._best: StateDict = {}
        self._saved_at = self._told_at = time.monotonic()

    def resume(self) -> State:
        """Load the newest checkpoint, if there is one."""
        found = load_checkpoint(self.paths.checkpoints)
        if found is None:
            write_metrics(self.paths.folder, [])
            return State()
        _, content = found
        state = State(**content["state"])
        self._optimizer = self._build_optimizer(state.stage)
        self.segmenter.model.load_state_dict(content["model"])
        self._optimizer.load_state_dict(content["optimizer"])
        self._scaler.load_state_dict(content["scaler"])
        self._best = content["best"]
        records = read_metrics(self.paths.folder)
        write_metrics(self.paths.folder, [r for r in records if r["epoch"] <= state.epoch])
        where = f"epoch {state.epoch}, stage {state.stage}"
        where += f", and {state.epoch_step} steps" if state.epoch_step else ""
        console.print(f"resuming after {where}")
        # An epoch that has begun is ended first, as it would have been; so there always is a best.
        return replace(state, finished="" if state.epoch_step else self._why_finished(state))

    def train_epoch(self, state: State, interrupted: Callable[[], bool] = lambda: False) -> State:
        """What is left of a pass over the epoch's crops; saves when asked to stop, and exits."""
        batches = epoch_batches(len(self._items), self.config, state.epoch)
        for positions in itertools.islice(batches, state.epoch_step, None):
            if state.skipped >= MAX_SKIPPED:
                break
            self._stop_or_save(state, interrupted)
            state = self._timed(self._train_step(state, positions))
        self._stop_or_save(state, interrupted)
        return state

    def end_epoch(self, state: State) -> State:
        """Validate, keep the weights if they are the best, go on to the next stage or end."""
        scores = self.validate()
        loss = state.loss_sum / state.losses if state.losses else math.nan
        state = replace(
            self._timed(state),
            epoch=state.epoch + 1,
            stage_epoch=state.stage_epoch + 1,
            stale_epochs=state.stale_epochs + 1,
            epoch_step=0,
            losses=0,
            loss_sum=0.0,
        )
        if scores.micro_iou > state.best_score:
            self._best = {
                name: value.detach().cpu().clone()
                for name, value in self.segmenter.model.state_dict().items()
            }
            state = replace(
                state,
                best_score=scores.micro_iou,
                best_epoch=state.epoch,
                best_stage=state.stage,
                stale_epochs=0,
            )
        self._record(state, loss, scores)
        if self._stage_ended(state) and state.stage == 1 and self.config.second_lr is not None:
            state = replace(state, stage=2, stage_epoch=0, stale_epochs=0)
            # From the best so far; its score is not forgotten, so the second stage cannot lose it.
            self.segmenter.model.load_state_dict(self._best)
            self._optimizer = self._build_optimizer(2)
        state = replace(state, finished=self._why_finished(state))
        if state.finished:
            self.save(state)  # all that is left is to score it
        return state

    @torch.no_grad()
    def validate(self) -> Scores:
        """The scores on all validation images together."""
        classes = len(self.data.classes)
        total = torch.zeros(classes, classes, dtype=torch.int64)
        for item in self.data.val:
            with self._autocast():
                predicted = self.segmenter.predict(item.pixels)
            total += confusion(torch.from_numpy(predicted), torch.from_numpy(item.mask), classes)
        return score(total, self.config.micro_over)

    def save(self, state: State) -> None:
        """Write a checkpoint."""
        content = {
            "state": asdict(state),
            "model": self.segmenter.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best": self._best,
        }
        save_checkpoint(self.paths.checkpoints, Progress(epoch=state.epoch), content)
        self._saved_at = time.monotonic()

    def restore_best(self) -> None:
        """Give the segmenter the best weights of all epochs."""
        self.segmenter.model.load_state_dict(self._best)

    def _stop_or_save(self, state: State, interrupted: Callable[[], bool]) -> None:
        if interrupted():
            self.save(state)
            console.print("asked to stop: saved; the same command goes on from here")
            sys.exit(EXIT_INTERRUPTED)
        if time.monotonic() - self._saved_at >= 60 * self.config.checkpoint_minutes:
            self.save(state)

    def _train_step(self, state: State, positions: list[int]) -> State:
        self.segmenter.model.train()
        state = replace(state, step=state.step + 1, epoch_step=state.epoch_step + 1)
        # A resume draws the same.
        torch.manual_seed(self.config.seed * 1_000_003 + state.step)
        images, masks = self._draw(positions)
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            logits = self.segmenter.logits(images)
        loss = self._loss(logits.float(), masks)
        if not torch.isfinite(loss):
            total = state.skipped_total + 1
            return replace(state, skipped=state.skipped + 1, skipped_total=total)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        total_loss = state.loss_sum + float(loss.detach())
        return replace(state, skipped=0, losses=state.losses + 1, loss_sum=total_loss)

    def _timed(self, state: State) -> State:
        """With the minutes since it was last told."""
        before, self._told_at = self._told_at, time.monotonic()
        return replace(state, minutes=state.minutes + (self._told_at - before) / 60)

    def _draw(self, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented crops `(N, 3, S, S)` uint8 and their masks `(N, S, S)` int64."""
        pairs = [self._augment(*self._items[position]) for position in positions]
        images = torch.stack([image for image, _ in pairs])
        return images, torch.stack([mask[0] for _, mask in pairs]).long()

    def _autocast(self) -> torch.autocast:
        dtype = _AUTOCAST.get(self.config.precision)
        return torch.autocast(self.segmenter.device.type, dtype, enabled=dtype is not None)

    def _build_optimizer(self, stage: int) -> torch.optim.Adam:
        """Anew for each stage, as the public code does: no momentum of the first in the second."""
        lr = self.config.lr if stage == 1 else self.config.second_lr
        assert lr is not None
        model: Any = self.segmenter.model
        encoder = {id(parameter) for parameter in model.encoder.parameters()}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in encoder]
        groups = [
            {"params": list(model.encoder.parameters()), "lr": lr * self.config.encoder_lr_factor},
            {"params": rest, "lr": lr},
        ]
        return torch.optim.Adam(groups)

    def _record(self, state: State, loss: float, scores: Scores) -> None:
        record = {
            "epoch": state.epoch,
            "stage": state.stage,
            "step": state.step,
            "lr": self._optimizer.param_groups[1]["lr"],
            "train_loss": None if math.isnan(loss) else loss,
            "val_micro_iou": scores.micro_iou,
            "val_miou": scores.miou,
            "best_micro_iou": state.best_score,
            "minutes": state.minutes,
        }
        with self.paths.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def _stage_ended(self, state: State) -> bool:
        return (
            state.stale_epochs >= self.config.patience
            or state.stage_epoch >= self.config.max_epochs
        )

    def _why_finished(self, state: State) -> str:
        config = self.config
        if state.skipped >= MAX_SKIPPED:
            return f"diverged: no finite loss in {MAX_SKIPPED} steps"
        if config.max_minutes is not None and state.minutes >= config.max_minutes:
            return f"{config.max_minutes:g} minutes are over"
        last = state.stage == 2 or config.second_lr is None
        if last and state.stale_epochs >= config.patience:
            return f"no better micro IoU in {config.patience} epochs"
        if last and state.stage_epoch >= config.max_epochs:
            return f"all {config.max_epochs} epochs of the stage done"
        return ""


def epoch_batches(images: int, config: SegmentConfig, epoch: int) -> Iterator[list[int]]:
    """Positions of the images in each batch of an epoch: a pure function of seed and epoch.

    Every image once, or `samples_per_epoch` times in turn. No batch has one crop alone: batch norm
    over a pooled map would fail, so a last one joins the batch before, and a single image is drawn
    twice.
    """
    count = max(2, config.samples_per_epoch or images)
    rng = np.random.default_rng([config.seed, epoch])
    rounds = [rng.permutation(images) for _ in range(-(-count // images))]
    order = np.concatenate(rounds)[:count].tolist()
    starts = list(range(0, count, config.batch_size))
    if count - starts[-1] == 1:
        starts.pop()
    for start, end in zip(starts, [*starts[1:], count], strict=True):
        yield order[start:end]


def _on_device(
    item: LabelledImage, device: torch.device
) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    image = torch.from_numpy(item.pixels).permute(2, 0, 1).contiguous()
    mask = torch.from_numpy(item.mask.astype(np.uint8))[None]
    return tv_tensors.Image(image.to(device)), tv_tensors.Mask(mask.to(device))
