"""Two domains that differ in contrast or polarity: what fails there, and what repairs it."""

import time
from dataclasses import replace
from typing import Any

import pytest

from downstream.adapt import adapt
from downstream.adaptation.config import AdaptConfig

SECONDS = 60.0  # of CPU time, all four trainings together


@pytest.mark.slow  # half a minute
def test_source_only_fails_on_other_contrast_and_what_adapts_recovers(config: AdaptConfig) -> None:
    began = time.process_time()
    config = replace(
        config,
        network="Unet",
        tile_core=32,
        batch_size=3,
        steps=60,
        lr=2e-3,
        log_steps=5,
        ema=0.9,
    )
    alone = miou(config, "source_only")
    assert alone["source"] > 0.8
    assert alone["faded"] < 0.4  # less contrast
    assert alone["inverted"] < 0.2  # the other polarity
    assert alone["turned"] > 0.7  # the same images with `invert: true` in the study
    assert miou(config, "bn_adapt")["faded"] > 0.6
    assert miou(config, "adaptsegnet")["faded"] > 0.6
    assert miou(config, "mean_teacher")["faded"] > 0.6
    assert time.process_time() - began < SECONDS


def miou(config: AdaptConfig, method: Any) -> dict[str, float]:
    results = adapt(replace(config, method=method, run_dir=config.run_dir / method))
    assert results["converged"]
    return {name: domain["miou"] for name, domain in results["domains"].items()}
