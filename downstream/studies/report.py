"""Shared by the reports of both papers: paired differences, writing of files. No torch."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from micrograph.atomic import write_atomically
from micrograph.confidence_intervals import (
    BOOTSTRAP_SEED,
    CONFIDENCE,
    RESAMPLES,
    Array,
    PairedDifference,
    range_coverage,
)
from micrograph.report_tables import Percent, Table, to_csv


def image_differences(ours: Iterable[Any], base: Iterable[Any]) -> Array:
    """Differences `(pairs, images)` of two series of image -> score; images common to all."""
    one, two = (pd.DataFrame(list(scores)).astype(float) for scores in (ours, base))
    return np.asarray((one - two).dropna(axis=1).to_numpy(dtype=np.float64))


def difference_cells(difference: PairedDifference) -> dict[str, object]:
    """The columns that describe a paired difference."""
    mean = difference.mean
    return {
        "pairs": difference.pairs,
        "better": difference.wins,
        "difference": Percent(mean, True, difference.bootstrap),
        "Student": Percent(mean, True, difference.student),
        "images": difference.images,
        "over images": Percent(difference.image_mean, True, difference.image_bootstrap),
    }


def difference_notes(differences: Iterable[PairedDifference]) -> list[str]:
    """Explain the intervals of `difference_cells` and their limits."""
    notes = [
        f"Points of IoU with {CONFIDENCE:.0%} intervals: percentiles of {RESAMPLES:,} bootstrap "
        f"resamples (seed {BOOTSTRAP_SEED}) of pairs; Student's t; and bootstrap resamples of "
        "pairs and test images at once, as both are clusters (of the IoUs of single images, whose "
        "mean differs from the IoU of all pixels). The intervals hold for these test images only."
    ]
    for pairs in sorted({d.pairs for d in differences if 1 < d.pairs <= 5}):
        notes.append(
            f"With {pairs} pairs the bootstrap interval hardly exceeds the range of the "
            f"differences, which contains their median in {range_coverage(pairs):.0%} of studies, "
            f"not in {CONFIDENCE:.0%}: use Student's interval."
        )
    return notes


def write_report(out: Path, texts: Mapping[str, str], tables: Sequence[Table]) -> list[str]:
    """Write the texts and a CSV file for each table; returns the file names."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {**texts, **{f"{table.name}.csv": to_csv(table.rows) for table in tables}}
    for name, text in texts.items():
        write_atomically(out / name, text.encode())
    return list(texts)


def save_image(image: Image.Image, path: Path) -> None:
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    write_atomically(path, stream.getvalue())


def save_figure(figure: Any, path: Path) -> None:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    write_atomically(path, stream.getvalue())
