"""The encoders that NASA published become exports like ours, with card and checksum.

python -m pretrain.import_nasa FILE ... --out DIR [--registry URL]

FILE: `ENCODER_pretrained_{microscopynet|imagenet-microscopynet}_vVERSION.pth.tar`, where it lies,
or only its name: then it is fetched from NASA's address. With a registry they are published as
ARCH.micronet and ARCH.image-micronet, the names that NASA's package has for them.
"""

import math
import re
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
from safetensors.torch import save_file

from pretrain.archs import ARCHS, find_arch
from pretrain.cache import fetch
from pretrain.card import CARD_NAME, ENCODER_NAME, SCHEMA_VERSION, Card, write_card
from pretrain.metrics import CHANCE_FACTOR
from pretrain.micronet import MicroNetModel, micronet_models
from pretrain.model import Classifier, bare_encoder, imagenet_tag
from pretrain.publish import publish
from pretrain.timm_export import TIMM_FOLDER, TimmExport, write_timm_folder
from pretrain.weights import StateDict, load_strictly
from shards.cli import UserError, console, program, warn
from shards.schema import IMAGENET_MEAN, IMAGENET_STD, SourceInfo, file_sha256
from shards.settings import Positional, load_config, nearest

ADDRESS = "https://nasa-public-data.s3.amazonaws.com/microscopy_segmentation_models"
IMAGE_SIZE = 224  # pixels; paper A does not say, and this is what its archs are used with
CLASSES = 54  # of MicroNet; their names were never published

_NAME = re.compile(
    r"(?P<encoder>[a-z0-9_-]+?)_pretrained_(?P<kind>imagenet-microscopynet|microscopynet)"
    r"_v(?P<version>\d+\.\d+)\.pth\.tar"
)
_INITS = {"microscopynet": "random", "imagenet-microscopynet": "imagenet"}
_TAGS = {"random": "micronet", "imagenet": "image-micronet"}
# The file names leave out a part of this one.
_ENCODERS = {"resnext101": "resnext101_32x8d"}
# Of torchvision, of efficientnet_pytorch, of pretrainedmodels.
_HEADS = ("classifier.", "fc.", "_fc.", "last_linear.")
# NASA's package serves `resnext101_pretrained_microscopynet_v1.0` whichever of the two is asked.
_MIXED_UP = "resnext101_32x8d"

MICRONET = SourceInfo(
    name="MicroNet",
    samples=110_861,
    # Of these encoders, which NASA published; the images are not public, and whoever trains on
    # them is bound by the restriction in configs/corpora/micronet.yaml.
    licence="MIT",
    restriction=None,
    citation="Stuckner et al., NASA/TM-20210026119",
)


@dataclass(frozen=True, slots=True)
class NasaFile:
    """What the name of a file says."""

    arch: str
    init: str
    version: str

    @property
    def tag(self) -> str:
        """The name of its kind, in NASA's package and in a registry."""
        return _TAGS[self.init]


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Turn encoders that NASA published into exports, and publish them."""

    files: Annotated[tuple[str, ...], Positional, "….pth.tar, or only its name"]
    out: Annotated[Path, "each export goes to OUT/ARCH.TAG"] = Path("imported")
    registry: Annotated[str | None, "URL of a registry where they are published too"] = None


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(ImportConfig, argv)
    for file in config.files:
        told = parse_file_name(Path(file).name)
        with TemporaryDirectory(prefix="nasa-") as scratch:
            out = config.out / f"{told.arch}.{told.tag}"
            card = import_file(_at_hand(file, Path(scratch)), out)
        console.print(f"{out}: published top-1 {card.metrics['top1']:.2%}", markup=False)
        if config.registry:
            # Paper A published two that guess; they stay what they are, and are marked.
            print(publish(out, told.tag, config.registry, not_converged=True))
        else:
            print(out)


def parse_file_name(name: str) -> NasaFile:
    """Read what NASA's file names say. Raises `UserError` for another name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"{name!r} is no name of a file that NASA published; one is "
            "ENCODER_pretrained_microscopynet_v1.0.pth.tar, or with imagenet-microscopynet"
        )
    arch = _ENCODERS.get(match["encoder"], match["encoder"])
    if arch not in ARCHS:
        like = nearest(arch, ARCHS)
        hint = f"; nearest is {like!r}" if like else ""
        raise UserError(f"{name}: unknown encoder {arch!r}{hint}")
    return NasaFile(arch, _INITS[match["kind"]], match["version"])


def import_file(path: Path, out: Path) -> Card:
    """Write the export of one of NASA's files to `out`; an earlier one there is replaced.

    Raises `UserError` when it holds other tensors than the encoder has, or is none of those
    published.
    """
    told = parse_file_name(path.name)
    model = _published(told, path.name)
    if out.exists() and not (out / CARD_NAME).exists():
        raise UserError(f"{out} exists and is no export; choose another --out")
    encoder = bare_encoder(told.arch)
    load_strictly(encoder, _without_head(_read(path), set(encoder.state_dict())), str(path))
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    state = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(state, partial / ENCODER_NAME, metadata={"arch": told.arch})
    card = _card(partial, path, told, model, _write_timm(partial, told, encoder))
    write_card(partial, card)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return card


def _at_hand(file: str, scratch: Path) -> Path:
    """The file itself, or the one of that name from NASA."""
    path = Path(file)
    if path.exists() or path.name != file:
        return path
    told = parse_file_name(file)
    if told.arch == _MIXED_UP and told.init == "imagenet":
        raise UserError(
            f"NASA's package never loads {file}: it takes resnext101_pretrained_microscopynet_v1.0"
            ".pth.tar for both; import that one"
        )
    _published(told, file)
    console.print(f"fetching {ADDRESS}/{file}", markup=False)
    target = scratch / file
    fetch(f"{ADDRESS}/{file}", target, lambda have, total: None)
    return target


def _published(told: NasaFile, name: str) -> MicroNetModel:
    for model in micronet_models():
        if (model.arch, model.init, model.version) == (told.arch, told.init, told.version):
            return model
    raise UserError(f"{name}: no {told.arch} was published as {told.tag} in v{told.version}")


def _read(path: Path) -> StateDict:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # asks the user to report odd pickles to torch
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        # torch's own words advise to load it without this check, and so to run what is in it.
        raise UserError(
            f"{path} is no file of tensors alone: it is damaged, or holds what could run on this "
            "machine; download it again from where NASA published it"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise UserError(f"{path} holds other things than named tensors")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _without_head(state: StateDict, encoder: set[str]) -> StateDict:
    """Its classifier kept ImageNet's 1000 outputs, of which nobody knows what 54 mean."""
    return {
        name: tensor
        for name, tensor in state.items()
        if name in encoder or not name.startswith(_HEADS)
    }


def _write_timm(folder: Path, told: NasaFile, encoder: torch.nn.Module) -> float:
    # One output, since there must be some; without class names timm gets none.
    classifier = Classifier(told.arch, encoder, classes=1, dropout=0.0)
    export = TimmExport(
        arch=told.arch,
        classes=(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=IMAGE_SIZE,
        sources=(MICRONET,),
    )
    return write_timm_folder(folder / TIMM_FOLDER, classifier, export)


def _card(
    folder: Path, path: Path, told: NasaFile, model: MicroNetModel, difference: float
) -> Card:
    spec = find_arch(told.arch)
    note = (
        f"Published by NASA as {path.name}; accuracies from {model.source}, on 2,700 images of "
        f"{CLASSES} classes. The size of the training crops was not published: "
        f"{IMAGE_SIZE} pixels is an assumption."
    )
    if told.arch == _MIXED_UP:
        mixed = "NASA's package gives one file for both initialisations of this arch"
        warn(f"{path.name}: {mixed}")
        note += f" {mixed}; the accuracy may be of the other."
    return Card(
        schema_version=SCHEMA_VERSION,
        arch=told.arch,
        timm_name=spec.timm_name,
        timm_features=spec.timm_features,
        timm_difference=difference if math.isfinite(difference) else None,
        encoder_options={},
        init=told.init,
        init_tag=imagenet_tag(told.arch) if told.init == "imagenet" else "",
        classes=(),
        channels=1,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=IMAGE_SIZE,
        converged=model.top1 >= CHANCE_FACTOR / CLASSES,
        metrics={"top1": model.top1, "top5": model.top5},
        class_accuracy=None,
        corpus_hash="",
        sources=(MICRONET,),
        config={
            "note": note,
            "imported_file": path.name,
            "imported_sha256": file_sha256(path),
        },
        versions={"micrograph-pretrain": version("micrograph-pretrain"), "nasa": told.version},
        sha256=file_sha256(folder / ENCODER_NAME),
    )


if __name__ == "__main__":
    main()
