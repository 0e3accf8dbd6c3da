"""Publishing to the Hugging Face hub, by its own client, on a server that speaks the hub's HTTP."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from exports import OPEN, SECRET, UNKNOWN, make_export
from safetensors.torch import save
from werkzeug.serving import make_server

from pretrain.export.timm_folder import TimmExport, write_timm_folder
from pretrain.network.classifier import Classifier, bare_encoder
from shards.shard_format.schema import IMAGENET_MEAN, IMAGENET_STD, SourceInfo

pytest.importorskip("flask")
from hub_server import TOKEN, Repository, make_app

README = (ROOT / "README.md").read_text(encoding="utf-8")
PUBLISH = ("-m", "pretrain.publish", "--tag", "micro")
NAME = "mobilenet_v2.micro"

Hub = dict[str, Repository]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: None) -> Iterator[Hub]:
    """The repositories of a hub that the client of a new process finds by the environment."""
    repositories: Hub = {}
    server = make_server("127.0.0.1", 0, make_app(repositories), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MICROGRAPH_REGISTRY", "hf://lab")
    yield repositories
    server.shutdown()
    server.server_close()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return make_export(tmp_path / "export", "mobilenet_v2")


def make_real_export(folder: Path, seed: int) -> Path:
    """An export of random weights that timm and smp can load."""
    torch.manual_seed(seed)
    model = Classifier("mobilenet_v2", bare_encoder("mobilenet_v2"), classes=2, dropout=0.0)
    make_export(folder, "mobilenet_v2", weights=save(model.encoder.state_dict()))
    shutil.rmtree(folder / "timm")
    facts = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "image_size": 32, "sources": (OPEN,)}
    write_timm_folder(
        folder / "timm", model, TimmExport(arch="mobilenet_v2", classes=("a", "b"), **facts)
    )
    return folder


def run(*command: object, fails: bool = False, **environment: str) -> str:
    """What a program prints; where it must fail, its message."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert (result.returncode != 0) == fails, result.stderr
    return result.stderr if fails else result.stdout


def test_an_encoder_goes_to_the_hub_and_comes_back_in_every_way(hub: Hub, tmp_path: Path) -> None:
    exports = [make_real_export(tmp_path / str(seed), seed) for seed in (0, 1)]
    names = [run(*PUBLISH, export).strip() for export in exports]
    assert names == [f"{NAME}@1", f"{NAME}@2"]
    repository = hub[f"lab/{NAME}"]
    assert repository.private
    files = repository.trees[repository.head].keys()
    assert {"config.json", "model.safetensors", "README.md"} <= files
    listed = json.loads(run("-m", "pretrain.registry", "list", "--all", "--json"))
    assert [entry["version"] for entry in listed] == [1, 2]
    for name, export in zip(names, exports, strict=True):
        folder = Path(run("-m", "pretrain.registry", "pull", name).strip())
        for file in ("encoder.safetensors", "card.json", "timm/config.json"):
            assert (folder / file).read_bytes() == (export / file).read_bytes()
    (line,) = re.findall(r"timm\.create_model\(\"hf-hub:.*?\)", README.replace("\n", " "))
    program = (
        "import timm, torch\n"
        "from downstream.network.models import create_model\n"
        f"ours = create_model('Unet', '{NAME}@1', classes=3).encoder.state_dict()\n"
        f"theirs = {line.replace('efficientnet-b4.micronet', NAME)}\n"
        "print(torch.equal(ours['features.18.0.weight'], theirs.conv_head.weight))"
    )
    assert run("-c", program).strip() == "True"
    assert "offline" not in run("-m", "pretrain.registry", "pull", names[0], HF_HUB_OFFLINE="1")


def test_a_changed_file_on_the_hub_is_refused(hub: Hub, export: Path, tmp_path: Path) -> None:
    run(*PUBLISH, export)
    repository = hub[f"lab/{NAME}"]
    repository.trees[repository.head]["model.safetensors"] = b"weight!"
    said = run("-m", "pretrain.registry", "pull", NAME, fails=True)
    assert "model.safetensors is not the file that was published" in said
    assert not list((tmp_path / "cache").rglob("entry.json"))


@pytest.mark.parametrize(
    ("source", "said"),
    [(SECRET, "lab is restricted: export"), (UNKNOWN, "web has no stated licence")],
)
def test_what_is_restricted_or_without_licence_is_never_public(
    source: SourceInfo, said: str, hub: Hub, tmp_path: Path
) -> None:
    export = make_export(tmp_path / "export", "mobilenet_v2", sources=(source,))
    assert said in run(*PUBLISH, export, "--public", fails=True)
    assert hub == {}
    run(*PUBLISH, export)
    assert hub[f"lab/{NAME}"].private


def test_nothing_private_joins_a_public_repository(hub: Hub, export: Path) -> None:
    run(*PUBLISH, export, "--public")
    repository = hub[f"lab/{NAME}"]
    assert not repository.private
    assert "is public on the hub; publish there with --public" in run(*PUBLISH, export, fails=True)
    assert list(repository.tags) == ["v1"]


def test_jobs_that_publish_one_name_at_once_get_versions_of_their_own(
    hub: Hub, tmp_path: Path
) -> None:
    exports = [make_export(tmp_path / str(n), "mobilenet_v2", weights=bytes([n])) for n in range(4)]
    processes = [subprocess.Popen([sys.executable, *PUBLISH, str(e)]) for e in exports]
    assert [process.wait(timeout=120) for process in processes] == [0] * 4
    run("-m", "pretrain.registry", "verify")
    repository = hub[f"lab/{NAME}"]
    trees = [repository.trees[commit] for commit in repository.tags.values()]
    assert len({tree["encoder.safetensors"] for tree in trees}) == 4


def test_jobs_that_publish_the_same_at_once_or_again_make_one_version(
    hub: Hub, export: Path, tmp_path: Path
) -> None:
    command = [sys.executable, *PUBLISH, str(export)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert printed == [f"{NAME}@1\n"] * 4
    repository = hub[f"lab/{NAME}"]
    first = repository.tags.pop("v1")  # as if killed between the commit and its tag
    assert "micro@1" in run(*PUBLISH, export)
    assert "micro@2" in run(*PUBLISH, make_export(tmp_path / "b", "mobilenet_v2", weights=b"b"))
    assert "micro@1" in run(*PUBLISH, export)
    assert repository.tags["v1"] == first and len(repository.tags) == 2


def test_without_a_token_it_says_how_to_log_in(hub: Hub, export: Path) -> None:
    said = run(*PUBLISH, export, fails=True, HF_TOKEN="hf_other")
    assert "log in with `hf auth login` or set HF_TOKEN" in said
    said = run("-m", "pretrain.registry", "list", "--registry", "hf://a/b", fails=True)
    assert "names no organisation" in said
