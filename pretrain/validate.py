"""Exact validation: every image of the split once, whatever the number of processes."""

import torch
from accelerate import Accelerator
from torch import nn

from pretrain.loader import DaliLoader
from pretrain.metrics import Counts, Scores
from pretrain.processes import average_statistics, sum_over


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: DaliLoader,
    classes: int,
    micro_batch_size: int,
    accelerator: Accelerator,
) -> Scores:
    """Score the model on the loader's split; all processes return the same scores."""
    # Unwrapped: processes may have different numbers of batches, so none may wait for another.
    plain = accelerator.unwrap_model(model)
    average_statistics(plain, accelerator)
    plain.eval()
    counts = Counts(classes, accelerator.device)
    rank, world = accelerator.process_index, accelerator.num_processes
    for batch in loader.validation(micro_batch_size, rank, world):
        with accelerator.autocast():
            logits = plain(batch.images)
        counts.add(logits, batch.labels)
    plain.train()
    for name in ("confusion", "top5", "loss"):
        setattr(counts, name, sum_over(accelerator, getattr(counts, name)))
    return counts.scores()
