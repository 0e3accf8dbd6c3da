"""A registry in a folder or an object store: `ROOT/arch.tag/version/` is one version of an encoder.

There is no index that publishers share. A version is claimed by creating `ROOT/arch.tag/N/claim`,
which only one of any number of publishers can do: a local folder gets its name with the claim in
it, S3 gets a PUT with `If-None-Match: *`. The claimant writes its files, and `entry.json` last;
without that, nobody lists the version. A claim says for what content it is, and since when: whoever
publishes the same, at once or after a kill, writes the same bytes to the same place. What else a
killed publisher left stays claimed, and the next takes the next number. Imports no torch.
"""

import json
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pretrain.atomic import name_durably
from pretrain.registry.names import EntryName, is_name, parse_name
from pretrain.registry.sealed import SEAL_NAME, Seal, seal_text
from shards.cli import UserError
from shards.download import download
from shards.stores import filesystem, is_url, unreachable

HUB_PREFIX = "hf://"
CLAIM_NAME = "claim"
_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "http", "https"}  # protocols without folders
SCORES_FOLDER = "scores"  # of a version: what was measured after it was sealed


class Registry(Protocol):
    """Published encoders by name and version. All raise `UserError` when it cannot be reached."""

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
        """Where a version lies already, if it is on this machine's disks."""

    def check_visibility(self, name: EntryName) -> None:
        """Raise `UserError` where others see, or do not see, it otherwise than is asked for."""

    def add(self, folder: Path, seal: Seal, name: EntryName) -> int:
        """Publish the sealed files of `folder` as a new version; the seal goes last."""

    def attached(self, name: EntryName) -> list[str]:
        """The files of one version's `SCORES_FOLDER`."""

    def attach(self, name: EntryName, file: str, content: bytes) -> None:
        """Put a small file there."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The content of `claim`: who brings this content, now or later, fills the version."""

    content: str  # of its seal
    published: str  # of its seal


# Of a version that was claimed by a token, as all were once.
_UNKNOWN = Claim("", "")


def open_registry(url: str, *, public: bool = False) -> Registry:
    """The registry at a folder, a URL that fsspec knows, or `hf://ORGANISATION`.

    What is added on the hub is `public` or private; elsewhere the owner of the place decides.
    """
    if url.startswith(HUB_PREFIX):
        try:
            from pretrain.registry.hub import HubRegistry  # the one that needs the hub's client
        except ImportError as error:
            raise UserError(f"cannot open {url}: {error}; pip install '.[hub]'") from error
        return HubRegistry(url, public=public)
    return FileRegistry(url)


class FileRegistry:
    """A folder on a disk, or behind fsspec."""

    def __init__(self, url: str) -> None:
        # So that fsspec sees no URL in a path, and another working folder changes nothing.
        self.url = url.rstrip("/") if is_url(url) else str(Path(url).absolute())
        self._fs, root = filesystem(self.url)
        self._root = root.rstrip("/")
        self._local = Path(self._root) if "file" in _protocols(self._fs) else None

    def entries(self) -> dict[str, tuple[int, ...]]:
        if self._local and not self._local.is_dir():  # an object store has no empty folders
            raise UserError(
                f"no registry at {self.url}: there is no such folder; the first "
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
        pass  # the owner of the place decides

    def add(self, folder: Path, seal: Seal, name: EntryName) -> int:
        version, claim = self._claim(name, Claim(seal.content, seal.published))
        place = self._place(name.at(version))
        for file in seal.files:
            self._put(folder / file, f"{place}/{file}")
        self._put(seal_text(replace(seal, published=claim.published)), f"{place}/{SEAL_NAME}")
        return version

    def attached(self, name: EntryName) -> list[str]:
        below = f"{self._place(name)}/{SCORES_FOLDER}"
        names = [path.removeprefix(f"{below}/") for path in self._find(below)]
        return sorted(name for name in names if name.endswith(".json"))

    def attach(self, name: EntryName, file: str, content: bytes) -> None:
        self._put(content, f"{self._place(name)}/{SCORES_FOLDER}/{file}")

    def _claim(self, name: EntryName, ours: Claim) -> tuple[int, Claim]:
        """The version where this content goes, and the claim on it: ours, or one as good."""
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
        """The claim that `place` has after an attempt at putting ours there."""
        text = json.dumps(asdict(ours)).encode()
        try:
            if self._local:
                _create_folder(Path(place), text)
            else:
                self._fs.pipe_file(f"{place}/{CLAIM_NAME}", text, mode="create")
            return ours
        except Exception as error:  # every store has its own way to say no
            # Perhaps ours all the same, when an answer was lost and the request repeated.
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
            return _UNKNOWN

    def _put(self, content: Path | bytes, target: str) -> None:
        """Write a file that is under its name only when whole, as another may be read there."""

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
        """The versions that are claimed, whole or not."""
        below = f"{self._root}/{name.folder}/"
        paths = [path.removeprefix(below) for path in self._find(below.rstrip("/"))]
        return [int(path.split("/")[0]) for path in paths if path.split("/")[0].isdecimal()]

    def _versions_below(self, folder: str) -> dict[str, tuple[int, ...]]:
        found: dict[str, list[int]] = {}
        for path in self._find(folder):
            parts = path.removeprefix(f"{self._root}/").split("/")
            if len(parts) != 3 or parts[2] != SEAL_NAME or not is_name(f"{parts[0]}@{parts[1]}"):
                continue
            name = parse_name(f"{parts[0]}@{parts[1]}")
            if name.version is not None and str(name) == f"{parts[0]}@{parts[1]}":
                found.setdefault(name.folder, []).append(name.version)
        if not found and _BUCKETS & {*_protocols(self._fs)}:
            self._try("list", self._check_bucket)
        return {name: tuple(sorted(versions)) for name, versions in sorted(found.items())}

    def _check_bucket(self) -> None:
        """Raise where there is none, or nobody answers: such stores then list nothing, too."""
        top = self._root if is_url(self._root) else self._root.split("/")[0]
        with suppress(PermissionError):  # only what is below may be listed
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
        except Exception as error:  # every file system has its own
            raise unreachable(self.url, error, verb) from error


def _create_folder(place: Path, claim: bytes) -> None:
    """Make a folder that has its claim from the first moment, or fail where there is one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".claim-", dir=place.parent) as scratch:
        folder = Path(scratch) / "version"
        folder.mkdir()
        (folder / CLAIM_NAME).write_bytes(claim)
        folder.rename(place)  # fails where a folder is that is not empty


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
