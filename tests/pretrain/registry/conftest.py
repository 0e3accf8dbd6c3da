"""A registry of one's own, and something to publish in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exports import make_export, make_segmenter


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No default registry, and an empty cache."""
    monkeypatch.delenv("MICROGRAPH_REGISTRY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "regis[t]ry *")  # a pattern must not be taken for one


@pytest.fixture
def bucket(s3_bucket: Callable[[str], Any]) -> str:
    s3_bucket("encoders")
    return "s3://encoders/deep/registry"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return make_export(tmp_path / "export")


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    return make_segmenter(tmp_path / "segmenter")
