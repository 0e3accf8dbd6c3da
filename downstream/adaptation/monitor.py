"""Warn of failures without target labels: a discriminator that wins, a teacher that drifts.

Adversarial and self-training fail silently, because the source's loss falls all the same. The
metrics of steps are averaged over a window (a line of `metrics.jsonl`) and compared with bounds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from downstream.adaptation.config import AdaptConfig

# A discriminator that is nearly always right has vanishing gradients.
DISCRIMINATOR_WINS = 0.95  # accuracy, mean of the last windows
DRIFT_BOUND = 0.15  # change of a phase fraction of the teacher's since its first good windows
VANISHED = 0.005  # phase fraction on the target, of a class above _RARE in the source
_RARE = 0.02
_WINDOWS = 5
_SETTLING = 0.25  # fraction of the steps before anything is judged

Record = dict[str, float]


class TrainingMonitor:
    """Means over the current window, the records of earlier ones, and the warnings given."""

    def __init__(
        self, config: AdaptConfig, class_names: Sequence[str], source_fractions: Sequence[float]
    ) -> None:
        self._config, self._names, self._fractions = config, class_names, source_fractions
        self._sums: Record = {}
        self._count = 0
        self._records: list[Record] = []
        self.warnings: dict[str, str] = {}  # kind -> text, each given once

    def add(self, metrics: Mapping[str, float]) -> None:
        """Count a step with finite loss and gradient."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def close_window(self, step: int, seconds: float) -> Record | None:
        """The means since the last window; None if all steps since were skipped."""
        if not self._count:
            return None
        means = {name: value / self._count for name, value in self._sums.items()}
        record = {"step": step, **means, "seconds": seconds}
        self._records.append(record)
        self._sums, self._count = {}, 0
        return record

    def new_warnings(self) -> list[str]:
        """The warnings that the last window causes, each kind only once in a run."""
        found = {**self._discriminator_wins(), **self._drifts(), **self._vanishes()}
        new = {kind: text for kind, text in found.items() if kind not in self.warnings}
        self.warnings |= new
        return list(new.values())

    def summary(self) -> dict[str, Any]:
        """For `results.json`; None where the method has no discriminator or teacher."""
        accuracy = self._recent("discriminator_accuracy_main")
        drift = self._drift()
        return {
            "discriminator_accuracy": accuracy,
            "teacher_fraction_drift": None if drift is None else max(map(abs, drift)),
            "warnings": list(self.warnings.values()),
        }

    def state_dict(self) -> dict[str, Any]:
        """The current window; earlier ones are in `metrics.jsonl`."""
        return {"sums": dict(self._sums), "count": self._count, "warnings": dict(self.warnings)}

    def load_state_dict(self, state: Mapping[str, Any], records: Sequence[Record]) -> None:
        """Restore a `state_dict`, and the lines of `metrics.jsonl` up to then."""
        self._sums, self._count = dict(state["sums"]), state["count"]
        self.warnings, self._records = dict(state["warnings"]), list(records)

    def _discriminator_wins(self) -> dict[str, str]:
        accuracy = self._recent("discriminator_accuracy_main")
        if accuracy is None or self._early(self._records[-1]) or accuracy < DISCRIMINATOR_WINS:
            return {}
        return {
            "discriminator": f"the discriminator is right in {accuracy:.0%} of all positions "
            f"around step {self._records[-1]['step']:.0f}, so the segmenter learns little from it; "
            "try a lower --discriminator-lr than "
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
            "drift": f"the teacher's fraction of {name} on the target changed from "
            f"{now - drift[index]:.0%} to {now:.0%}: with few classes self-training may run away; "
            "compare with --method adaptsegnet, or use fewer --steps"
        }

    def _vanishes(self) -> dict[str, str]:
        found = {}
        for index, (name, usual) in enumerate(zip(self._names, self._fractions, strict=True)):
            for who in ("student", "teacher"):
                now = self._recent(f"{who}_fraction_{index}")
                if now is None or self._early(self._records[-1]):
                    continue
                if now < VANISHED and usual > _RARE:
                    found[f"vanished {name}"] = (
                        f"the {who} predicts almost no {name} on the target ({now:.1%}, source "
                        f"{usual:.0%}); it may have collapsed"
                    )
        return found

    def _drift(self) -> list[float] | None:
        """Change per class of the teacher's fractions since it settled."""
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
        """The mean over the last windows that have it; None without any."""
        values = [record[name] for record in self._records[-_WINDOWS:] if name in record]
        return sum(values) / len(values) if values else None
