"""A registry in a folder or an object store: `ROOT/arch.tag/version/` is one version of an entry.

Publishers share no index. A publisher claims a version by creating `ROOT/arch.tag/N/claim`, which
succeeds for one of any number: a local folder is renamed into place with the claim in it, S3 gets a
PUT with `If-None-Match: *`. It then writes the files, and `entry.json` last; a version without that
is not listed. The claim names the content and the time: whoever publishes the same content, at once
or after a kill, writes the same bytes to the same place. Other content that a killed publisher left
stays claimed, and the next publisher takes the next number. Imports no torch.
"""

import json
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from micrograph.atomic import name_durably
from micrograph.cli import UserError
from micrograph.download import download
from micrograph.remote_files import filesystem, is_url, unreachable
from pretrain.cards.entry_names import EntryName, is_name, parse_name
from pretrain.registry.storage.entry import ENTRY_JSON, EntryManifest, manifest_text

HUB_PREFIX = "hf://"
CLAIM_NAME = "claim"
_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "http", "https"}  # protocols without folders
SCORES_FOLDER = "scores"  # of a version: what was measured after it was published


class Registry(Protocol):
    """Entries by name and version. Every method raises `UserError` when it cannot be reached."""

    url: str

    def entries(self) -> dict[str, tuple[int, ...]]:
        """The versions of each `arch.tag`, ascending."""

    def versions(self, name: EntryName) -> tuple[int, ...]:
        """The versions of one; none where the name is unknown."""

    def read(self, name: EntryName, files: Sequence[str]) -> list[bytes]:
        """Small files of one version."""

    def fetch(self, name: EntryName, file: str, target: Path) -> None:
        """Copy a file of one version to `target`."""

    def folder(self, name: EntryName) -> Path | None:
        """The folder of a version where the registry is on a local disk."""

    def check_visibility(self, name: EntryName) -> None:
        """Raise `UserError` where an entry would become more, or less, visible than was asked."""

    def add(self, folder: Path, manifest: EntryManifest, name: EntryName) -> int:
        """Publish the files of `folder` as a new version; the manifest goes last."""

    def attached(self, name: EntryName) -> list[str]:
        """The files of one version's `SCORES_FOLDER`."""

    def attach(self, name: EntryName, file: str, content: bytes) -> None:
        """Put a small file there."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The content of `claim`: whoever publishes this content, now or later, fills the version."""

    content: str  # the manifest's `content_sha256`
    published: str  # the manifest's


# An unreadable claim is somebody else's.
_UNREADABLE = Claim("", "")


def open_registry(url: str, *, public: bool = False) -> Registry:
    """The registry at a folder, a URL that fsspec knows, or `hf://ORGANISATION`.

    New entries on the hub are `public` or private; elsewhere the owner of the storage decides.
    """
    if url.startswith(HUB_PREFIX):
        try:
            from pretrain.registry.storage.hub_store import HubRegistry  # needs the hub's client
        except ImportError as error:
            raise UserError(f"cannot open {url}: {error}; pip install '.[hub]'") from error
        return HubRegistry(url, public=public)
    return FileRegistry(url)


class FileRegistry:
    """A folder on a disk, or behind fsspec."""

    def __init__(self, url: str) -> None:
        # Absolute: fsspec takes no such path for a URL, and a change of folder does no harm.
        self.url = url.rstrip("/") if is_url(url) else str(Path(url).absolute())
        self._fs, root = filesystem(self.url)
        self._root = root.rstrip("/")
        self._local = Path(self._root) if "file" in _protocols(self._fs) else None

    def entries(self) -> dict[str, tuple[int, ...]]:
        if self._local and not self._local.is_dir():  # an object store has no empty folders
            raise UserError(
                f"no registry at {self.url}: no such folder; the first "
                "python -m pretrain.publish makes it"
            )
        return self._versions_below(self._root)

    def versions(self, name: EntryName) -> tuple[int, ...]:
        return self._versions_below(f"{self._root}/{name.folder}").get(name.folder, ())

    def read(self, name: EntryName, files: Sequence[str]) -> list[bytes]:
        place = self._place(name)

        def read() -> list[bytes]:
            return [self._fs.cat_file(f"{place}/{file}") for file in files]

        found: list[bytes] = self._try("read", read)
        return found

    def fetch(self, name: EntryName, file: str, target: Path) -> None:
        download(f"{self.url}/{name.folder}/{name.version}/{file}", target)

    def folder(self, name: EntryName) -> Path | None:
        return self._local and self._local / name.folder / str(name.version)

    def check_visibility(self, name: EntryName) -> None:
        pass  # the owner of the storage decides

    def add(self, folder: Path, manifest: EntryManifest, name: EntryName) -> int:
        version, claim = self._claim(name, Claim(manifest.content_sha256, manifest.published))
        place = self._place(name.at(version))
        for file in manifest.files:
            self._put(folder / file, f"{place}/{file}")
        self._put(
            manifest_text(replace(manifest, published=claim.published)),
            f"{place}/{ENTRY_JSON}",
        )
        return version

    def attached(self, name: EntryName) -> list[str]:
        below = f"{self._place(name)}/{SCORES_FOLDER}"
        names = [path.removeprefix(f"{below}/") for path in self._find(below)]
        return sorted(name for name in names if name.endswith(".json"))

    def attach(self, name: EntryName, file: str, content: bytes) -> None:
        self._put(content, f"{self._place(name)}/{SCORES_FOLDER}/{file}")

    def _claim(self, name: EntryName, ours: Claim) -> tuple[int, Claim]:
        """The version where this content goes, and its claim: ours, or one for equal content."""
        taken = self._taken(name)
        for version in taken:
            claim = self._read_claim(self._place(name.at(version)))
            if claim and claim.content == ours.content:
                return version, claim
        version = max(taken, default=0)
        while True:
            version += 1
            claim = self._create(self._place(name.at(version)), ours)
            if claim.content == ours.content:
                return version, claim

    def _create(self, place: str, ours: Claim) -> Claim:
        """Try to claim `place`; the claim that it has then."""
        text = json.dumps(asdict(ours)).encode()
        try:
            if self._local:
                _create_folder(Path(place), text)
            else:
                self._fs.pipe_file(f"{place}/{CLAIM_NAME}", text, mode="create")
            return ours
        except Exception as error:  # every store raises its own
            # It may be ours: a request is repeated when its answer was lost.
            claim = self._read_claim(place)
            if claim is None:
                raise unreachable(self.url, error, "write") from error
            return claim

    def _read_claim(self, place: str) -> Claim | None:
        def read() -> bytes | None:
            try:
                content: bytes = self._fs.cat_file(f"{place}/{CLAIM_NAME}")
            except FileNotFoundError:
                return None
            return content

        text = self._try("read", read)
        try:
            return None if text is None else Claim(**json.loads(text))
        except (ValueError, TypeError):
            return _UNREADABLE

    def _put(self, content: Path | bytes, target: str) -> None:
        """Write a file that appears under its name only when complete; a reader may look there."""

        def put() -> int:
            folder = target.rpartition("/")[0]
            self._fs.makedirs(folder, exist_ok=True)
            arriving = f"{folder}/.{uuid.uuid4().hex}" if self._local else target
            try:
                if isinstance(content, Path):
                    self._fs.put_file(str(content), arriving)
                else:
                    self._fs.pipe_file(arriving, content)
                if self._local:
                    name_durably(Path(arriving), Path(target))
            finally:
                if self._local:
                    Path(arriving).unlink(missing_ok=True)
            self._fs.invalidate_cache()
            return int(self._fs.info(target)["size"])

        arrived = self._try("write", put)
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if arrived != size:
            raise UserError(f"{target} has {arrived} bytes, not {size}; publish again")

    def _taken(self, name: EntryName) -> list[int]:
        """The versions that are claimed, complete or not."""
        below = f"{self._root}/{name.folder}/"
        paths = [path.removeprefix(below) for path in self._find(below.rstrip("/"))]
        return [int(path.split("/")[0]) for path in paths if path.split("/")[0].isdecimal()]

    def _versions_below(self, folder: str) -> dict[str, tuple[int, ...]]:
        found: dict[str, list[int]] = {}
        for path in self._find(folder):
            parts = path.removeprefix(f"{self._root}/").split("/")
            if len(parts) != 3 or parts[2] != ENTRY_JSON or not is_name(f"{parts[0]}@{parts[1]}"):
                continue
            name = parse_name(f"{parts[0]}@{parts[1]}")
            if name.version is not None and str(name) == f"{parts[0]}@{parts[1]}":
                found.setdefault(name.folder, []).append(name.version)
        if not found and _BUCKETS & {*_protocols(self._fs)}:
            self._try("list", self._check_bucket)
        return {name: tuple(sorted(versions)) for name, versions in sorted(found.items())}

    def _check_bucket(self) -> None:
        """Raise where the bucket or its server is missing: such stores list nothing then."""
        top = self._root if is_url(self._root) else self._root.split("/")[0]
        with suppress(PermissionError):  # one may be allowed to list what is below only
            self._fs.ls(top, detail=False)

    def _find(self, folder: str) -> list[str]:
        def find() -> list[str]:
            self._fs.invalidate_cache()
            return list(self._fs.find(folder))

        found: list[str] = self._try("list", find)
        return found

    def _place(self, name: EntryName) -> str:
        return f"{self._root}/{name.folder}/{name.version}"

    def _try(self, verb: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # every file system raises its own
            raise unreachable(self.url, error, verb) from error


def _create_folder(place: Path, claim: bytes) -> None:
    """Make a folder that holds its claim from the first moment; fail if it exists."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".claim-", dir=place.parent) as scratch:
        folder = Path(scratch) / "version"
        folder.mkdir()
        (folder / CLAIM_NAME).write_bytes(claim)
        folder.rename(place)  # fails where there is a folder that is not empty


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
