"""Domain studies: a labelled source and unlabelled targets, read from YAML. Imports no torch.

    classes: [background=0, lath=255]     # as for downstream.segment; names may repeat
    scale: 0.5
    source: {data: source, pixel_size_nm: 27.7}
    targets:
      light: {data: light, pixel_size_nm: 126.6, invert: true}

All fields of `DomainStudy` and `Domain` can be set; the defaults are below.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from downstream.domains.tile_plan import CONTEXT_MARGIN, TILE_CORE, TilePlan
from downstream.finetune.config import Orientation
from downstream.labels.classes import MaskClass, parse_classes
from downstream.labels.layout import DEFAULT_FOLDS
from downstream.labels.specimens import compile_pattern
from micrograph.cli import UserError
from micrograph.settings import build_config, read_recipe

SOURCE = "source"
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # it becomes a folder name


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """Micrographs of one preparation, detector and microscope."""

    name: str
    data: Path  # folder; in the YAML relative to the domain study's folder, its default
    train: tuple[str, ...] = ("train",)  # folders or images in `data`
    val: tuple[str, ...] = ()  # of a source with a given split; folds split train and val again
    test: tuple[str, ...] = (
        "test",
    )  # of a target, for scoring; may be missing, or equal to `train`
    labelled: bool = False  # `train` has masks, usable by a supervised reference

    pixel_size_nm: float | None = None  # of the files; given for all domains or for none
    invert: bool = False  # bright-field light microscopy: dark boundaries on bright grains
    crop_bar: bool = False  # crop the data bar first
    field_of_view_um: tuple[float, ...] | None = None  # width, height: crop to the centre

    def __post_init__(self) -> None:
        if not _SAFE_NAME.fullmatch(self.name):
            raise ValueError(
                f"domain name {self.name!r} may only contain letters, digits, and _ . -"
            )
        if self.pixel_size_nm is not None and self.pixel_size_nm <= 0:
            raise ValueError(f"pixel_size_nm must be above 0, not {self.pixel_size_nm}")
        if self.field_of_view_um is not None:
            if len(self.field_of_view_um) != 2 or min(self.field_of_view_um) <= 0:
                raise ValueError("field_of_view_um needs a width and a height above 0")
            if self.pixel_size_nm is None:
                raise ValueError("field_of_view_um needs pixel_size_nm")

    @property
    def entries(self) -> dict[str, tuple[str, ...]]:
        """Folders and images by split, for `downstream.labels.layout`."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainStudy:
    """A source, its targets, and how their images are prepared."""

    name: str
    # By mask value; a name may have several values, but is only once in `classes`.
    mask_classes: tuple[MaskClass, ...]
    source: Domain
    targets: Mapping[str, Domain]  # in file order

    specimen: str | None = None  # regular expression whose group 1 is the specimen
    orientation: Orientation = "any"
    folds: int = DEFAULT_FOLDS  # of the source (paper B: 5); 1: train and val as given
    pixel_size_nm: float | None = None  # common pixel size before `scale`; None: the source's
    scale: float = 0.5  # applied to the common pixel size (paper B, section 2.2)
    tile_core: int = TILE_CORE  # side of the centre of a tile that is scored, working pixels
    context_margin: int = CONTEXT_MARGIN  # around it, input only

    def __post_init__(self) -> None:
        if self.specimen is not None:
            compile_pattern(self.specimen)
        if self.folds < 1 or (self.folds == 1 and not self.source.val):
            raise ValueError(
                f"folds must be at least 2, not {self.folds} (or 1 if the source has a val)"
            )
        if self.scale <= 0:
            raise ValueError(f"scale must be above 0, not {self.scale}")
        if self.tile_core < 32 or self.context_margin < 0:
            raise ValueError(
                "tile_core must be at least 32 and context_margin 0, not "
                f"{self.tile_core}, {self.context_margin}"
            )
        if not self.targets:
            raise ValueError("a domain study needs at least one target")
        domains = (self.source, *self.targets.values())
        unknown = [domain.name for domain in domains if domain.pixel_size_nm is None]
        if unknown and (self.pixel_size_nm is not None or len(unknown) < len(domains)):
            raise ValueError(
                f"{unknown[0]} has no pixel_size_nm, but others or the domain study have; set it "
                "for all or for none"
            )

    @property
    def classes(self) -> tuple[MaskClass, ...]:
        """The classes of the network, each with the first of its mask values."""
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
        """Working pixels per pixel of the files of a domain."""
        if domain.pixel_size_nm is None or self.common_pixel_size_nm is None:
            return self.scale
        return self.scale * domain.pixel_size_nm / self.common_pixel_size_nm

    def target(self, name: str) -> Domain:
        """Look up a target. Raises `UserError` if there is none of this name."""
        if name not in self.targets:
            raise UserError(
                f"domain study {self.name} has no target {name!r}, only {', '.join(self.targets)}"
            )
        return self.targets[name]

    def plan(self, height: int, width: int) -> TilePlan:
        """The tiles of an image at the working scale."""
        return TilePlan(height, width, self.tile_core, self.context_margin)


def read_domain_study(path: Path, data: Path | None = None) -> DomainStudy:
    """Read a domain study; `data` overrides its folder of images.

    Raises `UserError` for missing or unknown settings and wrong types.
    """
    content = read_recipe(path)
    root = _root(path, content.pop("data", None), data)
    mask_classes = _parse_mask_classes(path, content.pop("classes", None))
    source = _domain(path, SOURCE, content.pop("source", None), root, labelled=True)
    targets = content.pop("targets", None)
    if not isinstance(targets, dict):
        raise UserError(f"domain study {path} needs `targets`: settings by name")
    domains = {
        str(name): _domain(path, str(name), settings, root) for name, settings in targets.items()
    }
    if source.name in domains:
        raise UserError(
            f"in domain study {path}, a target has the name of the source, {source.name!r}"
        )
    ready = {"mask_classes": mask_classes, "source": source, "targets": MappingProxyType(domains)}
    try:
        return build_config(DomainStudy, {"name": path.stem} | content, ready)
    except UserError as error:
        raise UserError(f"domain study {path}: {error}") from error


def _root(path: Path, named: Any, given: Path | None) -> Path:
    if given is not None:
        return given
    if not isinstance(named, str):
        raise UserError(f"domain study {path} has no folder of images; set one with --data")
    return Path(named)


def _parse_mask_classes(path: Path, specs: Any) -> tuple[MaskClass, ...]:
    if not isinstance(specs, list) or not all(isinstance(spec, str) for spec in specs):
        raise UserError(f"domain study {path} needs `classes`, such as [background=0, lath=255]")
    # Names may repeat here, so parse under unique names.
    names = [spec.partition("=")[0] for spec in specs]
    values = parse_classes([f"{i}={spec.partition('=')[2]}" for i, spec in enumerate(specs)])
    if len(set(names)) < 2 or "" in names:
        raise UserError(
            f"domain study {path}: classes needs at least two names, including background"
        )
    return tuple(
        dataclasses.replace(entry, name=name) for name, entry in zip(names, values, strict=True)
    )


def _domain(path: Path, name: str, settings: Any, root: Path, *, labelled: bool = False) -> Domain:
    if settings is None and name != SOURCE:
        settings = {}  # a target may have a name only
    if not isinstance(settings, dict):
        raise UserError(f"domain study {path} needs settings for `{name}`, such as `data: folder`")
    values = {"name": name, "labelled": labelled} | settings
    try:
        domain = build_config(Domain, values | {"data": root / str(settings.get("data", "."))})
    except UserError as error:
        raise UserError(f"{name} of domain study {path}: {error}") from error
    if labelled and not domain.labelled:
        raise UserError(f"{name} of domain study {path} must be labelled")
    return domain
