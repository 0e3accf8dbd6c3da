"""Batch norm between two domains: which statistics a network keeps, and whether they move.

A network at rest holds the target's; `use_domain` puts the source's in their place for a while.
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

# The target's buffer, as the plain network has it, and the source's beside it.
STATISTICS = {
    "running_mean": "source_mean",
    "running_var": "source_var",
    "num_batches_tracked": "source_batches",
}


def set_bn_mode(model: nn.Module, mode: BnMode, *, affine: bool = True) -> None:
    """Say how every batch norm of `model` behaves from now on, whatever `model.train()` says.

    `frozen`: normalises by its statistics as they are, which stay, as do scale and shift.
    `shared`: as usual; the running statistics are a mixture of all that passes through, which in
    AdaptSegNet's public code is both domains (where scale and shift are fixed: `affine=False`).
    `domain`: running statistics of each domain (Li et al. 2016, arXiv:1603.04779,
    section 3), both beginning at the present ones; `use_domain` says which moves.
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
    """Let what passes through `model` use and move the statistics of `domain`, where it has any."""
    layers = [layer for layer in batch_norms(model) if _has_domains(layer)]
    if domain == "target":
        layers = []
    _swap(layers)
    try:
        yield
    finally:
        _swap(layers)


def export_state(model: nn.Module) -> StateDict:
    """The state dict of the plain network with the target's statistics."""
    ours = set(STATISTICS.values())
    return {
        name: value
        for name, value in model.state_dict().items()
        if name.rpartition(".")[2] not in ours
    }


@torch.no_grad()
def adapt_bn(model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Estimate the target's statistics anew: the average of those of the batches, nothing trained.

    `batches` are normalised images `(N, 3, H, W)`, each weighing the same. What is not batch norm
    computes as in evaluation; also works on frozen layers. Raises `UserError` when there is no
    batch norm, `ValueError` without a batch.
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
    count = 0
    try:
        for batch in batches:
            model(batch)
            count += 1
    finally:
        for layer, momentum, frozen in settings:
            layer.momentum, layer.frozen = momentum, frozen
        for module, training in was_training:
            module.training = training
    if not count:
        raise ValueError("bn_adapt got no batch")


def batch_norms(model: nn.Module) -> list[Any]:
    """All layers of `model` with running statistics; timm's, which activate too, are among them."""
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
