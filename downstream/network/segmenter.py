"""A segmentation network with its normalisation: build, load, predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import v2

from downstream.images.blend import Band
from downstream.images.prepared import native_bands, prepare
from downstream.images.scan import array_reader
from downstream.network.models import NO_OPTIONS, bare_model, create_model, read_encoder_card
from micrograph.cli import UserError, warn
from pretrain.cards.segmenter_card import SegmenterCard, read_segmenter_card
from pretrain.network.classifier import build_encoder
from pretrain.network.init import resolve_init
from pretrain.network.weights import load_strictly
from pretrain.registry.storage.pull import find_segmenter
from pretrain.runs.run_folder import RunPaths
from shards.images.decode import Pixels
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD, SourceInfo, file_sha256

STRIDE = 32  # pixels; input sides of smp's networks are multiples of it


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderOrigin:
    """The origin of an encoder and its input normalisation."""

    arch: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str = ""  # of the encoder file
    sources: tuple[SourceInfo, ...] = ()


class Segmenter:
    """A network with the input normalisation of its encoder."""

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        card: SegmenterCard | None = None,
    ) -> None:
        self.model: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self.card = card  # None during training
        self._normalise = v2.Normalize(list(mean), list(std))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits `(N, C, H, W)` of uint8 images `(N, 3, H, W)`, sides multiples of 32."""
        return self.model(self.normalise(images))  # type: ignore[no-any-return]

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 images `(N, 3, H, W)` for `model`."""
        normalised: torch.Tensor = self._normalise(images.to(self.device).float() / 255)
        return normalised.contiguous(memory_format=torch.channels_last)

    def probabilities(self, pixels: Pixels) -> torch.Tensor:
        """Class probabilities `(C, H, W)` float32 of an image `(H, W, 3)` or `(H, W)` uint8.

        The image is prepared as in training, as `downstream.predict` does; this may crop its data
        bar. It is predicted as a whole, padded by mirroring to multiples of 32, so memory grows
        with its area.
        """
        preparation = self.card.preparation if self.card else {}
        whole, prepared = prepare(array_reader("image", pixels), preparation)
        maps = self._predict_whole(prepared.rows(0, prepared.height))
        if prepared.shape == whole.shape:
            return maps
        bands = native_bands([Band(0, np.asarray(maps.cpu()))], prepared.shape, whole.shape)
        native = np.concatenate([band.maps for band in bands], axis=1)
        return torch.from_numpy(native).to(self.device)

    def predict(self, pixels: Pixels) -> npt.NDArray[np.int64]:
        """Class indices `(H, W)` of an image; see `probabilities`."""
        return np.asarray(self.probabilities(pixels).argmax(0).cpu())

    @torch.no_grad()
    def _predict_whole(self, pixels: Pixels) -> torch.Tensor:
        self.model.eval()
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
        height, width = image.shape[1:]
        padding = [0, 0, -width % STRIDE, -height % STRIDE]
        padded = v2.functional.pad(image, padding, padding_mode="symmetric")
        logits = self.logits(padded[None])[0, :, :height, :width]
        return logits.float().softmax(0)


def initial_network(
    decoder: str,
    arch: str | None,
    init: str,
    classes: int,
    *,
    default_arch: str,
    decoder_options: Mapping[str, Any] = NO_OPTIONS,
) -> tuple[nn.Module, EncoderOrigin]:
    """A network with the encoder named by `init`; uses torch's global generator.

    `default_arch` is used if neither `arch` nor `init` specifies one. Raises `UserError` if the
    encoder cannot be loaded or does not fit the decoder.
    """
    found = resolve_init(init)
    if found.location is not None:
        card = read_encoder_card(init)
        if arch not in (None, card.arch):
            raise UserError(f"{init} contains a {card.arch}, but arch is {arch}")
        return create_model(decoder, init, classes, decoder_options=decoder_options), EncoderOrigin(
            arch=card.arch, mean=card.mean, std=card.std, sha256=card.sha256, sources=card.sources
        )
    # Paper A always normalises by ImageNet's mean and std.
    origin = EncoderOrigin(arch=arch or default_arch, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    model = create_model(decoder, origin.arch, classes, decoder_options=decoder_options)
    if found.kind == "imagenet":
        encoder: Any = model.encoder
        load_strictly(encoder, build_encoder(origin.arch, "imagenet").state_dict(), "imagenet")
    return model, origin


def load_segmenter(
    location: str | Path, device: torch.device | None = None, registry: str | None = None
) -> Segmenter:
    """Load a finished segmenter for prediction: `load_segmenter("unet-resnet18.steels")`.

    `location` is a registry name or the folder of a run; `registry` is a URL that overrides the
    environment's; the classes are in `card`. Raises `UserError` if the run is not finished, the
    name is unknown, or the file does not match its card.
    """
    run_dir = find_segmenter(location, registry)
    card = read_segmenter_card(run_dir)
    path = RunPaths(run_dir).best
    if not path.is_file() or file_sha256(path) != card.sha256:
        raise UserError(f"{path} does not match its card {RunPaths(run_dir).card}")
    if not card.converged:
        warn(f"{location} did not converge: {card.collapse}")
    model = bare_model(
        card.decoder, card.arch, len(card.classes), card.encoder_options, card.decoder_options
    )
    try:
        load_strictly(model, load_file(path), str(path))
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file: {error}") from error
    segmenter = Segmenter(model, card.mean, card.std, device or default_device(), card)
    segmenter.model.eval()
    return segmenter


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
