"""Build the network of a fine-tuning run."""

import torch

from downstream.finetune.config import DEFAULT_ARCH, SegmentConfig
from downstream.network.segmenter import EncoderOrigin, Segmenter, initial_network


def build_segmenter(
    config: SegmentConfig, classes: int, device: torch.device
) -> tuple[Segmenter, EncoderOrigin]:
    """The initial network of a run; uses torch's global generator.

    Raises `UserError` if the encoder cannot be loaded or does not fit the decoder.
    """
    model, origin = initial_network(
        config.decoder, config.arch, config.init, classes, default_arch=DEFAULT_ARCH
    )
    return Segmenter(model, origin.mean, origin.std, device), origin
