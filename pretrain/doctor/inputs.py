"""Checks of what a run reads and writes: shards, decoder, initial weights, run folder."""

import os
import resource
import shutil

import torch

from micrograph.cli import cores
from pretrain.config import TrainConfig
from pretrain.doctor.finding import Finding, Place, fail, ok, warn
from pretrain.doctor.machine import uses_gpu
from pretrain.loading.open_sources import decode_path
from pretrain.loading.shard_reader import open_split
from pretrain.loading.staging import stage
from pretrain.network.classifier import build_classifier, imagenet_tag
from pretrain.network.init import resolve_init
from pretrain.network.weights import read_encoder
from pretrain.runs.checkpoint import KEPT
from pretrain.runs.metrics_log import read_metrics
from pretrain.runs.run_folder import RunPaths
from pretrain.training.data import open_splits
from shards.verification.faults import find_faults

_VERIFIED_BYTES = 1 << 30  # smaller sets are hashed completely, in seconds
_DECODED = 64  # images, evenly spaced
_SHOWN = 3  # faults


def check_shards(config: TrainConfig, place: Place) -> list[Finding]:
    """Whether the shards exist, pass a check of some seconds, and can be trained on."""
    folder = stage(config.shards, config.cache_dir)
    splits = open_splits(config, folder)  # checks sizes and the index
    manifest = splits[0].manifest
    files = sum(len(split.shards) for split in manifest.splits.values())
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < files + 256:
        remedy = f"ulimit -n {2 * files + 1024}, or write fewer and larger shards"
        return [fail(f"{files} shards, but at most {limit} open files", remedy)]
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    hashed = size <= _VERIFIED_BYTES
    # One process per node hashes every byte, and decodes a sample of the images.
    share = min(1.0, 2 * _DECODED / sum(map(len, splits)))
    check = hashed and not place.local_rank
    if faults := list(find_faults(folder, manifest, share, cores())) if check else []:
        text = "; ".join(faults[:_SHOWN])
        text += f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        remedy = f"python -m shards.verify {config.shards} lists all faults; write them again"
        return [fail(text, remedy)]
    depth = "every byte hashed, a sample decoded" if hashed else "sizes checked"
    classes, (train, val) = len(manifest.classes), map(len, splits)
    found = f"{classes} classes, {train} training, {val} validation images, {size / 1e9:.2f} GB"
    findings = [ok(f"{found}; {depth}")]
    if empty := manifest.splits["val"].class_counts.count(0):
        remedy = "their accuracy stays unknown; add images, or lower --val-per-class"
        findings.append(warn(f"{empty} classes have no validation image", remedy))
    return findings


def check_decoder(config: TrainConfig, place: Place) -> list[Finding]:
    """Which image decoder the loader will use, and why."""
    on_gpu = uses_gpu(config)
    gpu = place.local_rank % torch.cuda.device_count() if on_gpu else 0
    device = torch.device("cuda", gpu) if on_gpu else torch.device("cpu")
    data = open_split(stage(config.shards, config.cache_dir), "train")
    path = decode_path(data, config, device)
    found = f"{path.name}: {path.reason}"
    if on_gpu and path.name != "mixed" and config.gpu_decode == "auto":
        remedy = "training works with decoding on the CPU; try another version of DALI or driver"
        return [warn(found, remedy)]
    return [ok(found)]


def check_init(config: TrainConfig, place: Place) -> list[Finding]:
    """Whether the initial weights are here or can be downloaded."""
    init = resolve_init(config.init)
    if init.kind == "random":
        return [ok("random: nothing to load")]
    if init.path is None:
        return [_imagenet(config.arch)]
    _, card = read_encoder(init.path)
    if card.arch != config.arch:
        return [fail(f"{config.init} holds a {card.arch}", f"use --arch {card.arch}")]
    if not card.converged:
        return [warn(f"{config.init} did not converge", "use another encoder")]
    return [ok(f"{card.arch}, SHA-256 matches its card")]


def check_run_folder(config: TrainConfig, place: Place) -> list[Finding]:
    """Whether the run folder is writable, has space for checkpoints, and holds a run already."""
    if place.rank:  # process 0 writes
        return []
    folder = config.run_folder
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return [fail(f"no permission to write to {existing}", "choose another --run-dir")]
    needed, free = _bytes_of_a_run(config), shutil.disk_usage(existing).free
    room = f"{free / 1e9:.1f} GB free, {needed / 1e9:.2f} GB needed"
    if needed > free:
        remedy = "free some space, or choose a --run-dir on another disk"
        return [fail(f"{existing}: {room}", remedy)]
    if RunPaths(folder).config.exists():
        epochs = len(read_metrics(folder))
        room += f"; it holds a run of {epochs} epochs, which would continue"
    return [ok(f"{folder}: {room}")]


def _imagenet(arch: str) -> Finding:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from segmentation_models_pytorch.encoders import encoders

    tag = imagenet_tag(arch)
    settings = encoders.get(arch, {}).get("pretrained_settings", {}).get(tag)
    if settings is None:
        found = f"cannot check whether the weights of {arch} can be downloaded"
        return warn(found, "start a training once on a machine with a network, to fill the cache")
    repository, revision = settings["repo_id"], settings["revision"]
    cached = try_to_load_from_cache(repository, "model.safetensors", revision=revision)
    if isinstance(cached, str):
        return ok(f"{repository} is in the hub's cache")
    try:
        HfApi().model_info(repository, revision=revision, timeout=10)
    except Exception as error:  # the hub client raises errors of several libraries
        message = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        found = f"{repository} is not in the cache, and the hub cannot be reached ({message})"
        remedy = "fill the cache on a machine with a network and set HF_HOME, or use --init random"
        return fail(found, remedy)
    return ok(f"{repository} will be downloaded from the hub")


def _bytes_of_a_run(config: TrainConfig) -> int:
    """Size of the checkpoints with the optimizer's state, the best weights, and an export."""
    model = build_classifier(config.arch, "random", 1000, 0.0, config.image_size)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    states: int = 1 + (1 if config.optimizer == "sgd" else 2) + (config.ema_epochs is not None)
    checkpoints = KEPT + 2  # one for roll-backs, and the one being written
    return int(checkpoints * states * weights + 3 * weights)
