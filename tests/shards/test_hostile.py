"""Files that are cut off, damaged, lying, enormous or no images at all: rejected, or used rightly.

Every kind is made here, from a seed. All of them stand beside good images in one corpus.
"""

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, PngImagePlugin

from shards.clean import Cleaned, CleanOptions, clean_image
from shards.images import Pixels, Profile, RejectedImage, encode_image, shrink
from shards.schema import (
    REJECTS_NAME,
    SAMPLES_NAME,
    SPLITS,
    read_index,
    read_manifest,
    read_rows,
)
from shards.verify import find_faults
from shards.write import WriteConfig, write_shards

HEIGHT, WIDTH = 48, 64
GOOD = 4  # images per class that nothing is wrong with
MAX_RESIDENT = 1_000_000  # kB, of any process of a run: no bomb goes off
ACCEPTED = frozenset({"accepted"})
DAMAGED = frozenset({"corrupt", "not_an_image"})
UNSURE = None  # any reason, or accepted: only the decoder can tell


@dataclass(frozen=True)
class Kind:
    """One hostile file, and what may become of it."""

    name: str  # with its suffix
    data: bytes
    expected: frozenset[str] | None


# Pixels and containers


def _noise(seed: str, *shape: int, top: int = 256, dtype: npt.DTypeLike = np.uint8) -> Any:
    """Noise of a contrast of its own, so that no two kinds are duplicates."""
    generator = np.random.default_rng(zlib.crc32(seed.encode()))
    return generator.integers(0, top, shape or (HEIGHT, WIDTH)).astype(dtype)


def _file(image: Image.Image | npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(
    seed: str,
    depth: int,
    colour: int = 0,
    *,
    channels: int = 1,
    side: tuple[int, int] = (HEIGHT, WIDTH),
    interlaced: bool = False,
    extra: Sequence[tuple[bytes, bytes]] = (),
    rows: bytes | None = None,
) -> bytes:
    height, width = side
    generator = random.Random(seed)

    def plane(lines: int, columns: int) -> bytes:
        return b"".join(
            b"\0" + generator.randbytes(-(-columns * channels * depth // 8)) for _ in range(lines)
        )

    if rows is None and interlaced:  # Adam7: (first column, first row, column step, row step)
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
        passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        sizes = [
            (len(range(row, height, down)), len(range(column, width, right)))
            for column, row, right, down in passes
        ]
        rows = b"".join(plane(*size) for size in sizes)
    elif rows is None:
        rows = plane(height, width)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _tiff(
    data: Sequence[bytes],
    *,
    side: tuple[int, int] = (HEIGHT, WIDTH),
    bits: Sequence[int] = (8,),
    next_ifd: int = 0,
    more: Sequence[tuple[int, int, int]] = (),
    **changed: Sequence[int],
) -> bytes:
    """A raw little-endian TIFF of one strip per item of `data`; `more`: (tag, type, value)."""
    height, width = side
    tables: dict[str, Sequence[int]] = {
        "bits": bits,
        "offsets": [512 + sum(map(len, data[:i])) for i in range(len(data))],
        "counts": [len(strip) for strip in data],
    }
    tables |= changed
    tags = [(256, 4, [width]), (257, 4, [height]), (258, 3, tables["bits"]), (259, 3, [1])]
    photometric = 2 if len(bits) == 3 else 1
    tags += [(262, 3, [photometric]), (273, 4, tables["offsets"]), (277, 3, [len(bits)])]
    tags += [(278, 4, [height]), (279, 4, tables["counts"])]
    replaced = {tag for tag, _, _ in more}
    tags = [tag for tag in tags if tag[0] not in replaced]
    tags = sorted([*tags, *((tag, kind, [value]) for tag, kind, value in more)])
    if 322 in replaced:  # tiles, not strips
        renamed = {273: 324, 279: 325}
        tags = sorted((renamed.get(t, t), k, v) for t, k, v in tags if t != 278)
    entries, outside = b"", b""
    for tag, kind, values in tags:
        packed = struct.pack("<" + {3: "H", 4: "I"}[kind] * len(values), *values)
        if len(packed) > 4:
            place = 256 + len(outside)
            outside += packed
            packed = struct.pack("<I", place)
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries
    head += struct.pack("<I", next_ifd)
    assert len(head) <= 256
    return (head.ljust(256, b"\0") + outside).ljust(512, b"\0") + b"".join(data)


def _bmp(
    seed: str, *, width: int = WIDTH, height: int = HEIGHT, header: int = 40, rle: bool = False
) -> bytes:
    lines = _noise(seed, HEIGHT, WIDTH, top=200)
    if rle:  # each row as runs of one pixel, ended by 0 0; 0 1 ends the image
        body = b"".join(b"".join(bytes((1, v)) for v in row) + b"\0\0" for row in lines.tolist())
        body += b"\0\1"
    else:
        body = lines.tobytes()
    palette = b"".join(bytes((v, v, v, 0)) for v in range(256))
    start = 14 + 40 + len(palette)
    info = struct.pack(
        "<IiiHHIIiiII", header, width, height, 1, 8, int(rle), len(body), 0, 0, 256, 0
    )
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _whole_files(salt: str = "") -> dict[str, bytes]:
    """A good file of every format and variant; its name gives the suffix."""
    two = [Image.fromarray(_noise(salt + f"frame {number}")) for number in range(2)]
    coloured = _noise(salt + "rgb", HEIGHT, WIDTH, 3)
    wide = _noise(salt + "12 bits", top=4096, dtype=">u2")
    tiles = [_noise(salt + f"tile {n}", 32, 32).tobytes() for n in range(4)]
    ascii_ = " ".join(map(str, _noise(salt + "ascii").ravel().tolist())).encode()
    return {
        "baseline.jpg": _file(_noise(salt + "jpeg"), "JPEG", quality=90),
        "progressive.jpg": _file(_noise(salt + "progressive"), "JPEG", progressive=True),
        "coloured.jpg": _file(_noise(salt + "jpeg rgb", HEIGHT, WIDTH, 3), "JPEG"),
        "restarts.jpg": _file(_noise(salt + "restarts"), "JPEG", restart_marker_blocks=2),
        "cmyk.jpg": _file(Image.fromarray(_noise(salt + "cmyk", HEIGHT, WIDTH, 4), "CMYK"), "JPEG"),
        "turned.jpg": _file(_noise(salt + "turned"), "JPEG", exif=_exif(6)),
        "bits2.png": _png(salt + "2 bits", 2),
        "bits4.png": _png(salt + "4 bits", 4),
        "bits8.png": _png(salt + "8 bits", 8),
        "bits16.png": _png(salt + "16 bits", 16),
        "interlaced.png": _png(salt + "adam", 8, interlaced=True),
        "interlaced16.png": _png(salt + "adam 16", 16, interlaced=True),
        "rgb.png": _file(coloured, "PNG"),
        "rgba.png": _file(_noise(salt + "rgba", HEIGHT, WIDTH, 4), "PNG"),
        "grey_alpha.png": _file(
            Image.fromarray(_noise(salt + "la", HEIGHT, WIDTH, 2), "LA"), "PNG"
        ),
        "palette.png": _file(
            Image.fromarray(_noise(salt + "p", HEIGHT, WIDTH, 3)).quantize(256), "PNG"
        ),
        "key.png": _file(_noise(salt + "key"), "PNG", transparency=7),
        "animated.png": _file(two[0], "PNG", save_all=True, append_images=two[1:]),
        "raw.tif": _file(_noise(salt + "raw"), "TIFF"),
        "lzw.tif": _file(_noise(salt + "lzw"), "TIFF", compression="tiff_lzw"),
        "deflate.tif": _file(_noise(salt + "deflate"), "TIFF", compression="tiff_adobe_deflate"),
        "packbits.tif": _file(_noise(salt + "packbits"), "TIFF", compression="packbits"),
        "jpeg.tif": _file(_noise(salt + "jpeg tiff"), "TIFF", compression="jpeg"),
        "tiled.tif": _tiff(tiles, more=[(322, 3, 32), (323, 3, 32)], side=(HEIGHT, 64)),
        "pages.tif": _file(
            Image.fromarray(_noise(salt + "pages")), "TIFF", save_all=True, append_images=two
        ),
        "big.tif": _file(_noise(salt + "bigtiff"), "TIFF", big_tiff=True),
        "float.tif": _file(_noise(salt + "float", dtype=np.float32), "TIFF"),
        "int32.tif": _file(_noise(salt + "int32", top=10**6, dtype=np.int32), "TIFF"),
        "int16.tif": _tiff(
            [_noise(salt + "int16", top=999, dtype="<i2").tobytes()], bits=(16,), more=[(339, 3, 2)]
        ),
        "uint16.tif": _file(_noise(salt + "uint16", top=60000, dtype=np.uint16), "TIFF"),
        "planar.tif": _tiff(
            [_noise(salt + f"plane {n}").tobytes() for n in range(3)],
            bits=(8, 8, 8),
            more=[(284, 3, 2)],
        ),
        "rows.bmp": _bmp(salt + "bmp"),
        "upside_down.bmp": _bmp(salt + "negative", height=-HEIGHT),
        "runs.bmp": _bmp(salt + "rle", rle=True),
        "still.gif": _file(_noise(salt + "gif"), "GIF"),
        "moving.gif": _file(
            Image.fromarray(_noise(salt + "gif 2")), "GIF", save_all=True, append_images=two
        ),
        "lossy.webp": _file(_noise(salt + "webp", HEIGHT, WIDTH, 3), "WEBP", quality=90),
        "lossless.webp": _file(_noise(salt + "webp 2", HEIGHT, WIDTH, 3), "WEBP", lossless=True),
        "moving.webp": _file(
            Image.fromarray(_noise(salt + "webp 3")), "WEBP", save_all=True, append_images=two
        ),
        "plain.jp2": _file(_noise(salt + "jp2"), "JPEG2000"),
        "lossy.jp2": _file(
            _noise(salt + "jp2 lossy"), "JPEG2000", irreversible=True, quality_layers=[5]
        ),
        "bits16.jp2": _file(_noise(salt + "jp2 16", top=60000, dtype=np.uint16), "JPEG2000"),
        "grey.pgm": b"P5\n64 48\n255\n" + _noise(salt + "pgm").tobytes(),
        "bits12.pgm": b"P5\n64 48\n4095\n" + wide.tobytes(),
        "ascii.pgm": b"P2\n64 48\n255\n" + ascii_,
        "colour.ppm": b"P6\n64 48\n255\n" + _noise(salt + "ppm", HEIGHT, WIDTH, 3).tobytes(),
        "float.pgm": b"Pf\n64 48\n-1.0\n" + _noise(salt + "pfm", dtype="<f4").tobytes(),
    }


def _cut_off() -> Iterator[Kind]:
    for share in (0.02, 0.3, 0.6, 0.9):
        for name, data in _whole_files(f"cut at {share}").items():
            expected = ACCEPTED if (name, share) in _CUT_UNSEEN else DAMAGED
            yield Kind(f"cut_{share:g}_{name}", data[: int(share * len(data))], expected)


# What lacks there is no pixel of the first page.
_CUT_UNSEEN = frozenset(
    {
        ("animated.png", 0.6),
        ("animated.png", 0.9),
        ("tiled.tif", 0.9),
        ("pages.tif", 0.9),
        ("moving.gif", 0.6),
        ("moving.gif", 0.9),
    }
)


def _flipped() -> Iterator[Kind]:
    """One bit is wrong: among the first bytes, or anywhere."""
    for number, reach in enumerate((24, 64, 512, None, None)):
        for name, data in _whole_files(f"flipped {number}").items():
            generator = random.Random(f"{name} {number}")
            damaged = bytearray(data)
            damaged[generator.randrange(min(len(data), reach or len(data)))] ^= (
                1 << generator.randrange(8)
            )
            yield Kind(f"flipped{number}_{name}", bytes(damaged), UNSURE)


def _lying() -> Iterator[Kind]:
    """Headers that state what is not there."""
    enormous = 10**9
    little = struct.pack("<II", enormous, enormous)
    large = _noise("large").tobytes()
    yield Kind("enormous.png", _png("x", 8, side=(enormous, enormous), rows=b""), _one("too_large"))
    yield Kind("wide.png", _png("x", 8, side=(40, 2**31 - 1), rows=b""), _one("too_large"))
    yield Kind("enormous.bmp", _bmp("x", width=enormous, height=enormous), _one("too_large"))
    yield Kind("enormous.tif", _tiff([large], side=(enormous, enormous)), _one("too_large"))
    yield Kind("enormous.pgm", b"P5\n1000000000 1000000000\n255\n" + large, _one("too_large"))
    yield Kind("large_ascii.pgm", b"P2\n19000 19000\n255\n1 2 3", DAMAGED)
    jpeg = _whole_files()["baseline.jpg"]
    frame = jpeg.index(b"\xff\xc0")
    header = bytearray(jpeg)
    header[frame + 5 : frame + 9] = struct.pack(">HH", 65535, 65535)
    yield Kind("enormous.jpg", bytes(header), _one("too_large"))
    header[frame + 5 : frame + 9] = struct.pack(">HH", 9000, 9000)
    yield Kind("large.jpg", bytes(header), UNSURE)  # libjpeg makes up the rest of an ended file
    header[frame + 5 : frame + 9] = struct.pack(">HH", 0, WIDTH)
    yield Kind("no_height.jpg", bytes(header), DAMAGED | _one("too_small"))
    gif = bytearray(_whole_files()["still.gif"])
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield Kind("enormous.gif", bytes(gif), _one("too_large"))
    jp2 = bytearray(_whole_files()["plain.jp2"])
    size = jp2.index(b"\xff\x51")
    jp2[size + 6 : size + 14] = struct.pack(">II", enormous, enormous)
    yield Kind("enormous.jp2", bytes(jp2), DAMAGED | _one("too_large"))
    yield Kind("header.bmp", _bmp("x", header=2**31), DAMAGED)
    yield Kind("header_size.bmp", _bmp("x", header=10**6), DAMAGED)
    strip = [_noise("strip").tobytes()]
    yield Kind("loop.tif", _tiff([_noise("loop").tobytes()], next_ifd=8), ACCEPTED)
    yield Kind("next_outside.tif", _tiff([_noise("next").tobytes()], next_ifd=10**9), UNSURE)
    yield Kind("strip_outside.tif", _tiff(strip, offsets=[10**9]), DAMAGED)
    yield Kind("strip_in_header.tif", _tiff(strip, offsets=[0]), UNSURE)
    yield Kind("strip_of_nothing.tif", _tiff([_noise("no").tobytes()], counts=[0]), UNSURE)
    yield Kind("strip_of_all.tif", _tiff([_noise("all").tobytes()], counts=[2**32 - 1]), UNSURE)
    yield Kind("odd_depth.tif", _tiff(strip, bits=(9,)), DAMAGED)
    yield Kind("no_samples.tif", _tiff(strip, more=[(277, 3, 0)]), DAMAGED)
    yield Kind("many_samples.tif", _tiff(strip, more=[(277, 3, 60000)]), DAMAGED)
    yield Kind("no_tiles.tif", _tiff(strip, more=[(322, 3, 0), (323, 3, 0)]), DAMAGED)
    yield Kind(
        "huge_tiles.tif", _tiff(strip, more=[(322, 4, enormous), (323, 4, enormous)]), DAMAGED
    )
    for tag, kind in ((5, "lzw"), (8, "deflate"), (7, "jpeg"), (4, "fax"), (50000, "zstd")):
        yield Kind(f"not_{kind}.tif", _tiff(strip, more=[(259, 3, tag)]), UNSURE)
    yield Kind("webp_size.webp", b"RIFF" + b"\xff" * 4 + _whole_files()["lossy.webp"][8:], UNSURE)
    extended = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff" * 6
    yield Kind("enormous.webp", b"RIFF" + struct.pack("<I", 22) + b"WEBP" + extended, DAMAGED)
    yield Kind("beyond_palette.png", _png("beyond", 8, 3, extra=[(b"PLTE", bytes(9))]), UNSURE)
    yield Kind("no_palette.png", _png("none", 8, 3), UNSURE)
    yield Kind("odd_filter.png", _png("x", 8, rows=(b"\x09" + bytes(WIDTH)) * HEIGHT), DAMAGED)
    yield Kind("odd_depth.png", _png("x", 7), DAMAGED)
    yield Kind(
        "two_headers.png", _png("x", 8, extra=[(b"IHDR", bytes(13))]), DAMAGED | _one("too_small")
    )
    frames = [(b"acTL", struct.pack(">II", 2**31 - 1, 0))]
    yield Kind("frames.png", _png("frames", 8, extra=frames), UNSURE)
    yield Kind("little_endian.bmp", b"BM" + little * 8, DAMAGED)


def _bombs() -> Iterator[Kind]:
    """Small files that unpack into much, beside the pixels or instead of them."""
    zeros = zlib.compress(bytes(200_000_000), 9)
    text = [(b"zTXt", b"Comment\0\0" + zeros)]
    profile = [(b"iCCP", b"profile\0\0" + zeros)]
    international = [(b"iTXt", b"Comment\0\1\0\0\0" + zeros)]
    yield Kind("text_bomb.png", _png("zTXt", 8, extra=text), DAMAGED)
    yield Kind("many_texts.png", _png("texts", 8, extra=text * 20), DAMAGED)
    yield Kind("international_bomb.png", _png("iTXt", 8, extra=international), DAMAGED)
    yield Kind("profile_bomb.png", _png("iCCP", 8, extra=profile), DAMAGED)
    rows = b"".join(b"\0" + row.tobytes() for row in _noise("surplus"))
    yield Kind("surplus_bomb.png", _png("x", 8, rows=rows + bytes(100_000_000)), UNSURE)
    body = zlib.compress(_noise("unpacks").tobytes() + bytes(100_000_000), 9)
    yield Kind("deflate_bomb.tif", _tiff([body], more=[(259, 3, 8)]), UNSURE)
    with io.BytesIO() as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("bomb", bytes(50_000_000))
        yield Kind("nested_zip.tif", stream.getvalue(), _one("not_an_image"))


def _foreign() -> Iterator[Kind]:
    """No images, whatever their names say."""
    yield Kind("nothing.png", b"", _one("empty"))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n"
    contents: dict[str, bytes] = {
        "one_byte.png": b"\x89",
        "one_zero.tif": b"\0",
        "text.jpg": b"sample,grain size\nA,12\n",
        "html.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"/>',
        "eps.png": postscript,
        "pdf.png": b"%PDF-1.4\n1 0 obj << /Type /Catalog >> endobj\n%%EOF\n",
        "elf.png": b"\x7fELF\x02\x01\x01" + bytes(200),
        "pickle.png": pickle.dumps({"weights": [1, 2, 3]}),
        "npy.tif": b"\x93NUMPY\x01\x00" + bytes(200),
        "gzip.tif": b"\x1f\x8b\x08" + bytes(50),
        "zeros.png": bytes(5000),
        "ones.jpg": b"\xff" * 5000,
        "random.tif": random.Random(0).randbytes(5000),
        "icon.png": _file(_noise("icon"), "ICO"),
        "targa.png": _file(_noise("tga"), "TGA"),
        "git_lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "signature.jpg": b"\xff\xd8\xff",
        "signature.tif": b"II*\0",
        "signature.gif": b"GIF89a",
        "signature.bmp": b"BM",
        "signature.webp": b"RIFF\0\0\0\0WEBP",
    }
    for name, data in contents.items():
        yield Kind(name, data, _one("not_an_image"))
    image = _file(_noise("other name"), "PNG")
    for name in ("image.txt", "image.png.bak", "image", "image.dm3", "image.py"):
        yield Kind(name, image, _one("not_an_image"))


def _odd_pixels() -> Iterator[Kind]:
    """Whole images that cannot be of use, or that only look as if."""
    yield Kind("black.png", _file(np.zeros((HEIGHT, WIDTH), np.uint8), "PNG"), _one("blank"))
    yield Kind("white.jpg", _file(np.full((HEIGHT, WIDTH), 255, np.uint8), "JPEG"), _one("blank"))
    yield Kind("grey.tif", _file(np.full((HEIGHT, WIDTH), 777, np.uint16), "TIFF"), _one("blank"))
    yield Kind("mask.png", _file(_noise("mask", top=2), "PNG"), _one("mask"))
    yield Kind("mask.tif", _file(_noise("mask 2", top=2, dtype=np.uint16), "TIFF"), _one("mask"))
    yield Kind("bits1.png", _png("1 bit", 1), _one("mask"))
    fax = _file(
        Image.fromarray(_noise("fax", top=2) * 255).convert("1"), "TIFF", compression="group4"
    )
    yield Kind("fax.tif", fax, _one("mask"))
    for value in (np.nan, np.inf, -np.inf):
        pixels = _noise(str(value), dtype=np.float32)
        pixels[3, 4] = value
        yield Kind(f"{value}.tif", _file(pixels, "TIFF"), _one("corrupt"))
    tiny = _noise("tiny", dtype=np.float32) * np.float32(1e-44)
    yield Kind("denormal.tif", _file(tiny, "TIFF"), ACCEPTED)
    vast = _noise("vast", dtype=np.float32) * np.float32(1e36) - np.float32(3e38) / 2
    yield Kind("vast.tif", _file(vast.astype(np.float32), "TIFF"), ACCEPTED)
    for shape in ((1, 500), (500, 1), (1, 1), (31, 64), (64, 31)):
        kind = f"{shape[0]}x{shape[1]}.png"
        yield Kind(kind, _file(_noise(kind, *shape), "PNG"), _one("too_small"))
    yield Kind("32x32.png", _file(_noise("least", 32, 32), "PNG"), ACCEPTED)
    yield Kind("32x500.png", _file(_noise("long", 32, 500), "PNG"), ACCEPTED)
    yield Kind("500x32.jpg", _file(_noise("high", 500, 32), "JPEG"), ACCEPTED)
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    yield Kind("much_exif.jpg", _file(_noise("exif"), "JPEG", exif=exif), ACCEPTED)
    yield Kind("much_exif.png", _file(_noise("exif 2"), "PNG", exif=exif), ACCEPTED)
    yield Kind("odd_exif.png", _png("exif", 8, extra=[(b"eXIf", b"II*\0" + b"\xff" * 60)]), UNSURE)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 500_000, zip=True)
    yield Kind("much_text.png", _file(_noise("text"), "PNG", pnginfo=info), ACCEPTED)
    for depth, channels, colour in ((16, 3, 2), (16, 2, 4), (16, 4, 6)):
        data = _png(f"deep {colour}", depth, colour, channels=channels)
        yield Kind(f"deep{channels}.png", data, _one("deep_colour"))
    wide = _noise("deep", HEIGHT, WIDTH, 3, top=65536, dtype="<u2")
    deep = {"bits": (16, 16, 16)}
    yield Kind("deep.tif", _tiff([wide.tobytes()], **deep), _one("deep_colour"))
    planes = [wide[..., channel].tobytes() for channel in range(3)]
    yield Kind("deep_planar.tif", _tiff(planes, **deep, more=[(284, 3, 2)]), _one("deep_colour"))
    yield Kind(
        "deep.ppm",
        b"P6\n64 48\n4095\n" + (wide % 4096).astype(">u2").tobytes(),
        _one("deep_colour"),
    )
    text = " ".join(map(str, (wide % 4096).ravel().tolist())).encode()
    yield Kind("deep_ascii.ppm", b"P3\n64 48\n4095\n" + text, _one("deep_colour"))
    yield Kind("deep.jp2", _deep_jp2(), _one("deep_colour"))
    trailing = _file(_noise("trailing"), "PNG") + b"<script>" + bytes(1000)
    yield Kind("trailing.png", trailing, ACCEPTED)
    yield Kind("png_named.jpg", _file(_noise("wrong suffix"), "PNG"), ACCEPTED)
    yield Kind("jpeg_named.tif", _file(_noise("wrong suffix 2"), "JPEG"), ACCEPTED)
    yield Kind("gif_named.bmp", _file(_noise("wrong suffix 3"), "GIF"), ACCEPTED)


def _deep_jp2() -> bytes:
    """Pillow writes no deep colour: the depths of three components become 16 bits."""
    data = bytearray(_file(_noise("jp2 rgb", HEIGHT, WIDTH, 3), "JPEG2000"))
    size = data.index(b"\xff\x51")
    for component in range(3):
        data[size + 40 + 3 * component] = 15
    return bytes(data)


def _odd_names() -> Iterator[Kind]:
    names = [
        "gefüge_µm_金属.png",
        "with spaces.png",
        "# (1) [2] {3}.png",
        "dots.in.the.name.png",
        "UPPER.PNG",
        "quote'\".png",
        "comma,semi;colon.png",
        "percent%20%s.png",
        "-rf.png",
        "~$*?.png",
        "new\nline.png",
        "carriage\rreturn.png",
        "tab\t.png",
        "escape\x1b[31m.png",
        "rich [red]markup[bold].png",
        "back\\slash.png",
        "long" * 49 + ".png",
        os.fsdecode(b"latin\xe9\xff.png"),
        "e\u0301 decomposed.png",
        "right\u202eto left.png",
        "12345678901234567890" * 9 + ".png",
        "\u0661\u0662 arabic digits.png",
    ]
    for name in names:
        yield Kind(name, _file(_noise(repr(name)), "PNG"), ACCEPTED)


def _one(reason: str) -> frozenset[str]:
    return frozenset({reason})


def _kinds() -> Iterator[Kind]:
    for name, data in _whole_files().items():
        yield Kind(name, data, ACCEPTED)
    for make in (_cut_off, _flipped, _lying, _bombs, _foreign, _odd_pixels, _odd_names):
        yield from make()


# All of them in one corpus


@dataclass(frozen=True)
class Corpus:
    """The files of a corpus by their source names; those that are not hostile are missing."""

    root: Path
    kinds: dict[str, Kind]


@dataclass(frozen=True)
class Written:
    """A run of `shards.write` that took in the hostile corpus."""

    out: Path
    error: str
    seconds: float
    resident: int  # kB, the most that one of its processes had


CLASSES = ("plain", "odd (name) #2.x", os.fsdecode(b"caf\xe9\n\xc2\xb5"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("hostile")
    placed = {}
    for name in CLASSES:
        (root / name).mkdir()
        for number in range(GOOD):
            (root / name / f"good{number}.png").write_bytes(
                _file(_noise(f"good {name!r} {number}"), "PNG")
            )
    for number, kind in enumerate(_kinds()):
        source = f"{CLASSES[number % len(CLASSES)]}/{kind.name}"
        (root / source).write_bytes(kind.data)
        placed[source] = kind
    return Corpus(root, placed)


# Prints the peak memory, in kB, of the largest process that a command starts.
_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.fixture(scope="module", params=["fast", "exact"])
def written(
    hostile: Corpus, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Written:
    folder = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, "-m", "shards.write", "--source", str(hostile.root)]
    command += ["--out", str(folder / "out"), "--profile", request.param]
    command += ["--workers", "2", "--no-report"]
    start = time.monotonic()
    # From a small process: the peak of a forked one begins with the size of these very tests.
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *command], capture_output=True, check=False
    )
    error = done.stderr.decode(errors="replace")
    assert done.returncode == 0, error
    peak = int(done.stdout.split()[-1])
    return Written(folder / "out", error, time.monotonic() - start, peak)


def test_no_hostile_file_ends_a_run_or_makes_it_large_or_slow(written: Written) -> None:
    assert "Traceback" not in written.error
    assert not [line for line in written.error.splitlines() if "Warning" in line]
    assert written.seconds < 60
    assert written.resident < MAX_RESIDENT


def test_every_hostile_file_is_rejected_with_its_reason_or_accepted(
    hostile: Corpus, written: Written
) -> None:
    became = {row["source"]: "accepted" for row in read_rows(written.out / SAMPLES_NAME)}
    for line in (written.out / REJECTS_NAME).read_text().splitlines():
        said = json.loads(line)
        assert said["source"] not in became
        assert said["detail"]
        became[said["source"]] = said["reason"]
    assert set(hostile.kinds) < set(became)
    assert len(became) == len(hostile.kinds) + GOOD * len(CLASSES)
    wrong = {
        source: became[source]
        for source, kind in hostile.kinds.items()
        if kind.expected is not None and became[source] not in kind.expected
    }
    assert wrong == {}


def test_what_was_accepted_is_a_whole_shard_set(written: Written) -> None:
    assert list(find_faults(written.out, read_manifest(written.out), workers=2)) == []


def test_dali_decodes_all_that_was_accepted(written: Written) -> None:
    dali = pytest.importorskip("nvidia.dali")
    images = list(_stored_images(written.out))
    assert len(images) > 150
    batches = [images[start : start + 16] for start in range(0, len(images), 16)]
    encoded = ([np.frombuffer(data, np.uint8) for data, _, _ in batch] for batch in batches)

    @dali.pipeline_def(batch_size=16, num_threads=2, device_id=None)  # type: ignore[untyped-decorator]
    def decode() -> Any:
        source = dali.fn.external_source(encoded, dtype=dali.types.UINT8)
        return dali.fn.decoders.image(source, device="cpu", output_type=dali.types.RGB)

    pipeline = decode()
    pipeline.build()
    for batch in batches:
        (decoded,) = pipeline.run()
        for number, (data, height, width) in enumerate(batch):
            pixels = np.asarray(decoded[number])
            assert pixels.shape == (height, width, 3)
            assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def _stored_images(folder: Path) -> Iterator[tuple[bytes, int, int]]:
    """Every image as encoded, with the height and width that the index states."""
    manifest = read_manifest(folder)
    for split in SPLITS:
        for row in read_index(folder, split):
            with (folder / manifest.splits[split].shards[row["shard"]].name).open("rb") as stream:
                stream.seek(int(row["offset"]))
                yield stream.read(int(row["size"])), int(row["height"]), int(row["width"])


def test_file_that_needs_too_much_memory_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "in" / "a" / f"{number}.png").write_bytes(_file(_noise(f"{number}"), "PNG"))
    greedy = (tmp_path / "in" / "a" / "1.png").read_bytes()

    def clean(data: bytes, options: CleanOptions) -> Cleaned:
        if data == greedy:
            raise MemoryError
        return clean_image(data, options)

    monkeypatch.setattr("shards.intake.clean_image", clean)
    out = tmp_path / "out"
    write_shards(WriteConfig(source=str(tmp_path / "in"), out=str(out), workers=1, report=False))
    (line,) = (out / REJECTS_NAME).read_text().splitlines()
    assert (json.loads(line)["source"], json.loads(line)["reason"]) == ("a/1.png", "fatal")


# One image after another


def _mutated(data: bytes, generator: random.Random) -> bytes:
    """A few bytes changed, most of them among the first; sometimes a piece cut out or doubled."""
    damaged = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        reach = generator.choice((32, 128, len(damaged), len(damaged)))
        place = generator.randrange(min(reach, len(damaged)))
        damaged[place] = generator.choice((0, 1, 127, 128, 255, generator.randrange(256)))
    start, end = sorted(generator.randrange(len(damaged)) for _ in range(2))
    piece = damaged[start : min(end, start + 64)]
    cut = generator.random()
    if cut < 0.1:
        del damaged[start : start + len(piece)]
    elif cut < 0.2:
        damaged[start:start] = piece
    return bytes(damaged)


@pytest.mark.parametrize("rounds", [10, pytest.param(400, marks=pytest.mark.slow)])
def test_a_damaged_file_is_rejected_or_becomes_an_image(rounds: int) -> None:
    generator = random.Random(rounds)
    whole = list(_whole_files().values())
    accepted = 0
    for number in range(rounds * len(whole)):
        data = _mutated(whole[number % len(whole)], generator)
        options = _OPTIONS[number % len(_OPTIONS)]
        try:
            pixels = clean_image(data, options).pixels
        except RejectedImage as reject:
            assert reject.reason in REASONS
            continue
        accepted += 1
        _check_is_stored_in_its_shape(shrink(pixels, 512))
    assert accepted > rounds


REASONS = {"blank", "corrupt", "deep_colour", "empty", "mask", "not_an_image", "overlay"}
REASONS |= {"too_large", "too_small"}
_OPTIONS = (
    CleanOptions(),
    CleanOptions(masks="keep", grey=True),
    CleanOptions(data_bars="keep", overlays="discard"),
)


def _check_is_stored_in_its_shape(pixels: Pixels) -> None:
    profiles: tuple[Profile, Profile] = ("fast", "exact")
    for profile in profiles:
        stored = Image.open(io.BytesIO(encode_image(pixels, profile)))
        stored.load()
        assert (stored.height, stored.width) == pixels.shape[:2]
        assert stored.mode == ("L" if pixels.ndim == 2 else "RGB")


@pytest.mark.parametrize("content", ["noise", "bar", "marks", "two", "ramp"])
@pytest.mark.parametrize("colour", [False, True])
def test_image_of_any_shape_is_rejected_or_becomes_an_image(content: str, colour: bool) -> None:
    for shape in ((32, 32), (32, 33), (33, 32), (32, 3000), (3000, 32), (40, 700), (129, 130)):
        pixels = _drawn(content, shape)
        if colour:
            pixels = np.dstack([pixels, 255 - pixels, pixels // 2])
        for options in _OPTIONS:
            try:
                cleaned = clean_image(_file(pixels, "PNG"), options).pixels
            except RejectedImage as reject:
                assert reject.reason in REASONS
            else:
                _check_is_stored_in_its_shape(cleaned)


def _drawn(content: str, shape: tuple[int, int]) -> Pixels:
    height, width = shape
    pixels: Pixels = _noise(content, height, width)
    if content == "bar":
        pixels[-(height // 5) :] = 0
        pixels[-(height // 8) :: 2, ::3] = 255
    elif content == "marks":
        pixels[height // 2, width // 8 :] = 255
        pixels[4:9, 4:9] = 0
        pixels //= 2
    elif content == "two":
        pixels = np.uint8(pixels > 127) * np.uint8(255)
    elif content == "ramp":
        pixels = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    return pixels
