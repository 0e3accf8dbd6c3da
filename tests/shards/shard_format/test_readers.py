"""Three readers of a shard set see the same: our index, stock webdataset and DALI's own reader."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from shards.shard_format.schema import SPLITS, read_index, read_manifest

Sample = tuple[str, int]  # SHA-256 of the encoded image, label

PROFILES = [("fast_set", "jpg"), ("exact_set", "png")]


@pytest.fixture(params=PROFILES, ids=["fast", "exact"])
def shard_set(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A shard set and the suffix of its images."""
    fixture, suffix = request.param
    return request.getfixturevalue(fixture), suffix


def _tars(folder: Path) -> list[Path]:
    splits = read_manifest(folder).splits
    return [folder / shard.name for name in SPLITS for shard in splits[name].shards]


def _sample(data: bytes, label: int) -> Sample:
    return hashlib.sha256(data).hexdigest(), label


def _by_our_index(folder: Path) -> list[Sample]:
    samples = []
    for name in SPLITS:
        shards = read_manifest(folder).splits[name].shards
        for row in read_index(folder, name):
            descriptor = os.open(folder / shards[row["shard"]].name, os.O_RDONLY)
            data = os.pread(descriptor, int(row["size"]), int(row["offset"]))
            os.close(descriptor)
            samples.append(_sample(data, int(row["label"])))
    return samples


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # webdataset leaves them open
def test_webdataset_reads_what_our_index_reads(shard_set: tuple[Path, str]) -> None:
    folder, suffix = shard_set
    urls = [str(path) for path in _tars(folder)]
    dataset = webdataset.WebDataset(urls, shardshuffle=False)
    read = [_sample(sample[suffix], int(sample["cls"])) for sample in dataset]
    assert len(read) == 29
    assert read == _by_our_index(folder)


def test_dali_reads_what_our_index_reads(shard_set: tuple[Path, str]) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI comes with the extra `train`")
    from nvidia.dali import Pipeline, fn

    folder, suffix = shard_set
    tars = _tars(folder)
    pipeline = Pipeline(batch_size=29, num_threads=1, device_id=None)
    read_tars: Any = fn.readers.webdataset
    with pipeline:
        outputs = read_tars(
            paths=[str(path) for path in tars],
            index_paths=[str(path.with_suffix(".idx")) for path in tars],
            ext=[suffix, "cls"],
            missing_component_behavior="error",
        )
        pipeline.set_outputs(*outputs)
    pipeline.build()
    images, labels = pipeline.run()
    read = [
        _sample(images.at(i).tobytes(), int(labels.at(i).tobytes().decode("ascii")))
        for i in range(29)
    ]
    assert labels.at(0).dtype == np.uint8
    assert read == _by_our_index(folder)


def test_our_dali_index_is_that_of_wds2idx(shard_set: tuple[Path, str], tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("wds2idx")
    if not script.exists() or shutil.which("tar") is None:
        pytest.skip("needs DALI's wds2idx (extra `train`) and GNU tar")
    for tar in _tars(shard_set[0]):
        command = [sys.executable, str(script), str(tar), str(tmp_path / "index")]
        subprocess.run(command, check=True, capture_output=True)
        assert (tmp_path / "index").read_text() == tar.with_suffix(".idx").read_text()
