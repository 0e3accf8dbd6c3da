"""Settings: where a value comes from, which values are refused, and what the refusal says."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from shards.cli import UserError
from shards.settings import (
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

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {self.epochs}")


WriteRecipe = Callable[[str], Path]


@pytest.fixture
def recipe(tmp_path: Path) -> WriteRecipe:
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def _from_flags(*flags: str) -> Settings:
    return load_config(Settings, ["--out", "x", *flags])


def _from_recipe(path: Path, *flags: str) -> Settings:
    return load_config(Settings, ["--out", "x", "--config", str(path), *flags])


# Precedence


def test_without_flags_the_defaults_stand() -> None:
    assert load_config(Settings, ["--out", "x"]) == Settings(out=Path("x"))


def test_recipe_wins_over_default(recipe: WriteRecipe) -> None:
    assert _from_recipe(recipe("lr: 0.5")).lr == 0.5


def test_flag_wins_over_recipe(recipe: WriteRecipe) -> None:
    config = _from_recipe(recipe("lr: 0.5\nepochs: 3"), "--lr", "0.7")
    assert (config.lr, config.epochs) == (0.7, 3)


def test_negated_flag_wins_over_recipe(recipe: WriteRecipe) -> None:
    assert _from_recipe(recipe("amp: true"), "--no-amp").amp is False


def test_recipe_file_wins_over_the_recipe_that_a_program_found(recipe: WriteRecipe) -> None:
    argv = ["--out", "x", "--config", str(recipe("lr: 0.5"))]
    config = load_config(Settings, argv, recipe={"lr": 0.3, "epochs": 7})
    assert (config.lr, config.epochs) == (0.5, 7)


def test_empty_recipe_changes_nothing(recipe: WriteRecipe) -> None:
    assert _from_recipe(recipe("# nothing yet\n")) == Settings(out=Path("x"))


def test_recipe_may_give_a_required_setting(recipe: WriteRecipe) -> None:
    path = recipe("out: from_recipe")
    assert load_config(Settings, ["--config", str(path)]).out == Path("from_recipe")


# Names


def test_unknown_key_names_the_nearest(recipe: WriteRecipe) -> None:
    with pytest.raises(UserError, match="unknown setting 'epoch'; nearest is 'epochs'"):
        _from_recipe(recipe("epoch: 3"))


def test_unknown_key_like_no_other_points_to_help(recipe: WriteRecipe) -> None:
    with pytest.raises(UserError, match="unknown setting 'zzzz'; see --help"):
        _from_recipe(recipe("zzzz: 3"))


@pytest.mark.parametrize("flags", [["--imagesize", "3"], ["--imagesize=3"]])
def test_unknown_flag_names_the_nearest(flags: list[str]) -> None:
    with pytest.raises(UserError, match="unknown flag '--imagesize'; nearest is '--image-size'"):
        _from_flags(*flags)


def test_abbreviated_flag_is_unknown() -> None:
    with pytest.raises(UserError, match="unknown flag '--epoch'; nearest is '--epochs'"):
        _from_flags("--epoch", "3")


def test_stray_word_is_refused() -> None:
    with pytest.raises(UserError, match="unexpected argument 'resnet18'"):
        _from_flags("resnet18")


def test_flag_without_its_value_is_refused() -> None:
    with pytest.raises(UserError, match="--lr: expected one argument"):
        _from_flags("--lr")


def test_missing_required_setting_is_named_as_its_flag() -> None:
    with pytest.raises(UserError, match=r"missing --out \(see --help\)"):
        load_config(Settings, [])


def test_nearest_is_none_when_nothing_comes_close() -> None:
    assert nearest("qqqq", ["resnet50", "vgg16"]) is None


# Types


def test_yaml_exponent_without_a_point_is_a_float(recipe: WriteRecipe) -> None:
    assert _from_recipe(recipe("lr: 1e-4")).lr == 0.0001  # YAML 1.1 reads the text '1e-4'


def test_whole_number_is_a_float_too(recipe: WriteRecipe) -> None:
    lr = _from_recipe(recipe("lr: 1")).lr
    assert (lr, type(lr)) == (1.0, float)


@pytest.mark.parametrize(
    ("line", "message"),
    [
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
def test_wrong_type_in_a_recipe_names_key_and_value(
    recipe: WriteRecipe, line: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Settings, ["--config", str(recipe(line))])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "many"], "'epochs' must be a whole number, not 'many'"),
        (["--epochs", "1.5"], "'epochs' must be a whole number, not '1.5'"),
        (["--lr", "high"], "'lr' must be a number, not 'high'"),
        (["--lr", "none"], "'lr' must be a number, not 'none'"),
        (["--arch", "vgg"], "'arch' must be one of resnet50, vgg16, not 'vgg'"),
        (["--groups", "9"], "'groups' must be one of 8, 16, not '9'"),
    ],
)
def test_wrong_type_of_a_flag_names_key_and_value(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _from_flags(*flags)


def test_flags_take_the_types_of_their_fields() -> None:
    flags = "--lr 1e-4 --epochs 3 --amp --arch vgg16 --groups 16 --resume a/b --tags one 2"
    assert _from_flags(*flags.split()) == Settings(
        out=Path("x"),
        lr=0.0001,
        epochs=3,
        amp=True,
        arch="vgg16",
        groups=16,
        resume=Path("a/b"),
        tags=("one", "2"),
    )


def test_choice_of_numbers_stays_a_number(recipe: WriteRecipe) -> None:
    assert type(_from_recipe(recipe("groups: '16'")).groups) is int


def test_negative_number_is_a_value_not_a_flag() -> None:
    assert _from_flags("--lr", "-0.5").lr == -0.5


@pytest.mark.parametrize("line", ["image_size: none", "image_size: null", "image_size:"])
def test_recipe_spells_none(recipe: WriteRecipe, line: str) -> None:
    assert _from_recipe(recipe(line)).image_size is None


def test_flag_spells_none() -> None:
    assert _from_flags("--image-size", "none").image_size is None


def test_list_in_a_recipe_is_a_tuple(recipe: WriteRecipe) -> None:
    assert _from_recipe(recipe("tags: [one, 2]")).tags == ("one", "2")


def test_empty_list_in_a_recipe_empties_a_tuple(recipe: WriteRecipe) -> None:
    assert _from_recipe(recipe("tags: []")).tags == ()


@pytest.mark.parametrize(("text", "value"), [("yes", True), ("OFF", False), ("1", True)])
def test_bool_may_be_given_as_a_word(text: str, value: bool) -> None:
    assert build_config(Settings, {"out": "x", "amp": text}).amp is value


def test_a_value_that_the_settings_refuse_is_a_user_error() -> None:
    with pytest.raises(UserError, match="epochs must be at least 1, not 0"):
        _from_flags("--epochs", "0")


def test_settings_must_be_a_dataclass() -> None:
    with pytest.raises(TypeError, match="int is not a dataclass"):
        load_config(int, [])


# Recipes


def test_missing_recipe_is_named() -> None:
    with pytest.raises(UserError, match=r"no recipe nowhere\.yaml"):
        read_recipe(Path("nowhere.yaml"))


@pytest.mark.parametrize("text", ["- lr\n- epochs\n", "just words", "3", "1: one"])
def test_recipe_must_map_names_to_values(recipe: WriteRecipe, text: str) -> None:
    with pytest.raises(UserError, match="must map setting names to values"):
        read_recipe(recipe(text))


@pytest.mark.parametrize(
    "text", ["lr: [0.1", "lr: 0.1\n\tepochs: 3", "out: !!python/name:os.system"]
)
def test_recipe_that_is_no_yaml_is_refused(recipe: WriteRecipe, text: str) -> None:
    with pytest.raises(UserError, match=r"cannot read recipe .*recipe\.yaml"):
        read_recipe(recipe(text))


def test_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="cannot read recipe"):
        read_recipe(path)


def test_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read recipe"):
        read_recipe(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lr": 1e-05, "epochs": 1, "amp": True, "arch": "vgg16", "groups": 16},
        {"image_size": None, "resume": Path("a folder/#1: é")},
        {"note": "1e-4", "tags": ()},
        {"note": "no", "tags": ("1", "yes", "null", "two words")},
        {"note": "lines\nand: colons # and more", "lr": float("inf")},
    ],
)
def test_dumped_settings_read_back_equal(recipe: WriteRecipe, changes: dict[str, Any]) -> None:
    config = Settings(**({"out": Path("somewhere")} | changes))
    again = load_config(Settings, ["--config", str(recipe(dump_config(config)))])
    assert again == config


def test_dump_holds_every_setting_in_order() -> None:
    lines = dump_config(Settings(out=Path("x"))).splitlines()
    names = [line.split(":")[0] for line in lines if not line.startswith("-")]
    assert names == (
        ["out", "lr", "epochs", "amp", "arch", "groups", "image_size", "resume", "note", "tags"]
    )


# Help


def _help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "200")  # else argparse breaks lines
    with pytest.raises(SystemExit) as stopped:
        load_config(Settings, ["--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        "Train a pretend network.",
        "--lr X               peak learning rate [0.1]",
        "--out PATH           folder for 100% of the results (required)",
        "--arch {resnet50,vgg16}",
        "--image-size N       pixels [none: as stored] [512]",
        "--amp, --no-amp      compute in half precision [False]",
        "words [plain]",
    ],
)
def test_help_shows_texts_and_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    shown = " ".join(_help(monkeypatch, capsys).split())
    assert " ".join(line.split()) in shown


def test_help_shows_only_the_first_line_of_the_docstring(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "readers of the code" not in _help(monkeypatch, capsys)


# Positional arguments and commands


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


COMMANDS: dict[str, type[Show] | type[Count]] = {"show": Show, "count": Count}


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


def test_recipe_may_give_a_positional_setting(recipe: WriteRecipe) -> None:
    config = Show(run_dir=Path("a"), others=(Path("b"),))
    path = str(recipe(dump_config(config)))
    assert load_config(Show, ["--config", path]) == config
    assert load_config(Show, ["z", "--config", path]).run_dir == Path("z")


def test_missing_positional_is_named_as_in_the_usage() -> None:
    with pytest.raises(UserError, match=r"missing RUN_DIR \(see --help\)"):
        load_config(Show, [])


def test_unknown_flag_is_named_before_the_value_that_follows_it() -> None:
    with pytest.raises(UserError, match="unknown flag '--json'; nearest is '--as-json'"):
        load_config(Show, ["x", "--json", "y"])


def test_usage_shows_positional_settings(capsys: pytest.CaptureFixture[str]) -> None:
    for cls, usage in ((Show, "RUN_DIR [OTHERS ...] [options]"), (Count, "[ROOT] [options]")):
        with pytest.raises(SystemExit):
            load_config(cls, ["--help"], prog="micrograph show")
        assert f"usage: micrograph show {usage}\n" in capsys.readouterr().out


def test_command_has_its_own_settings() -> None:
    assert load_command(COMMANDS, ["show", "a"], "") == ("show", Show(run_dir=Path("a")))
    assert load_command(COMMANDS, ["count"], "") == ("count", Count())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], r"no command \(one of show, count\)"),
        (["shaw"], "unknown command 'shaw'; nearest is 'show'"),
        (["count", "--as-json"], "unknown flag '--as-json'"),
    ],
)
def test_wrong_command_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_command(COMMANDS, argv, "")


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_command(COMMANDS, ["--help"], "Look at runs.")
    shown = capsys.readouterr().out
    assert "Look at runs." in shown
    assert "  show         Show some runs.\n  count        Count the runs.\n" in shown
