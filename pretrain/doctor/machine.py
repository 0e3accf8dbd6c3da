"""Checks of the machine and of the communication between processes."""

import errno
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.distributed

from micrograph.cli import cores
from pretrain.config import TrainConfig
from pretrain.doctor.finding import Finding, Level, Place

DEFAULT_PORT = 29500  # of torchrun and accelerate launch
_MIN_OPEN_FILES = 1024  # a usual limit; shards, libraries and the hub's client share it
_CONNECT_SECONDS = 60  # timeout for the processes to connect
_MIN_SHARED_MEMORY = 256 << 20  # bytes; Docker's default of 64 MB starves NCCL
_REDUCED_BYTES = 64 << 20  # size of the measured all-reduce; about the gradients of a ResNet-34


def check_gpu(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether torch can use a GPU, and whether there is one for each process."""
    driver = _driver()
    built = torch.version.cuda or "no CUDA"
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        name = torch.cuda.get_device_name(min(place.local_rank, count - 1))
        found = f"{count} x {name}, driver {driver or 'unknown'}, torch {torch.__version__}"
        yield Finding(check="GPU", found=found)
        if place.local_world > count:
            yield Finding(
                check="GPU",
                found=f"{place.local_world} processes on this node, {count} GPUs",
                level="fail",
                remedy="start one process per GPU",
            )
        # By default torch also accepts its emulation, which is slower than fp32.
        if config.precision == "bf16" and not torch.cuda.is_bf16_supported(
            including_emulation=False
        ):
            remedy = "use --precision fp16 or fp32"
            found = f"{name} has no bf16, only torch's slow emulation"
            yield Finding(check="GPU", found=found, level="warn", remedy=remedy)
        return
    why = "torch finds no GPU"
    remedy = "none is needed for --device cpu"
    if driver:
        why = f"torch {torch.__version__} (built for {built}) cannot use the GPU of driver {driver}"
        remedy = "update the driver, or install a torch built for an older CUDA"
    elif config.device == "gpu":
        remedy = "request a GPU from the scheduler (SLURM: --gres=gpu:1), or use --device cpu"
    if config.device == "gpu" or (driver and config.device == "auto"):
        yield Finding(check="GPU", found=why, level="fail", remedy=remedy)
    elif config.device == "auto":
        remedy = "if intended, use --device cpu; only small runs are worth it"
        found = f"{why}: training on the CPU"
        yield Finding(check="GPU", found=found, level="warn", remedy=remedy)
    else:
        yield Finding(check="GPU", found="not used (--device cpu)")


def check_packages(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether the packages that every training imports are installed."""
    found = []
    for name in ("torch", "accelerate", "segmentation-models-pytorch", "timm"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            remedy = "pip install 'micrograph-pretrain[train]'"
            yield Finding(check="packages", found=f"no {name}", level="fail", remedy=remedy)
    yield Finding(check="packages", found=", ".join(found))


def check_dali(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether DALI can be imported; only training on a GPU needs it."""
    if not uses_gpu(config):
        yield Finding(check="DALI", found="not needed on the CPU")
        return
    try:
        import nvidia.dali
    except (ImportError, OSError) as error:  # OSError: one of its shared libraries is missing
        remedy = (
            "pip install nvidia-dali-cuda130 (x86-64 or Arm Linux, glibc 2.28 or newer), or use "
            "--device cpu"
        )
        yield Finding(check="DALI", found=str(error), level="fail", remedy=remedy)
        return
    yield Finding(check="DALI", found=nvidia.dali.__version__)


def uses_gpu(config: TrainConfig) -> bool:
    """Whether a training with these settings would run on a GPU of this machine."""
    return config.device != "cpu" and torch.cuda.is_available()


def check_cores(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether there are as many cores as threads."""
    have = cores()
    share = max(1, have // place.local_world)
    found = f"{have} for {place.local_world} process{'es' if place.local_world > 1 else ''}"
    if place.local_world > have:
        remedy = f"start at most {have} processes here, or request more cores"
        yield Finding(check="cores", found=found, level="warn", remedy=remedy)
        return
    for flag, wanted in (
        ("--threads", config.threads),
        ("--loader-threads", config.loader_threads),
    ):
        if wanted is not None and wanted > share:
            remedy = f"use {flag} {share}, or request more cores (--cpus-per-task)"
            text = f"{found}, {flag} {wanted}"
            yield Finding(check="cores", found=text, level="warn", remedy=remedy)
            return
    yield Finding(check="cores", found=found)


def check_shared_memory(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Free space in /dev/shm, through which NCCL and gloo exchange data within a node."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.2f} GB free in {folder}"
    if place.local_world > 1 and free < _MIN_SHARED_MEMORY:
        remedy = "in a container, --shm-size=1g or --ipc=host; otherwise delete files there"
        yield Finding(check="shared memory", found=found, level="fail", remedy=remedy)
    else:
        yield Finding(check="shared memory", found=found)


def check_port(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether the port through which processes connect is free."""
    if place.world > 1:  # `check_processes` shows it
        return
    text = os.environ.get("MASTER_PORT", str(DEFAULT_PORT))
    port = int(text) if text.isdecimal() and 0 < int(text) < 65536 else 0
    if not port:
        remedy = "set MASTER_PORT to a number from 1024 to 65535"
        yield Finding(check="port", found=f"MASTER_PORT is {text!r}", level="fail", remedy=remedy)
        return
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError as error:
            why = "in use" if error.errno == errno.EADDRINUSE else error.strerror
            remedy = f"set MASTER_PORT to another, such as {_free_port()}; one process needs none"
            # One process needs no port, unless a launcher uses the one that is set.
            level: Level = "fail" if "MASTER_PORT" in os.environ else "warn"
            found = f"{port} is {why}"
            yield Finding(check="port", found=found, level=level, remedy=remedy)
            return
    yield Finding(check="port", found=f"{port} is free")


def check_processes(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Whether several processes can connect and reduce tensors, and how fast."""
    if place.world == 1:
        found = "one process; to check several, start the doctor like the training"
        yield Finding(check="processes", found=found)
        return
    gpu = uses_gpu(config)
    backend, prefix = ("nccl", "NCCL") if gpu else ("gloo", "GLOO")
    where = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    if gpu:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    try:
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=_CONNECT_SECONDS))
        values = torch.ones(_REDUCED_BYTES // 4, device="cuda" if gpu else "cpu")
        torch.distributed.all_reduce(values)
        started = time.monotonic()
        torch.distributed.all_reduce(values)
        total = float(values[0])
        seconds = time.monotonic() - started
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
        message = str(error).splitlines()[0][:200]
        remedy = (
            "is MASTER_PORT free and open between the nodes, and MASTER_ADDR that of rank 0? "
            f"{prefix}_SOCKET_IFNAME names the network to use"
        )
        remedy += "; NCCL_DEBUG=INFO shows details" if gpu else ""
        found = f"{place.world} processes cannot connect at {where} by {backend}: {message}"
        yield Finding(check="processes", found=found, level="fail", remedy=remedy)
        return
    if total != place.world**2:
        found = f"an all-reduce by {backend} gave {total}, not {place.world**2}"
        remedy = "try NCCL_P2P_DISABLE=1 (GPUs behind an IOMMU); the machine may be faulty"
        yield Finding(check="processes", found=found, level="fail", remedy=remedy)
        return
    speed = _REDUCED_BYTES / max(seconds, 1e-6) / 1e9
    found = f"{place.world} all-reduce by {backend}, {speed:.2f} GB/s"
    yield Finding(check="processes", found=found)


def check_limits(config: TrainConfig, place: Place) -> Iterator[Finding]:
    """Limits on open files and, for NCCL over InfiniBand, locked memory."""
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{files} allowed"
    if 0 <= files < _MIN_OPEN_FILES:
        remedy = f"ulimit -n {max(hard, 65536)}"
        yield Finding(check="open files", found=found, level="warn", remedy=remedy)
    else:
        yield Finding(check="open files", found=found)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    across = place.world > place.local_world and torch.cuda.is_available()
    if across and locked != resource.RLIM_INFINITY:
        found, remedy = f"{locked / 1e6:.1f} MB", "ulimit -l unlimited, for NCCL over InfiniBand"
        yield Finding(check="locked memory", found=found, level="warn", remedy=remedy)


def _driver() -> str:
    """The version of NVIDIA's driver, or an empty string."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except subprocess.TimeoutExpired:
        return "(nvidia-smi does not answer)"
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout else ""


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("", 0))
        port: int = trial.getsockname()[1]
        return port
