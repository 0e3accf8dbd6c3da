"""What paper A printed of its segmentation study: Tables 2 to 4 and the best models."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

# In the paper's order.
EXPERIMENTS = ("Super-1", "Super-2", "Super-3", "Super-4", "EBC-1", "EBC-2", "EBC-3")
INITS = ("random", "imagenet", "micronet", "image-micronet")
DECODERS = ("DeepLabV3Plus", "FPN", "Linknet", "PAN", "PSPNet", "Unet", "UnetPlusPlus")


@dataclass(frozen=True, slots=True)
class Published:
    """One printed number: an IoU in [0, 1], as the paper's code has it: our micro IoU."""

    table: str  # "2", "3", "4", or "best"
    printed: str  # the row's name in print
    name: str  # ours
    experiment: str
    iou: float
    std: float | None
    source: str


@cache
def published() -> tuple[Published, ...]:
    """All that the paper printed, in its order."""
    text = (files("downstream") / "published" / "paper_a_iou.csv").read_text(encoding="utf-8")
    return tuple(
        Published(
            table=row["table"],
            printed=row["printed"],
            name=row["name"],
            experiment=row["experiment"],
            iou=float(row["iou_percent"]) / 100,
            std=float(row["std_percent"]) / 100 if row["std_percent"] else None,
            source=row["source"],
        )
        for row in csv.DictReader(text.splitlines())
    )


def published_rows(table: str) -> dict[str, dict[str, Published]]:
    """Our name of a row -> experiment -> what the paper printed there."""
    rows: dict[str, dict[str, Published]] = {}
    for cell in published():
        if cell.table == table:
            rows.setdefault(cell.name, {})[cell.experiment] = cell
    return rows
