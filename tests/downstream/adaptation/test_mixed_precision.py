"""The parts of adaptation together in bf16, on CPU and GPU: types, finite gradients, same views."""

import pytest
import torch

from downstream.adaptation.config import DiscriminatorInput
from downstream.adaptation.methods.adversarial import (
    Discriminator,
    adversarial_loss,
    discriminator_loss,
    input_channels,
)
from downstream.adaptation.methods.batchnorm import adapt_bn, set_bn_mode, use_domain
from downstream.adaptation.methods.fda import fda
from downstream.adaptation.methods.self_training import Teacher, masked_view
from downstream.network.deeplab import DeepLabV2
from downstream.network.models import create_model

GPU_CASES = [("cuda", arch, 636) for arch in ("resnet50", "efficientnet-b0", "dpn68")]


@pytest.mark.parametrize(
    ("device", "arch", "side"),
    [("cpu", "resnet18", 60), *(pytest.param(*case, marks=pytest.mark.gpu) for case in GPU_CASES)],
)
@pytest.mark.parametrize("kind", ["softmax", "entropy"])
def test_a_step_of_both_networks_in_bf16(
    device: str, arch: str, side: int, kind: DiscriminatorInput
) -> None:
    torch.manual_seed(0)
    model = create_model("DeepLabV2", arch, 2, decoder_options={"aux": True})
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert isinstance(model, DeepLabV2)
    set_bn_mode(model, "domain")
    discriminator = Discriminator(input_channels(2, kind)).to(device)
    source, target = torch.randn(2, 2, 3, side, side, device=device)
    target = fda(target * 255, source * 255, 0.01) / 255
    with torch.autocast(device, torch.bfloat16):
        with use_domain(model, "source"):
            on_source, _ = model.forward_heads(source)
        on_target, aux = model.forward_heads(masked_view(target, 32, 0.7))
        assert aux is not None and on_target.dtype == aux.dtype == torch.float32
        assert on_target.shape == (2, 2, side, side)
        adversarial = adversarial_loss(discriminator, on_target, kind, "bce")
        discriminating, _ = discriminator_loss(discriminator, on_source, on_target, kind, "bce")
    assert adversarial.dtype == discriminating.dtype == torch.float32
    (adversarial + aux.square().mean()).backward()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert found and all(torch.isfinite(gradient).all() for gradient in found)
    discriminating.backward()
    for parameter in discriminator.parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    teacher = Teacher(model, 0.999)
    teacher.update(model)
    with torch.autocast(device, torch.bfloat16):
        labels, shares = teacher.pseudo_labels(target, 0.968)
        adapt_bn(model, [target, source])
    assert labels.device.type == device and torch.isfinite(shares).all()


@pytest.mark.gpu
def test_views_and_styles_are_those_of_the_cpu() -> None:
    generator = torch.Generator()
    images, others = torch.rand(2, 2, 3, 65, 80, generator=generator.manual_seed(0)) * 255
    views = [
        masked_view(each, 16, 0.5, generator.manual_seed(1)).cpu()
        for each in (images, images.cuda())
    ]
    assert torch.equal(views[0], views[1])
    mixed = fda(images.cuda(), others.cuda(), 0.05).cpu()
    assert torch.allclose(mixed, fda(images, others, 0.05), atol=1e-2)
