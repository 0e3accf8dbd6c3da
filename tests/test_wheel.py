"""The project as a wheel, outside its checkout: on a login node and where everything is installed.

The login node's environment holds the wheel and what its metadata asks for, no more: no torch.
"""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from checkout import ROOT
from packaging.requirements import Requirement

# Neither the checkout nor the environment that runs the tests may help out.
PLAIN = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def login_node(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and its required distributions."""
    python = new_environment(tmp_path_factory.mktemp("login") / "env", wheel)
    packages = site_packages(python)
    (itself,) = packages.glob("micrograph_pretrain-*.dist-info")
    for found in required(Distribution.at(itself)):
        for file in found.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (packages / top).exists():
                (packages / top).symlink_to(Path(str(found.locate_file(top))).resolve())
    return python


@pytest.fixture(scope="module")
def compute_node(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and everything that the tests' own has."""
    python = new_environment(tmp_path_factory.mktemp("compute") / "env", wheel)
    # What a .pth file adds is searched last, and its own .pth files (the editable install) are not
    # read.
    (site_packages(python) / "all.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    return python


def new_environment(folder: Path, wheel: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*command, *install], check=True)
    return python


def site_packages(python: Path) -> Path:
    (found,) = python.parents[1].glob("lib/python*/site-packages")
    return found


def required(found: Distribution, extras: frozenset[str] = frozenset()) -> Iterator[Distribution]:
    """What a distribution requires, directly or not."""
    for line in found.requires or ():
        need = Requirement(line)
        if need.marker is None or any(
            need.marker.evaluate({"extra": extra}) for extra in (extras or {""})
        ):
            dependency = distribution(need.name)
            yield dependency
            yield from required(dependency, frozenset(need.extras))


def run(python: Path, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(python), *arguments], cwd=folder, env=PLAIN, capture_output=True, text=True
    )


def test_recipes_tables_and_pages_are_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "configs", "micrograph", "shards", "pretrain", "downstream", "launch"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert tracked
    for name in tracked:
        assert (f"micrograph/{name}" if name.startswith("configs/") else name) in inside


def test_a_login_node_without_torch_plans_submits_watches_and_collects(
    login_node: Path, tmp_path: Path
) -> None:
    def output(*arguments: str) -> str:
        result = run(login_node, tmp_path, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert run(login_node, tmp_path, "-c", "import torch").returncode == 1
    assert output("-c", "import launch; print(launch.__file__)").startswith(
        str(site_packages(login_node))
    )
    grid = "configs/launch/micronet-76.yaml"  # the project's: this folder is empty
    assert len(output("-m", "launch.grid", grid).splitlines()) == 76
    (script, *_) = output("-m", "launch.slurm", grid, "--dry-run").splitlines()
    assert "#SBATCH --array=" in (tmp_path / script).read_text()
    assert "76 tasks: 76 waiting" in output("-m", "micrograph", "launch-status", grid)
    assert "results.csv" in output("-m", "launch.collect", grid)
    assert len((tmp_path / "runs/micronet-76/results.csv").read_text().splitlines()) == 77
    (tmp_path / "registry").mkdir()
    output("-m", "pretrain.registry", "list", "--registry", "registry")
    output("-m", "pretrain.registry", "site", "registry")
    assert "</html>" in (tmp_path / "encoders.html").read_text()


def test_a_recipe_that_is_nowhere_is_named_with_the_nearest(
    login_node: Path, tmp_path: Path
) -> None:
    result = run(login_node, tmp_path, "-m", "launch.grid", "configs/launch/micronet-67.yaml")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("nearest is 'configs/launch/micronet-76.yaml'")


def test_a_recipe_of_the_working_folder_comes_first(login_node: Path, tmp_path: Path) -> None:
    own = tmp_path / "configs" / "launch" / "micronet-76.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("program: pretrain.train\naxes: {arch: [resnet18]}\n")
    result = run(login_node, tmp_path, "-m", "launch.grid", "configs/launch/micronet-76.yaml")
    assert len(result.stdout.splitlines()) == 1


EVERY_HELP = """
import contextlib, io, runpy, sys
for name in sys.argv[1:]:
    printed = io.StringIO()
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert end.code in (0, None), (name, end.code)
    assert printed.getvalue().startswith(f"usage: python -m {name}"), (name, printed.getvalue())
print("all", "torch" in sys.modules)
"""


@pytest.mark.slow
def test_every_program_starts_where_all_is_installed(compute_node: Path, tmp_path: Path) -> None:
    programs = []
    for package in ("shards", "pretrain", "downstream", "launch"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if re.search(r'^if __name__ == "__main__":', path.read_text("utf-8"), re.MULTILINE):
                module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
                programs.append(module.removesuffix(".__main__"))
    assert len(programs) > 25
    result = run(compute_node, tmp_path, "-c", EVERY_HELP, *programs)
    assert result.stdout.strip() == "all True", result.stderr


@pytest.mark.slow
def test_a_training_runs_from_the_wheel(compute_node: Path, tmp_path: Path) -> None:
    for command in (
        "shards.synthetic --out drawn --images-per-class 4 --size 48",
        "shards.write --source drawn/corpus --out set",
    ):
        result = run(compute_node, tmp_path, "-m", *command.split())
        assert result.returncode == 0, result.stderr
    recipe = "--config configs/pretrain/demo.yaml --shards set --run-dir run --epochs 1"
    small = "--image-size 32 --batch-size 8 --device cpu --threads 1"
    result = run(compute_node, tmp_path, "-m", "pretrain.train", *recipe.split(), *small.split())
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "best.safetensors").is_file()
