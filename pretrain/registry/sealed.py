"""An entry of a registry: a folder, closed by `entry.json`, which tells every file's SHA-256.

of an encoder:   encoder.safetensors, card.json, README.md, timm/, entry.json
of a segmenter:  best.safetensors, card.json, README.md, entry.json,
                 calibration.json, ood_reference.safetensors

Where `entry.json` is, the entry is whole: it is written last. Imports no torch.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pretrain.card import CARD_NAME
from pretrain.registry.kinds import (
    AnyCard,
    Kind,
    card_decoder,
    find_kind,
    parse_any_card,
    weights_name,
)
from pretrain.registry.names import EntryName, named_arch
from shards.cli import UserError
from shards.schema import file_sha256

SEAL_NAME = "entry.json"
README_NAME = "README.md"
SCHEMA_VERSION = 1

_REQUIRED = (CARD_NAME, README_NAME)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_LARGEST_TEXT = 4 << 20  # bytes of card.json; it is read into memory before its SHA-256 is known


@dataclass(frozen=True, slots=True)
class SealedFile:
    """What a file of an entry must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Seal:
    """The content of `entry.json`."""

    schema_version: int
    name: str  # arch.tag
    published: str  # UTC, ISO 8601: when a publisher began with it
    files: Mapping[str, SealedFile]

    @property
    def bytes(self) -> int:
        """Size of the entry."""
        return sum(file.bytes for file in self.files.values())

    @property
    def content(self) -> str:
        """Equal for equal files under one name, whenever they were published: a SHA-256."""
        return digest(seal_text(replace(self, published="")))

    @property
    def kind(self) -> Kind:
        """Of what it is an entry; that it is one of anything, `parse_seal` has checked."""
        kind = find_kind(self.files)
        assert kind is not None
        return kind

    @property
    def weights(self) -> SealedFile:
        """The file that the entry is there for."""
        return self.files[weights_name(self.kind)]


def seal_folder(folder: Path, name: EntryName) -> Seal:
    """What seals the files in `folder` now; raises `UserError` where they are no entry."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): SealedFile(path.stat().st_size, file_sha256(path))
        for path in paths
        if path.name != SEAL_NAME
    }
    seal = Seal(SCHEMA_VERSION, name.folder, datetime.now(UTC).isoformat(timespec="seconds"), files)
    return parse_seal(seal_text(seal), name, str(folder))


def seal_text(seal: Seal) -> bytes:
    """The content of `entry.json`."""
    return (json.dumps(asdict(seal), indent=1, sort_keys=True) + "\n").encode()


def parse_seal(content: bytes, name: EntryName, where: str) -> Seal:
    """Read an `entry.json` found at `where`. Raises `UserError` for one that is not of `name`."""
    try:
        read = json.loads(content)
        if read["schema_version"] != SCHEMA_VERSION:
            raise UserError(
                f"{where} has schema_version {read['schema_version']!r}, this version reads "
                f"{SCHEMA_VERSION}; use a newer version of micrograph-pretrain"
            )
        files = {path: SealedFile(**file) for path, file in read["files"].items()}
        seal = Seal(**(read | {"files": files}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is damaged: {error!r}") from error
    if seal.name != name.folder:
        raise UserError(f"{where} is of {seal.name!r}, not of {name.folder}; it is not to be used")
    for path, file in files.items():
        if not _FILE.fullmatch(path) or path == SEAL_NAME or type(file.bytes) is not int:
            raise UserError(f"{where} names a file {path!r}; it is not to be used")
    if absent := [path for path in _REQUIRED if path not in files]:
        raise UserError(f"{where} lacks {absent[0]}; it is no entry")
    if find_kind(files) is None:
        raise UserError(f"{where} names no weights that this version knows; use a newer one")
    if files[CARD_NAME].bytes > _LARGEST_TEXT:
        raise UserError(f"{where} names a {CARD_NAME} of {files[CARD_NAME].bytes} bytes")
    return seal


def digest(seal: bytes) -> str:
    """What stands for an entry with all its files: the SHA-256 of its `entry.json`."""
    return sha256(seal).hexdigest()


def parse_sealed_card(content: bytes, seal: Seal, name: EntryName, where: str) -> AnyCard:
    """The card of an entry. Raises `UserError` when it is not the sealed one, or not of `name`."""
    if sha256(content).hexdigest() != seal.files[CARD_NAME].sha256:
        raise _not_sealed(where)
    card = parse_any_card(content, where, seal.kind)
    _check_card(card, seal, name, where)
    return card


def verify_entry(folder: Path, name: EntryName) -> Seal:
    """Check every byte of an entry. Raises `UserError` naming the first file that is not right."""
    path = folder / SEAL_NAME
    try:
        seal = parse_seal(path.read_bytes(), name, str(path))
    except OSError as error:
        raise UserError(f"no entry in {folder}: {error.strerror}") from error
    for file, wanted in seal.files.items():
        check_file(folder / file, wanted)
    card = folder / CARD_NAME
    parse_sealed_card(card.read_bytes(), seal, name, str(card))
    return seal


def check_file(path: Path, wanted: SealedFile) -> None:
    """Raise `UserError` when a file is not the sealed one."""
    try:
        right = path.stat().st_size == wanted.bytes and file_sha256(path) == wanted.sha256
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not right:
        raise _not_sealed(str(path))


def _check_card(card: AnyCard, seal: Seal, name: EntryName, where: str) -> None:
    found = named_arch(card.arch, card_decoder(card))
    if found != name.arch:
        raise UserError(f"{where} is of a {found}, not of a {name.arch}; it is not to be used")
    if card.sha256 != seal.weights.sha256:
        raise UserError(
            f"{where} describes another {weights_name(seal.kind)}; it is not to be used"
        )


def _not_sealed(where: str) -> UserError:
    return UserError(
        f"{where} is not the file that was published (its SHA-256 differs from {SEAL_NAME}'s); "
        "it is damaged or was changed, and is not to be used"
    )
