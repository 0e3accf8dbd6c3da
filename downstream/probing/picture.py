"""The probe's figure: the score of every encoder on every fold, best first."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure  # not pyplot: no state, no screen

from downstream.probing.ranking import CONFIDENCE, Ranked

MOST = 40  # encoders shown
_POSSIBLE, _BEHIND = "tab:blue", "0.6"


def draw_ranking(ranked: Sequence[Ranked], control: str | None, title: str, path: Path) -> None:
    """Draw the scores by fold (left) and the difference from the best with its interval (right)."""
    shown = ranked[:MOST]
    figure = Figure(figsize=(10, 1.8 + 0.32 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    for y, item in enumerate(shown):
        colour = _POSSIBLE if item.worth_a_try else _BEHIND
        left.scatter([100 * s for s in item.scores], [y] * len(item.scores), s=14, color=colour)
        left.scatter(100 * item.mean, y, s=110, marker="|", color=colour, lw=2.5)
        if y:
            right.hlines(y, 100 * item.behind.low, 100 * item.behind.high, color=colour, lw=2)
            right.scatter(100 * item.behind.mean, y, s=80, marker="|", color=colour, lw=2.5)
    names = [f"{item.name} (control)" if item.name == control else item.name for item in shown]
    left.set_yticks(range(len(shown)), names)
    left.set(ylim=(len(shown) - 0.5, -0.5), xlabel="held-out micro IoU of the probe, percent")
    left.set_title("Each fold, and the mean", fontsize=10)
    right.axvline(0, color="0.3", lw=1)
    right.set(xlabel="points behind the best")
    right.set_title(f"Paired by fold, {CONFIDENCE:.0%} interval", fontsize=10)
    for axis in (left, right):
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=110)
