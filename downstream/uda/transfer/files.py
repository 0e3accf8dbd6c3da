"""The report's files: transfer.json, images.csv, transfer.md."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from downstream.quantify.tables import write_csv
from downstream.seg.run_folder import write_json
from downstream.uda.transfer.config import TransferConfig
from downstream.uda.transfer.interval import FractionInterval
from downstream.uda.transfer.observers import Observer, study_of
from downstream.uda.transfer.report import DomainReport, ImageReport, mean_limits
from downstream.uda.transfer.signs import SIGN_NAMES
from pretrain.atomic import write_atomically
from shards.settings import as_plain

SCHEMA_VERSION = 1
JSON_NAME, CSV_NAME, PAGE_NAME = "transfer.json", "images.csv", "transfer.md"


def write_files(
    out: Path,
    config: TransferConfig,
    observers: Sequence[Observer],
    domains: Sequence[DomainReport],
) -> None:
    """Write all three; the page last."""
    names = study_of(observers).class_names
    write_json(out / JSON_NAME, _content(config, observers, domains, names))
    rows = [_row(domain, image, names) for domain in domains for image in domain.images]
    write_csv(out / CSV_NAME, rows)
    write_atomically(out / PAGE_NAME, page(config, observers, domains).encode())


def page(
    config: TransferConfig, observers: Sequence[Observer], domains: Sequence[DomainReport]
) -> str:
    """The report as Markdown."""
    study = study_of(observers)
    shown = study.class_names[1:]  # of two classes, one fraction says all
    lines = [
        f"# Transfer of {study.name}",
        "",
        f"{len(observers)} runs: {', '.join(observer.name for observer in observers)}. "
        f"{config.rehearsals} rehearsals each. No label of a target is used, but for `checked`.",
        "",
        "| target | advice | expected mIoU | on the source | "
        + " | ".join(f"{name} (of the material, {config.confidence:.0%})" for name in shown)
        + " | checked mIoU |",
        "|---" * (5 + len(shown)) + "|",
    ]
    for domain in domains:
        cells = [
            domain.name,
            f"**{domain.verdict.advice}**",
            f"{domain.expected.miou:.1%}",
            f"{domain.expected.source_miou:.1%}",
            *(_spelled(interval) for interval in domain.fractions[1:]),
            f"{domain.checked.miou:.1%}" if domain.checked else "no labels",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for domain in domains:
        far = [image.name for image in domain.images if image.far]
        lines += ["", f"## {domain.name}: {domain.verdict.advice}", ""]
        lines += [f"- {reason}" for reason in domain.verdict.reasons]
        if far:
            lines.append(f"- Farther than is usual among source images: {', '.join(far)}")
    return "\n".join(lines) + "\n"


def _spelled(interval: FractionInterval) -> str:
    return f"{interval.value:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _content(
    config: TransferConfig,
    observers: Sequence[Observer],
    domains: Sequence[DomainReport],
    names: Sequence[str],
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": as_plain(config) | {"runs": [str(run) for run in config.runs]},
        "study": study_of(observers).name,
        "classes": list(names),
        "runs": {
            observer.name: {
                "source_miou": observer.forecast.source_miou,
                "forecast_error": observer.forecast.error,
                "limits": dict(zip(SIGN_NAMES[:2], observer.view.limits, strict=True)),
            }
            for observer in observers
        },
        "limits": dict(zip(SIGN_NAMES[:2], mean_limits(observers), strict=True)),
        "targets": {
            domain.name: {
                "advice": domain.verdict.advice,
                "reasons": list(domain.verdict.reasons),
                "expected": asdict(domain.expected),
                "signs": asdict(domain.signs),
                "disagreement": domain.disagreement,
                "run_fractions": domain.run_fractions.tolist(),
                "phase_fraction": _fractions(domain.fractions, names),
                "images": [
                    {
                        "name": image.name,
                        "far": image.far,
                        "signs": asdict(image.signs),
                        "disagreement": image.disagreement,
                        "phase_fraction": _fractions(image.fractions, names),
                    }
                    for image in domain.images
                ],
                "checked": None if domain.checked is None else asdict(domain.checked),
            }
            for domain in domains
        },
    }


def _fractions(
    intervals: Sequence[FractionInterval], names: Sequence[str]
) -> dict[str, dict[str, float]]:
    return {name: asdict(own) for name, own in zip(names, intervals, strict=True)}


def _row(domain: DomainReport, image: ImageReport, names: Sequence[str]) -> dict[str, object]:
    row: dict[str, object] = {"target": domain.name, "image": image.name, "far": image.far}
    row |= {
        name: "" if math.isnan(value := getattr(image.signs, name)) else value
        for name in SIGN_NAMES
    }
    row["disagreement"] = "" if image.disagreement is None else image.disagreement
    for name, interval in zip(names, image.fractions, strict=True):
        row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row
