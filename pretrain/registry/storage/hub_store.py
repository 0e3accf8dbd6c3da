"""A registry on the Hugging Face hub: `hf://ORGANISATION`, a repository for each `arch.tag`.

Version N is the git tag `vN` of a commit; the hub lets only one publisher create a tag. timm's two
files lie at the root, where `hf-hub:` looks for them; the rest as in any registry. Repositories are
private unless public ones are asked for. Imports no torch.
"""

import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

from micrograph.cli import UserError
from pretrain.cards.entry_names import HUB_TAG, EntryName, is_name
from pretrain.registry.storage.entry import (
    ENTRY_JSON,
    EntryManifest,
    manifest_text,
    parse_entry_manifest,
)
from pretrain.registry.storage.hub_access import hub_or_cache

T = TypeVar("T")

_AT_ROOT = {"timm/config.json": "config.json", "timm/model.safetensors": "model.safetensors"}
_TAG = re.compile(r"v([1-9][0-9]{0,5})")
_TRIES = 100  # other publishers of the same name that may come first


class HubRegistry:
    """The repositories of an organisation or a user that this project published."""

    def __init__(self, url: str, *, public: bool = False) -> None:
        self.url = url.rstrip("/")
        self._public = public
        self._owner = self.url.removeprefix("hf://")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self._owner):
            raise UserError(f"{url} names no organisation of the hub; one is hf://ORGANISATION")
        self._api = HfApi()

    def entries(self) -> dict[str, tuple[int, ...]]:
        def find() -> list[str]:
            models = self._api.list_models(author=self._owner, filter=HUB_TAG)
            return sorted(model.id.partition("/")[2] for model in models)

        with hub_or_cache() as reason:  # the client alone would retry for half a minute
            if reason:
                raise UserError(f"cannot list {self.url}: {reason}")
            listed = self._try("list", find)
        names = [name for name in listed if is_name(name) and "@" not in name]
        found = {name: tuple(self._commits(name)) for name in names}
        return {name: versions for name, versions in found.items() if versions}

    def versions(self, name: EntryName) -> tuple[int, ...]:
        return tuple(self._commits(name.folder))

    def read(self, name: EntryName, files: Sequence[str]) -> list[bytes]:
        with tempfile.TemporaryDirectory() as scratch:
            contents = []
            for file in files:
                path = Path(scratch) / "file"
                self.fetch(name, file, path)
                contents.append(path.read_bytes())
            return contents

    def fetch(self, name: EntryName, file: str, target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix=".hub-", dir=target.parent) as scratch:
            path = self._try(
                "read",
                lambda: hf_hub_download(
                    self._repository(name.folder),
                    _AT_ROOT.get(file, file),
                    revision=f"v{name.version}",
                    local_dir=scratch,
                ),
            )
            shutil.move(path, target)

    def folder(self, name: EntryName) -> Path | None:
        return None

    def check_visibility(self, name: EntryName) -> None:
        """A repository that is there keeps its own; a private entry must not join a public one."""
        repository = self._repository(name.folder)

        def check() -> None:
            try:
                private = bool(self._api.model_info(repository).private)
            except RepositoryNotFoundError:
                return
            if private == (not self._public):
                return
            now, flag = ("private", "without") if private else ("public", "with")
            raise UserError(
                f"{repository} is {now} on the hub; publish there {flag} --public, or choose "
                "another --tag"
            )

        self._try("write", check)

    def add(self, folder: Path, manifest: EntryManifest, name: EntryName) -> int:
        repository = self._repository(name.folder)
        private = not self._public
        self._try(
            "write", lambda: self._api.create_repo(repository, private=private, exist_ok=True)
        )
        self.check_visibility(name)
        oid = self._try("write", lambda: self._commit(repository, folder, manifest, name))
        return self._tag(name, oid)

    def attached(self, name: EntryName) -> list[str]:
        return []

    def attach(self, name: EntryName, file: str, content: bytes) -> None:
        raise UserError(f"{self.url}: versions on the hub are commits, nothing is added to them")

    def _commit(
        self, repository: str, folder: Path, manifest: EntryManifest, name: EntryName
    ) -> str:
        """Commit the files on top of what is there; returns the commit's hash.

        The hub's client leaves out files that the last commit has already. So ours must follow
        exactly that commit: one of another publisher in between would mix two entries. If the last
        commit holds this content, it is used: its publisher was killed, or is about to tag it.
        """
        for _ in range(_TRIES):
            before = self._api.model_info(repository).sha
            if before and self._content_at(repository, before, name) == manifest.content_sha256:
                return before
            try:
                made = self._api.create_commit(
                    repository,
                    _additions(folder, manifest),
                    commit_message=f"Publish {name.folder}",
                    parent_commit=before,
                )
            except HfHubHTTPError as error:
                if error.response is None or error.response.status_code not in (409, 412):
                    raise
                continue
            return str(made.oid)
        raise UserError(f"other publishers keep committing to {repository}; publish again")

    def _content_at(self, repository: str, commit: str, name: EntryName) -> str:
        """The `content_sha256` of a commit; empty where it holds no entry of ours."""
        with tempfile.TemporaryDirectory(prefix=".hub-") as scratch:
            try:
                path = hf_hub_download(repository, ENTRY_JSON, revision=commit, local_dir=scratch)
                return parse_entry_manifest(
                    Path(path).read_bytes(), name, f"{repository}@{commit}"
                ).content_sha256
            except (EntryNotFoundError, UserError):
                return ""

    def _tag(self, name: EntryName, oid: str) -> int:
        """Tag the commit as the next version, unless it has a version; the lowest one counts."""
        for _ in range(_TRIES):
            versions = self._commits(name.folder)
            if found := [version for version, commit in versions.items() if commit == oid]:
                return min(found)
            version = max(versions, default=0) + 1
            try:
                self._api.create_tag(self._repository(name.folder), tag=f"v{version}", revision=oid)
                return version
            except HfHubHTTPError as error:
                if error.response is None or error.response.status_code != 409:
                    raise _explained(self.url, "write", error) from error
        raise UserError(f"other publishers keep publishing {name.folder}; publish again")

    def _commits(self, folder: str) -> dict[int, str]:
        """The commit of each version."""

        def find() -> dict[str, str]:
            try:
                tags = self._api.list_repo_refs(self._repository(folder)).tags
            except RepositoryNotFoundError:
                return {}
            return {tag.name: tag.target_commit for tag in tags}

        found = [(_TAG.fullmatch(tag), oid) for tag, oid in self._try("list", find).items()]
        return dict(sorted((int(match[1]), oid) for match, oid in found if match))

    def _repository(self, folder: str) -> str:
        return f"{self._owner}/{folder}"

    def _try(self, verb: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except UserError:
            raise
        except Exception as error:  # the hub's client raises its own, its HTTP library's, OSError
            raise _explained(self.url, verb, error) from error


def _additions(folder: Path, manifest: EntryManifest) -> list[CommitOperationAdd]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    added = [
        CommitOperationAdd(_AT_ROOT.get(name, name), str(path))
        for name, path in zip(names, files, strict=True)
    ]
    return [*added, CommitOperationAdd(ENTRY_JSON, manifest_text(manifest))]


def _explained(url: str, verb: str, error: Exception) -> UserError:
    status: Any = getattr(getattr(error, "response", None), "status_code", None)
    said = " ".join(str(error).split()) or type(error).__name__
    hint = "; log in with `hf auth login` or set HF_TOKEN" if status in (401, 403) else ""
    return UserError(f"cannot {verb} {url}: {said}{hint}")


# Its bars and hints would stand between our lines.
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
