"""What the processes of one training decide together; trivial for a single one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from micrograph.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError, cores
from pretrain.config import TrainConfig
from pretrain.runs.interruption import Interruption


def start_accelerator(config: TrainConfig) -> Accelerator:
    """Processes, device and precision. Raises `UserError` when the device is not available."""
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
    # On GPUs: find the fastest algorithm of each convolution; the shapes are few.
    torch.backends.cudnn.benchmark = True
    # accelerate launch sets OMP_NUM_THREADS=1, so the count is set here.
    torch.set_num_threads(thread_count(config.threads, accelerator))
    return accelerator


def thread_count(configured: int | None, accelerator: Accelerator) -> int:
    """Threads for this process: as configured, or its share of the cores that it may use."""
    return configured or max(1, cores() // processes_here(accelerator))


def processes_here(accelerator: Accelerator) -> int:
    """The number of processes of this run on this machine."""
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
def sync_errors(
    accelerator: Accelerator, interruption: Interruption | None = None
) -> Iterator[None]:
    """Wait for all processes at the end; an error in one of them ends them all.

    Without this, the others would wait for the failed one forever. With `interruption`, a stop
    request to one ends them all too: use it only where there is nothing to save. No collective
    operation may be inside: a process that has failed does not take part in it.
    """
    fault: Exception | None = None
    try:
        yield
    except Exception as error:  # of any kind: the other processes must end too
        fault = error
    asked = interruption is not None and interruption.requested
    flags = torch.tensor([fault is not None, asked], dtype=torch.float32)
    faults, stops = sum_over(accelerator, flags).tolist()
    if faults:
        abort_all(fault)
    if stops:
        sys.exit(EXIT_INTERRUPTED)


def abort_all(fault: Exception | None) -> NoReturn:
    """End this process as all others: with its own error, or because another one failed."""
    if fault is not None:
        raise fault
    sys.exit(EXIT_USER_ERROR)


def average_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Average batch norm's running statistics over the processes, in place.

    They are linear in the batches' statistics, so averaging now or later gives the same mean.
    """
    if accelerator.num_processes == 1:
        return
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and "running_" in name:
            buffer.copy_(sum_over(accelerator, buffer) / accelerator.num_processes)
