"""Reading encoded images by id."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from micrograph.cli import UserError
from pretrain.loading.shard_reader import open_split


def test_ids_select_their_images(shards: Path) -> None:
    data = open_split(shards, "train")
    assert len(data) == 48
    assert [shard.samples for shard in data.manifest.splits["train"].shards] == [20, 20, 8]
    images = data.read(np.array([0, 25, 47]))
    assert all(image[:4].tobytes() == b"\x89PNG" for image in images)
    assert [len(image) for image in images] == data.index["size"][[0, 25, 47]].tolist()


def test_a_truncated_shard_is_refused_at_the_start(shards: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(shards, broken)
    tar = broken / "train-00001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"train-00001\.tar is not of the size"):
        open_split(broken, "train")
