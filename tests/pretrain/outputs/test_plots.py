"""The pictures of a run, and what wandb gets: real files of a real run."""

import io
import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.outputs.plots import Pictures, confusion_png, curves_png
from pretrain.train import main as train


def record(epoch: int, top1: float) -> dict[str, float]:
    accuracy = {"val_top1": top1, "val_top5": 0.9, "val_balanced_accuracy": top1 / 2}
    return {"epoch": epoch, "lr": 0.1, "train_loss": 1.0, "val_loss": 2.0, **accuracy}


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_class_without_images_is_a_grey_row() -> None:
    with_images = pixels(confusion_png([[3, 0], [0, 3]], ["a", "b"]))
    without = pixels(confusion_png([[3, 0], [0, 0]], ["a", "b"]))
    greys = [(abs(image - 229.5) < 1).all(-1).sum() for image in (with_images, without)]
    assert greys[1] > greys[0] + 1000


def test_curves_of_one_epoch_and_of_a_diverged_one_can_be_drawn() -> None:
    one = pixels(curves_png([record(1, 0.5)]))
    two = pixels(curves_png([record(1, 0.5), record(2, 0.6) | {"train_loss": float("nan")}]))
    assert one.shape == two.shape
    assert (one != two).any()


def test_the_matrix_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path, ["a", "b"])
    records = [record(1, 0.5)]
    assert len(pictures.update(records, [[1, 1], [1, 1]])) == 2
    before = (tmp_path / "confusion.png").read_bytes()
    records.append(record(2, 0.4))
    assert pictures.update(records, [[0, 2], [2, 0]]) == []  # too soon
    assert pictures.draw() == [tmp_path / "curves.png"]
    assert (tmp_path / "confusion.png").read_bytes() == before
    assert pictures.draw() == []


def test_a_failed_drawing_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "curves.png").mkdir()
    assert Pictures(tmp_path, ["a", "b"]).update([record(1, 0.5)], [[1, 1], [1, 1]]) == []
    assert "cannot draw into" in capsys.readouterr().err


def test_wandb_gets_settings_corpus_numbers_and_pictures(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs pip install '.[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    arguments = ["--arch", "resnet18", "--shards", str(shards), "--run-dir", str(run), "--wandb"]
    arguments += ["--image-size", "32", "--batch-size", "24", "--epochs", "1", "--lr", "0.01"]
    train(arguments)
    content = read_wandb(run)
    assert content["config"]["arch"] == "resnet18"
    assert content["config"]["corpus"]["images"] == {"train": 48, "val": 12}
    line = json.loads((run / "metrics.jsonl").read_text())
    assert content["history"]["val_top1"] == line["val_top1"]
    assert content["summary"]["best_epoch"] == 1
    assert content["summary"]["best"]["top1"] == line["val_top1"]
    assert content["summary"]["best"]["converged"] in (True, False)
    assert content["history"]["epochs_trained"] == 1
    assert content["history"]["curves._type"] == "image-file"
    assert content["history"]["confusion._type"] == "image-file"
    assert len(list(run.rglob("media/images/*.png"))) == 2


def read_wandb(run: Path) -> dict[str, Any]:
    """What an offline run would upload, from the record that it keeps."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 120
    records: list[Any] = []
    while not records or records[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, "wandb's own process has not written all of it"
        time.sleep(0.1)
        records = [Record.FromString(data) for data in log_records(path.read_bytes())]
    content: dict[str, Any] = {"config": {}, "history": {}, "summary": {}}
    for record in records:
        items = {
            "config": (*record.run.config.update, *record.config.update),
            "history": record.history.item,
            "summary": record.summary.update,
        }
        for name, entries in items.items():
            for item in entries:
                content[name][item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return content


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format: in blocks of 32 KiB, each piece with its own header."""
    at, record = 7, b""  # wandb's own header comes first
    while at + 7 <= len(data):
        if (left := -at % 32768) and left < 7:  # too short for a header: padding
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):
            return
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""
