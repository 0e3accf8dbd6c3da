"""Names in a registry: `efficientnet-b4.micronet` (the newest), `efficientnet-b4.micronet@2`.

A segmenter's name begins with its decoder: `unet-efficientnet-b4.steels`. The last dot separates
arch and tag: a timm arch may hold dots, a tag may not. A valid name is safe in a path, in a URL and
as the name of a repository on the Hugging Face hub.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from micrograph.cli import UserError
from micrograph.settings import nearest_hint
from pretrain.cards.archs import find_arch

HUB_TAG = "micrograph-pretrain"  # marks our entries among an organisation's models

_TAG = r"[a-z0-9][a-z0-9_-]*"
_NAME = re.compile(
    r"(?P<arch>[A-Za-z0-9][A-Za-z0-9_.-]*)"
    rf"\.(?P<tag>{_TAG})"
    r"(?:@(?P<version>[1-9][0-9]{0,5}))?"
)
_MAX_LENGTH = 96  # characters; the hub's limit


@dataclass(frozen=True, slots=True)
class EntryName:
    """An entry of a registry; without a version, the newest."""

    arch: str  # or DECODER-ARCH
    tag: str
    version: int | None = None

    def __str__(self) -> str:
        return self.folder if self.version is None else f"{self.folder}@{self.version}"

    @property
    def folder(self) -> str:
        """`arch.tag`: the name of all versions together."""
        return f"{self.arch}.{self.tag}"

    def at(self, version: int) -> "EntryName":
        """The same entry in one version."""
        return replace(self, version=version)


def parse_name(text: str) -> EntryName:
    """Read `arch.tag` or `arch.tag@version`. Raises `UserError` for anything else."""
    match = _NAME.fullmatch(text)
    if match is None or ".." in text or not _is_hub_safe(text) or len(text) > _MAX_LENGTH:
        raise UserError(
            f"{text!r} is not a name in a registry; one is ARCH.TAG or ARCH.TAG@VERSION, as in "
            "efficientnet-b4.micronet@1; a tag is of a-z, 0-9, _ and single -"
        )
    version = match["version"]
    return EntryName(match["arch"], match["tag"], int(version) if version else None)


def is_name(text: str) -> bool:
    """Whether `parse_name` accepts it."""
    try:
        parse_name(text)
    except UserError:
        return False
    return True


def named_arch(arch: str, decoder: str = "") -> str:
    """The part before the tag: an encoder's arch, or a segmenter's decoder and arch."""
    return f"{decoder.lower()}-{arch}" if decoder else arch


def check_tag(tag: str) -> None:
    """Raise `UserError` for an invalid tag."""
    if not re.fullmatch(_TAG, tag) or not _is_hub_safe(tag):
        hint = ": a dot ends the arch" if "." in tag else ""
        raise UserError(f"a tag is of a-z, 0-9, _ and single -, not {tag!r}{hint}")


def new_name(arch: str, tag: str, decoder: str = "") -> EntryName:
    """The name to publish under. Raises `UserError` for an unknown arch or an invalid tag."""
    find_arch(arch)
    check_tag(tag)
    return parse_name(f"{named_arch(arch, decoder)}.{tag}")


def unknown_name(name: EntryName, known: Iterable[str], registry: str) -> UserError:
    """The error for a name that is not in the registry."""
    return UserError(
        f"no {str(name)!r} in {registry}; {nearest_hint(name.folder, known)}; "
        f"all: python -m pretrain.registry list --registry {registry}"
    )


def _is_hub_safe(text: str) -> bool:
    return "--" not in text and not text.endswith("-")
