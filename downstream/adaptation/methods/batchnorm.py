"""Batch norm of two domains: frozen, shared or separate statistics; and `bn_adapt`.

With separate statistics the target's are active; `use_domain` swaps in the source's.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from downstream.adaptation.config import BnMode, DomainName
from micrograph.cli import UserError
from pretrain.network.weights import StateDict

# The target's buffer, as in a plain network, and the source's.
STATISTICS = {
    "running_mean": "source_mean",
    "running_var": "source_var",
    "num_batches_tracked": "source_batches",
}


def set_bn_mode(model: nn.Module, mode: BnMode, *, affine: bool = True) -> None:
    """Set how every batch norm of `model` behaves, in training mode too.

    `frozen`: statistics, scale and shift are constant.
    `shared`: as usual; the running statistics mix both domains, as in AdaptSegNet's public code
    (where scale and shift are fixed: `affine=False`).
    `domain`: running statistics per domain (Li et al. 2016, arXiv:1603.04779, section 3), both
    initialised with the present ones; `use_domain` selects which are used and updated.
    """
    for layer in batch_norms(model):
        if not hasattr(layer, "frozen"):
            layer.register_forward_pre_hook(_stay_in_eval_if_frozen)
        layer.frozen = mode == "frozen"
        if layer.affine:
            layer.weight.requires_grad_(affine and mode != "frozen")
            layer.bias.requires_grad_(affine and mode != "frozen")
        for own, source in STATISTICS.items():
            if mode == "domain" and not hasattr(layer, source):
                layer.register_buffer(source, getattr(layer, own).clone())
            elif mode != "domain" and hasattr(layer, source):
                delattr(layer, source)


@contextmanager
def use_domain(model: nn.Module, domain: DomainName) -> Iterator[None]:
    """Use and update the statistics of `domain`; no effect on layers with shared ones."""
    layers = [layer for layer in batch_norms(model) if _has_domains(layer)]
    if domain == "target":
        layers = []
    _swap(layers)
    try:
        yield
    finally:
        _swap(layers)


def export_state(model: nn.Module) -> StateDict:
    """The state dict of a plain network with the target's statistics."""
    ours = set(STATISTICS.values())
    return {
        name: value
        for name, value in model.state_dict().items()
        if name.rpartition(".")[2] not in ours
    }


@torch.no_grad()
def adapt_bn(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Replace the statistics by the mean of those of the batches; nothing is trained.

    `batches` are normalised images `(N, 3, H, W)`, weighted equally. Other layers are in evaluation
    mode; frozen layers are adapted too. Raises `UserError` if there is no batch norm.
    """
    layers = batch_norms(model)
    if not layers:
        raise UserError("bn_adapt needs an encoder with batch norm, and this one has none")
    was_training = [(module, module.training) for module in model.modules()]
    settings = [(layer, layer.momentum, getattr(layer, "frozen", False)) for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.frozen = False
        layer.train()
    try:
        for batch in batches:
            model(batch)
    finally:
        for layer, momentum, frozen in settings:
            layer.momentum, layer.frozen = momentum, frozen
        for module, training in was_training:
            module.training = training


def batch_norms(model: nn.Module) -> list[Any]:
    """All layers of `model` with running statistics, including timm's, which also activate."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


def _stay_in_eval_if_frozen(layer: nn.Module, inputs: object) -> None:
    if layer.frozen:
        layer.eval()


def _has_domains(layer: nn.Module) -> bool:
    return all(hasattr(layer, source) for source in STATISTICS.values())


def _swap(layers: Iterable[nn.Module]) -> None:
    for layer in layers:
        for own, source in STATISTICS.items():
            ours, theirs = getattr(layer, own), getattr(layer, source)
            setattr(layer, own, theirs)
            setattr(layer, source, ours)
