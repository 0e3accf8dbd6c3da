"""Publishing to the Hugging Face hub, by its own client, on a server that speaks the hub's HTTP.

What the server does not have is Xet, the hub's newer way for large files; they go by Git LFS.
"""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from werkzeug.serving import make_server

from pretrain.card import Card, write_card
from pretrain.model import Classifier, bare_encoder
from pretrain.timm_export import TimmExport, write_timm_folder
from shards.schema import IMAGENET_MEAN, IMAGENET_STD, SourceInfo, file_sha256

flask = pytest.importorskip("flask")

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
ARCH = "mobilenet_v2"
TOKEN = "hf_test"
OPEN = SourceInfo(name="steels", samples=48, licence="MIT", restriction=None, citation=None)
SECRET = SourceInfo(name="lab", samples=4, licence="MIT", restriction="export", citation=None)
UNKNOWN = SourceInfo(name="web", samples=4, licence=None, restriction=None, citation=None)

Tree = dict[str, bytes]


@dataclass
class Repository:
    """Commits of a repository, oldest first, and its tags."""

    private: bool
    trees: dict[str, Tree] = field(default_factory=lambda: {"0" * 40: {}})
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.trees)[-1]

    def commit_of(self, revision: str) -> str:
        return self.head if revision == "main" else self.tags.get(revision, revision)


class Hub:
    """The part of the hub's HTTP interface that its client uses here."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self._blobs: dict[str, bytes] = {}
        self._lock = threading.Lock()
        app = self.app = flask.Flask("hub")
        app.before_request(self._check_token)
        app.post("/api/repos/create")(self.create)
        app.post("/api/validate-yaml")(lambda: {"warnings": [], "errors": []})
        app.get("/api/models")(self.list)
        app.get("/api/models/<owner>/<name>")(self.info)
        app.get("/api/models/<owner>/<name>/refs")(self.refs)
        app.post("/api/models/<owner>/<name>/preupload/<revision>")(self.preupload)
        app.post("/api/models/<owner>/<name>/commit/<revision>")(self.commit)
        app.post("/api/models/<owner>/<name>/tag/<revision>")(self.tag)
        app.post("/<owner>/<name>.git/info/lfs/objects/batch")(self.batch)
        app.put("/lfs/<oid>")(self.put)
        app.get("/<owner>/<name>/resolve/<revision>/<path:path>")(self.resolve)

    def _check_token(self) -> Any:
        path = flask.request.path
        if path.startswith("/lfs/"):
            return None
        if flask.request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return {"error": "Invalid username or password."}, 401
        return None

    def _find(self, owner: str, name: str) -> Repository:
        found = self.repositories.get(f"{owner}/{name}")
        if found is None:
            answer = flask.make_response({"error": "Repository not found"}, 404)
            answer.headers["X-Error-Code"] = "RepoNotFound"
            flask.abort(answer)
        return found

    def create(self) -> Any:
        asked = flask.request.get_json()
        key = f"{asked['organization']}/{asked['name']}"
        url = f"{flask.request.host_url}{key}"
        with self._lock:
            if key in self.repositories:
                return {"error": "You already created this model repo", "url": url}, 409
            self.repositories[key] = Repository(asked["visibility"] == "private")
        return {"url": url, "name": key}

    def list(self) -> Any:
        asked = flask.request.args
        found = []
        for key, repository in self.repositories.items():
            readme = repository.trees[repository.head].get("README.md", b"").decode()
            tags = [line for line in readme.splitlines() if line.startswith("tags: ")]
            tagged = bool(tags) and asked["filter"] in json.loads(tags[0][6:])
            if tagged and key.split("/")[0] == asked["author"]:
                found.append({"id": key, "private": repository.private, "tags": []})
        return found

    def info(self, owner: str, name: str) -> Any:
        repository = self._find(owner, name)
        return {
            "id": f"{owner}/{name}",
            "private": repository.private,
            "sha": repository.head,
            "tags": [],
            "siblings": [],
        }

    def refs(self, owner: str, name: str) -> Any:
        tags = self._find(owner, name).tags.items()
        return {
            "branches": [],
            "converts": [],
            "tags": [{"name": t, "ref": f"refs/tags/{t}", "targetCommit": c} for t, c in tags],
        }

    def preupload(self, owner: str, name: str, revision: str) -> Any:
        self._find(owner, name)
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in flask.request.get_json()["files"]
            ]
        }

    def batch(self, owner: str, name: str) -> Any:
        self._find(owner, name)
        objects = flask.request.get_json()["objects"]
        for item in objects:
            item["actions"] = {"upload": {"href": f"{flask.request.host_url}lfs/{item['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def put(self, oid: str) -> Any:
        content = flask.request.get_data()
        assert sha256(content).hexdigest() == oid
        self._blobs[oid] = content
        return ""

    def commit(self, owner: str, name: str, revision: str) -> Any:
        repository = self._find(owner, name)
        lines = [json.loads(line) for line in flask.request.get_data().splitlines()]
        with self._lock:
            if lines[0]["value"].get("parentCommit") != repository.head:
                return {"error": "A commit has happened since"}, 412
            tree = dict(repository.trees[repository.head])
            for line in lines[1:]:
                value = line["value"]
                lfs = line["key"] == "lfsFile"
                content = self._blobs[value["oid"]] if lfs else base64.b64decode(value["content"])
                tree[value["path"]] = content
            oid = sha1(flask.request.get_data() + repository.head.encode()).hexdigest()
            repository.trees[oid] = tree
        url = f"{flask.request.host_url}{owner}/{name}/commit/{oid}"
        return {"commitUrl": url, "commitOid": oid, "success": True}

    def tag(self, owner: str, name: str, revision: str) -> Any:
        repository, tag = self._find(owner, name), flask.request.get_json()["tag"]
        with self._lock:
            if tag in repository.tags:
                return {"error": "Tag reference exists already"}, 409
            repository.tags[tag] = repository.commit_of(revision)
        return {}

    def resolve(self, owner: str, name: str, revision: str, path: str) -> Any:
        repository = self._find(owner, name)
        commit = repository.commit_of(revision)
        if path not in repository.trees.get(commit, {}):
            answer = flask.make_response({"error": "Entry not found"}, 404)
            answer.headers["X-Error-Code"] = "EntryNotFound"
            return answer
        content = repository.trees[commit][path]
        answer = flask.make_response(content)
        answer.headers |= {"X-Repo-Commit": commit, "ETag": f'"{sha256(content).hexdigest()}"'}
        return answer


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub that the client of a new process finds through the environment, as a mirror."""
    hub = Hub()
    server = make_server("127.0.0.1", 0, hub.app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "hf"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "MICROGRAPH_REGISTRY": "hf://lab",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield hub
    server.shutdown()
    server.server_close()


def make_export(folder: Path, seed: int = 0, source: SourceInfo = OPEN) -> Path:
    """An export of random weights."""
    folder.mkdir()
    torch.manual_seed(seed)
    model = Classifier(ARCH, bare_encoder(ARCH), classes=2, dropout=0.0)
    save_file(model.encoder.state_dict(), folder / "encoder.safetensors")
    images = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "image_size": 32}
    told = TimmExport(arch=ARCH, classes=("a", "b"), sources=(source,), **images)
    card = Card(
        arch=ARCH,
        timm_name="mobilenetv2_100",
        timm_features="equal",
        timm_difference=write_timm_folder(folder / "timm", model, told),
        encoder_options={},
        init="random",
        init_tag="",
        classes=("a", "b"),
        channels=1,
        converged=True,
        metrics={"top1": 0.75},
        class_accuracy=(0.5, 1.0),
        corpus_hash="c" * 64,
        sources=(source,),
        config={},
        versions={},
        sha256=file_sha256(folder / "encoder.safetensors"),
        **images,
    )
    write_card(folder, card)
    return folder


def run(*command: str, fails: bool = False, **environment: str) -> str:
    """What a program of ours prints; what it says, where it fails."""
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=os.environ | environment
    )
    assert (result.returncode != 0) == fails, result.stderr
    return result.stderr if fails else result.stdout


def test_an_encoder_goes_to_the_hub_and_comes_back_in_every_way(hub: Hub, tmp_path: Path) -> None:
    first, second = make_export(tmp_path / "a"), make_export(tmp_path / "b", seed=1)
    told = [
        run("-m", "pretrain.publish", str(export), "--tag", "micro").strip()
        for export in (first, second)
    ]
    assert told == ["mobilenet_v2.micro@1", "mobilenet_v2.micro@2"]
    repository = hub.repositories["lab/mobilenet_v2.micro"]
    assert repository.private
    assert {"config.json", "model.safetensors", "README.md"} <= repository.trees[
        repository.head
    ].keys()
    listed = json.loads(run("-m", "pretrain.registry", "list", "--all", "--json"))
    assert [entry["version"] for entry in listed] == [1, 2]
    folders = [Path(run("-m", "pretrain.registry", "pull", name).strip()) for name in told]
    for folder, export in zip(folders, (first, second), strict=True):
        for file in ("encoder.safetensors", "card.json", "timm/config.json"):
            assert (folder / file).read_bytes() == (export / file).read_bytes()
    (line,) = re.findall(r"timm\.create_model\(\"hf-hub:.*?\)", README.replace("\n", " "))
    line = line.replace("efficientnet-b4.micronet", "mobilenet_v2.micro")
    program = (
        "import timm, torch\n"
        "from downstream.models import create_model\n"
        "ours = create_model('Unet', 'mobilenet_v2.micro@1', classes=3).encoder\n"
        f"theirs = {line}\n"
        "ours = ours.state_dict()['features.18.0.weight']\n"
        "print(torch.equal(ours, theirs.conv_head.weight))"
    )
    assert run("-c", program).strip() == "True"
    assert "offline" not in run("-m", "pretrain.registry", "pull", told[0], HF_HUB_OFFLINE="1")


def test_a_changed_file_on_the_hub_is_refused(hub: Hub, tmp_path: Path) -> None:
    run("-m", "pretrain.publish", str(make_export(tmp_path / "a")), "--tag", "micro")
    repository = hub.repositories["lab/mobilenet_v2.micro"]
    tree = repository.trees[repository.head]
    tree["model.safetensors"] = tree["model.safetensors"][:-1] + b"!"
    said = run("-m", "pretrain.registry", "pull", "mobilenet_v2.micro", fails=True)
    assert "model.safetensors is not the file that was published" in said
    assert not list((tmp_path / "cache").rglob("entry.json"))


@pytest.mark.parametrize(
    ("source", "said"),
    [(SECRET, "lab is restricted: export"), (UNKNOWN, "web has no stated licence")],
)
def test_what_is_restricted_or_without_licence_is_never_public(
    source: SourceInfo, said: str, hub: Hub, tmp_path: Path
) -> None:
    export = str(make_export(tmp_path / "a", source=source))
    publish = ("-m", "pretrain.publish", export, "--tag", "micro")
    assert said in run(*publish, "--public", fails=True)
    assert hub.repositories == {}
    run(*publish)
    assert hub.repositories["lab/mobilenet_v2.micro"].private


def test_public_is_public_and_private_stays_out_of_it(hub: Hub, tmp_path: Path) -> None:
    export = str(make_export(tmp_path / "a"))
    publish = ("-m", "pretrain.publish", export, "--tag", "micro")
    run(*publish, "--public")
    repository = hub.repositories["lab/mobilenet_v2.micro"]
    assert not repository.private
    assert "is public on the hub; publish there with --public" in run(*publish, fails=True)
    assert list(repository.tags) == ["v1"]


def test_jobs_that_publish_one_name_at_once_get_versions_of_their_own(
    hub: Hub, tmp_path: Path
) -> None:
    exports = [make_export(tmp_path / str(seed), seed) for seed in range(4)]
    command = [sys.executable, "-m", "pretrain.publish", "--tag", "micro"]
    processes = [subprocess.Popen([*command, str(export)]) for export in exports]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    run("-m", "pretrain.registry", "verify")
    repository = hub.repositories["lab/mobilenet_v2.micro"]
    trees = [repository.trees[commit] for commit in repository.tags.values()]
    assert len({tree["encoder.safetensors"] for tree in trees}) == 4


def test_jobs_that_publish_the_same_at_once_or_again_make_one_version(
    hub: Hub, tmp_path: Path
) -> None:
    export = str(make_export(tmp_path / "a"))
    command = [sys.executable, "-m", "pretrain.publish", "--tag", "micro", export]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate(timeout=120)[0] for process in processes] == [
        "mobilenet_v2.micro@1\n"
    ] * 4
    repository = hub.repositories["lab/mobilenet_v2.micro"]
    first = repository.tags.pop("v1")  # as if killed between the commit and its tag
    other = str(make_export(tmp_path / "b", seed=1))
    assert "micro@1" in run(*command[1:])
    assert "micro@2" in run(*command[1:5], other)
    assert "micro@1" in run(*command[1:])
    assert repository.tags["v1"] == first and len(repository.tags) == 2


def test_without_a_token_it_says_how_to_log_in(hub: Hub, tmp_path: Path) -> None:
    export = str(make_export(tmp_path / "a"))
    said = run("-m", "pretrain.publish", export, "--tag", "micro", fails=True, HF_TOKEN="hf_other")
    assert "log in with `hf auth login` or set HF_TOKEN" in said
    said = run("-m", "pretrain.registry", "list", "--registry", "hf://a/b", fails=True)
    assert "names no organisation" in said
