"""Import an encoder that NASA published: an export like ours, with card and checksum."""

import math
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file

from micrograph.cli import UserError, console, warn
from micrograph.download import download
from micrograph.settings import nearest
from pretrain.cards.archs import find_arch
from pretrain.cards.encoder_card import CARD_NAME, ENCODER_NAME, Card, write_card
from pretrain.export.timm_folder import TIMM_FOLDER, TimmExport, write_timm_folder
from pretrain.network.classifier import Classifier, bare_encoder, imagenet_tag
from pretrain.network.weights import StateDict, load_strictly
from pretrain.registry.nasa_models import MicroNetModel, micronet_models
from pretrain.training.metrics import CHANCE_FACTOR
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD, SourceInfo, file_sha256

ADDRESS = "https://nasa-public-data.s3.amazonaws.com/microscopy_segmentation_models"
IMAGE_SIZE = 224  # pixels; paper A does not say, and this is what its archs are used with
CLASSES = 54  # of MicroNet; their names were never published

_KINDS = {"random": "microscopynet", "imagenet": "imagenet-microscopynet"}
# The names of the initialisations in NASA's package and in a registry.
_TAGS = {"random": "micronet", "imagenet": "image-micronet"}
# The heads of torchvision, efficientnet_pytorch and pretrainedmodels.
_HEADS = ("classifier.", "fc.", "_fc.", "last_linear.")
# NASA's package loads `resnext101_pretrained_microscopynet_v1.0` for both initialisations.
_MIXED_UP = "resnext101_32x8d"
_FILE_NAMES = {_MIXED_UP: "resnext101"}  # shorter than the arch

MICRONET = SourceInfo(
    name="MicroNet",
    samples=110_861,
    # The licence of these encoders. The images are not public: training on them is restricted as
    # configs/corpora/micronet.yaml says.
    licence="MIT",
    restriction=None,
    citation="Stuckner et al., NASA/TM-20210026119",
)


def import_file(file: str | Path, folder: Path) -> tuple[Path, str, Card]:
    """Write the export of one of NASA's files, a path or only a name, to `folder`/ARCH.TAG.

    Replaces an earlier export; returns its folder, its tag and its card. Raises `UserError` for a
    file that NASA did not publish, and for missing or extra tensors.
    """
    model, tag = published_model(Path(file).name)
    out = folder / f"{model.arch}.{tag}"
    if out.exists() and not (out / CARD_NAME).exists():
        raise UserError(f"{out} exists and is not an export; choose another --out")
    partial = out.with_name(out.name + ".partial")
    with TemporaryDirectory(prefix="nasa-") as scratch:
        path = _local_file(file, model, Path(scratch))
        encoder = bare_encoder(model.arch)
        load_strictly(encoder, _without_head(_read(path), set(encoder.state_dict())), str(path))
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        state = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
        save_file(state, partial / ENCODER_NAME, metadata={"arch": model.arch})
        card = _card(partial, path, model, _write_timm(partial, model.arch, encoder))
    write_card(partial, card)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out, tag, card


def published_model(file_name: str) -> tuple[MicroNetModel, str]:
    """The model in one of NASA's files, and its tag. Raises `UserError` for another file name."""
    models = {
        f"{_FILE_NAMES.get(m.arch, m.arch)}_pretrained_{_KINDS[m.init]}_v{m.version}.pth.tar": m
        for m in micronet_models()
    }
    if file_name not in models:
        like = nearest(file_name, models)
        hint = f"; nearest is {like}" if like else ""
        raise UserError(f"{file_name!r} is not the name of a file that NASA published{hint}")
    model = models[file_name]
    return model, _TAGS[model.init]


def _local_file(file: str | Path, model: MicroNetModel, scratch: Path) -> Path:
    """The file itself; one given only by its name is downloaded to `scratch`."""
    path = Path(file)
    if path.exists() or path.name != str(file):
        return path
    if model.arch == _MIXED_UP and model.init == "imagenet":
        raise UserError(
            f"NASA's package never loads {file}: it takes resnext101_pretrained_microscopynet_v1.0"
            ".pth.tar for both; import that one"
        )
    console.print(f"fetching {ADDRESS}/{file}", markup=False)
    download(f"{ADDRESS}/{file}", scratch / path)
    return scratch / path


def _read(path: Path) -> StateDict:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch asks to report odd pickles
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except (PermissionError, IsADirectoryError) as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        # torch's message advises to load it without this check, which runs the code in it.
        raise UserError(
            f"{path} is not a file of tensors only: it is damaged, or contains code that loading "
            "would run; download it again from NASA"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in content.items()
    ):
        raise UserError(f"{path} contains other things than named tensors")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _without_head(state: StateDict, encoder: set[str]) -> StateDict:
    """Drop the classifier: it has ImageNet's 1000 outputs, and which 54 mean what is unknown."""
    return {
        name: tensor
        for name, tensor in state.items()
        if name in encoder or not name.startswith(_HEADS)
    }


def _write_timm(folder: Path, arch: str, encoder: torch.nn.Module) -> float:
    # A classifier needs an output; without class names timm gets none.
    classifier = Classifier(arch, encoder, classes=1, dropout=0.0)
    export = TimmExport(
        arch=arch,
        classes=(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        image_size=IMAGE_SIZE,
        sources=(MICRONET,),
    )
    return write_timm_folder(folder / TIMM_FOLDER, classifier, export)


def _card(folder: Path, path: Path, model: MicroNetModel, difference: float) -> Card:
    spec = find_arch(model.arch)
    note = (
        f"Published by NASA as {path.name}; accuracies from {model.source}, on 2,700 images of "
        f"{CLASSES} classes. The size of the training crops was not published: "
        f"{IMAGE_SIZE} pixels is an assumption."
    )
    if model.arch == _MIXED_UP:
        mixed = "NASA's package gives one file for both initialisations of this arch"
        warn(f"{path.name}: {mixed}")
        note += f" {mixed}; the accuracy may be of the other."
    return Card(
        arch=model.arch,
        timm_name=spec.timm_name,
        timm_features=spec.timm_features,
        timm_difference=difference if math.isfinite(difference) else None,
        encoder_options={},
        init=model.init,
        init_tag=imagenet_tag(model.arch) if model.init == "imagenet" else "",
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
        versions={"micrograph-pretrain": version("micrograph-pretrain"), "nasa": model.version},
        sha256=file_sha256(folder / ENCODER_NAME),
    )
