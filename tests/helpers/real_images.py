"""Real micrographs and paper A's benchmark, which no clone holds; without them, tests skip."""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[3] / "shared" / "data"  # beside the checkout


def real_corpus() -> Path:
    """A folder per class: $MICROGRAPHS, else what lies beside the checkout."""
    source = Path(os.environ.get("MICROGRAPHS", BESIDE / "corpus"))
    if not source.is_dir():
        pytest.skip("no real micrographs: set MICROGRAPHS to a folder of class folders")
    return source


def published_sets() -> Path:
    """Paper A's seven sets: $BENCHMARK, else the archive beside the checkout, or its folder."""
    given = Path(os.environ.get("BENCHMARK", BESIDE / "benchmark.tar.xz"))
    if not given.exists():
        pytest.skip("no paper A's benchmark: set BENCHMARK to its archive or folder")
    return given
