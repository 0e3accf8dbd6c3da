"""Exact validation: every image of the split once, whatever the number of processes."""

from collections.abc import Callable
from itertools import islice

import torch
from accelerate import Accelerator
from torch import nn

from pretrain.loading.loader import Loader
from pretrain.runs.phases import announce
from pretrain.training.distributed import average_statistics, sum_over, sync_errors
from pretrain.training.metrics import Counts, Scores

_ROUND = 8  # batches between two checks for a stop


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: Loader,
    classes: int,
    micro_batch_size: int,
    accelerator: Accelerator,
    interrupted: Callable[[], bool],
) -> Scores | None:
    """Score the model on the loader's split; all processes return the same scores.

    None, in all of them, when one was asked to stop: the rest of a large split takes minutes.
    """
    # Unwrapped: ranks may have different numbers of batches, so they synchronise once per round;
    # an exhausted rank contributes nothing.
    announce("validate")
    plain = accelerator.unwrap_model(model)
    average_statistics(plain, accelerator)
    plain.eval()
    counts = Counts(classes, accelerator.device)
    rank, world = accelerator.process_index, accelerator.num_processes
    batches = loader.validation(micro_batch_size, rank, world)
    unfinished = True
    while unfinished:
        done = 0
        with sync_errors(accelerator):  # an unreadable image ends all
            for batch in islice(batches, _ROUND):
                done += 1
                with accelerator.autocast():
                    logits = plain(batch.images)
                counts.add(logits, batch.labels)
        flags = torch.tensor([done == _ROUND, interrupted()], dtype=torch.float32)
        unfinished, stop = (bool(value) for value in sum_over(accelerator, flags).tolist())
        if unfinished and stop:
            return None
    plain.train()
    for name in ("confusion", "top5", "loss"):
        setattr(counts, name, sum_over(accelerator, getattr(counts, name)))
    return counts.scores()
