"""Finished runs of downstream.adapt, each made to know its source and to rehearse."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from downstream.adaptation.build import read_data
from downstream.apply.ensemble import load_members
from downstream.seg.run_folder import RunPaths
from downstream.uda.config import AdaptConfig
from downstream.uda.domains import DomainStudy, read_study
from downstream.uda.transfer.forecast import Forecast, fit_forecast, score_labelled
from downstream.uda.transfer.rehearsal import plan_rehearsals, rehearse
from downstream.uda.transfer.signs import SourceView, view_source
from shards.cli import UserError, progress
from shards.settings import build_config, read_recipe

FEWEST_IMAGES = 3  # of the source; its own spread is the measure of all distances


@dataclass(frozen=True, slots=True)
class Observer:
    """A run that knows its source and has rehearsed."""

    name: str
    view: SourceView
    forecast: Forecast


def open_observers(
    runs: Sequence[Path],
    rehearsals: int,
    seed: int,
    batch_size: int,
    study: Path | None = None,
    data: Path | None = None,
) -> list[Observer]:
    """Load runs, look at all their source images, rehearse on their validation images.

    `study` and `data` say where these lie now. Raises `UserError` for what is no finished run of
    downstream.adapt, runs of different classes or studies, and a source that cannot be read.
    """
    configs = [_read_config(run, study, data) for run in runs]
    _check_one_study(runs, configs)
    members = load_members(runs, [1.0] * len(runs))
    observers = []
    for run, config, member in zip(runs, configs, members, strict=True):
        source = read_data(config)
        count = len(source.train) + len(source.val)
        if count < FEWEST_IMAGES:
            raise UserError(
                f"{run} has {count} source images; distances need at least {FEWEST_IMAGES}"
            )
        view = view_source(member.segmenter, source.study, source.train, source.val, batch_size)
        planned = plan_rehearsals(rehearsals, seed)
        scored = [
            score_labelled(view, rehearse(rehearsal, source.val, seed))
            for rehearsal in progress(planned, f"{run.name}: rehearse")
        ]
        observers.append(Observer(run.name, view, fit_forecast(scored)))
    return observers


def study_of(observers: Sequence[Observer]) -> DomainStudy:
    """The first run's: whose targets are looked at, and how they are prepared."""
    return observers[0].view.study


def _check_one_study(runs: Sequence[Path], configs: Sequence[AdaptConfig]) -> None:
    """Images are prepared once, as the first run's study says, and shown to all runs."""
    first, *others = (read_study(config.study, config.data) for config in configs)
    for run, other in zip(runs[1:], others, strict=True):
        if other != first:
            raise UserError(
                f"{run} and {runs[0]} were trained by studies that differ ({other.name}, "
                f"{first.name}); report on each by itself"
            )


def _read_config(run: Path, study: Path | None, data: Path | None) -> AdaptConfig:
    path = RunPaths(run).config
    if not path.is_file():
        raise UserError(f"no {path.name} in {run}; give the --run-dir of downstream.adapt")
    values = read_recipe(path)
    if "study" not in values:
        raise UserError(f"{run} is no run of downstream.adapt: its {path.name} names no study")
    config = build_config(AdaptConfig, values)
    if study is None and not config.study.is_file():
        raise UserError(f"{run} was trained by {config.study}, which is gone; name it by --study")
    return replace(config, study=study or config.study, data=data or config.data)
