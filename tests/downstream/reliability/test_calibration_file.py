"""The files of a calibration: read back, refused for other weights, one line where damaged."""

from pathlib import Path

import numpy as np
import pytest

from downstream.reliability.calibration_file import (
    Calibration,
    read_calibration,
    read_reference,
    write_calibration,
)
from downstream.reliability.out_of_distribution import Reference
from micrograph.cli import UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    calibration = Calibration(
        sha256="a" * 64, temperature=1.5, errors={}, ood_limit=2.0, ood_scores={"x": 1.0}
    )
    reference = Reference(np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    write_calibration(tmp_path, calibration, reference)
    return tmp_path


def test_it_is_read_back_and_refused_for_other_weights(run: Path) -> None:
    calibration = read_calibration(run, "a" * 64)
    assert calibration is not None and calibration.temperature == 1.5
    assert np.array_equal(read_reference(run).precision, np.eye(3))
    with pytest.raises(UserError):
        read_calibration(run, "b" * 64)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("calibration.json", '{"schema_version": 1, "unknown": 2}'),
        ("calibration.json", "{"),
        ("ood_reference.safetensors", "not tensors"),
    ],
)
def test_a_damaged_file_ends_in_one_line(run: Path, file: str, content: str) -> None:
    (run / file).write_text(content)
    with pytest.raises(UserError, match=file):
        read_calibration(run, "a" * 64)
        read_reference(run)
