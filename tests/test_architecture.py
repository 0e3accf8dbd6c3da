"""The architecture, checked: layers, a torch-free login node, one home per constant."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from checkout import ROOT
from pictures import write_noise

PACKAGES = ("micrograph", "shards", "pretrain", "downstream", "launch")
WITHOUT_TORCH = ("micrograph", "shards", "launch")  # beside the modules whose docstring says so
PROMISE = "no torch"
HEAVY = ("torch", "nvidia.dali", "wandb", "accelerate", "segmentation_models_pytorch")


def lint_imports(folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), path


def light_modules() -> list[str]:
    light = []
    for name, path in modules():
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if name.split(".")[0] in WITHOUT_TORCH or PROMISE in " ".join(said.lower().split()):
            light.append(name)
    return light


def test_imports_run_downwards() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("shards/helpers.py", '"""Of no layer."""'),
        ("pretrain/elsewhere/__init__.py", '"""A subpackage of no layer."""'),
        ("shards/shard_format/upwards.py", "import shards.writing.tar_files"),
        ("pretrain/cards/upwards.py", "import downstream.labels.masks"),
        ("micrograph/locks.py", "import shards.shard_format.schema"),
        ("downstream/labels/of_a_program.py", "import downstream.predict"),
    ],
)
def test_a_file_in_the_wrong_place_fails(tmp_path: Path, file: str, content: str) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    with (tmp_path / file).open("a", encoding="utf-8") as stream:
        stream.write(f"\n{content}\n")
    assert lint_imports(tmp_path).returncode == 1


def test_light_modules_need_no_torch() -> None:
    light = light_modules()
    assert len(light) > 120  # the promise is still found
    program = (
        f"import importlib, sys\n"
        f"for name in {light!r}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_shards_are_written_where_torch_is_not_installed(tmp_path: Path) -> None:
    write_noise(tmp_path / "in", ("a", "b"), per_class=3, side=40)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from shards.write import main\n"
        f"main(['--source', {str(tmp_path / 'in')!r}, '--out', {str(tmp_path / 'out')!r}])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (tmp_path / "out" / "manifest.json").exists(), result.stderr


def test_no_module_shadows_another() -> None:
    # `accelerate launch pretrain/train.py` puts pretrain/ first on sys.path.
    taken = set(sys.stdlib_module_names) | set(packages_distributions()) | set(PACKAGES)
    for package in PACKAGES:
        for path in (ROOT / package).iterdir():
            if path.is_dir() or (path.suffix == ".py" and path.stem != "__init__"):
                assert path.stem not in taken - {package}, path


def test_the_normalisation_constants_have_one_home() -> None:
    homes = [name for name, path in modules() if "0.485" in path.read_text(encoding="utf-8")]
    assert homes == ["shards.shard_format.schema"]


def test_package_files_hold_a_docstring_only() -> None:
    for _, path in modules():
        if path.name == "__init__.py":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1 and isinstance(body[0], ast.Expr), path
