"""Compare decoders and initialisations in finished runs. Imports no torch.

The runs are on other images than the user's: they help where the probe is undecided, and with
decoders, which the probe does not cover.
"""

import json
from pathlib import Path

import pandas as pd

from downstream.studies.segment_runs import in_order, read_runs
from downstream.studies.segment_tables import ALL, init_differences

# Checked on the printed numbers by the tests.
PAPER_DECODERS = (
    "The probe does not compare decoders. In paper A's Table 3, Unet and UnetPlusPlus are within 2 "
    "points of each other in all seven experiments, and Linknet is below both."
)


def decoder_scores(runs: pd.DataFrame) -> tuple[dict[str, float], int]:
    """Mean test micro IoU of each decoder over the settings common to all, and their number.

    A setting is everything in a run's configuration except the decoder. The best comes first.
    """
    settings = [
        json.dumps(json.loads(twin) | {"decoder": None}, sort_keys=True) + init
        for twin, init in zip(runs.twin, runs.init, strict=True)
    ]
    cells = runs.assign(setting=settings, micro_iou=runs.micro_iou.astype(float)).pivot_table(
        index="setting", columns="decoder", values="micro_iou", aggfunc="last"
    )
    common = cells.dropna()
    means = common.mean().dropna().sort_values(ascending=False)
    return {str(decoder): float(mean) for decoder, mean in means.items()}, len(common)


def runs_lines(root: Path) -> list[str]:
    """Summarise the runs under `root` in sentences. Raises `UserError` if there are none."""
    runs = read_runs(root)
    runs = runs[runs.micro_iou.notna()]
    if runs.empty:
        return [f"no run in {root} has test scores yet"]
    experiments = in_order(runs.experiment)
    lines = [f"{len(runs)} runs on {', '.join(experiments)} (are your images like these?):"]
    inits = in_order(runs.init)
    baseline = next((init for init in ("random", "imagenet") if init in inits), inits[0])
    found = init_differences(runs, baseline)
    for init in dict.fromkeys(difference.init for difference in found):
        own = [difference for difference in found if difference.init == init]
        overall = next((d.paired for d in own if d.experiment == ALL), own[0].paired)
        lines.append(
            f"{init} minus {baseline}: {100 * overall.mean:+.1f} points of test micro IoU, better "
            f"in {overall.wins} of {overall.pairs} pairs of runs"
        )
    means, settings = decoder_scores(runs)
    if len(means) > 1:
        listed = ", ".join(f"{decoder} {mean:.1%}" for decoder, mean in means.items())
        lines.append(f"decoders, mean over {settings} settings common to all: {listed}")
    else:
        lines.append("decoders: no setting was run with several of them")
    return lines
