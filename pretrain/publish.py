"""Publish an encoder or a segmenter to a registry, as a version that never changes.

python -m pretrain.publish RUN_DIR --tag TAG --registry URL

URL: a folder, s3://bucket/path, another URL that fsspec knows, or hf://ORGANISATION. Any number of
jobs may publish at once. A pre-training's best epoch is exported first; an export, or the folder of
a finished segmenter, is copied. Equal content is published once: the answer is its version.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from micrograph.cli import program, warn
from micrograph.settings import Positional, load_config
from pretrain.export.publishing import NotConverged, publish
from pretrain.registry.storage.pull import REGISTRY_VARIABLE, registry_url


@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """Publish an encoder or a segmenter to a registry, as a new version."""

    run_dir: Annotated[Path, Positional, "folder of a finished run, or of an export"]
    tag: Annotated[str, "of a-z, 0-9, _, -: the name is ARCH.TAG, for a segmenter DECODER-ARCH.TAG"]
    registry: Annotated[
        str | None,
        f"a folder, s3://… or another URL, or hf://ORGANISATION [${REGISTRY_VARIABLE}]",
    ] = None
    not_converged: Annotated[
        bool, "publish even a training that failed; its card and every list say so"
    ] = False
    only_converged: Annotated[
        bool, "skip a training that failed without an error, as after each run of a grid"
    ] = False
    public: Annotated[bool, "on the hub: visible to everybody"] = False
    licence: Annotated[
        str | None, "of a segmenter's training images, as CC-BY-4.0; --public needs it"
    ] = None

    def __post_init__(self) -> None:
        if self.only_converged and self.not_converged:
            raise ValueError("--only-converged and --not-converged exclude each other")


@program
def main(argv: Sequence[str] | None = None) -> None:
    config = load_config(PublishConfig, argv)
    try:
        name = publish(
            config.run_dir,
            config.tag,
            registry_url(config.registry),
            not_converged=config.not_converged,
            public=config.public,
            licence=config.licence,
        )
    except NotConverged as reason:
        if not config.only_converged:
            raise
        warn(f"{reason}; left out")
        return
    print(name)


if __name__ == "__main__":
    main()
