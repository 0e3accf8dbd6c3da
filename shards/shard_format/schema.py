"""The definition of a shard set: the sample layout, the binary index and the manifest.

A shard set is a folder:

    manifest.json                 classes, counts, normalisation, sources, SHA-256 of all files
    train-00000.tar, …            WebDataset tars: KEY.jpg|png, KEY.cls, KEY.json per sample
    train-00000.idx, …            DALI's index of the same tar (wds2idx v1.2)
    train.npy, val.npy            one row of `INDEX_DTYPE` per sample, in tar order
    samples.csv                   one row of `SAMPLE_COLUMNS` per sample: the split, for reuse
    overlaps.csv                  the near-duplicates, pair by pair: `OVERLAP_COLUMNS`
    rejects.jsonl                 every file that was not written: source, path, reason, detail
    report.html                   all of it as a page (not part of the set's identity)

KEY is `[0-9a-z_]`, under 90 characters: DALI splits keys at the first dot and its index at white
space, and a long name needs tar extensions that it misreads. `.cls` is the class index as ASCII
digits (DALI's reader takes it as UINT8 bytes); `.json` is the provenance: the class, `source` (its
name in the recipe), `path` (the file in it), and what was done to the image.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt

from micrograph.cli import UserError

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
SAMPLES_NAME = "samples.csv"
OVERLAPS_NAME = "overlaps.csv"
REJECTS_NAME = "rejects.jsonl"
REPORT_NAME = "report.html"
SPLITS = ("train", "val")
LEFT_OUT_SPLIT = "left_out"  # in samples.csv: in no tar, since it overlaps images of both splits

SAMPLE_COLUMNS = (
    "key",
    "split",  # of SPLITS, or LEFT_OUT_SPLIT
    "fold",  # where the split was drawn as folds
    "class",
    "source",  # its name, empty for the only source of --source
    "path",  # within the source
    "group",  # key of its group's first image, empty where it is in none
    "specimen",  # as its source names it
    "height",  # pixels, as stored
    "width",
    "channels",
    "data_bar",  # `bottom 896/960`: cut off at row 896 of 960
    "annotations",  # burnt-in marks found
    "notes",  # what else was done, joined by `; `
)
OVERLAP_COLUMNS = (
    "first",  # keys
    "second",
    "x",  # first = scale * rotation(second) + (x, y), in pixels as stored
    "y",
    "scale",
    "rotation",  # radians
    "overlap_fraction",  # of the image of which it is larger
    "matches",  # keypoints that agree
    "score",  # mean correlation
)

# The only home of these digits; everything else takes them from the manifest or a card.
# Paper A normalises every image by ImageNet's statistics ("Training Classification Models").
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

INDEX_DTYPE = np.dtype(
    [
        ("offset", "<u8"),  # byte offset of the encoded image inside its tar
        ("size", "<u4"),  # bytes of the encoded image
        ("shard", "<u4"),  # position in the split's list of shards
        ("label", "<u4"),
        ("height", "<u4"),  # pixels
        ("width", "<u4"),
    ]
)
Index = npt.NDArray[np.void]


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One tar of a split."""

    name: str
    samples: int
    bytes: int
    sha256: str
    idx_sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split: its shards in order and how many samples each class has."""

    samples: int
    class_counts: tuple[int, ...]
    shards: tuple[ShardInfo, ...]
    index_sha256: str


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """One source of the corpus, and its terms of use."""

    name: str
    samples: int
    licence: str | None
    restriction: str | None  # such as an export control; never published openly
    citation: str | None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that a reader of a shard set needs besides the samples."""

    schema_version: int
    tool: str
    classes: tuple[str, ...]
    channels: int  # 1: every image is grey; 3: at least one is truly coloured
    mean: tuple[float, ...]  # the normalisation rule, per channel, for values in [0, 1]
    std: tuple[float, ...]
    pixel_mean: tuple[
        float, ...
    ]  # measured over the training images, at their stored size, in [0, 1]
    pixel_std: tuple[float, ...]
    splits: Mapping[str, SplitInfo]
    rejected: Mapping[str, int]  # reason -> files; rejects.jsonl lists them
    options: Mapping[str, Any]
    corpus_hash: str
    name: str  # of the corpus
    sources: tuple[SourceInfo, ...]
    decisions: Mapping[
        str, int
    ]  # what was done or found -> number of images; samples.csv lists them
    split_report: Mapping[str, Any]  # the rule, and what groups did to it
    files: Mapping[str, str]  # name -> SHA-256 of the tables beside the tars


def index_file(split: str) -> str:
    """File name of a split's binary index."""
    return f"{split}.npy"


def idx_file(shard: str) -> str:
    """File name of the DALI index that belongs to a tar."""
    return Path(shard).with_suffix(".idx").name


def corpus_hash(classes: tuple[str, ...], splits: Mapping[str, SplitInfo]) -> str:
    """SHA-256 over the classes and every shard's SHA-256: equal exactly when the samples are."""
    content = {
        "classes": list(classes),
        "shards": {
            name: [shard.sha256 for shard in split.shards] for name, split in splits.items()
        },
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`; the last file: a set that has it is complete."""
    (folder / MANIFEST_NAME).write_text(manifest_text(manifest), encoding="utf-8")


def manifest_text(manifest: Manifest) -> str:
    """The text of `manifest.json`."""
    return json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder/manifest.json`. Raises `UserError` when it is absent or unfit."""
    path = folder / MANIFEST_NAME
    content = read_versioned(
        path,
        SCHEMA_VERSION,
        absent=f"no shards in {folder} ({MANIFEST_NAME} is missing); "
        f"make them with: python -m shards.write --source DIR --out {folder}",
    )
    try:
        return parse_manifest(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error!r}; write the shards again") from error


def read_versioned(path: Path, version: int, *, absent: str) -> dict[str, Any]:
    """Read a JSON object whose `schema_version` must be `version`.

    Raises `UserError`: `absent` when there is no file, else what is wrong with it.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise UserError(absent) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return parse_versioned(text, str(path), version)


def parse_versioned(text: bytes, where: str, version: int) -> dict[str, Any]:
    """As `read_versioned`, from the text of the file `where`."""
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {where}: {error}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if type(found) is not int or found != version:
        raise UserError(
            f"{where} has schema_version {found!r}, this version reads {version}; "
            "make it again with this version, or use the version that made it"
        )
    return content  # type: ignore[no-any-return]


def parse_manifest(content: Mapping[str, Any]) -> Manifest:
    """Build a manifest from its JSON content, lists becoming tuples."""
    splits = {
        name: SplitInfo(
            **{
                **split,
                "class_counts": tuple(split["class_counts"]),
                "shards": tuple(ShardInfo(**shard) for shard in split["shards"]),
            }
        )
        for name, split in content["splits"].items()
    }
    tuples = {
        key: tuple(content[key]) for key in ("classes", "mean", "std", "pixel_mean", "pixel_std")
    }
    sources = tuple(SourceInfo(**source) for source in content["sources"])
    return Manifest(**{**content, **tuples, "splits": splits, "sources": sources})


def write_index(folder: Path, split: str, index: Index) -> str:
    """Write a split's binary index and return its SHA-256."""
    path = folder / index_file(split)
    path.write_bytes(npy(index))
    return file_sha256(path)


def read_index(folder: Path, split: str) -> Index:
    """Open a split's index, memory-mapped. Raises `UserError` when it is absent or unfit."""
    path = folder / index_file(split)
    try:
        index: Index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, SyntaxError, TokenError, ValueError) as error:
        raise UserError(
            f"cannot read index {path}: {error}; see python -m shards.verify"
        ) from error
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise UserError(f"index {path} has another layout; write the shards again")
    return index


def read_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a `samples.csv` or `overlaps.csv`, a dict of its columns each.

    Raises `UserError` when the file cannot be read or has other columns.
    """
    columns = OVERLAP_COLUMNS if path.name == OVERLAPS_NAME else SAMPLE_COLUMNS
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            rows = csv.DictReader(stream)
            if missing := [name for name in columns if name not in (rows.fieldnames or ())]:
                raise UserError(f"{path} has no column {missing[0]!r}; is it a {SAMPLES_NAME}?")
            yield from rows
    except (OSError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def npy(array: npt.NDArray[Any]) -> bytes:
    """The bytes of a `.npy` file. On a full disk, `np.save` would not report the cause."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A file that was not written, and why. `path` is its path in the source of that name."""

    source: str
    path: str
    reason: str
    detail: str
