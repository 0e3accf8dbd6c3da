"""The architecture, checked: import directions, a torch-free login node, one home per constant."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from pictures import write_noise

ROOT = Path(__file__).parents[1]
PACKAGES = ("shards", "pretrain", "downstream", "launch")
MAY_IMPORT = {
    "shards": set(),
    "pretrain": {"shards"},
    "downstream": {"shards", "pretrain"},
    "launch": {"shards", "pretrain"},
}
# What runs on a login node without torch.
LIGHT = (
    [f"shards.{path.stem}" for path in sorted((ROOT / "shards").glob("[a-z]*.py"))]
    + [
        f"pretrain.{name}"
        for name in (
            "archs",
            "atomic",
            "augment",
            "cache",
            "card",
            "config",
            "inits",
            "opening",
            "runs.interruption",
            "runs.metrics_log",
            "runs.phases",
            "runs.run_folder",
            "training.progress",
            "micronet",
            "order",
            "pace",
            "philox",
            "publish",
            "registry.__main__",
            "registry.hub",
            "registry.page",
            "run_folder",
            "staging",
            "status",
            "store",
            "summary",
            "tracking",
        )
    ]
    + [
        f"launch.{path.stem}"
        for path in sorted((ROOT / "launch").glob("[a-z]*.py"))
        if path.stem != "figure"  # draws with matplotlib; launch.collect does without where need be
    ]
)
LIGHT += ["downstream.measure"] + [
    f"downstream.quantify.{path.stem}"
    for path in sorted((ROOT / "downstream" / "quantify").glob("[a-z]*.py"))
]
LIGHT += [
    f"downstream.apply.{name}" for name in ("config", "inputs", "legend", "raster", "scan", "tiles")
]
LIGHT += ["downstream.check", "downstream.config", "downstream.study"] + [
    f"downstream.seg.{name}"
    for name in (
        "classes",
        "dataset",
        "layout",
        "masks",
        "pictures",
        "proposal",
        "run_folder",
        "specimens",
    )
]
LIGHT += [f"downstream.probe.{name}" for name in ("advice", "folds", "picture", "ranking")]
LIGHT += [
    f"downstream.bench.{name}" for name in ("paired", "published", "runs", "scores", "tables")
]
LIGHT += ["downstream.adapt_study", "downstream.uda.label_shift"] + [
    f"downstream.uda.bench.{name}"
    for name in ("findings", "gains", "published", "rdt", "runs", "sheet", "spread", "tables")
]
LIGHT += ["downstream.bainite"] + [
    f"downstream.uda.{name}"
    for name in (
        "bainite_scene",
        "bainite_shift",
        "bainite_view",
        "domains",
        "encoders",
        "prepare",
        "tile_plan",
    )
]
HEAVY = ("torch", "nvidia.dali", "wandb", "accelerate", "segmentation_models_pytorch")


def imported_packages(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = imported_packages(path) & set(PACKAGES) - {package}
        assert ours <= MAY_IMPORT[package], f"{path.name} imports {ours}"


def test_light_modules_need_no_torch() -> None:
    program = (
        f"import importlib, sys\n"
        f"for name in {LIGHT!r}: importlib.import_module(name)\n"
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
        for path in (ROOT / package).glob("*.py"):
            if path.stem != "__init__":
                assert path.stem not in taken - {package}, path


def test_the_normalisation_constants_have_one_home() -> None:
    homes = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if "0.485" in path.read_text(encoding="utf-8")
    }
    assert homes == {"shards/schema.py"}


def test_package_files_hold_a_docstring_only() -> None:
    for package in PACKAGES:
        body = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), package
