"""What DeepLabV2 asks of an encoder, and which can give it. Imports no torch."""

from pretrain.archs import TIMM_PREFIX, find_arch

OUTPUT_STRIDE = 8  # pixels per cell of the feature maps (Chen et al. 2018, arXiv:1606.00915, 4.1)
DILATIONS = (6, 12, 18, 24)  # ASPP-L there; the public code of Tsai et al. 2018 uses (6, 12) only


def qualifies(arch: str) -> str:
    """Why `arch` cannot be DeepLabV2's encoder, or "". Raises `UserError` for an unknown arch.

    A timm model (`tu-NAME`) is asked itself, which imports timm.
    """
    if arch.startswith(TIMM_PREFIX):
        return _ask_timm(arch)
    if find_arch(arch).dilates:
        return ""
    return (
        f"DeepLabV2 dilates its encoder, which {arch} cannot; take one that can "
        "(python -m pretrain.archs), such as resnet101, or the Unet"
    )


def _ask_timm(arch: str) -> str:
    import timm
    import torch

    from pretrain.timm_models import feature_type

    if feature_type(arch) == "vit":
        return f"DeepLabV2 needs feature maps of several resolutions, and {arch} has one"
    try:
        with torch.random.fork_rng(devices=()), torch.device("meta"):
            model = timm.create_model(
                find_arch(arch).timm_name, features_only=True, output_stride=OUTPUT_STRIDE
            )
        stride = model.feature_info.reduction()[-1]
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"timm cannot dilate {arch} to stride {OUTPUT_STRIDE}: {error}"
    return "" if stride == OUTPUT_STRIDE else f"timm dilates {arch} to stride {stride} only"
