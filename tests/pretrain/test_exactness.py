"""One process that accumulates and several give the same training, also in turns."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_runs import ids_of, newest, position, run_flags

from micrograph.cli import EXIT_INTERRUPTED
from pretrain.config import TrainConfig
from pretrain.loading.loader import Loader
from pretrain.loading.sample_order import EpochSampler
from pretrain.loading.shard_reader import open_split
from pretrain.network.classifier import build_classifier
from pretrain.outputs.run_folder import read_best_metadata
from pretrain.runs.run_folder import RunPaths
from pretrain.runs.status import read_status

SAMPLES, VAL_SAMPLES = 48, 12
TOLERANCE = 1e-5


def flags(shards: Path, run: Path, arch: str, *more: str) -> list[str]:
    return run_flags(shards, run, "--arch", arch, "--record-ids", *more)


def run_in(fork_server: Any, world: int, argv: list[str]) -> None:
    fork_server.start(argv, world)
    assert fork_server.wait() == [0] * world, fork_server.log.read_text()


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return newest(run)[1]["model"]  # type: ignore[no-any-return]


def planned(batch_size: int, epochs: int) -> dict[tuple[int, int], list[int]]:
    sampler = EpochSampler(
        samples=SAMPLES, batch_size=batch_size, micro_batch_size=batch_size, seed=0
    )
    return {
        (epoch, step): sorted(batch.tolist())
        for epoch in range(epochs)
        for step, batch in enumerate(sampler.epoch_batches(epoch))
    }


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_with_batch_norm_first_gradients_agree_and_statistics_are_averaged(
    shards: Path, tmp_path: Path, fork_server: Any
) -> None:
    lr = 0.1
    more = ["--batch-size", "48", "--micro-batch-size", "24", "--epochs", "1", "--lr", str(lr)]
    more += ["--momentum", "0", "--weight-decay", "0"]  # so a step is the gradient, times lr
    runs = {world: tmp_path / str(world) for world in (1, 2)}
    for world, run in runs.items():
        run_in(fork_server, world, flags(shards, run, "resnet18", *more))
    weights, others = weights_of(runs[1]), weights_of(runs[2])
    config = TrainConfig(arch="resnet18", image_size=32, batch_size=48)
    model = initial_model(config)
    learned = dict(model.named_parameters())
    assert all((weights[name] != learned[name]).any() for name in learned)
    difference = largest_difference(
        {name: weights[name] for name in learned}, {name: others[name] for name in learned}
    )
    print(f"first gradients differ by {difference / lr:.2g} at most")
    assert difference / lr < TOLERANCE

    expected = averaged_statistics(shards, config)
    found = {name: others[name] for name in expected}
    assert largest_difference(expected, found) < TOLERANCE
    assert largest_difference(found, {name: weights[name] for name in found}) > TOLERANCE


def initial_model(config: TrainConfig) -> nn.Module:
    torch.manual_seed(config.seed)
    model: nn.Module = build_classifier(config.arch, config.init, 3, 0.0, config.image_size)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def averaged_statistics(shards: Path, config: TrainConfig) -> dict[str, torch.Tensor]:
    """Batch norm's running statistics when each of two processes has seen its half of a batch."""
    data = open_split(shards, "train")
    sampler = EpochSampler(samples=SAMPLES, batch_size=48, micro_batch_size=24, seed=0)
    cpu = torch.device("cpu")
    loader = Loader(data, config, micro_batch_size=24, device=cpu, threads=1)
    means: dict[str, torch.Tensor] = {}
    for rank in (0, 1):
        (step,) = loader.steps(sampler, 0, 0, rank, 2)
        (batch,) = step.batches
        model = initial_model(config)
        with torch.no_grad():
            model(batch.images)
        for name, buffer in model.named_buffers():
            if "running_" in name:
                means[name] = means.get(name, torch.zeros(())) + buffer / 2
    return means


@pytest.mark.slow
def test_two_processes_then_one_then_two_train_on_each_sample_once(
    shards: Path, tmp_path: Path, fork_server: Any
) -> None:
    more = ["--batch-size", "4", "--micro-batch-size", "2", "--epochs", "2", "--lr", "1e-3"]
    more += ["--dropout", "0.3"]
    whole, run = tmp_path / "whole", tmp_path / "turns"
    run_in(fork_server, 1, flags(shards, whole, "vgg11", *more))
    argv = flags(shards, run, "vgg11", *more)
    for world, call, step in ((2, 3, 3), (1, 4, 7)):  # the second resumes at the third step
        one = world - 1  # of them, which is enough
        fork_server.start(argv, world, stops=(one, "step", call, signal.SIGTERM))
        assert fork_server.wait() == [EXIT_INTERRUPTED] * world, fork_server.log.read_text()
        status = read_status(run)
        assert status is not None and status.state == "interrupted"
        assert position(run) == (0, step)
    run_in(fork_server, 2, argv)
    assert ids_of(run) == ids_of(whole) == planned(4, 2)
    best, best_of_whole = (read_best_metadata(RunPaths(folder)) for folder in (run, whole))
    assert best is not None and best_of_whole is not None
    assert best["confusion"] == best_of_whole["confusion"]
    assert sum(map(sum, best["confusion"])) == VAL_SAMPLES
    assert sorted(i for (epoch, _), ids in ids_of(run).items() if not epoch for i in ids) == list(
        range(SAMPLES)
    )
    difference = largest_difference(weights_of(run), weights_of(whole))
    print(f"weights differ by {difference:.2g} at most")
    assert difference < TOLERANCE
