"""The polynomial learning rate with its warm-up."""

import pytest

from downstream.adaptation.lr_schedule import poly_lr


def test_it_falls_from_the_base_to_zero() -> None:
    assert poly_lr(0, 100, 2e-4, 0.9, 0) == 2e-4
    assert poly_lr(50, 100, 2e-4, 1.0, 0) == pytest.approx(1e-4)
    assert poly_lr(100, 100, 2e-4, 0.9, 0) == poly_lr(101, 100, 2e-4, 0.9, 0) == 0.0


def test_adaptsegnet_stops_at_44_percent() -> None:
    assert poly_lr(150_000, 250_000, 1.0, 0.9, 0) == pytest.approx(0.438, abs=1e-3)


def test_it_rises_evenly_over_the_warm_up() -> None:
    rates = [poly_lr(step, 10**9, 1.0, 0.9, 4) for step in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0], abs=1e-6)
