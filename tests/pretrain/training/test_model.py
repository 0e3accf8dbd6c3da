"""The model of a training, prepared for several processes."""

import pytest
import torch
from torch import nn

from micrograph.cli import UserError
from pretrain.network.classifier import build_classifier
from pretrain.training.model import synchronise_norms


def test_synchronised_norms_keep_parameters_and_names() -> None:
    model = build_classifier("resnet18", "random", 3, 0.0)
    names, parameters = list(model.state_dict()), list(model.parameters())
    assert synchronise_norms(model, 1, torch.device("cpu")) is model
    with pytest.raises(UserError, match="sync_bn works between GPUs only"):
        synchronise_norms(model, 2, torch.device("cpu"))
    converted = synchronise_norms(model, 2, torch.device("cuda"))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in converted.modules())
    assert list(converted.state_dict()) == names
    assert all(a is b for a, b in zip(parameters, converted.parameters(), strict=True))
