"""Domain studies are read from YAML; faults are reported."""

from pathlib import Path

import pytest

from downstream.domains.study import read_domain_study
from micrograph.cli import UserError

STUDY = """\
classes: [matrix=rest, precipitate=#0000ff, precipitate=#ff0000]
data: images
source: {data: sem, pixel_size_nm: 20}
targets:
  etched: {pixel_size_nm: 20, train: [etched.png], test: []}
  light: {data: light, pixel_size_nm: 100, invert: true, field_of_view_um: [4, 3]}
"""


def written(folder: Path, text: str = STUDY) -> Path:
    path = folder / "alloy.yaml"
    path.write_text(text)
    return path


def test_a_domain_study_has_its_domains_in_order_and_defaults(tmp_path: Path) -> None:
    study = read_domain_study(written(tmp_path))
    assert study.name == "alloy" and list(study.targets) == ["etched", "light"]
    assert study.class_names == ("matrix", "precipitate") and len(study.mask_classes) == 3
    assert study.source.data == Path("images/sem") and study.source.train == ("train",)
    assert study.source.labelled and not study.target("light").labelled
    assert study.target("etched").data == Path("images") and study.target("etched").test == ()
    assert (study.scale, study.tile_core, study.context_margin, study.folds) == (0.5, 512, 62, 5)
    assert study.working_scale(study.source) == 0.5
    assert study.working_scale(study.target("light")) == 2.5
    assert study.plan(10, 10).side == 636


def test_a_given_folder_overrides_that_of_the_domain_study(tmp_path: Path) -> None:
    study = read_domain_study(written(tmp_path), Path("/elsewhere"))
    assert study.source.data == Path("/elsewhere/sem")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("targets:", "tragets:", "needs `targets`"),
        (STUDY, "", "--data"),
        ("data: images\n", "data: images\nscle: 1\n", "nearest is 'scale'"),
        ("data: images\n", "data: images\nmask_classes: 1\n", "unknown setting 'mask_classes'"),
        ("data: images\n", "", "--data"),
        ("invert: true", "inverted: true", "light of domain study .*nearest is 'invert'"),
        ("invert: true", "invert: 3", "must be true or false"),
        ("pixel_size_nm: 100, ", "", "field_of_view_um needs pixel_size_nm"),
        ("field_of_view_um: [4, 3]", "field_of_view_um: [4]", "a width and a height"),
        ("{pixel_size_nm: 20, train", "{train", "etched has no pixel_size_nm"),
        ("{data: sem, pixel_size_nm: 20}", "{data: sem}", "source has no pixel_size_nm"),
        ("  light:", "  a/b:", "letters, digits"),
        ("  light:", "  source:", "the name of the source"),
        ("pixel_size_nm: 20}", "pixel_size_nm: 20, labelled: false}", "must be labelled"),
        ("precipitate=#0000ff, precipitate=#ff0000", "matrix=#0000ff", "two names"),
        ("=#ff0000", "=red", "invalid class '2=red'"),
        ("data: images\n", "data: images\nfolds: 1\n", "folds must be at least 2"),
    ],
)
def test_faults_are_reported(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_domain_study(written(tmp_path, STUDY.replace(old, new)))


def test_an_unknown_target_is_reported_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="etched, light"):
        read_domain_study(written(tmp_path)).target("ligth")
