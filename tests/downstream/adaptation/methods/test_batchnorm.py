"""Batch norm between domains: what moves in each mode, what is exported, what bn_adapt gives."""

from typing import Any, cast

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from downstream.adaptation.config import BnMode
from downstream.adaptation.methods.batchnorm import adapt_bn, export_state, set_bn_mode, use_domain
from downstream.network.models import bare_model, create_model
from micrograph.cli import UserError


class Net(nn.Module):
    """A convolution, a batch norm, a dropout that must not act, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.last(self.drop(self.norm(self.first(images)))))


def domain(seed: int, shift: float, count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) + shift


SOURCE, TARGET = domain(1, 0.0), domain(2, 3.0)


def step(net: nn.Module) -> None:
    """One step of training on each domain."""
    net.train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    with use_domain(net, "source"):
        loss = net(SOURCE).square().mean()
    with use_domain(net, "target"):
        loss = loss + net(TARGET).square().mean()
    loss.backward()
    optimizer.step()


def states(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_frozen_neither_learns_nor_moves_and_ignores_the_batch() -> None:
    net = Net()
    set_bn_mode(net, "frozen")
    before = states(net.norm)
    step(net)
    assert all(torch.equal(value, before[name]) for name, value in net.norm.state_dict().items())
    assert not torch.equal(net.last.weight, Net().last.weight)
    net.train()
    net.drop.eval()
    assert torch.allclose(net(TARGET)[:1], net(TARGET[:1]), atol=1e-5)


def test_shared_moves_with_both_domains() -> None:
    net, expected = Net(), nn.BatchNorm2d(4)
    set_bn_mode(net, "shared")
    with torch.no_grad():
        maps = [net.first(SOURCE), net.first(TARGET)]
        for one in maps:
            expected(one)
    step(net)
    assert torch.equal(
        cast(torch.Tensor, net.norm.running_mean), cast(torch.Tensor, expected.running_mean)
    )
    assert net.norm.num_batches_tracked == 2
    assert net.norm.weight.requires_grad


def test_scale_and_shift_can_be_fixed_while_statistics_move() -> None:
    net = Net()
    set_bn_mode(net, "shared", affine=False)
    step(net)
    assert torch.equal(net.norm.weight, torch.ones(4)) and torch.equal(
        net.norm.bias, torch.zeros(4)
    )
    assert net.norm.num_batches_tracked == 2


def test_domains_keep_statistics_of_their_own() -> None:
    net, of_source, of_target = Net(), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    set_bn_mode(net, "domain")
    with torch.no_grad():
        of_source(net.first(SOURCE))
        of_target(net.first(TARGET))
    step(net)
    norm: Any = net.norm
    assert torch.equal(norm.running_mean, of_target.running_mean)
    assert torch.equal(norm.running_var, of_target.running_var)
    assert torch.equal(norm.source_mean, of_source.running_mean)
    assert torch.equal(norm.source_var, of_source.running_var)
    with use_domain(net, "source"):
        assert torch.equal(norm.running_mean, of_source.running_mean)
    assert torch.equal(norm.running_mean, of_target.running_mean)


def test_the_targets_statistics_return_after_an_error() -> None:
    net = Net()
    set_bn_mode(net, "domain")
    net.norm.running_mean.fill_(7.0)  # type: ignore[union-attr]
    with pytest.raises(RuntimeError), use_domain(net, "source"):
        net(torch.zeros(1, 5, 8, 8))
    assert (net.norm.running_mean == 7).all()  # type: ignore[union-attr]


def test_the_export_is_the_plain_network_with_the_targets_statistics() -> None:
    torch.manual_seed(0)
    model = create_model("DeepLabV2", "resnet18", 2, decoder_options={"aux": True})
    set_bn_mode(model, "domain")
    model.train()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        with use_domain(model, "source"):
            model(images)
        for _ in range(2):
            model(images + 2)
    state = export_state(model)
    plain = bare_model("DeepLabV2", "resnet18", 2, {}, {"aux": True})
    plain.load_state_dict(state, strict=True)
    assert state["encoder.bn1.num_batches_tracked"] == 2
    assert torch.equal(plain.eval()(images), model.eval()(images))
    with use_domain(model, "source"):
        assert not torch.equal(model(images), plain(images))


@pytest.mark.parametrize("mode", ["frozen", "shared", "domain"])
def test_bn_adapt_gives_the_mean_of_the_batches_statistics(mode: BnMode) -> None:
    net = Net()
    set_bn_mode(net, mode)
    net.train()
    before = states(net)
    batches = [domain(seed, seed, count=3) for seed in range(4)]
    adapt_bn(net, iter(batches))
    with torch.no_grad():
        maps = [net.first(batch) for batch in batches]
    means = torch.stack([one.mean((0, 2, 3)) for one in maps]).mean(0)
    variances = torch.stack([one.var((0, 2, 3)) for one in maps]).mean(0)
    assert torch.allclose(cast(torch.Tensor, net.norm.running_mean), means, atol=1e-5)
    assert torch.allclose(cast(torch.Tensor, net.norm.running_var), variances, atol=1e-5)
    moved = {
        name for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert net.training and net.drop.training and net.norm.momentum == 0.1


def test_dropout_is_off_while_bn_adapts() -> None:
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3))
    adapt_bn(net, [TARGET])
    assert torch.allclose(
        cast(torch.Tensor, net[1].running_mean), TARGET.mean((0, 2, 3)), atol=1e-5
    )


def test_bn_adapt_needs_batch_norm() -> None:
    with pytest.raises(UserError, match="batch norm"):
        adapt_bn(nn.Conv2d(3, 2, 1), [TARGET])


def test_norms_of_smp_and_timm_encoders_follow_the_modes() -> None:
    for arch in ("dpn68", "tu-tf_efficientnetv2_b0"):
        encoder = smp.encoders.get_encoder(arch, weights=None)
        set_bn_mode(encoder, "domain")
        before = states(encoder)
        encoder.train()
        with use_domain(encoder, "source"), torch.no_grad():
            encoder(torch.randn(2, 3, 32, 32))
        moved = {
            n for n, value in encoder.state_dict().items() if not torch.equal(value, before[n])
        }
        assert moved and all(".source_" in name for name in moved)
