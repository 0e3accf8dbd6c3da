"""One process at a time in a folder, and none where a killed one was."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_for

from micrograph.cli import UserError
from micrograph.locks import lock_folder

HOLD = """
import sys, time
from pathlib import Path
from micrograph.locks import lock_folder
with lock_folder(Path(sys.argv[1]), sys.argv[2] or None):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("name", [".lock", ""])
def test_a_lock_ends_with_its_process(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "deep" / "run"
    command = [sys.executable, "-c", HOLD, str(folder), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"another process is at work in .*run; wait for it"):
            lock_folder(folder, name or None)
        process.send_signal(signal.SIGKILL)
    with lock_folder(folder, name or None):
        pass


def test_a_lock_may_be_waited_for(tmp_path: Path) -> None:
    held = lock_folder(tmp_path)
    program = "import sys; from pathlib import Path; from micrograph.locks import lock_folder\n"
    program += "lock_folder(Path(sys.argv[1]), wait=True); print('mine')"
    seen = tmp_path / "seen"
    with seen.open("w") as file:
        command = [sys.executable, "-c", program, str(tmp_path)]
        process = subprocess.Popen(command, stdout=file, stderr=file)
    wait_for(lambda: "waiting for another process" in " ".join(seen.read_text().split()))
    held.close()
    assert process.wait(timeout=60) == 0 and seen.read_text().endswith("mine\n")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file/run: Not a directory"):
        lock_folder(tmp_path / "file" / "run")
