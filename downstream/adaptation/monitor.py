"""Monitors what unlabelled targets hide: a discriminator that wins, a teacher that drifts.

Adversarial and self-training fail silently: the source's loss falls all the same. What is measured
per step is averaged over a window (a line of `metrics.jsonl`) and held against bounds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from downstream.adaptation.config import AdaptConfig

# A discriminator that is nearly always right no longer says in which direction to go.
DISCRIMINATOR_WINS = 0.95  # accuracy, mean of the last windows
DRIFT_BOUND = 0.15  # change of a phase fraction of the teacher's since its first good windows
VANISHED = 0.005  # phase fraction on the target of a class that is no rarity in the source
_RARE = 0.02
_WINDOWS = 5
_SETTLING = 0.25  # share of the steps that says nothing yet

Record = dict[str, float]


class TrainingMonitor:
    """Means over the window so far, the records of those before, and what was warned of."""

    def __init__(
        self, config: AdaptConfig, class_names: Sequence[str], source_shares: Sequence[float]
    ) -> None:
        self._config, self._names, self._shares = config, class_names, source_shares
        self._sums: Record = {}
        self._count = 0
        self._records: list[Record] = []
        self.warnings: dict[str, str] = {}  # kind -> text, each given once

    def add(self, measured: Mapping[str, float]) -> None:
        """Count a sound step."""
        for name, value in measured.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def close_window(self, step: int, seconds: float) -> Record | None:
        """The means since the last window; None when no sound step was made since."""
        if not self._count:
            return None
        means = {name: value / self._count for name, value in self._sums.items()}
        record = {"step": step, **means, "seconds": seconds}
        self._records.append(record)
        self._sums, self._count = {}, 0
        return record

    def new_warnings(self) -> list[str]:
        """Warnings that the last window gives reason for, each returned once."""
        found = {**self._discriminator_wins(), **self._drifts(), **self._vanishes()}
        new = {kind: text for kind, text in found.items() if kind not in self.warnings}
        self.warnings |= new
        return list(new.values())

    def summary(self) -> dict[str, Any]:
        """For `results.json`: None for what the method does not have."""
        accuracy = self._recent("discriminator_accuracy_main")
        drift = self._drift()
        return {
            "discriminator_accuracy": accuracy,
            "teacher_fraction_drift": None if drift is None else max(map(abs, drift)),
            "warnings": list(self.warnings.values()),
        }

    def state_dict(self) -> dict[str, Any]:
        """The window so far; its predecessors are in `metrics.jsonl`."""
        return {"sums": dict(self._sums), "count": self._count, "warnings": dict(self.warnings)}

    def load(self, state: Mapping[str, Any], records: Sequence[Record]) -> None:
        """Take what `state_dict` gave, and the lines of `metrics.jsonl` up to then."""
        self._sums, self._count = dict(state["sums"]), state["count"]
        self.warnings, self._records = dict(state["warnings"]), list(records)

    def _discriminator_wins(self) -> dict[str, str]:
        accuracy = self._recent("discriminator_accuracy_main")
        if accuracy is None or self._early(self._records[-1]) or accuracy < DISCRIMINATOR_WINS:
            return {}
        return {
            "discriminator": "the discriminator tells source from target in "
            f"{accuracy:.0%} of all places around step {self._records[-1]['step']:.0f}: the "
            "segmenter does not follow it; try a lower --discriminator-lr than "
            f"{self._config.discriminator_lr:g}, or a higher --adv-weight than "
            f"{self._config.adv_weight:g}"
        }

    def _drifts(self) -> dict[str, str]:
        drift = self._drift()
        if drift is None or max(map(abs, drift)) <= DRIFT_BOUND:
            return {}
        index = max(range(len(drift)), key=lambda i: abs(drift[i]))
        name, now = self._names[index], self._records[-1][f"teacher_fraction_{index}"]
        return {
            "drift": f"the teacher's share of {name} on the target went from "
            f"{now - drift[index]:.0%} to {now:.0%}: with few classes self-training may run away; "
            "compare with an adversary alone, or stop earlier"
        }

    def _vanishes(self) -> dict[str, str]:
        found = {}
        for index, (name, share) in enumerate(zip(self._names, self._shares, strict=True)):
            for who in ("student", "teacher"):
                now = self._recent(f"{who}_fraction_{index}")
                if now is None or self._early(self._records[-1]):
                    continue
                if now < VANISHED and share > _RARE:
                    found[f"vanished {name}"] = (
                        f"the {who} finds next to no {name} on the target ({now:.1%}, source "
                        f"{share:.0%}): a trivial solution?"
                    )
        return found

    def _drift(self) -> list[float] | None:
        """Change per class of the teacher's fractions since it has settled."""
        key = "teacher_fraction_0"
        later = [record for record in self._records if key in record and not self._early(record)]
        if not later:
            return None
        return [
            later[-1][f"teacher_fraction_{i}"] - later[0][f"teacher_fraction_{i}"]
            for i in range(len(self._names))
        ]

    def _early(self, record: Record) -> bool:
        return record["step"] < max(self._config.warmup_steps, _SETTLING * self._config.steps)

    def _recent(self, name: str) -> float | None:
        """The mean over the last windows, or those that there are; None without any."""
        values = [record[name] for record in self._records[-_WINDOWS:] if name in record]
        return sum(values) / len(values) if values else None
