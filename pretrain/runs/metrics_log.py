"""`metrics.jsonl`: the measurements of a run, one JSON object per line. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from micrograph.atomic import write_atomically

METRICS_NAME = "metrics.jsonl"

Record = Mapping[str, Any]  # numbers by name; None where there is no finite one
Confusion = Sequence[Sequence[int]]  # [true class][predicted class]


class MetricsLog:
    """The records of a run, in memory and on disk."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / METRICS_NAME
        self.records = read_metrics(folder)

    def append(self, record: Record) -> None:
        """Add one line; keys stay in their order."""
        self.records.append(dict(record))
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def rewind(self, counter: str, last: float) -> None:
        """Drop the records whose `counter` is beyond `last`: they will be measured again.

        Also drops a last line that a kill has cut short.
        """
        self.records = [record for record in self.records if record[counter] <= last]
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        write_atomically(self._path, lines.encode())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All records of the run in `folder`; a last line that a kill has cut short is left out."""
    path = folder / METRICS_NAME
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records
