"""The folder of a run: locked, free until it has begun, and a status for every end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import torch

from micrograph.cli import EXIT_INTERRUPTED, UserError
from micrograph.setting_marks import Mark
from pretrain.runs.resume_check import check_same_data, check_same_settings
from pretrain.runs.run import Run
from pretrain.runs.run_folder import read_data, read_results
from pretrain.runs.status import RunState, Status, read_status


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Of a toy trainer."""

    data: Annotated[Path, "folder", Mark.LOCATION] = Path("data")
    steps: Annotated[int, "at most", Mark.LENGTH] = 5
    lr: Annotated[float, "learning rate"] = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """Progress of a toy trainer."""

    step: int = 0
    finished: str = ""

    @property
    def position(self) -> str:
        return f"step {self.step}"


def open_run(folder: Path) -> Run[Steps]:
    def describe(progress: Steps) -> Status:
        return Status(state=RunState.RUNNING, step=progress.step, steps=5)

    return Run(folder, Steps(), describe, checkpoint_minutes=1.0)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_that_fails_before_it_begins_leaves_the_folder_free(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad data"), open_run(tmp_path):
        raise ValueError("bad data")
    assert names(tmp_path) == {".lock"}


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    with open_run(tmp_path), pytest.raises(UserError, match="another process"):
        open_run(tmp_path).__enter__()
    with open_run(tmp_path):
        pass


def test_a_saved_run_is_resumed_and_its_end_drops_the_checkpoints(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.begin(Settings())
        assert run.resume() is None
        run.save(Steps(step=3), {"weights": torch.arange(2)})
        run.metrics.append({"step": 3, "loss": 1.0})
        run.metrics.append({"step": 4, "loss": 0.5})
    with open_run(tmp_path) as run:
        run.begin(Settings())
        found = run.resume()
        assert found is not None and found[0] == Steps(step=3)
        run.metrics.rewind("step", found[0].step)
        assert run.metrics.records == [{"step": 3, "loss": 1.0}]
        run.end(Steps(step=5, finished="all 5 steps done"))
    assert names(tmp_path) == {".lock", "config.yaml", "metrics.jsonl", "status.json"}
    status = read_status(tmp_path)
    assert status is not None
    assert (status.state, status.reason, status.step) == ("finished", "all 5 steps done", 5)


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (SystemExit(EXIT_INTERRUPTED), "interrupted", "asked to stop"),
        (KeyboardInterrupt(), "interrupted", "stopped from the keyboard"),
        (SystemExit(2), "failed", "another process failed"),
        (UserError("disk full"), "failed", "disk full"),
        (KeyError("x"), "failed", "KeyError: 'x'"),
    ],
)
def test_the_status_tells_how_a_run_ended(
    error: BaseException, state: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(type(error)), open_run(tmp_path) as run:
        run.begin(Settings())
        raise error
    status = read_status(tmp_path)
    assert status is not None and (status.state, status.reason) == (state, reason)


def test_only_marked_settings_may_change(tmp_path: Path) -> None:
    check_same_settings(tmp_path, Settings(lr=0.2))  # no run is there
    with open_run(tmp_path) as run:
        run.begin(Settings())
    longer = Settings(data=Path("elsewhere"), steps=9)
    check_same_settings(tmp_path, longer)
    for changed, options in (
        (Settings(lr=0.2), {}),
        (longer, {"finished": True}),
        (longer, {"fixed": ("steps",)}),
    ):
        with pytest.raises(UserError, match=r"holds a run with (lr 0.1, not 0.2|steps 5, not 9)"):
            check_same_settings(tmp_path, changed, **options)  # type: ignore[arg-type]


def test_other_data_are_refused(tmp_path: Path) -> None:
    check_same_data(tmp_path, "a", "a", "data")
    with pytest.raises(UserError, match="other images or labels than data now holds"):
        check_same_data(tmp_path, "a", "b", "data")


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00"])
def test_damaged_results_end_in_one_line(tmp_path: Path, content: str) -> None:
    for name, read in (("results.json", read_results), ("data.json", read_data)):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            read(tmp_path)
