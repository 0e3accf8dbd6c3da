"""The source's labelled images seen otherwise, to learn what a loss of accuracy looks like.

Deng and Zheng 2021 (arXiv:2007.02915) predict a classifier's accuracy on an unlabelled set from
its distance, as learnt from many changed copies of a labelled set. The changes here are those of
an image alone: what detectors, optics and etchants do to greys and lines. Imports no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from downstream.uda.prepare import PreparedImage

Grey = npt.NDArray[np.float32]  # (h, w, 3), 0 to 1
Change = Callable[[Grey, float, np.random.Generator], Grey]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A change of appearance: its parts and how strong each is, 0 to 1 (negative: the opposite)."""

    number: int
    parts: tuple[tuple[str, float], ...]

    @property
    def spelled(self) -> str:
        return ", ".join(f"{name} {strength:+.2f}" for name, strength in self.parts) or "as it is"


def plan_rehearsals(count: int, seed: int) -> list[Rehearsal]:
    """Ever stronger changes of one to three parts; the first is none at all."""
    rng = np.random.default_rng([seed, 0])
    planned = [Rehearsal(0, ())]
    for number in range(1, count):
        level = number / max(count - 1, 1)
        names = rng.choice(list(CHANGES), int(rng.integers(1, 4)), replace=False)
        signs = rng.choice((-1, 1), len(names))
        strengths = signs * level * rng.uniform(0.5, 1, len(names))
        planned.append(
            Rehearsal(number, tuple(zip(map(str, names), map(float, strengths), strict=True)))
        )
    return planned


def rehearse(
    rehearsal: Rehearsal, images: Sequence[PreparedImage], seed: int
) -> list[PreparedImage]:
    """The images with the change; labels stay."""
    changed = []
    for place, image in enumerate(images):
        rng = np.random.default_rng([seed, 1, rehearsal.number, place])
        grey: Grey = np.asarray(image.pixels / np.float32(255), np.float32)
        for name, strength in rehearsal.parts:
            grey = np.asarray(CHANGES[name](grey, strength, rng).clip(0, 1), np.float32)
        changed.append(replace(image, pixels=np.rint(255 * grey).astype(np.uint8)))
    return changed


def _contrast(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    middle = grey.mean(dtype=np.float32)
    return np.asarray(middle + np.float32(4**strength) * (grey - middle))


def _brightness(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    return grey + np.float32(0.4 * strength)


def _gamma(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    return np.asarray(grey ** np.float32(3**strength))


def _inversion(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    """Over flat grey (a half) to the negative."""
    middle = grey.mean(dtype=np.float32)
    return np.asarray(middle + np.float32(1 - 2 * abs(strength)) * (grey - middle))


def _noise(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    noise = rng.standard_normal((*grey.shape[:2], 1), np.float32)
    return grey + np.float32(0.2 * abs(strength)) * noise


def _blur(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    """Or, where negative, sharpened."""
    smooth = ndimage.gaussian_filter(grey, (3 * abs(strength), 3 * abs(strength), 0))
    return np.asarray(smooth if strength > 0 else 2 * grey - smooth)


def _lines(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    """Bright lines widen (longer etching), or dark ones."""
    size = (1 + 2 * round(1 + 2 * abs(strength)),) * 2 + (1,)
    wide = ndimage.grey_dilation(grey, size) if strength > 0 else ndimage.grey_erosion(grey, size)
    return np.asarray(grey + np.float32(abs(strength)) * (wide - grey))


def _relief(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    """Slopes towards a detector at one side are bright."""
    smooth = ndimage.gaussian_filter(grey, (1, 1, 0))
    return np.asarray(grey + np.float32(2 * strength) * np.gradient(smooth, axis=0))


def _shading(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    return np.asarray(grey * (1 + np.float32(0.5 * strength) * _field(rng, grey, 0.3)))


def _stains(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    spots = (_field(rng, grey, 0.03) - np.float32(1.2)).clip(0, 1)
    return np.asarray(grey + np.float32(strength) * spots)


def _texture(grey: Grey, strength: float, rng: np.random.Generator) -> Grey:
    """Relief of a rough surface."""
    return np.asarray(grey + np.float32(0.15 * strength) * _field(rng, grey, 0.008))


def _field(rng: np.random.Generator, grey: Grey, scale: float) -> Grey:
    """A random field of mean 0 and deviation 1, smooth over `scale` of the image's side."""
    sigma = max(scale * max(grey.shape[:2]), 0.7)
    field = ndimage.gaussian_filter(rng.standard_normal(grey.shape[:2], np.float32), sigma)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-9), np.float32)[..., None]


CHANGES: Mapping[str, Change] = MappingProxyType(
    {
        "contrast": _contrast,
        "brightness": _brightness,
        "gamma": _gamma,
        "inversion": _inversion,
        "noise": _noise,
        "blur": _blur,
        "lines": _lines,
        "relief": _relief,
        "shading": _shading,
        "stains": _stains,
        "texture": _texture,
    }
)
