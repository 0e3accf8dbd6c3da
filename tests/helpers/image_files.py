"""Whole image files of many kinds, made from a seed: for tests that damage or read them."""

import io
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

HEIGHT, WIDTH = 48, 64


def noise(seed: str, *shape: int, top: int = 256, dtype: npt.DTypeLike = np.uint8) -> Any:
    """Noise of a contrast of its own, so that no two kinds are duplicates."""
    generator = np.random.default_rng(zlib.crc32(seed.encode()))
    return generator.integers(0, top, shape or (HEIGHT, WIDTH)).astype(dtype)


def image_file(image: Image.Image | npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
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
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def tiff(
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


def bmp(
    seed: str, *, width: int = WIDTH, height: int = HEIGHT, header: int = 40, rle: bool = False
) -> bytes:
    lines = noise(seed, HEIGHT, WIDTH, top=200)
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


def exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def whole_files(salt: str = "") -> dict[str, bytes]:
    """A good file of every format and variant; its name gives the suffix."""
    two = [Image.fromarray(noise(salt + f"frame {number}")) for number in range(2)]
    coloured = noise(salt + "rgb", HEIGHT, WIDTH, 3)
    wide = noise(salt + "12 bits", top=4096, dtype=">u2")
    tiles = [noise(salt + f"tile {n}", 32, 32).tobytes() for n in range(4)]
    ascii_ = " ".join(map(str, noise(salt + "ascii").ravel().tolist())).encode()
    return {
        "baseline.jpg": image_file(noise(salt + "jpeg"), "JPEG", quality=90),
        "progressive.jpg": image_file(noise(salt + "progressive"), "JPEG", progressive=True),
        "coloured.jpg": image_file(noise(salt + "jpeg rgb", HEIGHT, WIDTH, 3), "JPEG"),
        "restarts.jpg": image_file(noise(salt + "restarts"), "JPEG", restart_marker_blocks=2),
        "cmyk.jpg": image_file(
            Image.fromarray(noise(salt + "cmyk", HEIGHT, WIDTH, 4), "CMYK"), "JPEG"
        ),
        "turned.jpg": image_file(noise(salt + "turned"), "JPEG", exif=exif(6)),
        "bits2.png": png(salt + "2 bits", 2),
        "bits4.png": png(salt + "4 bits", 4),
        "bits8.png": png(salt + "8 bits", 8),
        "bits16.png": png(salt + "16 bits", 16),
        "interlaced.png": png(salt + "adam", 8, interlaced=True),
        "interlaced16.png": png(salt + "adam 16", 16, interlaced=True),
        "rgb.png": image_file(coloured, "PNG"),
        "rgba.png": image_file(noise(salt + "rgba", HEIGHT, WIDTH, 4), "PNG"),
        "grey_alpha.png": image_file(
            Image.fromarray(noise(salt + "la", HEIGHT, WIDTH, 2), "LA"), "PNG"
        ),
        "palette.png": image_file(
            Image.fromarray(noise(salt + "p", HEIGHT, WIDTH, 3)).quantize(256), "PNG"
        ),
        "key.png": image_file(noise(salt + "key"), "PNG", transparency=7),
        "animated.png": image_file(two[0], "PNG", save_all=True, append_images=two[1:]),
        "raw.tif": image_file(noise(salt + "raw"), "TIFF"),
        "lzw.tif": image_file(noise(salt + "lzw"), "TIFF", compression="tiff_lzw"),
        "deflate.tif": image_file(
            noise(salt + "deflate"), "TIFF", compression="tiff_adobe_deflate"
        ),
        "packbits.tif": image_file(noise(salt + "packbits"), "TIFF", compression="packbits"),
        "jpeg.tif": image_file(noise(salt + "jpeg tiff"), "TIFF", compression="jpeg"),
        "tiled.tif": tiff(tiles, more=[(322, 3, 32), (323, 3, 32)], side=(HEIGHT, 64)),
        "pages.tif": image_file(
            Image.fromarray(noise(salt + "pages")), "TIFF", save_all=True, append_images=two
        ),
        "big.tif": image_file(noise(salt + "bigtiff"), "TIFF", big_tiff=True),
        "float.tif": image_file(noise(salt + "float", dtype=np.float32), "TIFF"),
        "int32.tif": image_file(noise(salt + "int32", top=10**6, dtype=np.int32), "TIFF"),
        "int16.tif": tiff(
            [noise(salt + "int16", top=999, dtype="<i2").tobytes()], bits=(16,), more=[(339, 3, 2)]
        ),
        "uint16.tif": image_file(noise(salt + "uint16", top=60000, dtype=np.uint16), "TIFF"),
        "planar.tif": tiff(
            [noise(salt + f"plane {n}").tobytes() for n in range(3)],
            bits=(8, 8, 8),
            more=[(284, 3, 2)],
        ),
        "rows.bmp": bmp(salt + "bmp"),
        "upside_down.bmp": bmp(salt + "negative", height=-HEIGHT),
        "runs.bmp": bmp(salt + "rle", rle=True),
        "still.gif": image_file(noise(salt + "gif"), "GIF"),
        "moving.gif": image_file(
            Image.fromarray(noise(salt + "gif 2")), "GIF", save_all=True, append_images=two
        ),
        "lossy.webp": image_file(noise(salt + "webp", HEIGHT, WIDTH, 3), "WEBP", quality=90),
        "lossless.webp": image_file(
            noise(salt + "webp 2", HEIGHT, WIDTH, 3), "WEBP", lossless=True
        ),
        "moving.webp": image_file(
            Image.fromarray(noise(salt + "webp 3")), "WEBP", save_all=True, append_images=two
        ),
        "plain.jp2": image_file(noise(salt + "jp2"), "JPEG2000"),
        "lossy.jp2": image_file(
            noise(salt + "jp2 lossy"), "JPEG2000", irreversible=True, quality_layers=[5]
        ),
        "bits16.jp2": image_file(noise(salt + "jp2 16", top=60000, dtype=np.uint16), "JPEG2000"),
        "grey.pgm": b"P5\n64 48\n255\n" + noise(salt + "pgm").tobytes(),
        "bits12.pgm": b"P5\n64 48\n4095\n" + wide.tobytes(),
        "ascii.pgm": b"P2\n64 48\n255\n" + ascii_,
        "colour.ppm": b"P6\n64 48\n255\n" + noise(salt + "ppm", HEIGHT, WIDTH, 3).tobytes(),
        "float.pgm": b"Pf\n64 48\n-1.0\n" + noise(salt + "pfm", dtype="<f4").tobytes(),
    }
