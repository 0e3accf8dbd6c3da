"""Make a page that shows a corpus at a glance: its contents, what was changed, what to check.

python -m shards.report DIR                    makes DIR/report.html again
python -m shards.report DIR --source PATH      with the files that were cropped or rejected
python -m shards.report DIR --corpus RECIPE    the same for a corpus of several sources
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from micrograph.cli import program
from micrograph.settings import Positional, load_config
from shards.report.build import write_report
from shards.shard_format.schema import REPORT_NAME, read_manifest
from shards.sources.listing import list_sources
from shards.sources.recipe import plain_source, read_corpus


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Make report.html of a shard set again."""

    folder: Annotated[Path, Positional, "folder that shards.write made"]
    source: Annotated[str | None, "what the set was made from"] = None
    corpus: Annotated[Path | None, "the recipe it was made from"] = None

    def __post_init__(self) -> None:
        if self.source is not None and self.corpus is not None:
            raise ValueError("give either --source or --corpus (see --help)")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(ReportConfig, argv)
    manifest = read_manifest(config.folder)
    listing = None
    if config.source is not None:
        listing = list_sources([plain_source(config.source)])
    elif config.corpus is not None:
        listing = list_sources(read_corpus(config.corpus).sources)
    write_report(config.folder, manifest, listing)
    print(config.folder / REPORT_NAME)


if __name__ == "__main__":
    main()
