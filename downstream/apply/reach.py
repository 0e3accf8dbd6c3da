"""Does a network look at a whole tile, whatever its size? Then the tile's size changes the result.

Squeeze-and-excitation blocks, PSPNet, PAN and DeepLabV3+ average over all of the tile, group norm
does so too, and a vision transformer's attention reaches everywhere. It is read off the operations
of one small forward pass, for modules call them in many ways.
"""

from typing import Any

import torch
from segmentation_models_pytorch.encoders import TimmViTEncoder
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_SIDE = 128  # pixels of the tile that is tried; the least that PAN takes
_POOLS = ("_adaptive_avg_pool2d", "adaptive_max_pool2d", "native_group_norm")
_REDUCTIONS = ("mean", "amax", "sum", "linalg_vector_norm")


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether an operation makes one value of each channel's whole map."""

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
def sees_whole_tile(network: nn.Module) -> bool:
    """Whether any part of `network` is a function of all of its input at once."""
    if isinstance(network.get_submodule("encoder"), TimmViTEncoder):
        return True
    was_training = network.training
    device = next(network.parameters()).device
    try:
        watch = _Watch()
        with watch:
            network.eval()(torch.zeros(1, 3, _SIDE, _SIDE, device=device))
    finally:
        network.train(was_training)
    return watch.found
