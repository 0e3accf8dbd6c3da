"""Adversarial losses: labels, inputs, and no gradients in the other network."""

import math

import pytest
import torch
from torch import nn

from downstream.adaptation.config import DiscriminatorInput, Gan
from downstream.adaptation.methods.adversarial import (
    Discriminator,
    accuracy,
    adversarial_loss,
    discriminator_input,
    discriminator_loss,
    domain_loss,
    input_channels,
)


def gradients(module: nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize(("side", "cells"), [(512, 16), (636, 19), (32, 1)])
def test_a_discriminator_has_an_output_per_32_pixels(side: int, cells: int) -> None:
    with torch.no_grad():
        assert Discriminator(1)(torch.zeros(1, 1, side, side)).shape == (1, 1, cells, cells)


def test_a_discriminator_sees_94_pixels() -> None:
    maps = torch.zeros(1, 1, 256, 256, requires_grad=True)
    Discriminator(1)(maps)[0, 0, 4, 4].backward()
    assert maps.grad is not None
    rows = maps.grad[0, 0].abs().sum(1).nonzero()
    assert rows.max() - rows.min() + 1 == 94


@pytest.mark.parametrize("gan", ["bce", "ls"])
def test_source_is_zero_and_target_is_one(gan: Gan) -> None:
    low, high = torch.full((2, 1, 3, 3), -9.0), torch.full((2, 1, 3, 3), 9.0)
    if gan == "ls":
        low, high = torch.zeros_like(low), torch.ones_like(high)
    assert domain_loss(low, "source", gan) < 1e-3 < 0.9 < domain_loss(low, "target", gan)
    assert domain_loss(high, "target", gan) < 1e-3 < 0.9 < domain_loss(high, "source", gan)
    assert accuracy(low, high, gan) == 1 and accuracy(high, low, gan) == 0
    undecided = math.log(2) if gan == "bce" else 0
    assert domain_loss(torch.zeros_like(low), "source", gan).item() == pytest.approx(undecided)


def test_a_perfect_discriminator_makes_the_adversarial_loss_exceed_ln_2() -> None:
    """It is trained here to tell two kinds of predictions apart; then the segmenter is judged."""
    torch.manual_seed(0)
    source, target = torch.zeros(4, 2, 32, 32), torch.zeros(4, 2, 32, 32)
    source[:, 1, ::4], target[:, 1, :, ::4] = 8.0, 8.0
    discriminator = Discriminator(1)
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss, right = discriminator_loss(discriminator, source, target, "softmax", "bce")
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    assert right == 1
    assert adversarial_loss(discriminator, target, "softmax", "bce") > math.log(2)
    assert adversarial_loss(discriminator, source, "softmax", "bce") < math.log(2)


@pytest.mark.parametrize("kind", ["softmax", "entropy"])
@pytest.mark.parametrize("gan", ["bce", "ls"])
def test_neither_loss_reaches_the_other_network(kind: DiscriminatorInput, gan: Gan) -> None:
    torch.manual_seed(0)
    segmenter = nn.Conv2d(3, 2, 3, padding=1)
    discriminator = Discriminator(input_channels(2, kind))
    images = torch.randn(2, 3, 32, 32)
    adversarial_loss(discriminator, segmenter(images), kind, gan).backward()
    assert not gradients(discriminator)
    assert all(gradient.abs().max() > 0 for gradient in gradients(segmenter))
    assert len(gradients(segmenter)) == 2
    assert all(parameter.requires_grad for parameter in discriminator.parameters())
    segmenter.zero_grad()
    logits = segmenter(images), segmenter(-images)
    discriminator_loss(discriminator, *logits, kind, gan)[0].backward()
    assert not gradients(segmenter)
    assert len(gradients(discriminator)) == 10
    assert all(gradient.abs().max() > 0 for gradient in gradients(discriminator))


def test_of_two_classes_one_probability_or_both_informations_are_input() -> None:
    logits = torch.randn(2, 2, 4, 4)
    p = logits.softmax(1)[:, 1]
    assert torch.allclose(discriminator_input(logits, "softmax"), p[:, None])
    expected = torch.stack([-(1 - p) * (1 - p).log2(), -p * p.log2()], 1)
    assert torch.allclose(discriminator_input(logits, "entropy"), expected, atol=1e-6)
    flat = discriminator_input(torch.zeros(1, 5, 2, 2), "entropy")
    assert torch.allclose(flat.sum(1), torch.ones(1, 2, 2))  # the entropy over log C


@pytest.mark.parametrize("kind", ["softmax", "entropy"])
@pytest.mark.parametrize("classes", [2, 3, 19])
def test_inputs_have_their_channels_and_lie_in_0_to_1(
    kind: DiscriminatorInput, classes: int
) -> None:
    maps = discriminator_input(torch.randn(2, classes, 4, 4) * 5, kind)
    assert maps.shape[1] == input_channels(classes, kind)
    assert maps.min() >= 0 and maps.max() <= 1


def test_certain_predictions_have_finite_gradients() -> None:
    logits = torch.tensor([-400.0, 400.0]).reshape(1, 2, 1, 1).requires_grad_()
    discriminator_input(logits, "entropy").sum().backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_a_discriminator_computes_in_float32_under_autocast() -> None:
    discriminator, maps = Discriminator(1), torch.rand(1, 1, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = discriminator(maps.bfloat16())
    assert torch.equal(output, discriminator(maps.bfloat16().float()))
