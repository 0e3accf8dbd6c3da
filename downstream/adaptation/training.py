"""One loop for all methods: supervised on the source, and what the method adds on the target.

A step is that of Tsai et al. 2018 (arXiv:1802.10349): gradients of the source's loss, then of the
target's, from two forward passes (so that batch norm never mixes the domains); then all optimizers
step.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from downstream.adaptation.build import build_methods
from downstream.adaptation.config import AdaptConfig, DomainName
from downstream.adaptation.lr_schedule import learning_rate
from downstream.adaptation.methods.batchnorm import set_bn_mode, use_domain
from downstream.adaptation.methods.fda import fda
from downstream.adaptation.methods.method import (
    Outputs,
    StepMetrics,
    TargetBatch,
    class_fractions,
    cross_entropy,
)
from downstream.adaptation.methods.self_training import SelfTraining
from downstream.adaptation.monitor import TrainingMonitor
from downstream.domains.batches import Stream, TilePool, draw_batch, seed_stream
from downstream.domains.study import DomainStudy
from downstream.domains.tile_plan import IGNORE
from downstream.finetune.augment import build_tile_augmentation
from downstream.network.segmenter import Segmenter
from micrograph.cli import console, progress_bar, warn
from pretrain.runs.run import Run
from pretrain.runs.skips import MAX_SKIPPED_STEPS, BufferSnapshot, count_skips
from pretrain.runs.status import RunState, Status


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The progress of a run: all that the loop needs to resume, beside the networks."""

    step: int = 0  # completed
    skipped_in_a_row: int = 0  # steps without a finite loss and gradient
    skipped_steps: int = 0
    seconds: float = 0.0  # in steps
    finished: str = ""  # why it ended; empty while it runs

    @property
    def position(self) -> str:
        """For messages."""
        return f"step {self.step}"


def open_run(config: AdaptConfig, interrupted: Callable[[], bool] = lambda: False) -> Run[State]:
    """The run of `config`, a context manager; `interrupted` tells if it was asked to stop."""

    def describe(state: State) -> Status:
        return Status(state=RunState.RUNNING, step=state.step, steps=config.steps)

    return Run(
        config.run_dir,
        State(),
        describe,
        checkpoint_minutes=config.checkpoint_minutes,
        interrupted=interrupted,
    )


def train(trainer: "Trainer") -> State:
    """Train until the last step.

    Resumes from the checkpoint in the run's folder. When asked to stop, saves and exits.
    """
    state = trainer.resume()
    config = trainer.config
    with progress_bar() as bar:
        name = " ".join([config.method, *([config.target] if config.target else [])])
        task = bar.add_task(name, total=config.steps, completed=state.step, note="")
        while not state.finished:
            if trainer.run.interrupted():
                trainer.save(state)
                trainer.run.stop()
            state = trainer.end_step(trainer.train_step(state))
            bar.update(task, completed=state.step, note=trainer.note)
    return state


class Trainer:
    """What training changes: the segmenter, the state of the method, and their optimizers."""

    def __init__(
        self,
        segmenter: Segmenter,
        config: AdaptConfig,
        study: DomainStudy,
        source: TilePool,
        target: TilePool | None,
        run: Run[State],
    ) -> None:
        self.segmenter, self.config, self.study, self.run = segmenter, config, study, run
        self.note = ""
        self._pools: dict[DomainName, TilePool] = {"source": source.to(segmenter.device)}
        if target is not None:
            self._pools["target"] = target.to(segmenter.device)
        self._augment = build_tile_augmentation(config.augmentation, study.orientation, IGNORE)
        segmenter.model.train()
        set_bn_mode(segmenter.model, config.training_bn, affine=config.bn_affine)
        self._snapshot = BufferSnapshot(segmenter.model)
        self._optimizer = self._build_optimizer()
        self.methods = build_methods(config, segmenter, study)
        fractions = class_fractions("", source.masks[source.masks != IGNORE], len(study.classes))
        self.monitor = TrainingMonitor(config, study.class_names, tuple(fractions.values()))

    def resume(self) -> State:
        """Load the newest checkpoint, if there is one."""
        found = self.run.resume()
        state = State() if found is None else found[0]
        self.run.metrics.rewind("step", state.step)
        self.run.record(state)
        if found is None:
            return state
        content = found[1]
        self.segmenter.model.load_state_dict(content["model"])
        self._optimizer.load_state_dict(content["optimizer"])
        for name, method in self.methods.items():
            method.load_state_dict(content["methods"][name])
        self.monitor.load_state_dict(content["monitor"], self.run.metrics.records)
        console.print(f"resuming after {state.position}")
        return replace(state, finished=self._why_finished(state))

    def train_step(self, state: State) -> State:
        """One step of all networks, or of none if a loss or gradient is not finite."""
        began = time.monotonic()
        step, model = state.step, self.segmenter.model
        self._snapshot.save()
        lr = self._set_rates(step)
        self._optimizer.zero_grad(set_to_none=True)
        metrics = self._backward(step)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        metrics["gradient_norm"] = float(torch.nn.utils.get_total_norm(gradients))
        finite = all(math.isfinite(value) for value in metrics.values())
        if finite:
            self._optimizer.step()
            for method in self.methods.values():
                method.update(model, step)
            self.monitor.add(metrics | {"lr": lr})
        else:
            self._snapshot.restore()
        return replace(
            count_skips(state, finite=finite),
            step=step + 1,
            seconds=state.seconds + time.monotonic() - began,
        )

    def end_step(self, state: State) -> State:
        """Record and save when due."""
        state = replace(state, finished=self._why_finished(state))
        if state.step % self.config.log_steps == 0 or state.finished:
            self._record(state)
        if self.run.checkpoint_due or state.finished:
            self.save(state)
        return state

    def save(self, state: State) -> None:
        """Write a checkpoint."""
        content = {
            "model": self.segmenter.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "methods": {name: method.state_dict() for name, method in self.methods.items()},
            "monitor": self.monitor.state_dict(),
        }
        self.run.save(state, content)

    @property
    def kept(self) -> nn.Module:
        """The network to keep at the end: the teacher if there is one, else the student."""
        teacher = self.methods.get("self_training")
        return teacher.teacher.model if isinstance(teacher, SelfTraining) else self.segmenter.model

    def target_batches(self) -> Iterator[torch.Tensor]:
        """All unlabelled target tiles, normalised and not augmented: `(N, 3, side, side)`."""
        for images in torch.split(self._pools["target"].images, self.config.batch_size):
            yield self.segmenter.normalise(images)

    def _backward(self, step: int) -> StepMetrics:
        """Accumulate the gradients of all losses of a step."""
        config = self.config
        images, masks = self._draw("source", step)
        target = self._draw("target", step) if "target" in self._pools else None
        if config.style == "fda":
            assert target is not None
            images = fda(images.float(), target[0].float(), config.fda_beta)
        source = self._predict(self.segmenter.normalise(images), "source", step, "source_network")
        loss = cross_entropy(source.main, masks)
        metrics = {"loss_source": float(loss.detach())}
        if source.aux is not None:
            aux = cross_entropy(source.aux, masks)
            metrics["loss_source_aux"] = float(aux.detach())
            loss = loss + config.aux_weight * aux
        loss.backward()  # type: ignore[no-untyped-call]
        if target is not None:
            batch = TargetBatch(
                step,
                source,
                *target,
                lambda view, stream: self._predict(view, "target", step, stream),
            )
            for method in self.methods.values():
                metrics |= method.backward(batch)
        return metrics

    def _draw(self, domain: DomainName, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.config
        return draw_batch(
            self._pools[domain], self._augment, config.batch_size, config.seed, domain, step
        )

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
        """Separate groups for encoder and heads, which learn faster."""
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
        lr = learning_rate(self.config, step, self.config.lr, self.config.warmup_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        return lr

    def _record(self, state: State) -> None:
        record = self.monitor.close_window(state.step, state.seconds)
        if record is None:  # all steps since the last one were skipped
            return
        self.run.metrics.append(record)
        self.note = f"loss {record['loss_source']:.3f}"
        for warning in self.monitor.new_warnings():
            warn(warning)

    def _why_finished(self, state: State) -> str:
        if state.skipped_in_a_row >= MAX_SKIPPED_STEPS:
            return f"diverged: no finite loss and gradient in {MAX_SKIPPED_STEPS} steps"
        if state.step >= self.config.steps:
            return f"all {self.config.steps} steps done"
        return ""
