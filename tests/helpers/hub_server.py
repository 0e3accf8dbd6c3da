"""A server that speaks as much of the Hugging Face hub's HTTP as its client needs to publish.

It lacks Xet, the hub's newer way for large files; they go by Git LFS.
"""

import base64
import json
import threading
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from typing import Any

import flask

TOKEN = "hf_test"


@dataclass
class Repository:
    """Commits of a repository, oldest first, and its tags."""

    private: bool
    trees: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"0" * 40: {}})
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.trees)[-1]

    def commit_of(self, revision: str) -> str:
        return self.head if revision == "main" else self.tags.get(revision, revision)


def make_app(repositories: dict[str, Repository]) -> flask.Flask:
    """The server; what clients publish goes to `repositories`, by OWNER/NAME."""
    app, blobs, lock = flask.Flask("hub"), dict[str, bytes](), threading.Lock()
    model = "/api/models/<owner>/<name>"

    def find(owner: str, name: str) -> Repository:
        if f"{owner}/{name}" not in repositories:
            flask.abort(refusal("Repository not found", "RepoNotFound"))
        return repositories[f"{owner}/{name}"]

    @app.before_request
    def check_token() -> Any:
        right = flask.request.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not right and not flask.request.path.startswith("/lfs/"):
            return {"error": "Invalid username or password."}, 401
        return None

    @app.post("/api/repos/create")
    def create() -> Any:
        asked = flask.request.get_json()
        key = f"{asked['organization']}/{asked['name']}"
        url = f"{flask.request.host_url}{key}"
        with lock:
            if key in repositories:
                return {"error": "You already created this model repo", "url": url}, 409
            repositories[key] = Repository(asked["visibility"] == "private")
        return {"url": url, "name": key}

    @app.post("/api/validate-yaml")
    def validate() -> Any:
        return {"warnings": [], "errors": []}

    @app.get("/api/models")
    def list_models() -> Any:
        asked, found = flask.request.args, []
        for key, repository in repositories.items():
            readme = repository.trees[repository.head].get("README.md", b"").decode()
            tags = [line for line in readme.splitlines() if line.startswith("tags: ")]
            tagged = bool(tags) and asked["filter"] in json.loads(tags[0][6:])
            if tagged and key.split("/")[0] == asked["author"]:
                found.append({"id": key, "private": repository.private, "tags": []})
        return found

    @app.get(model)
    def info(owner: str, name: str) -> Any:
        repository = find(owner, name)
        facts = {"id": f"{owner}/{name}", "private": repository.private, "sha": repository.head}
        return facts | {"tags": [], "siblings": []}

    @app.get(f"{model}/refs")
    def refs(owner: str, name: str) -> Any:
        tags = find(owner, name).tags.items()
        found = [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": c} for t, c in tags]
        return {"branches": [], "converts": [], "tags": found}

    @app.post(f"{model}/preupload/<revision>")
    def preupload(owner: str, name: str, revision: str) -> Any:
        paths = [file["path"] for file in flask.request.get_json()["files"]]
        modes = {p: "lfs" if p.endswith("safetensors") else "regular" for p in paths}
        return {
            "files": [{"path": p, "uploadMode": modes[p], "shouldIgnore": False} for p in paths]
        }

    @app.post("/<owner>/<name>.git/info/lfs/objects/batch")
    def batch(owner: str, name: str) -> Any:
        objects = flask.request.get_json()["objects"]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{flask.request.host_url}lfs/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    @app.put("/lfs/<oid>")
    def put(oid: str) -> Any:
        blobs[oid] = flask.request.get_data()
        assert sha256(blobs[oid]).hexdigest() == oid
        return ""

    @app.post(f"{model}/commit/<revision>")
    def commit(owner: str, name: str, revision: str) -> Any:
        repository, data = find(owner, name), flask.request.get_data()
        header, *lines = [json.loads(line) for line in data.splitlines()]
        with lock:
            if header["value"].get("parentCommit") != repository.head:
                return {"error": "A commit has happened since"}, 412
            tree = dict(repository.trees[repository.head])
            for line in lines:
                value = line["value"]
                lfs = line["key"] == "lfsFile"
                tree[value["path"]] = (
                    blobs[value["oid"]] if lfs else base64.b64decode(value["content"])
                )
            oid = sha1(data + repository.head.encode()).hexdigest()
            repository.trees[oid] = tree
        url = f"{flask.request.host_url}{owner}/{name}/commit/{oid}"
        return {"commitUrl": url, "commitOid": oid, "success": True}

    @app.post(f"{model}/tag/<revision>")
    def tag(owner: str, name: str, revision: str) -> Any:
        repository, new = find(owner, name), flask.request.get_json()["tag"]
        with lock:
            if new in repository.tags:
                return {"error": "Tag reference exists already"}, 409
            repository.tags[new] = repository.commit_of(revision)
        return {}

    @app.get("/<owner>/<name>/resolve/<revision>/<path:path>")
    def resolve(owner: str, name: str, revision: str, path: str) -> Any:
        repository = find(owner, name)
        commit = repository.commit_of(revision)
        content = repository.trees.get(commit, {}).get(path)
        if content is None:
            return refusal("Entry not found", "EntryNotFound")
        answer = flask.make_response(content)
        answer.headers |= {"X-Repo-Commit": commit, "ETag": f'"{sha256(content).hexdigest()}"'}
        return answer

    return app


def refusal(error: str, code: str) -> flask.Response:
    answer = flask.make_response({"error": error}, 404)
    answer.headers["X-Error-Code"] = code
    return answer
