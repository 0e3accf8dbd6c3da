"""One loop for all methods: supervised on the source, and what the method adds on the target.

A step is that of Tsai et al. 2018 (arXiv:1802.10349): gradients of the source's loss, then of the
target's, from two forward passes (so that batch norm never mixes the domains); then those of the
discriminators, on the same predictions; then all optimisers move.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from downstream.seg.augment import build_tile_augmentation
from downstream.seg.run_folder import RunPaths, read_metrics, write_metrics
from downstream.seg.segmenter import Segmenter
from downstream.uda.batches import Stream, TilePool, draw_batch, seed_stream
from downstream.uda.batchnorm import set_bn_mode, use_domain
from downstream.uda.config import AdaptConfig, DomainName
from downstream.uda.domains import DomainStudy
from downstream.uda.methods import (
    Adversary,
    Measured,
    Outputs,
    SelfTraining,
    class_fractions,
    cross_entropy,
)
from downstream.uda.schedule import poly_lr
from downstream.uda.style import fda
from downstream.uda.tile_plan import IGNORE
from downstream.uda.watch import Watch
from pretrain.checkpoint import Progress, load_checkpoint, save_checkpoint
from pretrain.guards import Statistics
from pretrain.status import EXIT_INTERRUPTED
from shards.cli import console, progress_bar, warn

MAX_SKIPPED = 10  # steps in a row without a finite loss and gradient
ORACLE_LOOKS = 10  # how often an oracle looks at the target's labels

Oracle = Callable[["Trainer"], float]  # mIoU on labelled target images


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """How far an adaptation is: everything that its loop must remember."""

    step: int = 0  # completed
    skipped: int = 0  # steps in a row without finite numbers
    skipped_total: int = 0
    seconds: float = 0.0  # in steps
    oracle_miou: float | None = None
    oracle_step: int = 0
    finished: str = ""  # why it ended; empty while it goes on


def train(
    trainer: "Trainer",
    interrupted: Callable[[], bool] = lambda: False,
    oracle: Oracle | None = None,
) -> State:
    """Train until the last step.

    Goes on from the checkpoint in the run's folder. Exits with `EXIT_INTERRUPTED`, saved, when
    asked to stop. `oracle` is shown the trainer now and then; what it says is written down and
    changes nothing.
    """
    state = trainer.resume()
    config = trainer.config
    with progress_bar() as bar:
        name = " ".join([config.method, *([config.target] if config.target else [])])
        task = bar.add_task(name, total=config.steps, completed=state.step, note="")
        while not state.finished:
            if interrupted():
                trainer.save(state)
                console.print("asked to stop: saved; the same command goes on from here")
                sys.exit(EXIT_INTERRUPTED)
            state = trainer.train_step(state)
            state = trainer.end_step(state, oracle)
            bar.update(task, completed=state.step, note=trainer.note)
    return state


class Trainer:
    """What changes in training: the segmenter, what the method adds, and their optimisers."""

    def __init__(
        self,
        segmenter: Segmenter,
        config: AdaptConfig,
        study: DomainStudy,
        source: TilePool,
        target: TilePool | None,
    ) -> None:
        self.segmenter, self.config, self.study = segmenter, config, study
        self.paths = RunPaths(config.run_dir)
        self.note = ""
        device, parts = segmenter.device, config.parts
        self._pools: dict[DomainName, TilePool] = {"source": source.to(device)}
        if target is not None:
            self._pools["target"] = target.to(device)
        self._augment = build_tile_augmentation(config.augmentation, study.orientation, IGNORE)
        segmenter.model.train()
        set_bn_mode(segmenter.model, config.training_bn, affine=config.bn_affine)
        self._optimizer = self._build_optimizer()
        self._classes = len(study.classes)
        self.adversary = (
            None
            if parts.critic is None
            else Adversary(config, parts.critic, self._classes, study.context_margin, device)
        )
        self.teacher = SelfTraining(config, segmenter, self._classes) if parts.teacher else None
        shares = class_fractions("", source.masks[source.masks != IGNORE], self._classes)
        self.watch = Watch(config, study.class_names, tuple(shares.values()))
        self._saved_at = time.monotonic()

    def resume(self) -> State:
        """Load the newest checkpoint, if there is one."""
        found = load_checkpoint(self.paths.checkpoints)
        if found is None:
            write_metrics(self.paths.folder, [])
            return State()
        _, content = found
        state = State(**content["state"])
        self.segmenter.model.load_state_dict(content["model"])
        self._optimizer.load_state_dict(content["optimizer"])
        for part, saved in ((self.adversary, "adversary"), (self.teacher, "teacher")):
            if part is not None:
                part.load_state_dict(content[saved])
        records = [r for r in read_metrics(self.paths.folder) if r["step"] <= state.step]
        write_metrics(self.paths.folder, records)
        self.watch.load(content["watch"], records)
        console.print(f"resuming after step {state.step}")
        return replace(state, finished=self._why_finished(state))

    def train_step(self, state: State) -> State:
        """One step of all networks, or of none where a loss or gradient is not finite."""
        began = time.monotonic()
        step, model = state.step, self.segmenter.model
        statistics = Statistics(model)
        lr = self._set_rates(step)
        self._optimizer.zero_grad(set_to_none=True)
        measured = self._gradients(step)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        measured["gradient_norm"] = float(torch.nn.utils.get_total_norm(gradients))
        sound = all(math.isfinite(value) for value in measured.values())
        if sound:
            self._optimizer.step()
            if self.adversary is not None:
                self.adversary.step(self._rate(step, self.config.critic_lr, warmup=0))
            if self.teacher is not None:
                self.teacher.update(model)
            self.watch.add(measured | {"lr": lr})
        else:
            statistics.put_back()
        return replace(
            state,
            step=step + 1,
            skipped=0 if sound else state.skipped + 1,
            skipped_total=state.skipped_total + (not sound),
            seconds=state.seconds + time.monotonic() - began,
        )

    def end_step(self, state: State, oracle: Oracle | None) -> State:
        """Record, look with the oracle's eyes, save: each when it is due."""
        config = self.config
        state = replace(state, finished=self._why_finished(state))
        if state.step % config.log_steps == 0 or state.finished:
            self._record(state)
        every = max(1, config.steps // ORACLE_LOOKS)
        if oracle is not None and (state.step % every == 0 or state.finished):
            miou = oracle(self)
            if state.oracle_miou is None or miou > state.oracle_miou:
                state = replace(state, oracle_miou=miou, oracle_step=state.step)
        minutes = (time.monotonic() - self._saved_at) / 60
        if minutes >= config.checkpoint_minutes or state.finished:
            self.save(state)
        return state

    def save(self, state: State) -> None:
        """Write a checkpoint."""
        content = {
            "state": asdict(state),
            "model": self.segmenter.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "adversary": None if self.adversary is None else self.adversary.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "watch": self.watch.state_dict(),
        }
        save_checkpoint(self.paths.checkpoints, Progress(step=state.step), content)
        self._saved_at = time.monotonic()

    @property
    def kept(self) -> nn.Module:
        """The network that the run is to keep: the teacher where there is one, else the last."""
        return self.segmenter.model if self.teacher is None else self.teacher.teacher.model

    def target_batches(self) -> Iterator[torch.Tensor]:
        """All unlabelled target tiles, normalised and not augmented: `(N, 3, side, side)`."""
        for images in torch.split(self._pools["target"].images, self.config.batch_size):
            yield self.segmenter.normalise(images)

    def _gradients(self, step: int) -> Measured:
        """Let all losses of a step flow back; what they were."""
        config = self.config
        images, masks = self._draw("source", step)
        target = self._draw("target", step) if "target" in self._pools else None
        if config.style == "fda":
            assert target is not None
            images = fda(images.float(), target[0].float(), config.fda_beta)
        source = self._outputs(images, "source", step)
        loss = cross_entropy(source.main, masks)
        measured = {"loss_source": float(loss.detach())}
        if source.aux is not None:
            aux = cross_entropy(source.aux, masks)
            measured["loss_source_aux"] = float(aux.detach())
            loss = loss + config.aux_weight * aux
        loss.backward()  # type: ignore[no-untyped-call]
        if target is not None and config.trains_on_target:
            measured |= self._target_gradients(source, *target, step)
        return measured

    def _target_gradients(
        self, source: Outputs, images: torch.Tensor, counted: torch.Tensor, step: int
    ) -> Measured:
        measured: Measured = {}
        if self.adversary is not None:
            target = self._outputs(images, "target", step)
            loss = self.adversary.adversarial_loss(target)
            loss.backward()  # type: ignore[no-untyped-call]
            measured["loss_adversarial"] = float(loss.detach())
            measured |= self.adversary.train_discriminators(source, target)
            predicted = target.main.detach().argmax(1)[counted != IGNORE]
            measured |= class_fractions("student_fraction_", predicted, self._classes)
        if self.teacher is not None:
            loss, pseudo = self.teacher.consistency(
                lambda view: self._predict(view, "target", step, "masked_network").main,
                images,
                counted,
                step,
            )
            loss.backward()  # type: ignore[no-untyped-call]
            measured |= pseudo | {"loss_consistency": float(loss.detach())}
        return measured

    def _draw(self, domain: DomainName, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        return draw_batch(
            self._pools[domain], self._augment, config.batch_size, config.seed, domain, step
        )

    def _outputs(self, images: torch.Tensor, domain: DomainName, step: int) -> Outputs:
        stream: Stream = "source_network" if domain == "source" else "target_network"
        return self._predict(self.segmenter.normalise(images), domain, step, stream)

    def _predict(
        self, normalised: torch.Tensor, domain: DomainName, step: int, stream: Stream
    ) -> Outputs:
        seed_stream(self.config.seed, stream, step)  # for networks with dropout
        model: Any = self.segmenter.model
        bf16 = self.config.precision == "bf16"
        with (
            use_domain(model, domain),
            torch.autocast(normalised.device.type, torch.bfloat16, enabled=bf16),
        ):
            main, aux = model.forward_heads(normalised)
        return Outputs(main.float(), None if aux is None else aux.float())

    def _build_optimizer(self) -> torch.optim.Optimizer:
        """Encoder and heads in groups of their own: the heads learn faster."""
        config, model = self.config, self.segmenter.model
        encoder: Any = model.encoder
        inside = {id(parameter) for parameter in encoder.parameters()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) in inside], "factor": 1.0},
            {
                "params": [p for p in trained if id(p) not in inside],
                "factor": config.head_lr_factor,
            },
        ]
        if config.optimizer == "sgd":
            return torch.optim.SGD(
                groups, config.lr, config.momentum, weight_decay=config.weight_decay
            )
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, config.lr, weight_decay=config.weight_decay, fused=True)

    def _set_rates(self, step: int) -> float:
        lr = self._rate(step, self.config.lr, self.config.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        return lr

    def _rate(self, step: int, base: float, warmup: int) -> float:
        total = self.config.schedule_steps or self.config.steps
        return poly_lr(step, total, base, self.config.poly_power, warmup)

    def _record(self, state: State) -> None:
        record = self.watch.close_window(state.step, state.seconds)
        if record is None:  # all steps since the last one were skipped
            return
        with self.paths.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        self.note = f"loss {record['loss_source']:.3f}"
        for said in self.watch.new_warnings():
            warn(said)

    def _why_finished(self, state: State) -> str:
        if state.skipped >= MAX_SKIPPED:
            return f"diverged: no finite loss and gradient in {MAX_SKIPPED} steps"
        if state.step >= self.config.steps:
            return f"all {self.config.steps} steps done"
        return ""
