"""One source file becomes a sample: the stored image, its record, fingerprint and provenance."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from shards.duplicates.fingerprint import FINGERPRINT, Fingerprints, compute_fingerprint
from shards.encoding.spool import RECORD, Records, dump_provenance
from shards.images.clean import Cleaned, clean_image
from shards.images.decode import (
    MIN_SIDE,
    Decision,
    Pixels,
    RejectedImage,
    decode_image,
    encode_image,
    shrink,
)
from shards.shard_format.config import WriteConfig
from shards.sources.listing import SourceFile

_FAINT = 64  # grey levels: no image of more comes out of JPEG as one flat grey


def encode_sample(
    file: SourceFile,
    data: bytes,
    source: str,
    classes: Sequence[str],
    offset: int,
    config: WriteConfig,
) -> tuple[Records, Fingerprints, bytes]:
    """Record, fingerprint, and the encoded image followed by its provenance.

    `data` is the file's content, `source` its source's name, `offset` the place of the bytes in the
    spool. Raises `RejectedImage`.
    """
    cleaned = clean_image(data, config)
    pixels = shrink(cleaned.pixels, config.side_cap)
    image = encode_image(pixels, config.profile)
    _check_stored(image, pixels)
    provenance = dump_provenance(
        _provenance(file, data, source, classes[file.label], image, cleaned, pixels)
    )
    record = np.zeros((), RECORD)
    record["key"] = _key(classes[file.label], source, file.name)
    record["label"] = file.label
    record["offset"], record["size"] = offset, len(image)
    record["provenance_size"] = len(provenance)
    record["height"], record["width"] = pixels.shape[:2]
    record["channels"] = 1 if pixels.ndim == 2 else 3
    record["image_sha256"] = hashlib.sha256(image).digest()
    if file.specimen is not None:
        record["specimen"] = _digest(f"{source}\0{file.specimen}")[:16]
    record["decisions"] = _decisions(cleaned)
    record["sums"], record["squares"] = _channel_sums(pixels)
    # Without a search for near-duplicates, nobody reads it.
    fingerprint = np.zeros((), FINGERPRINT)
    if config.near_duplicates:
        fingerprint = compute_fingerprint(pixels)
    return record, fingerprint, image + provenance


def _provenance(
    file: SourceFile,
    data: bytes,
    source: str,
    class_name: str,
    image: bytes,
    cleaned: Cleaned,
    pixels: Pixels,
) -> dict[str, Any]:
    provenance: dict[str, Any] = {
        "class": class_name,
        "path": file.name,
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "notes": list(cleaned.notes.values()),
    }
    if source:
        provenance["source"] = source
    if file.specimen is not None:
        provenance["specimen"] = file.specimen
    if cleaned.bar is not None:
        provenance["data_bar"] = {**asdict(cleaned.bar), "of": cleaned.height}
    if cleaned.annotations is not None:
        provenance["annotations"] = {
            "marks": cleaned.annotations.marks,
            "share": round(cleaned.annotations.share, 5),
            "of": list(cleaned.pixels.shape[:2]),  # the boxes' pixels, before any scaling
            "boxes": [list(box) for box in cleaned.annotations.boxes],
        }
    if file.scale is not None:
        shrunk = cleaned.pixels.shape[1] / pixels.shape[1]
        provenance["nm_per_pixel"] = float(f"{file.scale * shrunk:.6g}")
    return provenance


def _decisions(cleaned: Cleaned) -> Decision:
    decisions = Decision(0)
    for decision in cleaned.notes:
        decisions |= decision
    if cleaned.bar is not None:
        decisions |= Decision.DATA_BAR_CROPPED
    if cleaned.annotations is not None:
        decisions |= Decision.ANNOTATIONS_FOUND
    if cleaned.pixels.ndim == 3:
        decisions |= Decision.TRULY_COLOURED
    return decisions


def _check_stored(data: bytes, pixels: Pixels) -> None:
    """Scaling narrows an image and JPEG flattens a faint one: what is stored must pass as well."""
    wide = min(pixels.shape[:2]) >= MIN_SIDE
    if wide and int(pixels.max()) - int(pixels.min()) > _FAINT:
        return
    try:
        decode_image(data)
    except RejectedImage as reject:
        raise RejectedImage(reject.reason, f"as stored: {reject.detail}") from reject


def _key(class_name: str, source: str, path: str) -> bytes:
    """A tar-safe name: the class for people, a hash of source and path to make it unique."""
    readable = re.sub(r"[^0-9a-z]+", "_", class_name.lower()).strip("_")[:40] or "class"
    identity = f"{source}\0{path}" if source else path
    return f"{readable}_{_digest(identity).hex()[:20]}".encode("ascii")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _channel_sums(pixels: Pixels) -> tuple[list[int], list[int]]:
    """Sums and sums of squares of each channel, from its histogram; zero for those it has not."""
    counts = np.array(Image.fromarray(pixels).histogram(), np.uint64).reshape(-1, 256)
    levels = np.arange(256, dtype=np.uint64)
    missing = [0] * (3 - len(counts))
    return [*(counts @ levels).tolist(), *missing], [*(counts @ levels**2).tolist(), *missing]
