"""What many finished runs say of decoders and initialisations, in pairs. Imports no torch.

They are of other images than the user's: their word counts where the probe cannot tell, and for
decoders, of which the probe knows nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from downstream.bench.paired import ALL, differences
from downstream.bench.runs import Run, in_order, read_runs

# Checked on the printed numbers by the tests.
PAPER_DECODERS = (
    "The probe says nothing of decoders. In paper A's Table 3, Unet and UnetPlusPlus lie within 2 "
    "points of each other in all seven experiments, and Linknet below both."
)


def decoder_scores(runs: Sequence[Run]) -> tuple[dict[str, float], int]:
    """Mean test micro IoU of each decoder over the settings that all were tried in; and how many.

    A setting is all that a run is given but the decoder. The best comes first.
    """
    cells: dict[str, dict[str, float]] = {}
    for run in runs:
        if run.micro_iou is not None:
            setting = json.loads(run.twin) | {"init": run.init}
            decoder = setting.pop("decoder")
            cells.setdefault(json.dumps(setting, sort_keys=True), {})[decoder] = run.micro_iou
    decoders = {decoder for cell in cells.values() for decoder in cell}
    common = [cell for cell in cells.values() if cell.keys() == decoders]
    means = {d: float(np.mean([cell[d] for cell in common])) for d in decoders if common}
    return dict(sorted(means.items(), key=lambda item: -item[1])), len(common)


def study_lines(root: Path) -> list[str]:
    """What the runs under `root` say, as sentences. Raises `UserError` when there are none."""
    runs = [run for run in read_runs(root) if run.scored]
    if not runs:
        return [f"{root} holds no run with test scores yet"]
    experiments = in_order(run.experiment for run in runs)
    lines = [f"{len(runs)} runs on {', '.join(experiments)} (are your images like these?):"]
    inits = in_order(run.init for run in runs)
    baseline = next((init for init in ("random", "imagenet") if init in inits), inits[0])
    found = differences(runs, baseline)
    for init in dict.fromkeys(difference.init for difference in found):
        own = [difference for difference in found if difference.init == init]
        overall = next((d for d in own if d.experiment == ALL), own[0])
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
