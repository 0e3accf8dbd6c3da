"""Detect networks with a global receptive field, whose result depends on the tile size.

Squeeze-and-excitation blocks, PSPNet, PAN, DeepLabV3+ and group norm average over the whole tile;
the attention of a vision transformer covers all of it. The operations of one small forward pass are
inspected, because modules implement these averages in many ways.
"""

from typing import Any

import torch
from segmentation_models_pytorch.encoders import TimmViTEncoder
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_SIDE = 128  # pixels of the test tile; the minimum of PAN
_POOLS = ("_adaptive_avg_pool2d", "adaptive_max_pool2d", "native_group_norm")
_REDUCTIONS = ("mean", "amax", "sum", "linalg_vector_norm")


class _GlobalPoolingDetector(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Detects operations that reduce the whole map of a channel to one value."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if args and isinstance(args[0], torch.Tensor) and args[0].ndim == 4:
            axes = next((a for a in args[1:] if isinstance(a, (list, tuple))), ())
            whole = {axis % 4 for axis in axes if isinstance(axis, int)} >= {2, 3}
            self.found |= name in _POOLS or (name in _REDUCTIONS and whole)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def has_global_context(network: nn.Module) -> bool:
    """Whether any layer of `network` depends on its whole input."""
    if isinstance(network.get_submodule("encoder"), TimmViTEncoder):
        return True
    was_training = network.training
    device = next(network.parameters()).device
    try:
        detector = _GlobalPoolingDetector()
        with detector:
            network.eval()(torch.zeros(1, 3, _SIDE, _SIDE, device=device))
    finally:
        network.train(was_training)
    return detector.found
