"""Grid files: their tasks, and the errors in them."""

import json
from collections import Counter
from pathlib import Path

import pytest
from checkout import ROOT

from launch.grid import main
from launch.results.results import imagenet_top1, micronet_top1
from launch.tasks.grid import build_grid, load_grid
from launch.tasks.task_list import Grid, freeze
from micrograph.cli import UserError
from micrograph.literature_values import read_published
from micrograph.settings import load_config
from pretrain.cards.archs import ARCHS
from pretrain.config import TrainConfig

MICRONET = ROOT / "configs" / "launch" / "micronet-76.yaml"
BENCHMARK = ROOT / "configs" / "launch" / "benchmark-paper.yaml"


def grid_of(folder: Path, text: str) -> Grid:
    path = folder / "grid.yaml"
    path.write_text(text)
    return build_grid(path)


TWO_BY_TWO = """
program: pretrain.train
axes: {arch: [resnet18, resnet34], init: [random, imagenet]}
"""


def names(grid: Grid) -> list[str]:
    return [task.name for task in grid.tasks]


def test_the_grid_of_76_is_exactly_paper_a() -> None:
    grid = build_grid(MICRONET)
    pairs = [(task.settings["arch"], task.settings["init"]) for task in grid.tasks]
    assert len(pairs) == 76
    # The published table lists what the paper trained, each model with its accuracy.
    assert set(pairs) == set(micronet_top1())
    assert sum(init == "imagenet" for _, init in pairs) == 40
    from_scratch = {arch for arch, init in pairs if init == "random"}
    assert {arch for arch, _ in pairs} - from_scratch == {
        *("efficientnet-b6", "efficientnet-b7", "vgg11", "vgg13")
    }


def test_the_grid_of_the_benchmark_has_the_cells_of_paper_a() -> None:
    tasks = build_grid(BENCHMARK).tasks
    for axis, table in (("decoder", "3"), ("arch", "4")):
        cells = {(task.point["experiment"], task.point[axis]) for task in tasks}
        paper = read_published("paper_a")
        rows = paper[paper.table == table]
        printed = set(zip(rows.experiment, rows.name, strict=True))
        assert cells == {(name.lower().replace("-", ""), row) for name, row in printed}
    # 21 encoders x 3 decoders x 4 inits; 33 x 7 and 33 x 4, less 8 that do not dilate with 2 and 1
    # decoders; 21 x 2.
    counts = Counter(task.point["experiment"] for task in tasks)
    assert counts == {
        **{f"super{number}": 252 for number in (1, 2, 3, 4)},
        **{"ebc1": 924 - 64, "ebc2": 528 - 32, "ebc3": 168},
    }
    for task in tasks:
        init, kind = task.settings["init"], task.point["init"]
        assert init == (kind if "micronet" not in kind else f"{task.settings['arch']}.{kind}")


def test_tasks_are_the_product_of_the_axes_with_the_flags_of_their_program(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path,
        TWO_BY_TWO + "settings: {lr: 1e-3, record_ids: true, micro_batch_size: null}\nroot: out\n",
    )
    expected = ["resnet18.random", "resnet18.imagenet", "resnet34.random", "resnet34.imagenet"]
    assert [(task.index, task.name) for task in grid.tasks] == list(enumerate(expected))
    freeze(grid, tmp_path / "deep" / "tasks.json")
    assert load_grid(tmp_path / "deep" / "tasks.json") == grid
    program, *flags = grid.tasks[1].command
    assert program == "pretrain.train"
    config = load_config(TrainConfig, flags)
    assert (config.arch, config.init, config.lr) == ("resnet18", "imagenet", 1e-3)
    assert config.record_ids and config.micro_batch_size is None
    assert config.run_folder == Path("out/resnet18.imagenet")


def test_exclude_include_and_overrides(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path,
        TWO_BY_TWO
        + """
exclude: [{arch: resnet34, init: imagenet}]
include: [{arch: vgg11, init: random}]
settings: {epochs: 5}
resources: {gpus: 2, memory: 32G}
overrides:
  - match: {arch: [resnet34, resnet18], init: random}
    settings: {batch_size: 64}
    resources: {time: "2:00:00"}
""",
    )
    assert names(grid) == [
        "resnet18.random",
        "resnet18.imagenet",
        "resnet34.random",
        "vgg11.random",
    ]
    assert [task.settings.get("batch_size") for task in grid.tasks] == [64, None, 64, None]
    assert [task.resources.time for task in grid.tasks] == ["2:00:00", None, "2:00:00", None]
    assert all(task.settings["epochs"] == 5 and task.resources.gpus == 2 for task in grid.tasks)


def test_an_axis_may_map_labels_to_settings(tmp_path: Path) -> None:
    grid = grid_of(
        tmp_path,
        """
program: downstream.segment
settings: {data: labels, classes: [matrix=rest, crack=1]}
axes:
  encoder: {random: {arch: resnet18}, micronet: {init: runs/a/export}}
  seed: [0, 1]
task: "{encoder}-{seed}"
""",
    )
    assert names(grid) == ["random-0", "random-1", "micronet-0", "micronet-1"]
    line = " ".join(grid.tasks[3].command)
    assert "--classes matrix=rest crack=1 --init runs/a/export --seed 1" in line
    assert "--arch" not in line
    axes = "axes: {data: [sets/Super 1, sets/EBC-3]}"
    grid = grid_of(tmp_path, f"program: downstream.segment\nsettings: {{init: imagenet}}\n{axes}\n")
    assert names(grid) == ["Super-1", "EBC-3"]  # the last parts


def test_settings_take_precedence_over_the_recipe_of_the_grid_or_of_a_label(
    tmp_path: Path,
) -> None:
    recipes = ROOT / "configs" / "pretrain"
    axes = f"recipe: {{own: , modern: {{config: {recipes}/modern.yaml}}}}, arch: [resnet34]"
    grid = grid_of(
        tmp_path, f"program: pretrain.train\nconfig: {recipes}/demo.yaml\naxes: {{{axes}}}\n"
    )
    assert names(grid) == ["own.resnet34", "modern.resnet34"]
    own, modern = (load_config(TrainConfig, task.command[1:]) for task in grid.tasks)
    assert (own.arch, own.image_size, own.optimizer) == ("resnet34", 96, "sgd")
    assert (modern.arch, modern.optimizer) == ("resnet34", "adamw")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("axis: {}", "unknown key 'axis'; nearest is 'axes'"),
        ("program: pretrain.train", "at least `program` and `axes`"),
        ("program: pretrain.trian\naxes: {arch: [resnet18]}", "nearest is 'pretrain.train'"),
        ("program: pretrain.train\naxes: {arch: [resnet81]}", "task resnet81: unknown arch"),
        ("program: pretrain.train\naxes: {arch: [resnet18], sed: [1]}", "nearest is 'seed'"),
        ("program: pretrain.train\naxes: {arch: [resnet18], epochs: [many]}", "a whole number"),
        ("program: pretrain.train\naxes: {arch: []}", "axis 'arch' is empty"),
        ("program: pretrain.train\naxes: {arch: [vgg11, vgg11]}", "holds 'vgg11' twice"),
        (TWO_BY_TWO + "settings: {run_dir: x}", "remove 'run_dir'"),
        (TWO_BY_TWO + "task: same", "tasks 0 and 1 are both named 'same'"),
        (TWO_BY_TWO + "task: '{arc}'", "does not match the axes arch, init"),
        (TWO_BY_TWO + "task: '../{arch}'", "cannot name a folder"),
        (TWO_BY_TWO + "exclude: [{arch: resnet17}]", "has no 'resnet17'; nearest is 'resnet1"),
        (TWO_BY_TWO + "exclude: [{init: random, arch: resnet34}, {init: random, arch: resnet34}]",
         "matches no task"),
        (TWO_BY_TWO + "include: [{arch: vgg11}]", "lacks init"),
        (TWO_BY_TWO + "include: [{arch: resnet18, init: random}]", "both named 'resnet18.random'"),
        (TWO_BY_TWO + "overrides: [{match: {ach: resnet18}}]", "nearest is 'arch'"),
        (TWO_BY_TWO + "overrides: [{match: {arch: vgg11}}]", "{arch: vgg11} matches no task"),
        (TWO_BY_TWO + "overrides: {match: {arch: resnet18}}", "overrides must be a list"),
        (TWO_BY_TWO + "include: {arch: vgg11, init: random}", "include must be a list"),
        (TWO_BY_TWO.replace("imagenet", "imagnet"), "init 'imagnet'; nearest is 'imagenet'"),
        (TWO_BY_TWO + "after_task: ['echo {fodler}']", "`after_task` knows {arch}, {init}"),
        (TWO_BY_TWO + "after_task: ['echo {name.stem}']", "no attribute 'stem'"),
        (TWO_BY_TWO + "name: my $grid", "'my $grid' cannot name a folder and a job"),
        (TWO_BY_TWO + "resources: {time: 8:00:00}", "YAML reads 8:00:00 as a number"),
        (TWO_BY_TWO + "resources: {gpu: 1}", "unknown setting 'gpu'; nearest is 'gpus'"),
        (TWO_BY_TWO + "resources: {memory: lots}", "must be like 64G"),
        (TWO_BY_TWO + "resources: {time: '3:00'}", "requeued for ever; give it more time"),
        (TWO_BY_TWO + "resources: {time: 0-1}\nslurm: {signal_seconds: 3600}", "for ever"),
        (TWO_BY_TWO + "slurm: {signal_seconds: 0}", "from 1 to 65535, not 0"),
        (TWO_BY_TWO + "slurm: {options: [--time=1:00]}", "use resources: {time: …}"),
        (TWO_BY_TWO + "slurm: {options: [-t10]}", "remove '-t10' from options"),
        (TWO_BY_TWO + "slurm: {setups: x}", "nearest is 'setup'"),
        (TWO_BY_TWO + "config: nowhere.yaml", "no recipe nowhere.yaml"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UserError) as refused:
        grid_of(tmp_path, text)
    assert complaint in str(refused.value)


def test_the_program_prints_a_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(MICRONET), "--index", "75"])
    assert "--arch xception --init imagenet" in capsys.readouterr().out
    main([str(MICRONET), "--json"])
    tasks = json.loads(capsys.readouterr().out)
    assert [task["index"] for task in tasks] == list(range(76))
    with pytest.raises(SystemExit):
        main([str(MICRONET), "--index", "76"])
    assert "tasks 0 to 75, not 76" in capsys.readouterr().err


def test_published_accuracies_are_those_of_their_sources() -> None:
    from torchvision.models import get_model_weights

    # 54 classes of 50 images: a misprint would hardly fall on the grid of 1 / 2,700.
    for key, top1 in micronet_top1().items():
        assert abs(top1 * 2700 - round(top1 * 2700)) < 0.02, key
    assert set(imagenet_top1()) == set(ARCHS)
    assert read_published("imagenet").source.all()
    published = read_published("imagenet")
    for row in published[published.source.str.startswith("torchvision")].itertuples():
        weights = get_model_weights(row.arch).IMAGENET1K_V1
        metrics = weights.meta["_metrics"]["ImageNet-1K"]
        assert metrics["acc@1"] == pytest.approx(100 * row.value), row.arch
