"""Etchants, detectors and microscopes as numbers, and all that lies between two of them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from downstream.uda.bainite_scene import PIXEL_NM


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """How a specimen is prepared and seen. Greys are shares of the range from black to white."""

    bainite: float  # area fraction (paper B, table 1)

    film_nm: float  # width of carbide films
    film: float  # grey that films add
    island: float  # grey that carbon-rich islands add
    subgrain: float  # grey that sub-grain boundaries in laths add
    boundary_nm: float  # width of grain boundaries
    boundary: float  # grey that these add
    fading: float  # 0 … 1: boundaries that have gone flat, by inclination and long etching
    tone: float  # spread of the grains' own greys
    rough: float  # spread by fine relief
    artefacts: float  # pits and stains per 100 square micrometres

    matrix: float  # grey of ferrite
    gain: float  # contrast about mid grey
    gamma: float
    shadow: float  # relief seen from one side
    shading: float  # uneven brightness over the field of view
    noise: float  # of the detector, grey
    blur_nm: float  # standard deviation of what the optics smear
    pixel_nm: float
    inverted: bool = False  # bright field: what rises is dark


# Struers A2, electrolytic; first SEM: slender films, sub-grain boundaries hardly seen.
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
        # Nital, same SEM: the hierarchy in the laths comes out, and so do etching artefacts.
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
_RATIOS = ("film_nm", "boundary_nm", "blur_nm", "pixel_nm", "gain", "gamma")  # blended as such


def blend(start: Shift, end: Shift, strength: float) -> Shift:
    """The preparation at `strength` on the way from `start` (0) to `end` (1), and on beyond.

    Polarity has no middle: it is that of `end` as soon as the way begins. Images are inverted back
    before use, so that the way is a steady one nevertheless.
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


def random_shift(rng: np.random.Generator, strength: float, label_shift: bool = True) -> Shift:
    """A preparation of its own: each number goes towards that of a target drawn for it alone.

    Each goes 0 to 2 times `strength` of the way, so 1 is as far as paper B's targets on average.
    Without `label_shift` the fraction of bainite stays the source's.
    """
    ends = list(TARGETS.values())
    values: dict[str, float] = {}
    for name in _NUMBERS:
        end = ends[int(rng.integers(len(ends)))]
        values[name] = getattr(blend(SOURCE, end, 2 * strength * rng.random()), name)
    if not label_shift:
        values["bainite"] = SOURCE.bainite
    inverted = bool(rng.integers(2)) and strength > 0
    return dataclasses.replace(SOURCE, inverted=inverted, **_bounded(values))


def _bounded(values: dict[str, float]) -> dict[str, Any]:
    """Keep what has a meaning only between bounds. (Any: mypy cannot see that no bool is among.)"""
    bounds = {"bainite": (0.05, 0.95), "fading": (0.0, 1.0), "matrix": (0.05, 0.6)}
    return {
        name: float(np.clip(value, *bounds.get(name, (0.0, np.inf))))
        for name, value in values.items()
    }
