"""A registry in a folder or an object store: `ROOT/arch.tag/version/` is one version of an encoder.

There is no index that publishers share. A version is claimed by creating `ROOT/arch.tag/N/claim`,
which only one of any number of publishers can do: a local file is opened exclusively, S3 gets a PUT
with `If-None-Match: *`. The claimant writes its files, and `entry.json` last; without that, nobody
lists the version. What a killed publisher left stays claimed, and the next takes the next number.
Imports no torch.
"""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from pretrain.atomic import write_atomically
from pretrain.cache import fetch, unreachable
from pretrain.registry.names import EntryName, is_name, parse_name
from pretrain.registry.sealed import SEAL_NAME
from shards.cli import UserError
from shards.stores import filesystem, is_url

HUB_PREFIX = "hf://"
CLAIM_NAME = "claim"
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

    def add(self, folder: Path, seal: bytes, name: EntryName) -> int:
        """Publish the files of `folder` as a new version; the seal goes last."""

    def attached(self, name: EntryName) -> list[str]:
        """The files of one version's `SCORES_FOLDER`."""

    def attach(self, name: EntryName, file: str, content: bytes) -> None:
        """Put a small file there."""


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
        fetch(f"{self.url}/{name.folder}/{name.version}/{file}", target, lambda have, total: None)

    def folder(self, name: EntryName) -> Path | None:
        return self._local and self._local / name.folder / str(name.version)

    def add(self, folder: Path, seal: bytes, name: EntryName) -> int:
        claimed = self._claim(name)
        place = self._place(claimed)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in paths:
            self._put(path, f"{place}/{path.relative_to(folder).as_posix()}")
        if self._local:
            write_atomically(self._local / claimed.folder / str(claimed.version) / SEAL_NAME, seal)
        else:
            self._try("write", lambda: self._fs.pipe_file(f"{place}/{SEAL_NAME}", seal))
        assert claimed.version is not None
        return claimed.version

    def attached(self, name: EntryName) -> list[str]:
        below = f"{self._place(name)}/{SCORES_FOLDER}"
        names = [path.removeprefix(f"{below}/") for path in self._find(below)]
        return sorted(name for name in names if name.endswith(".json"))

    def attach(self, name: EntryName, file: str, content: bytes) -> None:
        place = f"{self._place(name)}/{SCORES_FOLDER}"
        if self._local:
            Path(place).mkdir(exist_ok=True)
            write_atomically(Path(place) / file, content)
        else:
            self._try("write", lambda: self._fs.pipe_file(f"{place}/{file}", content))

    def _claim(self, name: EntryName) -> EntryName:
        """The next version, ours alone."""
        token = uuid.uuid4().hex.encode()
        taken = self._taken(name)
        version = max(taken, default=0)
        while True:
            version += 1
            place = self._place(name.at(version))
            if self._create(place, token):
                return name.at(version)

    def _create(self, place: str, token: bytes) -> bool:
        path = f"{place}/{CLAIM_NAME}"
        failure: Exception | None = None
        try:
            self._fs.makedirs(place, exist_ok=True)
            if self._local:
                with self._fs.open(path, "xb") as stream:
                    stream.write(token)
                return True
            self._fs.pipe_file(path, token, mode="create")
        except FileExistsError:
            pass  # somebody's; perhaps ours, when an answer was lost and the request repeated
        except Exception as error:  # every store has its own way to say no
            failure = error
        if self._local and failure is None:
            return False
        try:
            found: bytes = self._fs.cat_file(path)
        except Exception as error:
            raise unreachable(self.url, failure or error, "write") from error
        return found == token

    def _put(self, path: Path, target: str) -> None:
        def put() -> int:
            self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._fs.put_file(str(path), target)
            self._fs.invalidate_cache()
            return int(self._fs.info(target)["size"])

        arrived = self._try("write", put)
        if arrived != path.stat().st_size:
            raise UserError(
                f"{path.name} arrived at {self.url} with {arrived} bytes of {path.stat().st_size}; "
                "publish again"
            )

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
        return {name: tuple(sorted(versions)) for name, versions in sorted(found.items())}

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


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
