"""Every setting of a transfer report, with its default and meaning. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated


@dataclass(frozen=True, kw_only=True, slots=True)
class TransferConfig:
    """Trust, adapt or label? python -m downstream.transfer RUN [RUN …] [--target NAME …]"""

    runs: Annotated[tuple[Path, ...], "folders of finished runs of downstream.adapt: folds, seeds"]
    target: Annotated[tuple[str, ...], "domains of the runs' study [all]"] = ()
    study: Annotated[Path | None, "where the study lies now, or one with further targets"] = None
    data: Annotated[Path | None, "folder that takes the place of the study's"] = None
    out: Annotated[Path | None, "folder for the report [transfer, in the first run's]"] = None

    tolerance: Annotated[float, "loss of mIoU against the source that one can live with"] = 0.05
    confidence: Annotated[float, "of the phase fractions' intervals"] = 0.95
    rehearsals: Annotated[int, "changed copies of the validation images to learn from"] = 32
    seed: Annotated[int, "of the rehearsals"] = 0
    batch_size: Annotated[int, "tiles at once"] = 8
    threads: Annotated[int | None, "of torch [all cores]"] = None

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("give at least one finished run: RUN [RUN …] --target NAME")
        if not 0 < self.tolerance < 0.5:
            raise ValueError(f"tolerance must lie between 0 and 0.5, not {self.tolerance}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence must lie in 0.5 to 1, not {self.confidence}")
        if self.rehearsals < 8:
            raise ValueError(f"a forecast needs at least 8 rehearsals, not {self.rehearsals}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
