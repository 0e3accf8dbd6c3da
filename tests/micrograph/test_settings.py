"""Settings: where a value comes from, which values are refused, and what the error says."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from micrograph.cli import UserError
from micrograph.settings import (
    Positional,
    build_config,
    dump_config,
    load_command,
    load_config,
    nearest,
    read_recipe,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Train a pretend network.

    The rest of the docstring is for readers of the code.
    """

    out: Annotated[Path, "folder for 100% of the results"]
    lr: Annotated[float, "peak learning rate"] = 0.1
    epochs: Annotated[int, "passes over the data"] = 90
    amp: Annotated[bool, "compute in half precision"] = False
    arch: Annotated[Literal["resnet50", "vgg16"], "network"] = "resnet50"
    groups: Literal[8, 16] = 8
    image_size: Annotated[int | None, "pixels [none: as stored]"] = 512
    resume: Path | None = None
    note: str = ""
    tags: Annotated[tuple[str, ...], "words"] = ("plain",)
    modes: Annotated[tuple[Literal["a", "b"], ...], "letters"] = ()

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {self.epochs}")


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show some runs."""

    run_dir: Annotated[Path, Positional, "run folder"]
    others: Annotated[tuple[Path, ...], Positional, "compared with [none]"] = ()
    as_json: Annotated[bool, "for programs"] = False


@dataclass(frozen=True, kw_only=True)
class Count:
    """Count the runs."""

    root: Annotated[Path, Positional, "folder of runs"] = Path("runs")
    config: Annotated[Path | None, "recipe of another program"] = None


COMMANDS: dict[str, type[Show] | type[Count]] = {"show": Show, "count": Count}
DEFAULTS = Settings(out=Path("x"))
WriteRecipe = Callable[[str], Path]


@pytest.fixture
def recipe(tmp_path: Path) -> WriteRecipe:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("text", "flags", "changes"),
    [
        ("# nothing yet\n", "", {}),
        ("out: y", "", {}),  # the flag wins
        ("lr: 0.5", "", {"lr": 0.5}),
        ("lr: 0.5\nepochs: 3", "--lr 0.7", {"lr": 0.7, "epochs": 3}),
        ("amp: true", "--no-amp", {}),
        ("lr: 1e-4", "", {"lr": 0.0001}),  # YAML 1.1 reads the text '1e-4'
        ("lr: 1", "", {"lr": 1.0}),
        ("groups: '16'", "", {"groups": 16}),
        ("tags: [one, 2]", "", {"tags": ("one", "2")}),
        ("tags: []", "", {"tags": ()}),
        ("image_size: none", "", {"image_size": None}),
        ("image_size: null", "", {"image_size": None}),
        ("image_size:", "", {"image_size": None}),
        ("", "--image-size none", {"image_size": None}),
        ("", "--lr -0.5", {"lr": -0.5}),
        ("", "--lr 1e-4 --epochs 3 --amp", {"lr": 0.0001, "epochs": 3, "amp": True}),
        ("", "--arch vgg16 --groups 16", {"arch": "vgg16", "groups": 16}),
        ("", "--resume a/b --tags one 2", {"resume": Path("a/b"), "tags": ("one", "2")}),
        ("", "--modes b a", {"modes": ("b", "a")}),
    ],
)
def test_flag_wins_over_recipe_and_recipe_over_default(
    recipe: WriteRecipe, text: str, flags: str, changes: dict[str, Any]
) -> None:
    argv = ["--out", "x", *flags.split(), "--config", str(recipe(text))]
    config = load_config(Settings, argv)
    assert config == replace(DEFAULTS, **changes)
    assert [type(getattr(config, name)) for name in changes] == list(map(type, changes.values()))


def test_recipe_file_wins_over_the_values_of_the_program(recipe: WriteRecipe) -> None:
    argv = ["--config", str(recipe("out: x\nlr: 0.5"))]
    config = load_config(Settings, argv, recipe={"lr": 0.3, "epochs": 7})
    assert config == replace(DEFAULTS, lr=0.5, epochs=7)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--imagesize 3", "unknown flag '--imagesize'; nearest is '--image-size'"),
        ("--imagesize=3", "unknown flag '--imagesize'; nearest is '--image-size'"),
        ("--epoch 3", "unknown flag '--epoch'; nearest is '--epochs'"),  # no abbreviations
        ("resnet18", "unexpected argument 'resnet18'"),
        ("--lr", "--lr: expected one argument"),
        ("--epochs many", "'epochs' must be a whole number, not 'many'"),
        ("--epochs 1.5", "'epochs' must be a whole number, not '1.5'"),
        ("--epochs 0", "epochs must be at least 1, not 0"),
        ("--lr high", "'lr' must be a number, not 'high'"),
        ("--lr none", "'lr' must be a number, not 'none'"),
        ("--arch vgg", "'arch' must be one of resnet50, vgg16, not 'vgg'"),
        ("--groups 9", "'groups' must be one of 8, 16, not '9'"),
        ("--modes a c", "'modes' must be one of a, b, not 'c'"),
    ],
)
def test_wrong_flag_is_named(flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Settings, ["--out", "x", *flags.split()])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch: 3", "unknown setting 'epoch'; nearest is 'epochs'"),
        ("zzzz: 3", "unknown setting 'zzzz'; see --help"),
        ("lr: 1", r"missing --out \(see --help\)"),
        ("epochs: true", "'epochs' must be a whole number, not True"),
        ("epochs: 2.0", "'epochs' must be a whole number, not 2.0"),
        ("epochs: 1e3", "'epochs' must be a whole number, not '1e3'"),
        ("epochs:", "'epochs' must be a whole number, not None"),
        ("epochs: [3]", r"'epochs' must be a whole number, not \[3\]"),
        ("lr: false", "'lr' must be a number, not False"),
        ("lr: fast", "'lr' must be a number, not 'fast'"),
        ("amp: 1", "'amp' must be true or false, not 1"),
        ("amp: maybe", "'amp' must be true or false, not 'maybe'"),
        ("arch: resnet51", "'arch' must be one of resnet50, vgg16, not 'resnet51'"),
        ("groups: 12", "'groups' must be one of 8, 16, not 12"),
        ("groups: true", "'groups' must be one of 8, 16, not True"),
        ("image_size: big", "'image_size' must be a whole number, not 'big'"),
        ("note: true", "'note' must be text, not True"),
        ("note: {a: 1}", "'note' must be text, not {'a': 1}"),
        ("tags: one", "'tags' must be a list, not 'one'"),
        ("tags: [true]", "'tags' must be text, not True"),
        ("resume: 3", "'resume' must be a path, not 3"),
        ("out: ''", "'out' must be a path, not ''"),
    ],
)
def test_wrong_line_of_a_recipe_is_named(recipe: WriteRecipe, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Settings, ["--config", str(recipe(line))])


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("OFF", False), ("1", True)])
def test_bool_may_be_given_as_a_word(text: str, value: bool) -> None:
    assert build_config(Settings, {"out": "x", "amp": text}).amp is value


def test_settings_must_be_a_dataclass() -> None:
    with pytest.raises(TypeError, match="int is not a dataclass"):
        load_config(int, [])


def test_nearest_is_none_when_nothing_comes_close() -> None:
    assert nearest("qqqq", ["resnet50", "vgg16"]) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- lr\n- epochs\n", "must map setting names to values"),
        (b"just words", "must map setting names to values"),
        (b"1: one", "must map setting names to values"),
        (b"lr: [0.1", r"cannot read recipe .*recipe\.yaml"),
        (b"lr: 0.1\n\tepochs: 3", "cannot read recipe"),
        (b"out: !!python/name:os.system", "cannot read recipe"),
        (b"\xff\xd8\xff\xe0", "cannot read recipe"),
        (None, r"no recipe .*recipe\.yaml"),
    ],
)
def test_file_that_is_no_recipe_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_recipe(path)


def test_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read recipe"):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        DEFAULTS,
        replace(DEFAULTS, lr=1e-05, epochs=1, amp=True, arch="vgg16", groups=16),
        replace(DEFAULTS, image_size=None, resume=Path("a folder/#1: é")),
        replace(DEFAULTS, note="1e-4", tags=()),
        replace(DEFAULTS, note="no", tags=("1", "yes", "null", "two words")),
        replace(DEFAULTS, note="lines\nand: colons # and more", lr=float("inf")),
        Show(run_dir=Path("a"), others=(Path("b"), Path("c"))),
    ],
)
def test_dumped_settings_read_back_equal(recipe: WriteRecipe, config: Any) -> None:
    path = recipe(dump_config(config))
    assert load_config(type(config), ["--config", str(path)]) == config


def test_dump_holds_every_setting_in_order() -> None:
    lines = dump_config(DEFAULTS).splitlines()
    names = [line.split(":")[0] for line in lines if not line.startswith("-")]
    assert names == list(Settings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("flags", "others", "as_json"),
    [
        ("a", (), False),
        ("a b c --as-json", (Path("b"), Path("c")), True),
        ("--as-json a b", (Path("b"),), True),
        ("a --as-json b", (Path("b"),), True),
    ],
)
def test_positional_settings_may_stand_among_flags(
    flags: str, others: tuple[Path, ...], as_json: bool
) -> None:
    wanted = Show(run_dir=Path("a"), others=others, as_json=as_json)
    assert load_config(Show, flags.split()) == wanted


@pytest.mark.parametrize(
    ("flags", "message"),
    [("", r"missing RUN_DIR \(see --help\)"), ("x --json y", "unknown flag '--json'; nearest")],
)
def test_wrong_positional_settings_are_named(flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Show, flags.split())


def test_a_program_may_read_its_recipe_itself() -> None:
    assert load_config(Count, ["--config", "no.yaml"]) == Count(config=Path("no.yaml"))


def test_command_has_its_own_settings() -> None:
    assert load_command(COMMANDS, ["show", "a"], "") == ("show", Show(run_dir=Path("a")))
    assert load_command(COMMANDS, ["count"], "") == ("count", Count())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], r"no command; one of show, count"),
        (["shaw"], "unknown command 'shaw'; nearest is 'show'"),
        (["count", "--as-json"], "unknown flag '--as-json'"),
    ],
)
def test_wrong_command_is_named(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_command(COMMANDS, argv, "")


def _help(show: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        show()
    assert not stopped.value.code
    return capsys.readouterr().out


def test_help_shows_texts_choices_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(_help(lambda: load_config(Settings, ["--help"]), capsys).split())
    for text in (
        "Train a pretend network.",
        "--lr X peak learning rate [0.1]",
        "--out PATH folder for 100% of the results (required)",
        "--arch {resnet50,vgg16}",
        "--image-size N pixels [none: as stored] [512]",
        "--amp, --no-amp compute in half precision [False]",
        "words [plain]",
        "--modes {a,b} [{a,b} ...]",
    ):
        assert text in shown
    assert "readers of the code" not in shown


@pytest.mark.parametrize(
    ("cls", "usage"),
    [(Show, "RUN_DIR [OTHERS ...] [options]"), (Count, "[ROOT] [options]")],
)
def test_usage_shows_positional_settings(
    capsys: pytest.CaptureFixture[str], cls: type[Any], usage: str
) -> None:
    shown = _help(lambda: load_config(cls, ["--help"], prog="micrograph show"), capsys)
    assert shown.startswith(f"usage: micrograph show {usage}\n")


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    shown = _help(lambda: load_command(COMMANDS, ["--help"], "Look at runs."), capsys)
    assert "Look at runs." in shown
    assert "  show         Show some runs.\n  count        Count the runs.\n" in shown
