"""Marks on the fields of settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from micrograph.setting_marks import Mark, marked, plain_without


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Of a program."""

    data: Annotated[Path, "folder", Mark.LOCATION] = Path("secret")
    specimen: Annotated[str, "pattern", Mark.PRIVATE] = "(secret)-.*"
    threads: Annotated[int | None, "of torch", Mark.FREE_ON_RESUME] = None
    epochs: Annotated[int, "at most", Mark.LENGTH] = 3
    lr: Annotated[float, "learning rate"] = 0.1
    plain: int = 1


def test_a_location_is_private_and_free_on_resume() -> None:
    assert marked(Settings, Mark.PRIVATE) == {"data", "specimen"}
    assert marked(Settings, Mark.FREE_ON_RESUME) == {"data", "threads"}
    assert marked(Settings, Mark.LENGTH) == {"epochs"}
    assert marked(Settings, Mark.LOCATION) == {"data"}


def test_what_is_published_has_no_private_settings() -> None:
    public = plain_without(Settings(), Mark.PRIVATE)
    assert public == {"threads": None, "epochs": 3, "lr": 0.1, "plain": 1}
