"""Fine-tuning in two stages of Adam with early stopping; keeps the best epoch, can be resumed.

Paper A, "Training Segmentation Models": lr 2e-4, then 1e-5 from the best weights so far, each until
the validation IoU has not risen for 30 epochs. With one training image, an epoch is a single step.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from downstream.finetune.augment import build_augmentation
from downstream.finetune.config import DEFAULT_ARCH, SegmentConfig
from downstream.finetune.labelled_set import LabelledSet
from downstream.finetune.losses import CrossEntropyDice, class_weights
from downstream.labels.dataset import LabelledImage
from downstream.network.segmenter import EncoderOrigin, Segmenter, initial_network
from downstream.scoring.metrics import Scores, confusion, score
from micrograph.cli import console, progress_bar
from pretrain.runs.run import Run
from pretrain.runs.skips import MAX_SKIPPED_STEPS, BufferSnapshot, count_skips
from pretrain.runs.status import RunState, Status

StateDict = dict[str, torch.Tensor]

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The progress of a fine-tuning: everything that its loop must remember."""

    stage: int = 1
    epoch: int = 0  # completed, both stages
    stage_epoch: int = 0
    step: int = 0
    epoch_step: int = 0  # completed, of the current epoch
    losses: int = 0  # finite losses of the current epoch, and their sum
    loss_sum: float = 0.0
    stale_epochs: int = 0  # of this stage, since the best epoch of both
    best_score: float = -1.0  # micro IoU on the validation images
    best_epoch: int = 0
    best_stage: int = 1
    minutes: float = 0.0
    skipped_in_a_row: int = 0  # steps without a finite loss
    skipped_steps: int = 0
    finished: str = ""  # why it ended; empty while it is running

    @property
    def position(self) -> str:
        """The position, for people."""
        steps = f", and {self.epoch_step} steps" if self.epoch_step else ""
        return f"epoch {self.epoch}, stage {self.stage}{steps}"


def build_segmenter(
    config: SegmentConfig, classes: int, device: torch.device
) -> tuple[Segmenter, EncoderOrigin]:
    """The initial network of a run; uses torch's global generator.

    Raises `UserError` if the encoder cannot be loaded or does not fit the decoder.
    """
    model, origin = initial_network(
        config.decoder, config.arch, config.init, classes, default_arch=DEFAULT_ARCH
    )
    return Segmenter(model, origin.mean, origin.std, device), origin


def open_run(config: SegmentConfig, interrupted: Callable[[], bool] = lambda: False) -> Run[State]:
    """The run of `config`, a context manager; `interrupted` returns whether to stop."""
    stages = 1 if config.stage2_lr is None else 2

    def describe(state: State) -> Status:
        return Status(
            state=RunState.RUNNING,
            epoch=state.epoch,
            epochs=stages * config.max_epochs,
            step=state.step,
            best_epoch=state.best_epoch,
        )

    return Run(
        config.run_dir,
        State(),
        describe,
        checkpoint_minutes=config.checkpoint_minutes,
        interrupted=interrupted,
    )


def fine_tune(
    segmenter: Segmenter, config: SegmentConfig, data: LabelledSet, run: Run[State]
) -> State:
    """Train until the last stage ends, then load the best weights.

    Resumes from the checkpoint in the run's folder. Saves and exits if interrupted.
    """
    trainer = Trainer(segmenter, config, data, run)
    state = trainer.resume()
    with progress_bar() as bar:
        task = bar.add_task(f"fine-tune {config.run_dir.name}", total=None, note="")
        while not state.finished:
            state = trainer.train_epoch(state)
            state = trainer.end_epoch(state)
            note = f"stage {state.stage}, best {state.best_score:.1%}"
            bar.update(task, completed=state.epoch, note=note)
    trainer.restore_best()
    return state


class Trainer:
    """The weights, their optimizer, and the best weights so far."""

    def __init__(
        self, segmenter: Segmenter, config: SegmentConfig, data: LabelledSet, run: Run[State]
    ) -> None:
        self.segmenter, self.config, self.data, self.run = segmenter, config, data, run
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
        self._snapshot = BufferSnapshot(segmenter.model)
        self._best: StateDict = {}
        self._timed_at = time.monotonic()

    def resume(self) -> State:
        """Load the newest checkpoint, if there is one."""
        found = self.run.resume()
        state = State() if found is None else found[0]
        self.run.metrics.rewind("epoch", state.epoch)
        self.run.record(state)
        if found is None:
            return state
        content = found[1]
        self._optimizer = self._build_optimizer(state.stage)
        self.segmenter.model.load_state_dict(content["model"])
        self._optimizer.load_state_dict(content["optimizer"])
        self._scaler.load_state_dict(content["scaler"])
        self._best = content["best"]
        console.print(f"resuming after {state.position}")
        # A started epoch is completed first, so that there always is a best epoch.
        return replace(state, finished="" if state.epoch_step else self._why_finished(state))

    def train_epoch(self, state: State) -> State:
        """Train the rest of an epoch; saves and exits if interrupted."""
        batches = epoch_batches(len(self._items), self.config, state.epoch)
        for positions in itertools.islice(batches, state.epoch_step, None):
            if state.skipped_in_a_row >= MAX_SKIPPED_STEPS:
                break
            self._stop_or_save(state)
            state = self._timed(self._train_step(state, positions))
        self._stop_or_save(state)
        return state

    def end_epoch(self, state: State) -> State:
        """Validate, keep the weights if they are the best, then continue, change stage or end."""
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
        if self._stage_ended(state) and state.stage == 1 and self.config.stage2_lr is not None:
            state = replace(state, stage=2, stage_epoch=0, stale_epochs=0)
            # The best score is kept, so that the second stage cannot lose the best weights.
            self.segmenter.model.load_state_dict(self._best)
            self._optimizer = self._build_optimizer(2)
        state = replace(state, finished=self._why_finished(state))
        if state.finished:
            self.save(state)  # only scoring is left
        return state

    @torch.no_grad()
    def validate(self) -> Scores:
        """The scores of all validation images together."""
        classes = len(self.data.classes)
        total = torch.zeros(classes, classes, dtype=torch.int64)
        for item in self.data.val:
            with self._autocast():
                predicted = self.segmenter.predict(item.pixels)
            total += confusion(torch.from_numpy(predicted), torch.from_numpy(item.mask), classes)
        return score(total, self.config.micro_iou_classes)

    def save(self, state: State) -> None:
        """Write a checkpoint."""
        content = {
            "model": self.segmenter.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "best": self._best,
        }
        self.run.save(state, content)

    def restore_best(self) -> None:
        """Load the best weights of all epochs into the segmenter."""
        self.segmenter.model.load_state_dict(self._best)

    def _stop_or_save(self, state: State) -> None:
        if self.run.interrupted():
            self.save(state)
            self.run.stop()
        if self.run.checkpoint_due:
            self.save(state)

    def _train_step(self, state: State, positions: list[int]) -> State:
        self.segmenter.model.train()
        state = replace(state, step=state.step + 1, epoch_step=state.epoch_step + 1)
        # A resumed run draws the same numbers.
        torch.manual_seed(self.config.seed * 1_000_003 + state.step)
        images, masks = self._draw(positions)
        self._optimizer.zero_grad(set_to_none=True)
        self._snapshot.save()
        with self._autocast():
            logits = self.segmenter.logits(images)
        loss = self._loss(logits.float(), masks)
        finite = bool(torch.isfinite(loss))
        state = count_skips(state, finite=finite)
        if not finite:
            self._snapshot.restore()
            return state
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        total_loss = state.loss_sum + float(loss.detach())
        return replace(state, losses=state.losses + 1, loss_sum=total_loss)

    def _timed(self, state: State) -> State:
        """Add the minutes since the last call to `state`."""
        before, self._timed_at = self._timed_at, time.monotonic()
        return replace(state, minutes=state.minutes + (self._timed_at - before) / 60)

    def _draw(self, positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented crops `(N, 3, S, S)` uint8 and their masks `(N, S, S)` int64."""
        pairs = [self._augment(*self._items[position]) for position in positions]
        images = torch.stack([image for image, _ in pairs])
        return images, torch.stack([mask[0] for _, mask in pairs]).long()

    def _autocast(self) -> torch.autocast:
        dtype = _AUTOCAST.get(self.config.precision)
        return torch.autocast(self.segmenter.device.type, dtype, enabled=dtype is not None)

    def _build_optimizer(self, stage: int) -> torch.optim.Adam:
        """A new Adam for each stage, as in the public code: the second starts without momentum."""
        lr = self.config.lr if stage == 1 else self.config.stage2_lr
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
        self.run.metrics.append(record)

    def _stage_ended(self, state: State) -> bool:
        return (
            state.stale_epochs >= self.config.patience
            or state.stage_epoch >= self.config.max_epochs
        )

    def _why_finished(self, state: State) -> str:
        config = self.config
        if state.skipped_in_a_row >= MAX_SKIPPED_STEPS:
            return f"diverged: no finite loss in {MAX_SKIPPED_STEPS} steps"
        if config.max_minutes is not None and state.minutes >= config.max_minutes:
            return f"{config.max_minutes:g} minutes are over"
        last = state.stage == 2 or config.stage2_lr is None
        if last and state.stale_epochs >= config.patience:
            return f"no better micro IoU in {config.patience} epochs"
        if last and state.stage_epoch >= config.max_epochs:
            return f"all {config.max_epochs} epochs of the stage done"
        return ""


def epoch_batches(images: int, config: SegmentConfig, epoch: int) -> Iterator[list[int]]:
    """Positions of the images in each batch of an epoch: a pure function of seed and epoch.

    Each image once, or `samples_per_epoch` images in turn. No batch has a single crop, for which
    batch norm over a pooled map fails: a last single crop joins the previous batch, and a single
    image is drawn twice.
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
