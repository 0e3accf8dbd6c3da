"""The runs of a study and what all its tables share: references, labels, the domains' images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from downstream.uda.bench.rdt import Reference, make_reference
from downstream.uda.bench.runs import (
    BASELINE,
    SUPERVISED,
    AdaptRun,
    Variant,
    targets_of,
    twin,
    variants,
)
from downstream.uda.bench.sheet import Entry
from downstream.uda.domains import DomainStudy, read_study

Row = dict[str, Entry]


@dataclass(frozen=True)
class Study:
    """The runs, what RDTs are relative to, and where the images lie."""

    runs: Sequence[AdaptRun]
    fixed_reference: Variant | None = None  # None: of each variant its own baseline
    file: Path | None = None  # of the domains [where the first run had it]
    data: Path | None = None  # folder of the images [the same]
    targets: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(targets_of(self.runs)))

    @property
    def name(self) -> str:
        """Of the domains; empty while no run tells it."""
        return next((run.study for run in self.runs if run.study), "")

    def domains(self) -> DomainStudy:
        """The domains, to open their images. Raises `UserError` where they are not at hand."""
        config = self.runs[0].config
        return read_study(self.file or config.study, self.data or config.data)

    def variants(self) -> list[Variant]:
        """Those with a finished run."""
        return variants(run for run in self.runs if run.finished)

    def reference(self, variant: Variant) -> Reference | None:
        """The baseline's runs and their mean mIoU on the source."""
        baseline = self.fixed_reference or twin(
            [run for run in self.runs if run.finished], variant, BASELINE
        )
        pairs = [
            (run.run_id, run.source.miou)
            for run in self.runs
            if run.variant == baseline and run.source is not None
        ]
        return make_reference(pairs) if pairs else None

    def label(self, variant: Variant) -> str:
        """Method and network; what else tells it from others of this name."""
        kind = {BASELINE: "DG", SUPERVISED: "supervised on target"}.get(
            variant.method, f"UDA {variant.method}"
        )
        others = [
            v
            for v in self.variants()
            if (v.setting, v.method) == (variant.setting, variant.method) and v != variant
        ]
        label = f"{kind} - {variant.arch} {variant.network}"
        if any(other.bn != variant.bn for other in others):
            label += f", bn {variant.bn}"
        if any(other.steps != variant.steps for other in others):
            label += f", {variant.steps:,} steps"
        return label

    def head(self, variant: Variant) -> Row:
        """How the paper begins a row."""
        return {
            "Model": self.label(variant),
            "Pre-training": variant.init,
            "Augmentation": variant.augmentation,
        }
