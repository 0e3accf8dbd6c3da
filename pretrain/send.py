"""Small arrays go to a GPU without waiting for what it is busy with."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def send(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """`values` as a tensor on `device`; on the CPU it may share their memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return tensor
    # From memory that may be swapped, a copy would first wait for all kernels in the queue, so
    # micro-batches could not be prepared while the one before is computed.
    return tensor.pin_memory().to(device, non_blocking=True)
