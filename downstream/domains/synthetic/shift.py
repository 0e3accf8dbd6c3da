"""Imaging parameters of synthetic domains (etchant, detector, microscope), and interpolation."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from downstream.domains.synthetic.scene import PIXEL_NM


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """How a specimen is prepared and imaged. Grey values range from 0 (black) to 1 (white)."""

    bainite: float  # area fraction (paper B, table 1)

    film_nm: float  # width of carbide films
    film: float  # grey added by films
    island: float  # grey added by carbon-rich islands
    subgrain: float  # grey added by sub-grain boundaries in laths
    boundary_nm: float  # width of grain boundaries
    boundary: float  # grey added by grain boundaries
    fading: float  # 0 … 1: fraction of faded boundaries, from inclination and long etching
    tone: float  # standard deviation of grain greys
    rough: float  # standard deviation of fine relief
    artefacts: float  # pits and stains per 100 square micrometres

    matrix: float  # grey of ferrite
    gain: float  # contrast about mid grey
    gamma: float
    shadow: float  # one-sided illumination of relief
    shading: float  # uneven brightness over the field of view
    noise: float  # detector noise, grey
    blur_nm: float  # standard deviation of the optical blur
    pixel_nm: float
    inverted: bool = False  # bright field: raised features are dark


# Struers A2, electrolytic; first SEM: thin films, sub-grain boundaries hardly visible.
SOURCE = Shift(
    bainite=0.53,
    film_nm=62,
    film=0.42,
    island=0.40,
    subgrain=0.03,
    boundary_nm=70,
    boundary=0.34,
    fading=0.1,
    tone=0.035,
    rough=0.022,
    artefacts=0.0,
    matrix=0.27,
    gain=1.0,
    gamma=1.0,
    shadow=0.10,
    shading=0.02,
    noise=0.035,
    blur_nm=20,
    pixel_nm=PIXEL_NM,
)

TARGETS: Mapping[str, Shift] = MappingProxyType(
    {
        # Nital, same SEM: sub-grains in laths become visible, and etching artefacts appear.
        "T1": dataclasses.replace(
            SOURCE,
            bainite=0.54,
            film_nm=70,
            film=0.36,
            subgrain=0.17,
            boundary=0.38,
            tone=0.05,
            rough=0.035,
            artefacts=9.0,
            matrix=0.30,
            gain=1.05,
            shadow=0.14,
        ),
        # Nital for longer, another SEM and detector: wide films, faded boundaries, deep relief.
        "T2": dataclasses.replace(
            SOURCE,
            bainite=0.29,
            film_nm=125,
            film=0.50,
            island=0.52,
            subgrain=0.10,
            boundary_nm=120,
            boundary=0.42,
            fading=0.6,
            tone=0.09,
            rough=0.075,
            artefacts=6.0,
            matrix=0.36,
            gain=1.25,
            gamma=0.8,
            shadow=0.5,
            shading=0.05,
            noise=0.05,
            blur_nm=30,
        ),
        # Nital, light microscope: films are not resolved, bainite is a darker haze.
        "T3": dataclasses.replace(
            SOURCE,
            film_nm=110,
            film=0.55,
            island=0.50,
            subgrain=0.06,
            boundary_nm=130,
            boundary=0.50,
            fading=0.55,
            tone=0.08,
            rough=0.03,
            artefacts=3.0,
            matrix=0.16,
            gain=0.9,
            gamma=1.0,
            shadow=0.0,
            shading=0.06,
            noise=0.015,
            blur_nm=150,
            pixel_nm=126.6,
            inverted=True,
        ),
    }
)
_NUMBERS = tuple(f.name for f in dataclasses.fields(Shift) if f.name != "inverted")
_RATIOS = (
    "film_nm",
    "boundary_nm",
    "blur_nm",
    "pixel_nm",
    "gain",
    "gamma",
)  # interpolated geometrically


def interpolate(start: Shift, end: Shift, strength: float) -> Shift:
    """Interpolate from `start` (0) to `end` (1), or extrapolate beyond it.

    Polarity is that of `end` for any strength above 0. Images are inverted back before use, so the
    shift is continuous nevertheless.
    """
    if strength == 0:
        return start
    values: dict[str, float] = {}
    for name in _NUMBERS:
        low, high = getattr(start, name), getattr(end, name)
        if name in _RATIOS:
            values[name] = float(low * (high / low) ** strength)
        else:
            values[name] = float(low + (high - low) * strength)
    return dataclasses.replace(end, **_bounded(values))


def _bounded(values: dict[str, float]) -> dict[str, Any]:
    """Clip values to their valid range. (Any: mypy does not know that none is a bool.)"""
    bounds = {"bainite": (0.05, 0.95), "fading": (0.0, 1.0), "matrix": (0.05, 0.6)}
    return {
        name: float(np.clip(value, *bounds.get(name, (0.0, np.inf))))
        for name, value in values.items()
    }
