"""A study: a labelled source and unlabelled targets, read from a YAML file. Imports no torch.

    classes: [background=0, lath=255]     # as downstream.segment takes them; a name may come twice
    scale: 0.5
    source: {data: source, pixel_size_nm: 27.7}
    targets:
      light: {data: light, pixel_size_nm: 126.6, invert: true}

Every field of `DomainStudy` and `Domain` may stand there; what is left out has the default below.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from downstream.config import Orientation
from downstream.seg.classes import MaskClass, parse_classes
from downstream.seg.layout import DEFAULT_FOLDS
from downstream.seg.specimens import compile_pattern
from downstream.uda.tile_plan import CONTEXT_MARGIN, TILE_CORE, TilePlan
from shards.cli import UserError
from shards.settings import build_config, read_recipe

SOURCE = "source"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # it becomes a folder's


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """Micrographs of one preparation, detector and microscope."""

    name: str
    data: Path  # folder; in the YAML relative to the study's, and that folder itself by default
    train: tuple[str, ...] = ("train",)  # folders or single images of it
    val: tuple[str, ...] = ()  # of a source whose split is given; folds part train and val anew
    test: tuple[str, ...] = ("test",)  # of a target: scored; may be absent, or the same as `train`
    labelled: bool = False  # whether `train` has masks that a supervised reference may use

    pixel_size_nm: float | None = None  # of the files; all domains of a study have one, or none
    invert: bool = False  # bright-field light microscopy: dark boundaries on bright grains
    crop_bar: bool = False  # cut the data bar off before anything else
    field_of_view_um: tuple[float, ...] | None = None  # width, height: cut the centre out

    def __post_init__(self) -> None:
        if not _SAFE_NAME.fullmatch(self.name):
            raise ValueError(f"domain {self.name!r}: name it with letters, digits, _ . - alone")
        if self.pixel_size_nm is not None and self.pixel_size_nm <= 0:
            raise ValueError(f"pixel_size_nm must be above 0, not {self.pixel_size_nm}")
        if self.field_of_view_um is not None:
            if len(self.field_of_view_um) != 2 or min(self.field_of_view_um) <= 0:
                raise ValueError("field_of_view_um takes a width and a height above 0")
            if self.pixel_size_nm is None:
                raise ValueError("field_of_view_um needs pixel_size_nm")

    @property
    def entries(self) -> dict[str, tuple[str, ...]]:
        """Split -> its folders and images, as `downstream.seg.layout` takes them."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainStudy:
    """One source, its targets, and how all of them are prepared."""

    name: str
    # As masks spell them. A name may stand for several values; `classes` has it once.
    mask_classes: tuple[MaskClass, ...]
    source: Domain
    targets: Mapping[str, Domain]  # in the order of the file

    specimen: str | None = None  # regular expression, group 1 is the specimen
    orientation: Orientation = "any"
    folds: int = DEFAULT_FOLDS  # of the source (paper B: 5); 1: train and val as they are given
    pixel_size_nm: float | None = None  # common to all before `scale`; None: the source's
    scale: float = 0.5  # of the common size (paper B, section 2.2)
    tile_core: int = TILE_CORE  # side of a tile's counted part, working pixels
    context_margin: int = CONTEXT_MARGIN  # around it, seen but not counted

    def __post_init__(self) -> None:
        if self.specimen is not None:
            compile_pattern(self.specimen)
        if self.folds < 1 or (self.folds == 1 and not self.source.val):
            raise ValueError(
                f"folds must be at least 2, not {self.folds} (1 where the source names its val)"
            )
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, not {self.scale}")
        if self.tile_core < 32 or self.context_margin < 0:
            raise ValueError(
                "tile_core must be at least 32 and context_margin 0, not "
                f"{self.tile_core}, {self.context_margin}"
            )
        if not self.targets:
            raise ValueError("a study needs at least one target")
        domains = (self.source, *self.targets.values())
        unknown = [domain.name for domain in domains if domain.pixel_size_nm is None]
        if unknown and (self.pixel_size_nm is not None or len(unknown) < len(domains)):
            raise ValueError(
                f"{unknown[0]} has no pixel_size_nm, though others or the study have one; "
                "give it, or leave it out of all"
            )

    @property
    def classes(self) -> tuple[MaskClass, ...]:
        """The classes that a network tells apart, each with the first of its mask values."""
        first: dict[str, MaskClass] = {}
        for entry in self.mask_classes:
            first.setdefault(entry.name, entry)
        return tuple(first.values())

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    @property
    def common_pixel_size_nm(self) -> float | None:
        return self.pixel_size_nm or self.source.pixel_size_nm

    def working_scale(self, domain: Domain) -> float:
        """Working pixels per pixel of the domain's files."""
        if domain.pixel_size_nm is None or self.common_pixel_size_nm is None:
            return self.scale
        return self.scale * domain.pixel_size_nm / self.common_pixel_size_nm

    def target(self, name: str) -> Domain:
        """Raises `UserError` naming the targets that there are."""
        if name not in self.targets:
            raise UserError(f"study {self.name} has no target {name!r}; it has {self._spelled}")
        return self.targets[name]

    def plan(self, height: int, width: int) -> TilePlan:
        """The tiles of an image at the working scale."""
        return TilePlan(height, width, self.tile_core, self.context_margin)

    @property
    def _spelled(self) -> str:
        return ", ".join(self.targets)


def read_study(path: Path, data: Path | None = None) -> DomainStudy:
    """Read a study; `data` replaces the folder that it names.

    Raises `UserError` for what is missing, unknown or of the wrong type.
    """
    content = read_recipe(path)
    root = _root(path, content.pop("data", None), data)
    mask_classes = _parse_mask_classes(path, content.pop("classes", None))
    source = _domain(path, SOURCE, content.pop("source", None), root, labelled=True)
    targets = content.pop("targets", None)
    if not isinstance(targets, dict):
        raise UserError(f"study {path} needs `targets`: a name and its settings for each")
    domains = {
        str(name): _domain(path, str(name), settings, root) for name, settings in targets.items()
    }
    if source.name in domains:
        raise UserError(f"study {path} has a target of the source's name, {source.name!r}")
    ready = {"mask_classes": mask_classes, "source": source, "targets": MappingProxyType(domains)}
    try:
        return build_config(DomainStudy, {"name": path.stem} | content, ready)
    except UserError as error:
        raise UserError(f"study {path}: {error}") from error


def _root(path: Path, named: Any, given: Path | None) -> Path:
    if given is not None:
        return given
    if not isinstance(named, str):
        raise UserError(f"study {path} names no folder of images; give one with --data")
    return Path(named)


def _parse_mask_classes(path: Path, specs: Any) -> tuple[MaskClass, ...]:
    if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
        raise UserError(
            f"study {path} needs `classes`, such as [background=0, lath=255]: what mask values mean"
        )
    # Names may repeat here: parsed under names that do not.
    names = [spec.partition("=")[0] for spec in specs]
    values = parse_classes([f"{i}={spec.partition('=')[2]}" for i, spec in enumerate(specs)])
    if len(set(names)) < 2 or "" in names:
        raise UserError(f"study {path}: classes needs at least two names, background included")
    return tuple(
        dataclasses.replace(entry, name=name) for name, entry in zip(names, values, strict=True)
    )


def _domain(path: Path, name: str, settings: Any, root: Path, *, labelled: bool = False) -> Domain:
    if settings is None and name != SOURCE:
        settings = {}  # a target may have nothing but its name
    if not isinstance(settings, dict):
        raise UserError(f"study {path} needs `{name}` with its settings, such as `data: folder`")
    values = {"name": name, "labelled": labelled} | settings
    try:
        domain = build_config(Domain, values | {"data": root / str(settings.get("data", "."))})
    except UserError as error:
        raise UserError(f"{name} of study {path}: {error}") from error
    if labelled and not domain.labelled:
        raise UserError(f"{name} of study {path} must be labelled: there is nothing else to learn")
    return domain
