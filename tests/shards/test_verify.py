"""python -m shards.verify: what it prints, and its exit codes."""

from pathlib import Path

import pytest
from damage import (
    TAR,
    flip,
    members,
)

from micrograph.remote_files import filesystem
from shards.verify import main


@pytest.mark.parametrize("name", ["fast_set", "exact_set"])
def test_good_set_is_silent_on_stdout(
    request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    main([str(request.getfixturevalue(name))])  # no SystemExit: code 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "complete, 29 images, 3 classes" in captured.err


def test_faulty_set_exits_with_1_and_prints_the_faults(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = members(folder / TAR, "jpg")[2]
    flip(folder / TAR, image.offset + image.size // 2)
    with pytest.raises(SystemExit) as stopped:
        main([str(folder)])
    assert stopped.value.code == 1
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{TAR}: SHA-256 differs from the manifest")
    assert second.startswith(f"{TAR}: sample {image.key}: image bytes differ")


def test_missing_manifest_exits_with_2_and_names_the_writer(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "manifest.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        main([str(folder)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "manifest.json is missing" in error
    assert "python -m shards.write" in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--decode=2", "decode must be between 0 and 1, not 2.0"),
        ("--decode=-0.1", "decode must be between 0 and 1, not -0.1"),
        ("--decode=half", "must be a number, not 'half'"),
        ("--workers=0", "workers must be at least 1, not 0"),
    ],
)
def test_setting_out_of_range_is_refused(
    folder: Path, given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(folder), given])
    assert message in capsys.readouterr().err


def test_set_at_a_url_is_checked_tar_by_tar(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fs, _ = filesystem("memory://bucket")
    fs.put(f"{folder}/", "/bucket/set/", recursive=True)
    main(["memory://bucket/set"])
    assert "memory://bucket/set: complete, 29 images" in capsys.readouterr().err
    fs.rm(f"/bucket/set/{TAR}")
    with pytest.raises(SystemExit):
        main(["memory://bucket/set"])
    assert capsys.readouterr().out.startswith(f"{TAR}: cannot be read: memory://bucket")
