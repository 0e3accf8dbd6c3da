"""Checks of the machine and of the communication between processes."""

import errno
import os
import shutil
import socket
import subprocess
import time
from datetime import timedelta

import torch
import torch.distributed

from micrograph.cli import cores
from pretrain.config import TrainConfig
from pretrain.doctor.finding import Finding, Place, fail, ok, warn

DEFAULT_PORT = 29500  # of torchrun and accelerate launch
_CONNECT_SECONDS = 60  # timeout for the processes to connect
_REDUCED_BYTES = 64 << 20  # size of the measured all-reduce; about the gradients of a ResNet-34


def check_gpu(config: TrainConfig, place: Place) -> list[Finding]:
    """Whether torch can use a GPU, and whether there is one for each process."""
    driver = _driver()
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        name = torch.cuda.get_device_name(min(place.local_rank, count - 1))
        torch_version = f"driver {driver or 'unknown'}, torch {torch.__version__}"
        findings = [ok(f"{count} x {name}, {torch_version}")]
        if place.local_world > count:
            found = f"{place.local_world} processes on this node, {count} GPUs"
            findings.append(fail(found, "start one process per GPU"))
        # By default torch also accepts its emulation, which is slower than fp32.
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if config.precision == "bf16" and not has_bf16:
            found = f"{name} has no bf16, only torch's slow emulation"
            findings.append(warn(found, "use --precision fp16 or fp32"))
        return findings
    if config.device == "cpu":
        return [ok("not used (--device cpu)")]
    if driver:
        built = f"torch {torch.__version__} (built for {torch.version.cuda or 'no CUDA'})"
        found = f"{built} cannot use the GPU of driver {driver}"
        return [fail(found, "update the driver, or install a torch built for an older CUDA")]
    if config.device == "gpu":
        remedy = "request a GPU from the scheduler (SLURM: --gres=gpu:1), or use --device cpu"
        return [fail("torch finds no GPU", remedy)]
    remedy = "if intended, use --device cpu; only small runs are worth it"
    return [warn("torch finds no GPU: training on the CPU", remedy)]


def check_dali(config: TrainConfig, place: Place) -> list[Finding]:
    """Whether DALI can be imported; only training on a GPU needs it."""
    if not uses_gpu(config):
        return [ok("not needed on the CPU")]
    try:
        import nvidia.dali
    except (ImportError, OSError) as error:  # OSError: one of its shared libraries is missing
        wheel = "nvidia-dali-cuda130 (x86-64 or Arm Linux, glibc 2.28 or newer)"
        return [fail(str(error), f"pip install {wheel}, or use --device cpu")]
    return [ok(nvidia.dali.__version__)]


def uses_gpu(config: TrainConfig) -> bool:
    """Whether a training with these settings would run on a GPU of this machine."""
    return config.device != "cpu" and torch.cuda.is_available()


def check_cores(config: TrainConfig, place: Place) -> list[Finding]:
    """Whether there are as many cores as threads."""
    have = cores()
    share = max(1, have // place.local_world)
    found = f"{have} for {place.local_world} process{'es' if place.local_world > 1 else ''}"
    if place.local_world > have:
        return [warn(found, f"start at most {have} processes here, or request more cores")]
    for flag in ("threads", "loader_threads"):
        threads, name = getattr(config, flag), f"--{flag.replace('_', '-')}"
        if threads is not None and threads > share:
            remedy = f"use {name} {share}, or request more cores (--cpus-per-task)"
            return [warn(f"{found}, {name} {threads}", remedy)]
    return [ok(found)]


def check_port(config: TrainConfig, place: Place) -> list[Finding]:
    """Whether the port through which processes connect is free."""
    if place.world > 1:  # `check_processes` shows it
        return []
    text = os.environ.get("MASTER_PORT", str(DEFAULT_PORT))
    port = int(text) if text.isdecimal() and 0 < int(text) < 65536 else 0
    if not port:
        found = f"MASTER_PORT is {text!r}"
        return [fail(found, "set MASTER_PORT to a number from 1024 to 65535")]
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError as error:
            why = "in use" if error.errno == errno.EADDRINUSE else error.strerror
            remedy = f"set MASTER_PORT to another, such as {_free_port()}; one process needs none"
            # One process needs no port, unless a launcher uses the one that is set.
            finding = fail if "MASTER_PORT" in os.environ else warn
            return [finding(f"{port} is {why}", remedy)]
    return [ok(f"{port} is free")]


def check_processes(config: TrainConfig, place: Place) -> list[Finding]:
    """Whether several processes can connect and reduce tensors, and how fast."""
    if place.world == 1:
        return [ok("one process; to check several, start the doctor like the training")]
    gpu = uses_gpu(config)
    backend = "nccl" if gpu else "gloo"
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
        address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        found = f"{place.world} processes cannot connect at {address} by {backend}"
        remedy = (
            "is MASTER_PORT free and open between the nodes, and MASTER_ADDR that of rank 0? "
            f"{backend.upper()}_SOCKET_IFNAME names the network to use"
        )
        # Docker's default of 64 MB for /dev/shm starves NCCL.
        remedy += "; in a container, --shm-size=1g; NCCL_DEBUG=INFO shows details" if gpu else ""
        return [fail(f"{found}: {str(error).splitlines()[0][:200]}", remedy)]
    if total != place.world**2:
        remedy = "try NCCL_P2P_DISABLE=1 (GPUs behind an IOMMU); the machine may be faulty"
        return [fail(f"an all-reduce by {backend} gave {total}, not {place.world**2}", remedy)]
    speed = _REDUCED_BYTES / max(seconds, 1e-6) / 1e9
    return [ok(f"{place.world} all-reduce by {backend}, {speed:.2f} GB/s")]


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
