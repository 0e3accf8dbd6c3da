"""Learning rate schedule: linear warm-up times polynomial decay."""

from downstream.adaptation.config import AdaptConfig


def learning_rate(config: AdaptConfig, step: int, base: float, warmup: int) -> float:
    """`poly_lr` with the schedule of `config`."""
    return poly_lr(step, config.schedule_steps or config.steps, base, config.poly_power, warmup)


def poly_lr(step: int, total: int, base: float, power: float, warmup: int) -> float:
    """The learning rate at `step`, from 0: `base` · (1 - step / total)^power; 0 from `total`.

    Chen et al. 2018 (DeepLab, arXiv:1606.00915), section 4.1: power 0.9. Multiplied by a linear
    warm-up over the first `warmup` steps (Hoyer et al. 2022, arXiv:2111.14887, 3.3: 1500 steps).
    """
    factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
    decay: float = max(0.0, 1 - step / total) ** power
    return base * factor * decay
