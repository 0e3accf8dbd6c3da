"""Find an entry by name, copy it to the cache once, check every byte; works offline afterwards.

A version never changes: if `NAME@VERSION` is cached, the registry is not asked.
Imports no torch.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from micrograph.cache import default_cache
from micrograph.cli import UserError, console, warn
from micrograph.settings import nearest
from pretrain.cards.archs import ARCHS
from pretrain.cards.encoder_card import CARD_NAME
from pretrain.cards.entry_names import EntryName, is_name, parse_name, unknown_name
from pretrain.cards.usage import predict_command, segment_command
from pretrain.registry.storage.entry import (
    ENTRY_JSON,
    check_file,
    digest,
    parse_entry_manifest,
    verify_entry,
)
from pretrain.registry.storage.folder_store import Registry, open_registry
from pretrain.registry.storage.kinds import find_kind

REGISTRY_VARIABLE = "MICROGRAPH_REGISTRY"
_FILES_AT_ONCE = 4


def default_registry() -> str | None:
    """The registry of the environment, used where none is named."""
    return os.environ.get(REGISTRY_VARIABLE) or None


def registry_url(given: str | None) -> str:
    """The registry that was named, else the default one. Raises `UserError` without any."""
    url = given or default_registry()
    if url is None:
        raise UserError(
            f"no registry is named; give --registry URL or set {REGISTRY_VARIABLE} "
            "(a folder, s3://bucket/path, hf://organisation)"
        )
    return url


def pull(name: str, registry: str | None = None, cache_dir: Path | None = None) -> Path:
    """The folder of the entry `arch.tag` (its newest version) or `arch.tag@version`.

    Checks every file against the SHA-256 it was published with. Raises `UserError` when the name is
    unknown (naming the nearest), a file differs, or the registry cannot be reached.
    """
    wanted = parse_name(name)
    store = open_registry(registry_url(registry))
    cache = _cache_of(store, cache_dir)
    pinned = wanted if wanted.version is not None else _newest(store, wanted, cache)
    place = store.folder(pinned)
    if place is not None:
        if not (place / ENTRY_JSON).is_file():
            raise _absent(store, wanted)
        verify_entry(place, pinned)
        return place
    target = cache / pinned.folder / str(pinned.version)
    if (target / ENTRY_JSON).is_file() and _is_whole(target, pinned):
        if wanted.version is None:
            _check_unchanged(store, pinned, target)
        return target
    if wanted.version is not None and wanted.version not in store.versions(wanted):
        raise _absent(store, wanted)
    _copy(store, pinned, target)
    return target


def find_encoder(location: str | Path, registry: str | None = None) -> Path:
    """The encoder at a path that exists, else of a name in the registry.

    Raises `UserError` when it is neither, or as `pull` does.
    """
    if not Path(location).exists() and not is_name(str(location)):
        like = nearest(str(location), ARCHS)
        hint = f"nearest arch is {like!r}; " if like else ""
        raise UserError(
            f"no encoder {str(location)!r}: {hint}what pretrain.export wrote (none is there), an "
            "arch (python -m pretrain.archs), or a name in a registry (ARCH.TAG) would be right"
        )
    return _find("encoder", location, registry)


def find_segmenter(location: str | Path, registry: str | None = None) -> Path:
    """The segmenter in the folder of a finished run, else of a name in the registry.

    Raises `UserError` when it is neither, or as `pull` does.
    """
    if not is_name(str(location)):
        return _of_kind("segmenter", Path(location), location)
    return _find("segmenter", location, registry)


def _find(kind: str, location: str | Path, registry: str | None) -> Path:
    if Path(location).exists():
        return _of_kind(kind, Path(location), location)
    if (registry or default_registry()) is None:
        raise UserError(
            f"no {kind} {str(location)!r}; if it is a name in a registry, name the registry: set "
            f"{REGISTRY_VARIABLE}"
        )
    return _of_kind(kind, pull(str(location), registry), location)


def is_published(folder: Path) -> bool:
    """Whether this is a version in a registry or a copy of one, which must not be written to."""
    return (folder / ENTRY_JSON).is_file()


def pin(name: str, registry: str | None = None, cache_dir: Path | None = None) -> str:
    """`name` with its version, which is the newest where none is given."""
    wanted = parse_name(name)
    if wanted.version is not None:
        return name
    store = open_registry(registry_url(registry))
    return str(_newest(store, wanted, _cache_of(store, cache_dir)))


def pinned_name(store: Registry, name: str) -> EntryName:
    """As `pin`, of a version that the registry has; raises `UserError` naming the nearest."""
    wanted = parse_name(name)
    versions = store.versions(wanted)
    if not versions or (wanted.version is not None and wanted.version not in versions):
        raise _absent(store, wanted)
    return wanted if wanted.version is not None else wanted.at(max(versions))


def _of_kind(kind: str, path: Path, asked: str | Path) -> Path:
    """`path`, unless it holds an entry of another kind."""
    if not (path / CARD_NAME).is_file():
        return path
    found = find_kind(file.name for file in path.iterdir())
    if found is None or found.name == kind:
        return path
    if kind == "encoder":
        hint = f"to segment images with it: {predict_command(asked)}"
        raise UserError(f"{asked} is a segmenter, not an encoder; {hint}")
    hint = f"to make one from it: {segment_command(asked)}"
    raise UserError(f"{asked} is an encoder, not a segmenter; {hint}")


def _cache_of(store: Registry, cache_dir: Path | None) -> Path:
    """Each registry has its own part of the cache: two may hold different entries of one name."""
    part = sha256(store.url.encode()).hexdigest()[:16]
    return (cache_dir or default_cache()) / "encoders" / part


def _newest(store: Registry, name: EntryName, cache: Path) -> EntryName:
    try:
        versions = store.versions(name)
    except UserError as error:
        cached = _cached_versions(cache / name.folder)
        if not cached:
            raise
        pinned = name.at(max(cached))
        warn(f"{error}; using {pinned}, the newest in the cache")
        return pinned
    if not versions:
        raise _absent(store, name)
    return name.at(max(versions))


def _cached_versions(folder: Path) -> list[int]:
    return [int(path.parent.name) for path in folder.glob(f"[0-9]*/{ENTRY_JSON}")]


def _absent(store: Registry, name: EntryName) -> UserError:
    known = store.entries()
    if versions := known.get(name.folder):
        listed = ", ".join(map(str, versions))
        return UserError(f"{store.url} has no {name}; of {name.folder} it has version {listed}")
    return unknown_name(name, known, store.url)


def _is_whole(folder: Path, name: EntryName) -> bool:
    try:
        verify_entry(folder, name)
    except UserError as error:
        warn(f"{error}; fetching it again")
        return False
    return True


def _check_unchanged(store: Registry, name: EntryName, cached: Path) -> None:
    """Raise `UserError` where registry and cache differ: one of them was tampered with."""
    try:
        (now,) = store.read(name, [ENTRY_JSON])
    except UserError:  # offline: the cached copy has been checked
        return
    before = (cached / ENTRY_JSON).read_bytes()
    if now != before:
        raise UserError(
            f"{name} in {store.url} has changed since it was copied to {cached} (digest "
            f"{digest(now)[:12]}…, was {digest(before)[:12]}…), but versions never change; ask the "
            "registry's owner, or delete that folder to trust the new one"
        )


def _copy(store: Registry, name: EntryName, target: Path) -> None:
    (content,) = store.read(name, [ENTRY_JSON])
    manifest = parse_entry_manifest(content, name, f"{store.url}: {ENTRY_JSON} of {name}")
    console.print(f"fetching {name} from {store.url}: {manifest.bytes / 1e6:.0f} MB", markup=False)
    with _scratch(target) as folder, ThreadPoolExecutor(_FILES_AT_ONCE) as pool:

        def copy(file: str) -> None:
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            store.fetch(name, file, path)
            check_file(path, manifest.files[file])

        list(pool.map(copy, manifest.files))
        (folder / ENTRY_JSON).write_bytes(content)
        verify_entry(folder, name)
        _move(folder, target, name)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """A folder beside `target`: several processes may copy at once, the first rename wins."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=target.parent) as scratch:
            entry = Path(scratch) / "entry"
            entry.mkdir()
            yield entry
    except OSError as error:
        raise UserError(
            f"cannot use the cache {target.parent}: {error.strerror}; set XDG_CACHE_HOME to a "
            "folder that can be written"
        ) from error


def _move(folder: Path, target: Path, name: EntryName) -> None:
    try:
        folder.rename(target)
    except OSError:
        if _is_whole(target, name):  # another process was faster
            return
        shutil.rmtree(target, ignore_errors=True)  # damaged
        folder.rename(target)
