"""Mixup and cutmix."""

from typing import Any

import numpy as np
import pytest
import torch

from pretrain.config import TrainConfig
from pretrain.loading.loader import Batch
from pretrain.loading.mixup import mix

SIDE = 16


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(arch="resnet18", image_size=32, **settings)


def batch(ids: list[int]) -> Batch:
    """Image i is filled with the value i, and is of class i."""
    labels = torch.tensor(ids)
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE)
    images = images.contiguous(memory_format=torch.channels_last)
    return Batch(images, labels, np.array(ids))


def test_mixup_blends_images_and_targets_alike() -> None:
    images, targets = mix(config(mixup=0.8), 0, batch([0, 1, 2]), 3)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(targets.sum(1), torch.ones(3))
    # With image i of value i, the mean class of the target is the value of the mixed image.
    mean_class = targets @ torch.arange(3.0)
    assert torch.allclose(images, mean_class.view(-1, 1, 1, 1).expand_as(images), atol=1e-6)
    assert (targets[0, 2], targets[1, 0]) == (0, 0)  # the partner is the next one


def test_cutmix_puts_a_box_of_the_partner_in_and_counts_its_pixels() -> None:
    images, targets = mix(config(cutmix=1.0), 0, batch(list(range(40))), 40)
    for i in range(40):
        other = (i + 1) % 40
        pixels = images[i, 0]
        assert set(pixels.unique().tolist()) <= {i, other}
        assert targets[i, other] == pytest.approx((pixels == other).float().mean().item())
        rows, columns = torch.nonzero(pixels == other, as_tuple=True)
        if len(rows):  # it is one box
            box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert len(rows) == box


def test_mixing_depends_on_epoch_and_sample_only() -> None:
    settings = config(mixup=0.4, cutmix=1.0)
    _, together = mix(settings, 3, batch([0, 1, 2, 3]), 4)
    _, alone = mix(settings, 3, batch([1, 2]), 4)
    assert torch.equal(together[1], alone[0])  # same sample, same partner, other company
    _, later = mix(settings, 4, batch([0, 1, 2, 3]), 4)
    assert not torch.equal(together, later)


def test_only_a_fraction_of_the_samples_is_mixed() -> None:
    _, targets = mix(config(mixup=1.0, mix_prob=0.25), 0, batch(list(range(400))), 400)
    untouched = (targets.max(1).values == 1).float().mean().item()
    assert untouched == pytest.approx(0.75, abs=0.08)  # four deviations


def test_mixing_weights_follow_the_beta_distribution() -> None:
    _, targets = mix(config(mixup=0.2), 0, batch(list(range(4000))), 4000)
    kept = targets.diagonal()
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert kept.mean().item() == pytest.approx(0.5, abs=0.03)
    assert kept.var().item() == pytest.approx(1 / 5.6, abs=0.01)
