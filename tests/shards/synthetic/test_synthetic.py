"""The synthetic corpus: what a drawing promises, what the seed fixes, what the program writes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.synthetic.__main__ import SyntheticConfig, main
from shards.synthetic.classes import SEGMENTED, TEXTURES
from shards.synthetic.corpus import corpus_jobs, draw, segmentation_jobs

SIZE = 48
SPLITS = ("train", "val", "test")


@pytest.mark.parametrize("name", TEXTURES)
def test_a_drawing_is_grey_between_zero_and_one(name: str) -> None:
    drawing = TEXTURES[name](np.random.default_rng(3), SIZE)
    assert drawing.image.shape == (SIZE, SIZE)
    assert drawing.image.dtype == np.float32
    assert 0 <= drawing.image.min() < drawing.image.max() <= 1
    assert (drawing.mask is not None) == (name in SEGMENTED)


@pytest.mark.parametrize("name", TEXTURES)
def test_the_same_seed_draws_the_same_bytes(name: str) -> None:
    first, again = (draw(name, SIZE, seed=5, index=2)[0] for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert (first.shape, first.dtype) == ((SIZE, SIZE), np.uint8)
    assert first.std() > 4


@pytest.mark.parametrize(
    "other", [{"seed": 6}, {"index": 3}, {"stream": 1}], ids=["seed", "index", "stream"]
)
def test_another_seed_index_or_stream_draws_another_image(other: dict[str, int]) -> None:
    key = {"seed": 5, "index": 2, "stream": 0}
    first, second = draw("grains", SIZE, **key)[0], draw("grains", SIZE, **(key | other))[0]
    assert first.tobytes() != second.tobytes()


@pytest.mark.parametrize("name", SEGMENTED)
def test_masks_hold_their_declared_classes_and_over_ten_images_all_of_them(name: str) -> None:
    seen: set[int] = set()
    for index in range(10):
        _, mask = draw(name, 64, seed=0, index=index)
        assert mask is not None
        assert mask.dtype == np.uint8
        assert mask.shape == (64, 64)
        seen |= set(np.unique(mask).tolist())
    assert seen == set(range(len(SEGMENTED[name])))


def test_a_larger_corpus_keeps_the_earlier_images(tmp_path: Path) -> None:
    small = corpus_jobs(tmp_path, images_per_class=2, size=SIZE, seed=0)
    large = corpus_jobs(tmp_path, images_per_class=5, size=SIZE, seed=0)
    assert set(small) < set(large)  # a job is all that its image depends on


def test_the_segmentation_set_shares_no_image_with_the_corpus(tmp_path: Path) -> None:
    jobs = segmentation_jobs(tmp_path, SIZE, seed=0) + corpus_jobs(tmp_path, 8, SIZE, seed=0)
    keys = [(job.class_name, job.seed, job.index, job.stream) for job in jobs]
    assert len(set(keys)) == len(keys)


def test_the_program_writes_a_corpus_and_a_segmentation_set(tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    out.mkdir()  # empty, so it may be used
    (tmp_path / "drawn.partial" / "corpus" / "left_by_a_killed_run").mkdir(parents=True)
    main(["--out", str(out), "--images-per-class", "2", "--size", "32", "--seed", "4"])

    written = {str(path.relative_to(out / "corpus")) for path in (out / "corpus").rglob("*.png")}
    assert written == {f"{name}/{name}_{i:04d}.png" for name in TEXTURES for i in range(2)}
    assert sorted(path.name for path in (out / "corpus").iterdir()) == sorted(TEXTURES)
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]

    with Image.open(out / "corpus" / "powder" / "powder_0001.png") as image:
        assert image.mode == "L"
        expected, _ = draw("powder", 32, seed=4, index=1)
        assert np.array_equal(np.asarray(image), expected)

    for split, count in zip(SPLITS, (1, 4, 8), strict=True):
        images = sorted(path.name for path in (out / "segmentation" / split).iterdir())
        masks = sorted((out / "segmentation" / f"{split}_annot").iterdir())
        assert images == [path.name for path in masks]
        assert len(images) == count
        for path in masks:
            with Image.open(path) as mask:
                assert mask.mode == "L"
                assert np.asarray(mask).max() <= 2


def test_a_folder_in_use_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"error: {tmp_path} is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("setting", "value"), [("images_per_class", 0), ("size", 31), ("seed", -1), ("seed", 2**32)]
)
def test_a_value_out_of_range_is_refused_by_name(setting: str, value: int) -> None:
    with pytest.raises(ValueError, match=setting):
        SyntheticConfig(out=Path("unused"), **{setting: value})
