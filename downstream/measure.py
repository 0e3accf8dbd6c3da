"""Measure masks: phase fractions with their uncertainty, sizes of regions, thickness of layers.

python -m downstream.measure MASK … --out DIR [--scale 27.7 --unit nm] [--layers oxide]

OUT/fractions.csv   per image and class, and over all images: fraction, standard error, interval
OUT/regions.csv     per region: position, area, equivalent diameter, axes, aspect, border, weight
OUT/sizes.csv       per class over all images: count, number per area, mean and quantiles
OUT/layers.csv      per image: thickness of each layer
OUT/*.png           plots of these tables

Masks come from downstream.predict, or from elsewhere with `--classes`. Each mask is read as a whole
and takes another four bytes per pixel for the labels of its regions.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas
from rich.console import Console
from rich.table import Table

from downstream.inference.arguments import find_images
from downstream.inference.legend import CLASSES_NAME
from downstream.labels.classes import MaskClass, parse_classes
from downstream.labels.masks import mask_to_indices, read_mask
from downstream.labels.propose_classes import propose_classes
from downstream.measurement.config import MeasureConfig
from downstream.measurement.fractions import MIN_INDEPENDENT_AREAS, estimate_fraction
from downstream.measurement.layers import layer_parts, measure_layer
from downstream.measurement.regions import measure_regions
from downstream.measurement.tables import (
    MaskMeasurement,
    fraction_rows,
    layer_rows,
    overall_fractions,
    region_rows,
    size_rows,
    write_csv,
)
from micrograph.cli import UserError, program, progress, warn
from micrograph.settings import load_config, read_recipe

MAX_THICKNESS_RATIO = 1.15  # area over length by thickness; intact real layers have up to 1.1


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(MeasureConfig, argv)
    _print(config, measure(config))


def measure(config: MeasureConfig) -> list[MaskMeasurement]:
    """Measure all masks; write tables and plots. Raises `UserError` for a mask that is unusable."""
    from downstream.measurement.plots import draw_plots  # matplotlib is slow to import

    paths = find_images(config.masks)
    classes = _classes(config, paths)
    names = [entry.name for entry in classes]
    parts = [part for layer in config.layers for part in layer_parts(layer)]
    for name in (*config.regions, *parts):
        if name not in names:
            raise UserError(f"no class {name!r} in these masks, only {', '.join(names)}")
    measured = [_measure_one(path, config, classes) for path in progress(paths, "measure")]
    config.out.mkdir(parents=True, exist_ok=True)
    overall = overall_fractions(config, measured)
    write_csv(config.out / "fractions.csv", fraction_rows(measured, overall))
    write_csv(config.out / "regions.csv", region_rows(config, measured))
    write_csv(config.out / "sizes.csv", size_rows(config, measured))
    if config.layers:
        write_csv(config.out / "layers.csv", layer_rows(config, measured))
    draw_plots(config, measured, overall)
    return measured


def _classes(config: MeasureConfig, paths: Sequence[Path]) -> tuple[MaskClass, ...]:
    """From the settings, else from the file beside the masks, else from the masks' own indices."""
    if config.classes:
        return parse_classes(config.classes)
    beside = {path.parent / CLASSES_NAME for path in paths}
    known = [recipe for recipe in beside if recipe.is_file()]
    if known:
        found = {tuple(read_recipe(recipe).get("classes", ())) for recipe in known}
        if len(found) > 1 or len(known) < len(beside):
            raise UserError("the folders have different classes; measure each separately")
        return parse_classes(found.pop())
    proposal = propose_classes(read_mask(path) for path in paths)
    if not proposal.certain:
        raise UserError(f"the masks contain {proposal.found}; define classes: {proposal.flags}")
    return proposal.classes


def _measure_one(
    path: Path, config: MeasureConfig, classes: Sequence[MaskClass]
) -> MaskMeasurement:
    raw = read_mask(path)
    mask = mask_to_indices(raw, classes).astype(np.uint8)
    errors = _model_errors(path, [entry.name for entry in classes])
    wanted = config.regions or tuple(entry.name for entry in classes[1:])
    fractions, regions, layers = {}, {}, {}
    for index, entry in enumerate(classes):
        region = mask == index
        fractions[entry.name] = estimate_fraction(
            region, config.confidence, errors.get(entry.name, 0.0)
        )
        if entry.name in wanted:
            regions[entry.name] = measure_regions(region, config.min_area)
    for name in config.layers:
        indices = [i for i, entry in enumerate(classes) if entry.name in layer_parts(name)]
        layers[name] = measure_layer(np.isin(mask, indices), config.min_area)
    return MaskMeasurement(path.stem, mask.size, fractions, regions, layers)


def _model_errors(mask: Path, names: Sequence[str]) -> dict[str, float]:
    """Standard deviation between the members of an ensemble, from downstream.predict's record."""
    try:
        record = json.loads((mask.parent / "records" / f"{mask.stem}.json").read_text("utf-8"))
        members = np.array(record["member_fractions"])
        if record["classes"] != list(names) or len(members) < 2:
            return {}
    except (OSError, ValueError, KeyError):
        return {}
    return dict(zip(names, members.std(0, ddof=1).tolist(), strict=True))


def _print(config: MeasureConfig, measured: Sequence[MaskMeasurement]) -> None:
    table = Table("class", "fraction", "± se", f"{config.confidence:.0%} interval", box=None)
    overall = overall_fractions(config, measured)
    for name, fraction in overall.items():
        table.add_row(
            name,
            f"{fraction.value:.2%}",
            f"{fraction.standard_error:.2%}",
            f"{fraction.low:.2%} to {fraction.high:.2%}",
        )
    Console().print(table)
    if sizes := size_rows(config, measured):
        transposed = pandas.DataFrame(sizes).set_index("class").T  # few classes, many columns
        print(transposed.to_string(float_format=_four_digits))
    for row in layer_rows(config, measured):
        thickness, std, along = (
            _four_digits(row[f"{name} {config.length_unit}"])
            for name in ("thickness", "std", "area/length")
        )
        print(
            f"{row['image']}: {row['class']} {thickness} {config.length_unit} thick, std {std}; "
            f"area over length {along}"
        )
    _warn_about_cracked_layers(measured)
    few = [
        f"{item.name} ({name})"
        for item in measured
        for name, fraction in item.fractions.items()
        if fraction.independent_areas < MIN_INDEPENDENT_AREAS
    ]
    if few and len(measured) < 5:
        warn(
            f"fewer than {MIN_INDEPENDENT_AREAS} independent areas in {', '.join(few[:3])}: their "
            "errors are unreliable; measure more or larger images"
        )
    if config.scale is None:
        warn("no --scale: all lengths are in pixels")
    print(config.out)


def _warn_about_cracked_layers(measured: Sequence[MaskMeasurement]) -> None:
    for item in measured:
        for name, layer in item.layers.items():
            if layer.area_over_length > MAX_THICKNESS_RATIO * layer.mean:
                more = layer.area_over_length / layer.mean - 1
                warn(
                    f"{item.name}: area over length of {name} is {more:.0%} above its thickness, "
                    "which suggests cracks or holes; if they are a class, fill them: "
                    f"--layers {name}+CLASS"
                )


def _four_digits(value: float) -> str:
    return f"{float(f'{value:.4g}'):g}"


if __name__ == "__main__":
    main()
