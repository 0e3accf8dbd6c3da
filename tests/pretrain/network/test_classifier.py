"""The classifier around smp's encoder; every arch of the table is built in test_archs.py."""

import logging
import re
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from micrograph.cli import UserError
from pretrain.network.classifier import build_classifier, build_encoder
from pretrain.network.init import resolve_init
from pretrain.registry.storage.hub_access import hub_or_cache


def test_the_head_pools_drops_and_is_linear() -> None:
    torch.manual_seed(0)
    model = build_classifier("resnet18", "random", classes=3, dropout=0.5).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = model.encoder(images)[-1].mean((2, 3))
        expected = pooled @ model.linear.weight.T + model.linear.bias
        assert torch.allclose(model(images), expected, atol=1e-5)
        assert not torch.equal(model.train()(images), model(images))


def test_efficientnets_own_head_convolution_is_trained() -> None:
    model = build_classifier("efficientnet-b0", "random", classes=3, dropout=0.0)
    assert model.features(torch.randn(1, 3, 64, 64)).shape == (1, 1280, 2, 2)


def test_random_weights_depend_on_the_seed() -> None:
    def weight(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_encoder("resnet18", "random").state_dict()["layer4.1.conv2.weight"]

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


@pytest.mark.parametrize(
    ("init", "kind", "label"),
    [
        ("random", "random", "random"),
        ("imagenet", "imagenet", "imagenet"),
        ("runs/a/export", "export", "export"),
        ("runs/a/export/encoder.safetensors", "export", "encoder"),
        ("efficientnet-b4.micronet", "registry", "micronet"),
        ("efficientnet-b4.micronet@2", "registry", "micronet"),
    ],
)
def test_an_init_is_random_imagenet_an_export_or_a_name(init: str, kind: str, label: str) -> None:
    found = resolve_init(init)
    assert (found.kind, found.label) == (kind, label)
    assert (found.location is None) == (kind in ("random", "imagenet"))


def test_a_misspelt_init_names_the_nearest() -> None:
    with pytest.raises(UserError, match="'imagnet'; nearest is 'imagenet'"):
        resolve_init("imagnet")


@pytest.fixture
def no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> str:
    """No hub answers here; its client's cache is `tmp_path`, its log goes to `caplog`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        hub = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for variable in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    caplog.set_level(logging.WARNING, "huggingface_hub")
    return hub


def test_an_unreachable_hub_is_an_error_without_retries(
    no_hub: str, caplog: pytest.LogCaptureFixture
) -> None:
    for arch in ("resnet18", "tu-convnext_atto"):
        with pytest.raises(
            UserError, match=f"{no_hub} cannot be reached .Connection refused.*not in"
        ):
            build_encoder(arch, "imagenet")
    assert "Retrying" not in caplog.text
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("offline", [False, True])
def test_without_network_weights_come_from_the_cache(
    offline: bool,
    no_hub: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cached = timm.create_model("convnext_atto").state_dict()
    repository = tmp_path / "models--timm--convnext_atto.d2_in1k"
    commit = "a" * 40
    (repository / "snapshots" / commit).mkdir(parents=True)
    save_file(cached, repository / "snapshots" / commit / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    loaded = build_encoder("tu-convnext_atto", "imagenet").state_dict()
    assert torch.equal(loaded["model.stem_0.weight"], cached["stem.0.weight"])
    assert "Retrying" not in caplog.text
    assert constants.HF_HUB_OFFLINE is offline


def test_a_proxy_that_only_the_client_knows_is_left_to_it(
    no_hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", "socks5h://127.0.0.1:1080")
    with hub_or_cache() as obstacle:
        assert obstacle == "" and not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("status", [200, 401, 503])
def test_a_hub_that_answers_is_left_to_its_client(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        hub = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)
        with hub_or_cache() as obstacle:
            assert obstacle == "" and not constants.HF_HUB_OFFLINE
        server.shutdown()


def test_unavailable_imagenet_weights_name_their_tag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for arch, tag in (("dpn68b", "imagenet+5k"), ("tu-convnext_atto", "d2_in1k")):
        with pytest.raises(UserError, match=re.escape(f"weights {tag!r} of {arch}: ")):
            build_encoder(arch, "imagenet")
