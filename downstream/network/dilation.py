"""Dilation of encoders for DeepLabV2, and which encoders support it. Imports no torch."""

from pretrain.cards.archs import TIMM_PREFIX, find_arch

OUTPUT_STRIDE = 8  # pixels per cell of the feature maps (Chen et al. 2018, arXiv:1606.00915, 4.1)
DILATIONS = (6, 12, 18, 24)  # ASPP-L there; the public code of Tsai et al. 2018 uses (6, 12) only


def dilation_error(arch: str) -> str:
    """Why `arch` cannot be the encoder of DeepLabV2, or "". Raises `UserError` for an unknown arch.

    A timm model (`tu-NAME`) is built to find out, which imports timm.
    """
    if arch.startswith(TIMM_PREFIX):
        return _timm_dilation_error(arch)
    if find_arch(arch).dilates:
        return ""
    return (
        f"DeepLabV2 dilates its encoder, which {arch} does not support; use one that does "
        "(python -m pretrain.archs), such as resnet101, or use Unet"
    )


def _timm_dilation_error(arch: str) -> str:
    import timm
    import torch

    from pretrain.network.timm_models import feature_type

    if feature_type(arch) == "vit":
        return f"DeepLabV2 needs feature maps of several resolutions, but {arch} has only one"
    try:
        with torch.random.fork_rng(devices=()), torch.device("meta"):
            model = timm.create_model(
                find_arch(arch).timm_name, features_only=True, output_stride=OUTPUT_STRIDE
            )
        stride = model.feature_info.reduction()[-1]
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"timm cannot dilate {arch} to stride {OUTPUT_STRIDE}: {error}"
    return "" if stride == OUTPUT_STRIDE else f"timm only dilates {arch} to stride {stride}"
