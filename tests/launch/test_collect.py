"""What a grid measured, in a table and a figure, beside what was published."""

import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT
from PIL import Image

from launch.collect import main as collect
from launch.tasks.grid import build_grid
from pretrain.runs.status import Status, write_status

GRID = """
program: pretrain.train
root: out
axes: {arch: [vgg11, resnet18, dpn68b], init: [random, imagenet]}
exclude: [{arch: vgg11, init: random}]
"""


@pytest.fixture
def grid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five trainings: two finished, one of them at chance; one running, failed and waiting."""
    monkeypatch.chdir(tmp_path)
    path = Path("grid.yaml")
    path.write_text(GRID)
    values = {
        "vgg11.imagenet": Status(state="finished", best_top1=0.02, best_epoch=1, converged=False),
        "resnet18.random": Status(state="finished", best_top1=0.8125, best_epoch=2, converged=True),
        "resnet18.imagenet": Status(state="running", best_top1=0.5, best_epoch=1, converged=True),
        "dpn68b.random": Status(state="failed", reason="the loss became nan"),
    }
    for task in build_grid(path).tasks:
        if task.name in values:
            task.folder.mkdir(parents=True)
            write_status(task.folder, values[task.name])
    lines = [
        {"epoch": 1, "val_top1": 0.5, "val_top5": 0.9, "epoch_seconds": 1800.0, "lr": 0.1},
        {"epoch": 2, "val_top1": 0.8125, "val_top5": 1.0, "epoch_seconds": 1800.0, "lr": 0.1},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    Path("out/resnet18.random/metrics.jsonl").write_text(text)
    return path


def test_the_tables_hold_ours_and_the_published(grid_file: Path) -> None:
    collect([str(grid_file)])
    with Path("out/results.csv").open(newline="") as stream:
        rows = {row["task"]: row for row in csv.DictReader(stream)}
    done = rows["resnet18.random"]
    assert (done["top1"], done["top5"], done["train_hours"]) == ("0.8125", "1.0", "1.0")
    assert (done["paper_top1"], done["imagenet_top1"]) == ("0.79815", "0.69758")
    assert rows["vgg11.imagenet"]["converged"] == "false"
    assert rows["dpn68b.random"]["reason"] == "the loss became nan"
    assert rows["dpn68b.imagenet"]["top1"] == ""
    table = Path("out/results.md").read_text()
    assert "| arch | ours, random | paper A, random | ours, imagenet | paper A, imagenet" in table
    assert "| vgg11 |  |  | 2.0 % † | 1.4 % | 69.0 % |" in table
    assert "| resnet18 | 81.2 % | 79.8 % | *50.0 %* | 81.2 % | 69.8 % |" in table
    assert "| dpn68b | failed | 69.0 % | waiting | 52.1 % | 77.0 % |" in table


def test_the_figure_needs_matplotlib_and_the_tables_do_not(grid_file: Path) -> None:
    collect([str(grid_file), "--out", "elsewhere"])
    with Image.open("elsewhere/figure2.png") as picture:
        assert min(picture.size) > 800
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 100
    program = (
        "import sys; sys.modules['matplotlib'] = sys.modules['torch'] = None\n"
        f"from launch.collect import main\nmain([{str(grid_file)!r}])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "matplotlib is not installed" in result.stderr
    assert "results.md" in result.stdout and "figure2.png" not in result.stdout


def test_a_login_node_without_torch_is_quick(grid_file: Path) -> None:
    micronet = ROOT / "configs" / "launch" / "micronet-76.yaml"
    before = _seconds_of_children()
    subprocess.run(
        [sys.executable, "-m", "launch.status", str(micronet)], check=True, capture_output=True
    )
    assert _seconds_of_children() - before < 5  # it takes 0.3 s


def _seconds_of_children() -> float:
    """Of the processor: another program's work does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
