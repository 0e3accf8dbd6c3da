"""One source file becomes a sample: the stored image, its record, fingerprint and provenance."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from shards.catalog import RECORD, Records, dump_provenance
from shards.clean import Cleaned, CleanOptions, clean_image
from shards.fingerprint import FINGERPRINT, Fingerprints, describe
from shards.images import (
    MIN_SIDE,
    Pixels,
    Profile,
    RejectedImage,
    decode_image,
    encode_image,
    shrink,
)
from shards.sources import SourceFile

_FAINT = 64  # grey levels: no image of more comes out of JPEG as one flat grey


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleOptions:
    """What decides the bytes of a sample."""

    profile: Profile
    max_side: int | None
    fingerprints: bool = True  # else empty ones: nobody will search for near-duplicates
    clean: CleanOptions = CleanOptions()  # noqa: RUF009 (frozen)


def encode_sample(
    file: SourceFile,
    source: bytes,
    offset: int,
    origin: str,
    classes: Sequence[str],
    options: SampleOptions,
) -> tuple[Records, Fingerprints, bytes]:
    """Record, fingerprint, and the encoded image followed by its provenance.

    `source` is the file's content, `origin` the name of where it comes from; `offset` of the spool
    is where the bytes go. Raises `RejectedImage`.
    """
    cleaned = clean_image(source, options.clean)
    pixels = shrink(cleaned.pixels, options.max_side)
    image = encode_image(pixels, options.profile)
    _check_stored(image, pixels)
    said = dump_provenance(
        _provenance(file, source, origin, classes[file.label], image, cleaned, pixels)
    )
    record = np.zeros((), RECORD)
    record["key"] = _key(classes[file.label], origin, file.name)
    record["label"] = file.label
    record["offset"], record["size"], record["said"] = offset, len(image), len(said)
    record["height"], record["width"] = pixels.shape[:2]
    record["channels"] = 1 if pixels.ndim == 2 else 3
    record["stored"] = hashlib.sha256(image).digest()
    if file.group is not None:
        record["specimen"] = _digest(f"{origin}\0{file.group}")[:16]
    record["sums"], record["squares"] = _channel_sums(pixels)
    fingerprint = describe(pixels) if options.fingerprints else np.zeros((), FINGERPRINT)
    return record, fingerprint, image + said


def _provenance(
    file: SourceFile,
    source: bytes,
    origin: str,
    class_name: str,
    image: bytes,
    cleaned: Cleaned,
    pixels: Pixels,
) -> dict[str, Any]:
    said: dict[str, Any] = {
        "class": class_name,
        "source": file.name,
        "source_sha256": hashlib.sha256(source).hexdigest(),
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "notes": list(cleaned.notes),
    }
    if origin:
        said["origin"] = origin
    if file.group is not None:
        said["specimen"] = file.group
    if cleaned.bar is not None:
        said["data_bar"] = {**asdict(cleaned.bar), "of": cleaned.height}
    if cleaned.overlay is not None:
        said["overlay"] = {
            "marks": cleaned.overlay.marks,
            "share": round(cleaned.overlay.share, 5),
            "of": list(cleaned.pixels.shape[:2]),  # the boxes' pixels, before any scaling
            "boxes": [list(box) for box in cleaned.overlay.boxes],
        }
    if file.scale is not None:
        shrunk = cleaned.pixels.shape[1] / pixels.shape[1]
        said["nm_per_pixel"] = float(f"{file.scale * shrunk:.6g}")
    return said


def _check_stored(data: bytes, pixels: Pixels) -> None:
    """Scaling narrows an image and JPEG flattens a faint one: what is stored must pass as well."""
    wide = min(pixels.shape[:2]) >= MIN_SIDE
    if wide and int(pixels.max()) - int(pixels.min()) > _FAINT:
        return
    try:
        decode_image(data)
    except RejectedImage as reject:
        raise RejectedImage(reject.reason, f"as stored: {reject.detail}") from reject


def _key(class_name: str, origin: str, name: str) -> bytes:
    """A tar-safe name: the class for people, a hash of source and path to make it unique."""
    readable = re.sub(r"[^0-9a-z]+", "_", class_name.lower()).strip("_")[:40] or "class"
    identity = f"{origin}\0{name}" if origin else name
    return f"{readable}_{_digest(identity).hex()[:20]}".encode("ascii")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _channel_sums(pixels: Pixels) -> tuple[list[int], list[int]]:
    """Sums and sums of squares of each channel, from its histogram; zero for those it has not."""
    counts = np.array(Image.fromarray(pixels).histogram(), np.uint64).reshape(-1, 256)
    levels = np.arange(256, dtype=np.uint64)
    missing = [0] * (3 - len(counts))
    return [*(counts @ levels).tolist(), *missing], [*(counts @ levels**2).tolist(), *missing]
