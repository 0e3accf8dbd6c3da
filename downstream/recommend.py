"""Which encoders to try on my few labelled images? A short cross-validated probe, with its doubt.

python -m downstream.recommend DIR [--config classes.yaml] [--encoders NAME …] [--study ROOT]

Freezes each encoder, fits a linear classifier of single pixels on all labelled images but some, and
scores it on those, in turn. Prints who is best, who cannot be told from the best, whether that is
more than random weights of the same architecture do, and the commands to go on with. The test
images are not looked at. `--study` adds what the runs of a study say about decoders and
initialisations.

OUT/recommend.json   every fold's score      OUT/recommend.png   the same to look at
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from downstream.config import SegmentConfig
from downstream.probe.advice import PAPER_DECODERS, study_lines
from downstream.probe.candidates import Candidate, find_candidates, random_twin
from downstream.probe.folds import FoldedSet, read_folds
from downstream.probe.linear import draw_samples, probe
from downstream.probe.picture import draw_ranking
from downstream.probe.ranking import CONFIDENCE, Interval, Ranked, paired_interval, rank_candidates
from downstream.seg.augment import fitting_crop
from downstream.seg.metrics import Scores, mean_defined
from downstream.seg.run_folder import write_json
from shards.cli import ArgumentParser, UserError, console, program, progress, warn
from shards.settings import build_config, read_recipe

MOST_COMMANDS = 3


@program
def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description="Probe encoders on a few labelled images.")
    parser.add_argument("data", metavar="DIR", help="folder of images and masks")
    parser.add_argument("--config", type=Path, metavar="FILE", help="recipe: splits and classes")
    parser.add_argument("--classes", nargs="+", metavar="NAME=VALUE", help="what values mean")
    parser.add_argument(
        "--encoders",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names in a registry, folders of exports, imagenet:ARCH, ARCH for random weights "
        "[all of the registry]",
    )
    parser.add_argument("--registry", metavar="URL", help="[that of the environment]")
    help_ = "folder of finished runs: what they say of decoders and initialisations"
    parser.add_argument("--study", type=Path, metavar="ROOT", help=help_)
    parser.add_argument("--folds", type=int, metavar="N", help="[as many as images, at most 5]")
    parser.add_argument("--seed", type=int, default=0, help="of pixels and random weights [0]")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch [all cores]")
    help_ = "folder for recommend.json and recommend.png [runs/recommend]"
    parser.add_argument(
        "--out", type=Path, default=Path("runs/recommend"), metavar="DIR", help=help_
    )
    options = parser.parse_args(argv)
    values: dict[str, Any] = read_recipe(options.config) if options.config else {}
    values |= {"data": options.data, "seed": options.seed}
    values |= {"classes": options.classes} if options.classes else {}
    values |= {"folds": options.folds} if options.folds else {}
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    config = build_config(SegmentConfig, values)
    study = study_lines(options.study) if options.study else []
    candidates = find_candidates(options.encoders, options.registry)
    findings = recommend(config, candidates, options.out)
    _print_table(findings)
    for line in (*_verdict(findings), "", *(study or [PAPER_DECODERS]), ""):
        print(line)
    for command in _commands(config, options.config, findings):
        print(command)
    console.print(f"picture: {options.out / 'recommend.png'}", markup=False)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a probe gave. Scores are shares in [0, 1]."""

    data: FoldedSet
    candidates: Mapping[str, Candidate]
    ranked: tuple[Ranked, ...]  # best first, the control among them
    mious: Mapping[str, float]  # mean over the folds, of classes that occur
    best: str  # of the candidates
    control: str  # random weights of the best one's architecture
    gain: Interval | None  # the best less the control; None where the best is random itself
    failures: Mapping[str, str]


def recommend(config: SegmentConfig, candidates: Sequence[Candidate], out: Path) -> Findings:
    """Probe all candidates and, of the best one's architecture, random weights; write both files.

    Those that cannot be used are left out with the reason. Raises `UserError` when none can, and
    for data that do not fit.
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
            warn(f"{candidate.name} left out: {error}")
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
        mious={name: mean_defined([s.miou for s in found]) for name, found in scores.items()},
        best=best.name,
        control=control.name,
        gain=None if best == control else paired_interval(micro[best.name], micro[control.name]),
        failures=failures,
    )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "recommend.json", _plain(findings))
    title = f"{len(data.items)} labelled {'parts' if data.quarters else 'images'} of {config.data}"
    draw_ranking(findings.ranked, control.name, title, out / "recommend.png")
    return findings


def _micro(scores: Mapping[str, Sequence[Scores]]) -> dict[str, list[float]]:
    return {name: [one.micro_iou for one in found] for name, found in scores.items()}


def _plain(findings: Findings) -> dict[str, Any]:
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
                "miou": findings.mious[item.name],
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
            f"{findings.mious[item.name]:.1%}",
            _spell(item.behind) if number else "",
            "" if item.worth_a_try else "worse",
        )
    Console().print(table)


def _verdict(findings: Findings) -> list[str]:
    """What the probe can tell, and what it cannot."""
    data, ranked = findings.data, findings.ranked
    what = "quarters of one image" if data.quarters else "labelled images"
    lines = [
        f"{len(data.items)} {what}, {len(data.folds)} folds, a linear probe of frozen features."
    ]
    equal = [item.name for item in ranked[1:] if item.worth_a_try]
    if equal:
        lines.append(
            f"The probe cannot tell {len(equal)} of {len(ranked) - 1} others from the best."
        )
    gain = findings.gain
    if gain is None:
        lines.append("Random weights did best: the probe sees no use in any of these encoders.")
    elif gain.low > 0:
        lines.append(f"{findings.best} is {_spell(gain)} points better than {findings.control}.")
    elif gain.mean > 0:
        lines.append(
            f"{findings.best} is {_spell(gain)} points better than {findings.control}: so few "
            "images cannot tell whether that is more than chance."
        )
    else:
        lines.append(
            f"{findings.best} is no better than {findings.control}: {_spell(gain)} points."
        )
    if not data.specimens:
        lines.append("Folds share a specimen, so all scores are better than on a new one.")
    return lines


def _commands(config: SegmentConfig, recipe: Path | None, findings: Findings) -> list[str]:
    """How to fine-tune from the best ones, ready to be copied."""
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
    commands: dict[str, list[str]] = {}  # by folder, which must differ
    for name in chosen[:MOST_COMMANDS]:
        folder = _folder_name(name)
        folder = f"{folder}-{len(commands) + 1}" if folder in commands else folder
        flags = findings.candidates[name].flags
        commands[folder] = [*base, *flags, "--run-dir", f"runs/{folder}"]
    return [shlex.join(command) for command in commands.values()]


def _folder_name(name: str) -> str:
    parts = [part for part in Path(name).parts if part not in ("export", "/")]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", parts[-1])


def _spell(interval: Interval) -> str:
    points = (100 * value for value in (interval.mean, interval.low, interval.high))
    return "{:.1f} [{:.1f}, {:.1f}]".format(*points)


if __name__ == "__main__":
    main()
