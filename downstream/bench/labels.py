"""The flag by which a study's user names the initialisations of the runs. Imports no torch."""

from collections.abc import Sequence

from shards.cli import ArgumentParser, UserError


def add_label_flag(parser: ArgumentParser) -> None:
    """Let the command line take `--label INIT=NAME …`."""
    parser.add_argument(
        "--label",
        nargs="+",
        default=[],
        metavar="INIT=NAME",
        help="a name for an --init of the runs: runs/real/export=micrographs",
    )


def parse_labels(entries: Sequence[str]) -> dict[str, str]:
    """As given to `--init` -> its name. Raises `UserError` for what is no INIT=NAME."""
    labels = {}
    for entry in entries:
        init, _, name = entry.rpartition("=")
        if not init or not name:
            raise UserError(f"--label takes INIT=NAME, not {entry!r}")
        labels[init] = name
    return labels
