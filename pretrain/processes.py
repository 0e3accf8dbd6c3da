"""What the processes of one run decide and share together; trivial where there is only one."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from pretrain.config import TrainConfig
from pretrain.status import EXIT_INTERRUPTED
from shards.cli import EXIT_USER_ERROR, UserError, cores


def start_accelerator(config: TrainConfig) -> Accelerator:
    """Processes, device and precision. Raises `UserError` when the device is not there."""
    has_gpu = torch.cuda.is_available()
    if config.device == "gpu" and not has_gpu:
        raise UserError("device is 'gpu', but torch finds none; use --device cpu")
    if config.precision == "fp16" and (config.device == "cpu" or not has_gpu):
        raise UserError("precision fp16 needs a GPU; use fp32, or bf16")
    precision = "no" if config.precision == "fp32" else config.precision
    accelerator = Accelerator(
        cpu=config.device == "cpu" or not has_gpu,
        mixed_precision=precision,
        # Each process keeps its own batch statistics until `average_statistics`; the default would
        # overwrite them by those of process 0 before every step.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    # On GPUs: of a convolution's algorithms the fastest is tried out, once for each of few shapes.
    torch.backends.cudnn.benchmark = True
    # accelerate launch sets OMP_NUM_THREADS=1, so the count is set here.
    torch.set_num_threads(thread_count(config.threads, accelerator))
    return accelerator


def thread_count(wanted: int | None, accelerator: Accelerator) -> int:
    """Threads for this process: as wanted, or its share of the cores that it may use."""
    return wanted or max(1, cores() // processes_here(accelerator))


def processes_here(accelerator: Accelerator) -> int:
    """How many processes of this run share the machine."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    return max(1, min(local, int(accelerator.num_processes)))


def sum_over(accelerator: Accelerator, values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes."""
    if accelerator.num_processes == 1:
        return values
    return accelerator.reduce(values.to(accelerator.device), "sum")  # type: ignore[no-any-return]


def check_equal(accelerator: Accelerator, name: str, *values: int) -> None:
    """Raise `UserError` on all processes when they do not have the same values."""
    mine = torch.tensor([*values, *(value * value for value in values)], dtype=torch.float64)
    world = accelerator.num_processes
    if not torch.equal(sum_over(accelerator, mine).cpu(), mine * world):
        raise UserError(f"the processes found different states of {name}; is the folder shared?")


@contextmanager
def together(
    accelerator: Accelerator, interruption: "Interruption | None" = None
) -> Iterator[None]:
    """Wait for all processes at the end; an error of one inside ends them all.

    Without this, who goes on would wait for ever for the one that failed. With `interruption`, a
    stop that one was asked for ends them all too: only where there is nothing to save. No
    collective operation may stand inside: one that has failed takes no part in it.
    """
    fault: Exception | None = None
    try:
        yield
    except Exception as error:  # whatever it is, the others must hear of it
        fault = error
    asked = interruption is not None and interruption.requested
    told = torch.tensor([fault is not None, asked], dtype=torch.float32)
    faults, stops = sum_over(accelerator, told).tolist()
    if faults:
        end_all(fault)
    if stops:
        sys.exit(EXIT_INTERRUPTED)


def end_all(fault: Exception | None) -> NoReturn:
    """End this process, as all others: by its own fault, which says why, or for that of another."""
    if fault is not None:
        raise fault
    sys.exit(EXIT_USER_ERROR)


def average_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Average batch norm's running statistics over the processes, in place.

    They move linearly in the batches' statistics, so averaging now or later gives the same mean.
    """
    if accelerator.num_processes == 1:
        return
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and "running_" in name:
            buffer.copy_(sum_over(accelerator, buffer) / accelerator.num_processes)


def synchronise_norms(model: nn.Module, processes: int, device: torch.device) -> nn.Module:
    """Batch norms that see the batches of all processes; the parameters stay the same objects.

    Nothing to do for one process. Raises `UserError` for several on CPUs: torch has it not.
    """
    if processes == 1:
        return model
    if device.type != "cuda":
        raise UserError(
            f"sync_bn works between GPUs only, and these {processes} processes are on CPUs; "
            "leave it out, or train in one process"
        )
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


class Interruption:
    """Notices SIGTERM and SIGUSR1, which clusters send before a kill.

    One process that has nothing to save yet ends at once. Else they only raise a flag, and all
    processes end together: in `together`, or when the loop has seen it.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = int(os.environ.get("WORLD_SIZE", "1")) > 1  # others would wait for it
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on there is something to save."""
        self._deferred = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Around what takes long and loses nothing: there, end without waiting for the others."""
        deferred, self._deferred = self._deferred, False
        try:
            if self.requested:
                sys.exit(EXIT_INTERRUPTED)
            yield
        finally:
            self._deferred = deferred

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # forked workers inherit the handler
            return
        self.requested = True
        if not self._deferred:
            sys.exit(EXIT_INTERRUPTED)
