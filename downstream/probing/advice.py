"""What many finished runs say of decoders and initialisations, in pairs. Imports no torch.

They are of other images than the user's: their word counts where the probe cannot tell, and for
decoders, of which the probe knows nothing.
"""

import json
from pathlib import Path

import pandas as pd

from downstream.studies.segment_runs import in_order, read_runs
from downstream.studies.segment_tables import ALL, init_differences

# Checked on the printed numbers by the tests.
PAPER_DECODERS = (
    "The probe says nothing of decoders. In paper A's Table 3, Unet and UnetPlusPlus lie within 2 "
    "points of each other in all seven experiments, and Linknet below both."
)


def decoder_scores(runs: pd.DataFrame) -> tuple[dict[str, float], int]:
    """Mean test micro IoU of each decoder over the settings that all were tried in; and how many.

    A setting is all that a run is given but the decoder. The best comes first.
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


def study_lines(root: Path) -> list[str]:
    """What the runs under `root` say, as sentences. Raises `UserError` when there are none."""
    runs = read_runs(root)
    runs = runs[runs.micro_iou.notna()]
    if runs.empty:
        return [f"{root} holds no run with test scores yet"]
    experiments = in_order(runs.experiment)
    lines = [f"{len(runs)} runs on {', '.join(experiments)} (are your images like these?):"]
    inits = in_order(runs.init)
    baseline = next((init for init in ("random", "imagenet") if init in inits), inits[0])
    found = init_differences(runs, baseline)
    for init in dict.fromkeys(difference.init for difference in found):
        own = [difference for difference in found if difference.init == init]
        overall = next((d.paired for d in own if d.experiment == ALL), own[0].paired)
        lines.append(
            f"{init} less {baseline}: {100 * overall.mean:+.1f} points of test micro IoU, better "
            f"in {overall.wins} of {overall.pairs} pairs of runs"
        )
    means, settings = decoder_scores(runs)
    if len(means) > 1:
        spelt = ", ".join(f"{decoder} {mean:.1%}" for decoder, mean in means.items())
        lines.append(f"decoders over {settings} settings that all were tried in: {spelt}")
    else:
        lines.append("decoders: no setting was tried with several, so nothing is known")
    return lines
