"""The folder where copies of remote files are kept: one cache for shards and encoders.

Imports no torch.
"""

import os
from pathlib import Path


def default_cache() -> Path:
    """The cache's folder, unless a program's `--cache-dir` says otherwise."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "micrograph-pretrain"
