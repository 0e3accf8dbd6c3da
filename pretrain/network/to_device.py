"""Copy small arrays to a device without waiting for its queued kernels."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


def to_device(values: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """`values` as a tensor on `device`; on the CPU it may share their memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type != "cuda":
        return tensor
    # A copy from pageable memory waits for all queued kernels, so the next micro-batch could not be
    # prepared while this one is computed.
    return tensor.pin_memory().to(device, non_blocking=True)
