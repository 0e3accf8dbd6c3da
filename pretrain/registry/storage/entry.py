"""An entry of a registry: a folder whose `entry.json` lists the SHA-256 of every other file.

encoder:     encoder.safetensors, card.json, README.md, timm/, entry.json
segmenter:   best.safetensors, card.json, README.md, entry.json,
             calibration.json, ood_reference.safetensors

`entry.json` is written last: an entry that has it is complete. Imports no torch.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from micrograph.cli import UserError
from pretrain.cards.encoder_card import CARD_NAME
from pretrain.cards.entry_names import EntryName, named_arch
from pretrain.registry.storage.kinds import AnyCard, EntryKind, find_kind
from shards.shard_format.schema import file_sha256, parse_versioned

ENTRY_JSON = "entry.json"
README_NAME = "README.md"
SCHEMA_VERSION = 1

_REQUIRED = (CARD_NAME, README_NAME)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_MAX_CARD_BYTES = 4 << 20  # it is read into memory before its SHA-256 is known


@dataclass(frozen=True, slots=True)
class EntryFile:
    """What a file of an entry must be."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class EntryManifest:
    """The content of `entry.json`."""

    schema_version: int
    name: str  # arch.tag
    published: str  # UTC, ISO 8601: when publishing began
    files: Mapping[str, EntryFile]

    @property
    def bytes(self) -> int:
        """Size of the entry."""
        return sum(file.bytes for file in self.files.values())

    @property
    def content_sha256(self) -> str:
        """Equal for equal files under one name, whenever they were published."""
        return digest(manifest_text(replace(self, published="")))

    @property
    def kind(self) -> EntryKind:
        kind = find_kind(self.files)
        assert kind is not None  # parse_entry_manifest has checked
        return kind

    @property
    def weights(self) -> EntryFile:
        return self.files[self.kind.weights]


def create_manifest(folder: Path, name: EntryName) -> EntryManifest:
    """The manifest of the files in `folder`. Raises `UserError` where they are not an entry."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): EntryFile(path.stat().st_size, file_sha256(path))
        for path in paths
        if path.name != ENTRY_JSON
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = EntryManifest(SCHEMA_VERSION, name.folder, now, files)
    return parse_entry_manifest(manifest_text(manifest), name, str(folder))


def manifest_text(manifest: EntryManifest) -> bytes:
    """The content of `entry.json`."""
    return (json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n").encode()


def parse_entry_manifest(content: bytes, name: EntryName, where: str) -> EntryManifest:
    """Read an `entry.json` found at `where`. Raises `UserError` unless it is one of `name`."""
    read = parse_versioned(content, where, SCHEMA_VERSION)
    try:
        files = {path: EntryFile(**file) for path, file in read["files"].items()}
        manifest = EntryManifest(**(read | {"files": files}))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is damaged: {error!r}") from error
    if manifest.name != name.folder:
        raise UserError(
            f"{where} is of {manifest.name!r}, not of {name.folder}; it must not be used"
        )
    for path, file in files.items():
        if not _FILE.fullmatch(path) or path == ENTRY_JSON or type(file.bytes) is not int:
            raise UserError(f"{where} names a file {path!r}; it must not be used")
    if absent := [path for path in _REQUIRED if path not in files]:
        raise UserError(f"{where} lacks {absent[0]}; it is not an entry")
    if find_kind(files) is None:
        raise UserError(f"{where} names no weights that this version knows; use a newer one")
    if files[CARD_NAME].bytes > _MAX_CARD_BYTES:
        raise UserError(f"{where} names a {CARD_NAME} of {files[CARD_NAME].bytes} bytes")
    return manifest


def digest(manifest: bytes) -> str:
    """The SHA-256 of an `entry.json`, which identifies the entry with all its files."""
    return sha256(manifest).hexdigest()


def parse_entry_card(
    content: bytes, manifest: EntryManifest, name: EntryName, where: str
) -> AnyCard:
    """Read the card of an entry. Raises `UserError` if it differs from manifest or name."""
    if sha256(content).hexdigest() != manifest.files[CARD_NAME].sha256:
        raise _changed(where)
    card = manifest.kind.parse_card(content, where)
    arch = named_arch(card.arch, card.decoder)
    if arch != name.arch:
        raise UserError(f"{where} is of a {arch}, not of a {name.arch}; it must not be used")
    if card.sha256 != manifest.weights.sha256:
        raise UserError(f"{where} describes another {manifest.kind.weights}; it must not be used")
    return card


def verify_entry(folder: Path, name: EntryName) -> None:
    """Check every byte of an entry. Raises `UserError` naming the first file that differs."""
    path = folder / ENTRY_JSON
    try:
        manifest = parse_entry_manifest(path.read_bytes(), name, str(path))
    except OSError as error:
        raise UserError(f"no entry in {folder}: {error.strerror}") from error
    for file, wanted in manifest.files.items():
        check_file(folder / file, wanted)
    card = folder / CARD_NAME
    parse_entry_card(card.read_bytes(), manifest, name, str(card))


def check_file(path: Path, wanted: EntryFile) -> None:
    """Raise `UserError` when a file differs from the manifest."""
    try:
        equal = path.stat().st_size == wanted.bytes and file_sha256(path) == wanted.sha256
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if not equal:
        raise _changed(str(path))


def _changed(where: str) -> UserError:
    return UserError(
        f"{where} is not the file that was published (its SHA-256 differs from {ENTRY_JSON}'s); "
        "it is damaged or was changed, and must not be used"
    )
