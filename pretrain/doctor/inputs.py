"""Checks of what a run reads and writes: shards, decoder, initial weights, run folder, wandb."""

import os
import resource
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch

from micrograph.cli import cores
from pretrain.config import TrainConfig
from pretrain.doctor.finding import Finding, Place
from pretrain.doctor.machine import uses_gpu
from pretrain.loading.open_sources import decode_path
from pretrain.loading.shard_reader import ShardReader, open_split
from pretrain.loading.staging import stage
from pretrain.network.classifier import build_classifier, imagenet_tag
from pretrain.network.init import resolve_init
from pretrain.network.weights import read_encoder
from pretrain.runs.checkpoint import KEPT
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths
from shards.format.schema import Manifest
from shards.images.decode import RejectedImage, decode_image
from shards.verification.faults import find_faults

_VERIFIED_BYTES = 1 << 30  # smaller sets are hashed completely, in seconds
_DECODED = 64  # images, evenly spaced
_SHOWN = 3  # faults


def check_shards(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether the shards exist, pass a check of some seconds, and can be trained on."""
    folder = stage(config.shards, config.cache_dir)
    splits = [open_split(folder, name) for name in ("train", "val")]  # sizes, index
    manifest = splits[0].manifest
    counts = [len(split) for split in splits]
    found = f"{len(manifest.classes)} classes, {counts[0]} training, {counts[1]} validation images"
    if len(manifest.classes) < 2 or not all(counts):
        remedy = "training needs two classes and both splits; write the shards again"
        yield Finding(check="shards", found=found, level="fail", remedy=remedy)
        return
    files = sum(len(split.shards) for split in manifest.splits.values())
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < files + 256:
        remedy = f"ulimit -n {2 * files + 1024}, or write fewer and larger shards"
        text = f"{files} shards, but at most {limit} open files"
        yield Finding(check="shards", found=text, level="fail", remedy=remedy)
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    faults = _faults(folder, manifest, splits, size, place)
    if faults:
        text = "; ".join(faults[:_SHOWN])
        text += f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        remedy = f"python -m shards.verify {config.shards} lists all faults; write them again"
        yield Finding(check="shards", found=text, level="fail", remedy=remedy)
        return
    depth = "every byte hashed" if size <= _VERIFIED_BYTES else "sizes checked"
    yield Finding(check="shards", found=f"{found}, {size / 1e9:.2f} GB; {depth}, a sample decoded")
    empty = sum(count == 0 for count in manifest.splits["val"].class_counts)
    if empty:
        remedy = "their accuracy stays unknown; add images, or lower --val-per-class"
        text = f"{empty} classes have no validation image"
        yield Finding(check="shards", found=text, level="warn", remedy=remedy)


def check_decoder(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Which image decoder the loader will use, and why."""
    on_gpu = uses_gpu(config)
    gpu = place.local_rank % torch.cuda.device_count() if on_gpu else 0
    device = torch.device("cuda", gpu) if on_gpu else torch.device("cpu")
    data = open_split(stage(config.shards, config.cache_dir), "train")
    path = decode_path(data, config, device)
    found = f"{path.name}: {path.reason}"
    if on_gpu and path.name != "mixed" and config.gpu_decode == "auto":
        remedy = "training works with decoding on the CPU; try another version of DALI or driver"
        yield Finding(check="decoder", found=found, level="warn", remedy=remedy)
    else:
        yield Finding(check="decoder", found=found)


def check_init(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether the initial weights are here or can be downloaded."""
    wanted = resolve_init(config.init)
    if wanted.kind == "random":
        yield Finding(check="init", found="random: nothing to load")
    elif wanted.path is None:
        yield from _imagenet(config.arch)
    else:
        _, card = read_encoder(wanted.path)
        if card.arch != config.arch:
            remedy = f"use --arch {card.arch}"
            found = f"{config.init} holds a {card.arch}"
            yield Finding(check="init", found=found, level="fail", remedy=remedy)
        elif not card.converged:
            remedy = "use another encoder"
            found = f"{config.init} did not converge"
            yield Finding(check="init", found=found, level="warn", remedy=remedy)
        else:
            yield Finding(check="init", found=f"{card.arch}, SHA-256 matches its card")


def check_run_folder(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether the run folder is writable, has space for checkpoints, and holds a run already."""
    if place.rank:  # process 0 writes
        return
    folder = config.run_folder
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        remedy = "choose another --run-dir"
        found = f"no permission to write to {there}"
        yield Finding(check="run folder", found=found, level="fail", remedy=remedy)
        return
    needed, free = _bytes_of_a_run(config), shutil.disk_usage(there).free
    room = f"{free / 1e9:.1f} GB free, {needed / 1e9:.2f} GB needed"
    if needed > free:
        remedy = "free some space, or choose a --run-dir on another disk"
        yield Finding(check="run folder", found=f"{there}: {room}", level="fail", remedy=remedy)
        return
    if RunPaths(folder).config.exists():
        epochs = len(read_metrics(folder))
        room += f"; it holds a run of {epochs} epochs, which would continue"
    yield Finding(check="run folder", found=f"{folder}: {room}")


def check_wandb(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether wandb, if used, is installed and logged in."""
    if not config.wandb or place.rank:
        return
    if find_spec("wandb") is None:
        remedy = "pip install wandb"
        yield Finding(check="wandb", found="is not installed", level="fail", remedy=remedy)
        return
    mode = os.environ.get("WANDB_MODE", "online")
    if mode in ("offline", "disabled"):
        found = "offline; upload later by wandb sync RUN_DIR/wandb/offline-*"
        yield Finding(check="wandb", found=found if mode == "offline" else mode)
    elif _has_wandb_login():
        yield Finding(check="wandb", found=f"logged in; project {config.wandb_project}")
    else:
        remedy = "wandb login, or WANDB_API_KEY, or WANDB_MODE=offline"
        yield Finding(check="wandb", found="no login", level="fail", remedy=remedy)


def _has_wandb_login() -> bool:
    """Whether there is an API key where `wandb login` stores it; it is not validated."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):  # no such file, or unreadable
        return False


def _faults(
    folder: Path, manifest: Manifest, splits: list[ShardReader], size: int, place: Place
) -> list[str]:
    images = sum(len(split) for split in splits)
    if size <= _VERIFIED_BYTES:
        if place.local_rank:  # one process per node hashes every byte
            return []
        share = min(1.0, 2 * _DECODED / images)
        return list(find_faults(folder, manifest, share, cores()))
    faults = []
    for split in splits:
        ids = np.unique(np.linspace(0, len(split) - 1, _DECODED).astype(np.int64))
        for number, data in zip(ids, split.read(ids), strict=True):
            row = split.index[number]
            try:
                pixels = decode_image(data.tobytes()).pixels
            except RejectedImage as error:
                faults.append(f"{split.split} image {number}: {error}")
                continue
            if pixels.shape[:2] != (row["height"], row["width"]):
                faults.append(f"{split.split} image {number} has not the size in its index")
    return faults


def _imagenet(arch: str) -> Iterator[Finding]:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from segmentation_models_pytorch.encoders import encoders

    tag = imagenet_tag(arch)
    settings = encoders.get(arch, {}).get("pretrained_settings", {}).get(tag)
    if settings is None:
        found = f"cannot check whether the weights of {arch} can be downloaded"
        remedy = "start a training once on a machine with a network, to fill the cache"
        yield Finding(check="init", found=found, level="warn", remedy=remedy)
        return
    where, revision = settings["repo_id"], settings["revision"]
    cached = try_to_load_from_cache(where, "model.safetensors", revision=revision)
    if isinstance(cached, str):
        yield Finding(check="init", found=f"{where} is in the hub's cache")
        return
    try:
        HfApi().model_info(where, revision=revision, timeout=10)
    except Exception as error:  # the hub client raises errors of several libraries
        message = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        found = f"{where} is not in the cache, and the hub cannot be reached ({message})"
        remedy = "fill the cache on a machine with a network and set HF_HOME, or use --init random"
        yield Finding(check="init", found=found, level="fail", remedy=remedy)
        return
    yield Finding(check="init", found=f"{where} will be downloaded from the hub")


def _bytes_of_a_run(config: TrainConfig) -> int:
    """Size of the checkpoints with the optimizer's state, the best weights, and an export."""
    model = build_classifier(config.arch, "random", 1000, 0.0, config.image_size)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    states: int = 1 + (1 if config.optimizer == "sgd" else 2) + (config.ema_epochs is not None)
    checkpoints = KEPT + 2  # one for roll-backs, and the one being written
    return int(checkpoints * states * weights + 3 * weights)
