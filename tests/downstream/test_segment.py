"""Fine-tuning on a few labelled images: learning, the run's folder, refusals."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SMALL_ARCH
from PIL import Image
from safetensors.torch import load_file, save_file

from downstream import predict
from downstream.calibrate import calibrate
from downstream.explain import explain
from downstream.finetune.config import SegmentConfig
from downstream.finetune.labelled_set import read_labelled_set
from downstream.finetune.training import State, Trainer
from downstream.network.models import create_model
from downstream.network.segmenter import load_segmenter
from downstream.segment import main, segment
from micrograph.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from pretrain.cards.archs import ARCHS
from pretrain.cards.segmenter_card import read_segmenter_card
from pretrain.runs.run_folder import lock_folder, read_results
from pretrain.runs.status import RunState, read_status
from shards.shard_format.schema import file_sha256

DECODERS = ("Unet", "UnetPlusPlus", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3Plus", "DeepLabV2")


def flags(data: Path, run: Path, *more: str) -> list[str]:
    base = ["--data", str(data), "--run-dir", str(run), "--crop-size", "64", "--batch-size", "4"]
    base += ["--samples-per-epoch", "32", "--max-epochs", "2", "--stage2-lr", "1e-4"]
    base += ["--threads", "1", "--balance", "none", "--arch", SMALL_ARCH]
    return [*base, "--augmentation", "basic", "--lr", "2e-3", *more]


@pytest.fixture(scope="module")
def finished(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    main(flags(squares, run))
    return run


@pytest.fixture(scope="module")
def large_squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of 128 pixels a split: PAN takes no smaller one."""
    folder = tmp_path_factory.mktemp("large")
    mask = np.zeros((128, 128), np.uint8)
    mask[20:70, 30:90] = 1
    for split in ("train", "val"):
        for name, pixels in ((split, 60 + 120 * mask), (f"{split}_annot", mask)):
            (folder / name).mkdir()
            Image.fromarray(pixels).save(folder / name / "a.png")
    return folder


def test_it_learns_squares(finished: Path) -> None:
    results = read_results(finished)
    assert results["classes"] == ["class0", "class1"]
    assert results["converged"] and results["collapse"] == ""
    assert results["test"]["miou"] > 0.9
    assert results["test"]["iou"]["class1"] > 0.8
    assert abs(results["test"]["phase_fraction_error"]["class1"]) < 0.05
    assert [image["name"] for image in results["test"]["images"]] == ["test0", "test1"]
    assert results["best"]["val_micro_iou"] == pytest.approx(results["val"]["micro_iou"])
    status = read_status(finished)
    assert status is not None and status.state == RunState.FINISHED
    assert (status.epoch, status.epochs) == (4, 4)


def test_it_writes_masks_maps_and_an_overview(finished: Path) -> None:
    mask = np.asarray(Image.open(finished / "masks" / "test0.png"))
    assert mask.shape == (64, 80)
    assert set(np.unique(mask)) <= {0, 1}
    maps = np.asarray(Image.open(finished / "maps" / "class1" / "test0.png")).reshape(-1, 3)
    counts = {tuple(c): int(n) for c, n in zip(*np.unique(maps, axis=0, return_counts=True))}  # noqa: B905
    matrix = read_results(finished)["test"]["images"][0]
    assert counts[255, 255, 255] / (64 * 80 - counts[0, 0, 0]) == pytest.approx(
        matrix["iou"]["class1"]
    )
    with Image.open(finished / "scores.png") as sheet:
        assert sheet.width > 400  # three pictures beside one another
        assert sheet.height > sheet.width // 3 * 64 // 80  # one row, as high as its pictures
    assert not (finished / "checkpoints").exists()


def test_the_finished_run_predicts_what_was_scored(finished: Path, squares: Path) -> None:
    segmenter = load_segmenter(finished)
    assert segmenter.card is not None and segmenter.card.class_names == ("class0", "class1")
    for item in read_labelled_set(SegmentConfig(data=squares)).test:
        expected = np.asarray(Image.open(finished / "masks" / f"{item.name}.png"))
        assert np.array_equal(segmenter.predict(item.pixels), expected)


def test_the_card_names_no_image_and_no_place(finished: Path, squares: Path) -> None:
    config = json.loads((finished / "card.json").read_text())["config"]
    assert not {"data", "run_dir", "train", "val", "test", "specimen"} & config.keys()
    assert config["lr"] == 2e-3 and str(squares) not in json.dumps(config)


def test_a_finished_run_is_read_and_not_repeated(
    finished: Path, squares: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "best.safetensors").stat().st_mtime_ns
    main(flags(squares, finished))
    assert "is finished" in capsys.readouterr().err
    assert (finished / "best.safetensors").stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        main(flags(squares, finished, "--seed", "1"))
    assert "holds a run with seed 0, not 1" in capsys.readouterr().err


def test_two_processes_cannot_write_one_run(
    squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_folder(tmp_path / "run"), pytest.raises(SystemExit) as end:
        main(flags(squares, tmp_path / "run"))
    assert end.value.code == EXIT_USER_ERROR
    assert "another process is at work in" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_signal_stops_a_run_and_the_same_command_resumes_it(
    finished: Path, squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Trainer._train_step

    def interrupted_step(self: Trainer, state: State, positions: list[int]) -> State:
        if state.step == 10:  # eight an epoch
            signal.raise_signal(signal.SIGTERM)
        return step(self, state, positions)

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(Trainer, "_train_step", interrupted_step)
        main(flags(squares, run))
    assert end.value.code == EXIT_INTERRUPTED
    status = read_status(run)
    assert status is not None and (status.state, status.step) == ("interrupted", 11)
    main(flags(squares, run))
    assert "resuming after epoch 1, stage 1, and 3 steps" in capsys.readouterr().err
    assert file_sha256(run / "best.safetensors") == file_sha256(finished / "best.safetensors")


def test_a_renamed_tensor_or_another_file_is_refused(finished: Path, tmp_path: Path) -> None:
    state = load_file(finished / "best.safetensors")
    state["encoder.WEIGHT"] = state.pop("encoder.model.conv1.0.weight")
    card = json.loads((finished / "card.json").read_text())
    save_file(state, tmp_path / "best.safetensors")
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="does not match its card"):
        load_segmenter(tmp_path)
    card["sha256"] = file_sha256(tmp_path / "best.safetensors")
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert read_segmenter_card(tmp_path).decoder == "Unet"
    with pytest.raises(UserError, match=r"1 tensors missing, first encoder\.model\.conv1\.0\.w"):
        load_segmenter(tmp_path)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_makes_a_step_from_one_image(
    decoder: str, large_squares: Path, tmp_path: Path
) -> None:
    config = SegmentConfig(
        data=large_squares,
        threads=1,
        decoder=decoder,  # type: ignore[arg-type]
        arch="mobilenet_v2",
        precision="bf16",
        crop_size=128,
        max_epochs=1,
        stage2_lr=None,
        run_dir=tmp_path / "run",
    )
    results = segment(config)
    assert results["steps"] == 1 and results["skipped_steps"] == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_learns_squares_and_is_applied(precision: str, squares: Path, tmp_path: Path) -> None:
    run, image = tmp_path / "run", squares / "test" / "test0.png"
    main(flags(squares, run, "--precision", precision, "--augmentation", "extended"))
    assert read_results(run)["converged"]
    calibrate(run)
    small_tiles = ["--tile", "64", "--overlap", "32", "--out", str(tmp_path / "out")]
    predict.main([str(run), str(image), *small_tiles])
    assert np.asarray(Image.open(tmp_path / "out" / "test0.png")).shape == (64, 80)
    segmenter = load_segmenter(run)
    assert segmenter.device.type == "cuda"
    explain(segmenter, image)


def test_a_vision_transformer_is_trained_calibrated_and_applied(
    large_squares: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, arch = tmp_path / "run", "tu-vit_tiny_patch16_224"
    small = ["--max-epochs", "1", "--samples-per-epoch", "2", "--stage2-lr", "none"]
    with pytest.raises(SystemExit):
        main(flags(large_squares, run, *small, "--arch", arch))  # by default on a U-Net
    main(flags(large_squares, run, *small, "--arch", arch, "--decoder", "DPT"))
    assert set(calibrate(run).ood_scores) == {"train/a", "val/a"}
    image = str(large_squares / "val" / "a.png")
    small_tiles = ["--tile", "32", "--overlap", "0", "--out", str(tmp_path / "out")]
    predict.main([str(run), image, *small_tiles])
    assert (tmp_path / "out" / "a.png").is_file()
    assert (
        "uses context from the whole tile and was trained on larger crops"
        in capsys.readouterr().err
    )
    segmenter = load_segmenter(run)
    assert segmenter.predict(np.zeros((96, 160, 3), np.uint8)).shape == (96, 160)
    with pytest.raises(UserError, match="this vision transformer output tokens"):
        explain(segmenter, large_squares / "val" / "a.png")


@pytest.mark.parametrize("decoder", ["PAN", "DeepLabV3Plus", "DeepLabV2"])
def test_encoders_that_cannot_be_dilated_are_refused(decoder: str) -> None:
    for arch in (name for name, spec in ARCHS.items() if not spec.dilates):
        with pytest.raises(
            UserError, match=f"{decoder} dilates its encoder, which {arch} does not support"
        ):
            create_model(decoder, arch, 2)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--init", "resnet18"], "--init resnet18 is an architecture; use --arch resnet18"),
        (["--crop-size", "256"], "use --crop-size 64"),
        (["--data", "absent"], "no such folder"),
        (["--decoder", "PAN"], "PAN needs images and crops of at least 128 pixels a side, not 64"),
        (["--stage2-lr", "0"], "lr and stage2_lr must be above 0"),
        (["--classes", "rest=0", "crack=255"], "contains values 1 without a class"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(
    more: list[str],
    message: str,
    squares: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*flags(squares, tmp_path / "run"), *more])
    assert end.value.code == EXIT_USER_ERROR
    printed = capsys.readouterr().err
    assert "error: " in printed and message in printed
