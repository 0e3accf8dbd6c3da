"""Waiting for what another process or thread does."""

import subprocess
import time
from collections.abc import Callable


def wait_for(
    condition: Callable[[], object],
    process: "subprocess.Popen[str] | None" = None,
    seconds: float = 120,
) -> None:
    """Fails after `seconds`, or when `process` ends before the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended before its time: {process.communicate()[0]}")
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)
