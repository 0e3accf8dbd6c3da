"""The whole path, small: micrographs to picture."""

from pathlib import Path

import pytest
from checkout import ROOT
from PIL import Image

from downstream.demo.__main__ import main
from downstream.demo.report import ARMS, SEEDS, DemoFolders, mean_test_scores


@pytest.mark.slow
def test_the_demo_ends_with_a_picture_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    out = tmp_path / "demo"
    main(
        ["--out", str(out), "--images-per-class", "6", "--epochs", "1", "--segment-epochs", "1"],
    )
    folders = DemoFolders(out, None)
    with Image.open(folders.report) as picture:
        assert min(picture.size) > 800
    for arm in ARMS:
        mious, micro = mean_test_scores(folders, arm)
        assert len(mious) == len(SEEDS)
        assert 0 <= micro <= 1
    assert "pre-trained" in capfd.readouterr().out


@pytest.mark.parametrize("keep", ["thesis.tex", "corpus/a.png"])
def test_the_demo_deletes_nothing_but_an_earlier_demo(
    keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    kept = tmp_path / "out" / keep
    kept.parent.mkdir(parents=True)
    kept.write_text("years of work")
    corpus = ["--corpus", str(kept.parent)] if "corpus" in keep else []
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), *corpus])
    assert kept.exists()
    assert capsys.readouterr().err.startswith("error: ")


def test_the_demo_says_where_it_must_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main([])
    assert "root folder" in capsys.readouterr().err
