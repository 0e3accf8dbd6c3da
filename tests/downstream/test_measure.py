"""Measurements of masks with known truth: random grids, discs, and strips."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from downstream.measure import main
from downstream.measurement.fractions import estimate_fraction, integral_range, mean_fraction
from downstream.measurement.layers import measure_layer
from downstream.measurement.regions import measure_regions, weighted_mean
from micrograph.cli import EXIT_USER_ERROR

Region = npt.NDArray[np.bool_]


def coins(cells: int, side: int, share: float, seed: int) -> Region:
    """Squares of `side` pixels, each set or not by itself: the integral range is side²."""
    drawn = np.random.default_rng(seed).random((cells, cells)) < share
    return drawn.repeat(side, 0).repeat(side, 1)


def discs(seed: int, count: int, radius: float, side: int) -> Region:
    """Discs that do not overlap, with centres also beyond the border."""
    rng = np.random.default_rng(seed)
    image = Image.new("1", (side, side))
    draw = ImageDraw.Draw(image)
    placed: list[npt.NDArray[np.float64]] = []
    while len(placed) < count:
        centre = rng.uniform(-radius, side + radius, 2)
        if all(np.hypot(*(centre - other)) > 2 * radius + 3 for other in placed):
            placed.append(centre)
            draw.circle(tuple(centre), radius, fill=1)
    return np.asarray(image)


# 2,400 pixels are averaged over blocks first.
@pytest.mark.parametrize(("cells", "side"), [(64, 4), (64, 8), (100, 24)])
def test_the_integral_range_of_coins_is_their_area(cells: int, side: int) -> None:
    found = [integral_range(coins(cells, side, 0.3, seed)) for seed in range(4)]
    assert np.mean(found) == pytest.approx(side**2, rel=0.15)


def test_intervals_cover_the_truth_at_their_confidence() -> None:
    found = [estimate_fraction(coins(24, 6, 0.2, seed), 0.9) for seed in range(150)]
    covered = np.mean([f.low <= 0.2 <= f.high for f in found])
    assert 0.83 <= covered <= 0.97  # 0.9 within three standard errors of 150 draws
    spread = np.std([f.value for f in found])
    assert np.mean([f.standard_error for f in found]) == pytest.approx(spread, rel=0.2)


def test_the_spread_of_an_ensemble_widens_the_interval() -> None:
    region = coins(24, 6, 0.2, 0)
    alone = estimate_fraction(region, 0.95)
    together = estimate_fraction(region, 0.95, model_error=0.05)
    assert together.standard_error == pytest.approx(np.hypot(alone.standard_error, 0.05))
    assert together.low < alone.low and together.high > alone.high


def test_an_absent_phase_has_no_standard_error() -> None:
    fraction = estimate_fraction(np.zeros((64, 64), bool), 0.95)
    assert fraction.value == 0 and np.isnan(fraction.standard_error) and np.isnan(fraction.high)


@pytest.mark.parametrize("count", [3, 12])
def test_several_images_give_the_error_of_their_mean(count: int) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        fraction = mean_fraction(rng.normal(0.4, 0.05, count), [100] * count, 0.9, trial)
        hits += fraction.low <= 0.4 <= fraction.high
    assert 0.8 <= hits / 200 <= 0.97  # a bootstrap of 12 is a little too narrow


def test_regions_at_the_border_do_not_bias_number_and_size() -> None:
    """Discs of two sizes: of the large ones the border cuts more."""
    numbers = []
    for seed in range(30):
        region = discs(seed, 14, 12, 160)
        inside = measure_regions(region, 10)
        numbers.append(inside.weight.sum() / 160**2)
    true = 14 / (160 + 24) ** 2  # centres per area
    assert np.mean(numbers) == pytest.approx(true, rel=0.1)
    kept = inside.weight > 0
    assert weighted_mean(inside.diameter, inside.weight) == pytest.approx(24.5, abs=0.7)
    assert not inside.touches_border[kept].any()
    assert inside.aspect[kept] == pytest.approx(1, abs=0.06)


def test_specks_and_diagonals() -> None:
    region = np.zeros((40, 40), bool)
    region[5, 5] = True  # noise
    region[10:14, 10:14] = region[14:18, 14:18] = True  # touch at a corner: one region
    found = measure_regions(region, 10)
    assert found.area.tolist() == [32.0]
    assert (found.x[0], found.y[0]) == (13.5, 13.5)


@pytest.mark.parametrize("thickness", [1, 2, 7, 12])
def test_the_thickness_of_a_strip(thickness: int) -> None:
    region = np.zeros((60, 200), bool)
    region[20 : 20 + thickness] = True
    for turned in (region, region.T):
        layer = measure_layer(turned, 10)
        assert layer.mean == pytest.approx(thickness, abs=1e-9) and layer.std == 0
        assert layer.area_over_length == pytest.approx(thickness, rel=0.01)
        assert layer.pieces == 1


def test_a_slanted_wavy_layer_with_bumps() -> None:
    """Measured across, not along the columns; bumps are side branches and do not count."""
    y, x = np.mgrid[:300, :400]
    slanted = np.abs(y - 60 - 0.5 * x) <= 10 * np.sqrt(1.25)  # 20 pixels across
    layer = measure_layer(slanted, 10)
    assert layer.mean == pytest.approx(20, rel=0.05)
    assert layer.area_over_length == pytest.approx(20, rel=0.1)  # steps are longer than lines
    bumpy = slanted.copy()
    bumpy[170:260, 200:206] = True  # a spike below it
    assert measure_layer(bumpy, 10).mean == pytest.approx(20, rel=0.1)


def test_no_layer_and_one_along_the_border_have_no_thickness() -> None:
    layer = measure_layer(np.zeros((20, 20), bool), 10)
    assert np.isnan(layer.mean) and layer.pieces == 0
    cut = np.zeros((60, 200), bool)
    cut[:20] = True
    assert np.isnan(measure_layer(cut, 10).mean)


def read_table(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_program_writes_tables_and_plots_in_the_unit_asked_for(tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for seed in range(2):
        mask = np.zeros((160, 160), np.uint8)
        mask[:, :] = discs(seed, 14, 12, 160)
        mask[30:50] = 2
        Image.fromarray(mask).save(masks / f"{seed}.png")
    (masks / "classes.yaml").write_text("classes: [matrix=0, pore=1, oxide=2]\n")
    out = tmp_path / "out"
    main([str(masks), "--out", str(out), "--scale", "0.5", "--unit", "um", "--layers", "oxide"])
    fractions = read_table(out / "fractions.csv")
    assert [row["image"] for row in fractions] == ["0"] * 3 + ["1"] * 3 + ["all images"] * 3
    assert float(fractions[2]["fraction"]) == 20 / 160
    sizes = {row["class"]: row for row in read_table(out / "sizes.csv")}
    assert float(sizes["pore"]["d50 um"]) == pytest.approx(12.2, abs=0.4)
    layers = read_table(out / "layers.csv")
    assert float(layers[0]["thickness um"]) == pytest.approx(10)
    assert {path.suffix for path in out.iterdir()} == {".csv", ".png"}


def test_a_cracked_layer_is_noticed_and_measured_with_its_cracks_filled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every 40 pixels a crack reaches nine tenths through a layer of 40."""
    mask = np.zeros((120, 400), np.uint8)
    mask[40:80] = 1
    mask[40:76, 20::40] = 2
    Image.fromarray(mask).save(tmp_path / "m.png")
    flags = ["--classes", "rest=0", "oxide=1", "crack=2", "--out", str(tmp_path / "out")]
    main([str(tmp_path / "m.png"), *flags, "--layers", "oxide", "oxide+crack"])
    cut, filled = read_table(tmp_path / "out" / "layers.csv")
    assert float(cut["thickness px"]) < 30
    assert float(filled["thickness px"]) == pytest.approx(40)
    assert filled["class"] == "oxide+crack"
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("fill them: --layers") == 1 and "--layers oxide+CLASS" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layers", "rust"], "no class 'rust' in these masks, only"),
        (["--scale", "-1"], "scale must be above 0"),
        (["--classes", "a=0", "b=7"], "contains values"),
    ],
)
def test_user_errors_are_one_line(
    tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), *flags])
    assert exit_.value.code == EXIT_USER_ERROR
    assert message in capsys.readouterr().err
