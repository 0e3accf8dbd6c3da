"""Rank encoders for a few labelled images by a cross-validated linear probe.

python -m downstream.recommend DATA [--config classes.yaml] [--encoders NAME …] [--record LABEL]

Freezes each encoder, fits a linear classifier of single pixels on all labelled images but one fold,
scores it on that fold, and repeats this for every fold. Prints the best encoder, those that cannot
be distinguished from it, whether it beats random weights of the same architecture, and commands for
fine-tuning. Test images are not read. `--record` stores the scores in the registry, whose lists
then show them.

OUT/recommend.json   the scores of every fold
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.console import Console
from rich.table import Table

from downstream.finetune.augment import fitting_crop
from downstream.finetune.config import SegmentConfig
from downstream.probing.candidates import Candidate, find_candidates, is_entry, random_twin
from downstream.probing.folds import FoldedSet, read_folds
from downstream.probing.linear import draw_samples, probe
from downstream.probing.ranking import Interval, Ranked, paired_interval, rank_candidates
from downstream.probing.record import SEED, open_for_recording, pin_entries, record_scores
from downstream.scoring.metrics import Scores, mean_defined
from micrograph.atomic import write_json
from micrograph.cli import UserError, console, program, progress, warn
from micrograph.confidence_intervals import CONFIDENCE
from micrograph.settings import Positional, build_config, load_config, read_recipe
from pretrain.registry.storage.pull import REGISTRY_VARIABLE

MOST_COMMANDS = 3

# Checked on the printed numbers by the tests.
_DECODERS = (
    "The probe does not compare decoders. In paper A's Table 3, Unet and UnetPlusPlus are within 2 "
    "points of each other in all seven experiments, and Linknet is below both."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecommendConfig:
    """Rank encoders by a linear probe on a few labelled images."""

    data: Annotated[Path, Positional, "folder of images and masks"]
    config: Annotated[Path | None, "recipe of downstream.segment with splits and classes"] = None
    classes: Annotated[tuple[str, ...], "meaning of the mask values: NAME=VALUE …"] = ()
    encoders: Annotated[
        tuple[str, ...],
        "registry names, folders of exports, imagenet:ARCH, or ARCH for random weights "
        "[all of the registry that converged]",
    ] = ()
    registry: Annotated[str | None, f"URL of the registry [${REGISTRY_VARIABLE}]"] = None
    record: Annotated[str | None, "store the scores in the registry under this label"] = None
    folds: Annotated[int | None, "cross-validation folds [one per image, at most 5]"] = None
    seed: Annotated[int, "of pixels and random weights"] = SEED
    threads: Annotated[int | None, "CPU threads of torch [all cores]"] = None
    out: Annotated[Path, "folder for recommend.json"] = Path("runs/recommend")

    def __post_init__(self) -> None:
        if self.record is not None and self.seed != SEED:
            raise ValueError(
                f"--record needs --seed {SEED}: scores of other seeds are not comparable"
            )

    def segment_config(self) -> SegmentConfig:
        """The settings of the labelled images. Raises `UserError`."""
        values = read_recipe(self.config) if self.config else {}
        values |= {"data": self.data, "seed": self.seed}
        values |= {"classes": self.classes} if self.classes else {}
        values |= {"folds": self.folds} if self.folds else {}
        return build_config(SegmentConfig, values)


@program
def main(argv: Sequence[str] | None = None) -> None:
    options = load_config(RecommendConfig, argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    config = options.segment_config()
    names, store = options.encoders, None
    if options.record is not None:
        store = open_for_recording(options.registry, options.record)
        names = pin_entries(names, store)
    candidates = find_candidates(names, options.registry)
    if store is not None and not any(is_entry(candidate.name) for candidate in candidates):
        raise UserError("--record needs encoders of the registry; give their names to --encoders")
    findings = recommend(config, candidates, options.out)
    _print_table(findings)
    for line in (*_verdict(findings), "", _DECODERS, ""):
        print(line)
    for command in _commands(config, options.config, findings):
        print(command)
    if store is not None and options.record is not None:
        count = record_scores(candidates, findings.scores, findings.data, store, options.record)
        console.print(f"recorded scores of {count} encoders as {options.record}", markup=False)


@dataclass(frozen=True, slots=True)
class Findings:
    """The results of the probe. Scores are shares in [0, 1]."""

    data: FoldedSet
    candidates: Mapping[str, Candidate]
    ranked: tuple[Ranked, ...]  # best first, with the control
    scores: Mapping[str, Sequence[Scores]]  # of each fold, by name
    best: str  # of the candidates
    control: str  # random weights of the best one's architecture
    gain: Interval | None  # the best minus the control; None if the best is the control
    failures: Mapping[str, str]

    def miou(self, name: str) -> float:
        """The mean over the folds, of classes that occur."""
        return mean_defined([fold.miou for fold in self.scores[name]])


def recommend(config: SegmentConfig, candidates: Sequence[Candidate], out: Path) -> Findings:
    """Probe all candidates, and random weights of the best architecture; write `recommend.json`.

    Candidates that fail are skipped with a warning. Raises `UserError` if all fail, and for data
    that do not fit.
    """
    data = read_folds(config)
    samples = draw_samples(data, config.seed)
    scores: dict[str, list[Scores]] = {}
    failures = {}

    def run(candidate: Candidate) -> None:
        scores[candidate.name] = probe(
            candidate, data, samples, config.micro_iou_classes, config.seed
        )

    for candidate in progress(candidates, "probe"):
        try:
            run(candidate)
        except UserError as error:
            failures[candidate.name] = str(error)
            warn(f"{candidate.name} is skipped: {error}")
    if not scores:
        reason = next(iter(failures.values()))
        raise UserError(f"none of the encoders could be used; the first: {reason}")
    known = {candidate.name: candidate for candidate in candidates}
    best = known[rank_candidates(_micro(scores))[0].name]
    control = random_twin(best)
    if control.name not in scores:
        run(control)
    micro = _micro(scores)
    findings = Findings(
        data=data,
        candidates=known | {control.name: control},
        ranked=tuple(rank_candidates(micro)),
        scores=scores,
        best=best.name,
        control=control.name,
        gain=None if best == control else paired_interval(micro[best.name], micro[control.name]),
        failures=failures,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "recommend.json", _to_json(findings))
    return findings


def _micro(scores: Mapping[str, Sequence[Scores]]) -> dict[str, list[float]]:
    return {name: [one.micro_iou for one in found] for name, found in scores.items()}


def _to_json(findings: Findings) -> dict[str, Any]:
    return {
        "classes": [entry.name for entry in findings.data.classes],
        "images": [item.name for item in findings.data.items],
        "folds": [list(fold) for fold in findings.data.folds],
        "specimens_apart": findings.data.specimens,
        "confidence": CONFIDENCE,
        "ranked": [
            {
                "encoder": item.name,
                "flags": list(findings.candidates[item.name].flags),
                "micro_iou": item.mean,
                "miou": findings.miou(item.name),
                "folds": list(item.scores),
                "behind_best": asdict(item.behind),
                "worth_a_try": item.worth_a_try,
            }
            for item in findings.ranked
        ],
        "best": findings.best,
        "control": findings.control,
        "gain_over_control": None if findings.gain is None else asdict(findings.gain),
        "left_out": dict(findings.failures),
    }


def _print_table(findings: Findings) -> None:
    table = Table("encoder", "micro IoU", "mIoU", "behind the best", "", box=None)
    for number, item in enumerate(findings.ranked):
        table.add_row(
            item.name,
            f"{item.mean:.1%}",
            f"{findings.miou(item.name):.1%}",
            _format_interval(item.behind) if number else "",
            "" if item.worth_a_try else "worse",
        )
    Console().print(table)


def _verdict(findings: Findings) -> list[str]:
    """The result in sentences, with what remains undecided."""
    data, ranked = findings.data, findings.ranked
    what = "quarters of one image" if data.quarters else "labelled images"
    lines = [
        f"{len(data.items)} {what}, {len(data.folds)} folds, a linear probe of frozen features."
    ]
    equal = [item.name for item in ranked[1:] if item.worth_a_try]
    if equal:
        lines.append(
            f"The probe cannot distinguish {len(equal)} of the {len(ranked) - 1} others from the "
            "best."
        )
    lines.append(_gain_line(findings.gain, findings.best, findings.control))
    if not data.specimens:
        lines.append("Folds share a specimen: expect lower scores on a new one.")
    return lines


def _gain_line(gain: Interval | None, best: str, control: str) -> str:
    if gain is None:
        return "Random weights did best: none of these encoders helps the probe."
    points = _format_interval(gain)
    if gain.low > 0:
        return f"{best} is {points} points better than {control}."
    if gain.mean > 0:
        return f"{best} is {points} points better than {control}, which may be chance."
    return f"{best} is not better than {control}: {points} points."


def _commands(config: SegmentConfig, recipe: Path | None, findings: Findings) -> list[str]:
    """Commands that fine-tune from the best encoders."""
    smallest = min(min(item.mask.shape) for item in findings.data.items)
    smallest *= 2 if findings.data.quarters else 1
    crop = fitting_crop(config.augmentation, config.crop_size, smallest)
    base = ["python", "-m", "downstream.segment"]
    base += ["--config", str(recipe)] if recipe else []
    base += ["--data", str(config.data)]
    base += ["--classes", *config.classes] if config.classes and not recipe else []
    base += ["--crop-size", str(crop)] if crop != config.crop_size else []
    chosen = [
        item.name
        for number, item in enumerate(findings.ranked)
        if item.worth_a_try and (item.name != findings.control or number == 0)
    ]
    commands: dict[str, list[str]] = {}  # by run folder, which must be unique
    for name in chosen[:MOST_COMMANDS]:
        folder = _folder_name(name)
        folder = f"{folder}-{len(commands) + 1}" if folder in commands else folder
        flags = findings.candidates[name].flags
        commands[folder] = [*base, *flags, "--run-dir", f"runs/{folder}"]
    return [shlex.join(command) for command in commands.values()]


def _folder_name(name: str) -> str:
    parts = [part for part in Path(name).parts if part not in ("export", "/")]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", parts[-1])


def _format_interval(interval: Interval) -> str:
    points = (100 * value for value in (interval.mean, interval.low, interval.high))
    return "{:.1f} [{:.1f}, {:.1f}]".format(*points)


if __name__ == "__main__":
    main()
