"""Files that are cut off, damaged, lying, enormous or no images, and what becomes of them."""

import io
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from image_files import HEIGHT, WIDTH, bmp, image_file, noise, png, tiff, whole_files
from PIL import Image, PngImagePlugin

ACCEPTED = frozenset({"accepted"})
DAMAGED = frozenset({"corrupt", "not_an_image"})
UNSURE = None  # any reason, or accepted: only the decoder can tell


@dataclass(frozen=True)
class Kind:
    """One hostile file, and what may become of it."""

    name: str  # with its suffix
    data: bytes
    expected: frozenset[str] | None


def _cut_off() -> Iterator[Kind]:
    for share in (0.02, 0.3, 0.6, 0.9):
        for name, data in whole_files(f"cut at {share}").items():
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
        for name, data in whole_files(f"flipped {number}").items():
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
    large = noise("large").tobytes()
    yield Kind("enormous.png", png("x", 8, side=(enormous, enormous), rows=b""), _one("too_large"))
    yield Kind("wide.png", png("x", 8, side=(40, 2**31 - 1), rows=b""), _one("too_large"))
    yield Kind("enormous.bmp", bmp("x", width=enormous, height=enormous), _one("too_large"))
    yield Kind("enormous.tif", tiff([large], side=(enormous, enormous)), _one("too_large"))
    yield Kind("enormous.pgm", b"P5\n1000000000 1000000000\n255\n" + large, _one("too_large"))
    yield Kind("large_ascii.pgm", b"P2\n19000 19000\n255\n1 2 3", DAMAGED)
    jpeg = whole_files()["baseline.jpg"]
    frame = jpeg.index(b"\xff\xc0")
    header = bytearray(jpeg)
    header[frame + 5 : frame + 9] = struct.pack(">HH", 65535, 65535)
    yield Kind("enormous.jpg", bytes(header), _one("too_large"))
    header[frame + 5 : frame + 9] = struct.pack(">HH", 9000, 9000)
    yield Kind("large.jpg", bytes(header), UNSURE)  # libjpeg makes up the rest of an ended file
    header[frame + 5 : frame + 9] = struct.pack(">HH", 0, WIDTH)
    yield Kind("no_height.jpg", bytes(header), DAMAGED | _one("too_small"))
    gif = bytearray(whole_files()["still.gif"])
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield Kind("enormous.gif", bytes(gif), _one("too_large"))
    jp2 = bytearray(whole_files()["plain.jp2"])
    size = jp2.index(b"\xff\x51")
    jp2[size + 6 : size + 14] = struct.pack(">II", enormous, enormous)
    yield Kind("enormous.jp2", bytes(jp2), DAMAGED | _one("too_large"))
    yield Kind("header.bmp", bmp("x", header=2**31), DAMAGED)
    yield Kind("header_size.bmp", bmp("x", header=10**6), DAMAGED)
    strip = [noise("strip").tobytes()]
    yield Kind("loop.tif", tiff([noise("loop").tobytes()], next_ifd=8), ACCEPTED)
    yield Kind("next_outside.tif", tiff([noise("next").tobytes()], next_ifd=10**9), UNSURE)
    yield Kind("strip_outside.tif", tiff(strip, offsets=[10**9]), DAMAGED)
    yield Kind("strip_in_header.tif", tiff(strip, offsets=[0]), UNSURE)
    yield Kind("strip_of_nothing.tif", tiff([noise("no").tobytes()], counts=[0]), UNSURE)
    yield Kind("strip_of_all.tif", tiff([noise("all").tobytes()], counts=[2**32 - 1]), UNSURE)
    yield Kind("odd_depth.tif", tiff(strip, bits=(9,)), DAMAGED)
    yield Kind("no_samples.tif", tiff(strip, more=[(277, 3, 0)]), DAMAGED)
    yield Kind("many_samples.tif", tiff(strip, more=[(277, 3, 60000)]), DAMAGED)
    yield Kind("no_tiles.tif", tiff(strip, more=[(322, 3, 0), (323, 3, 0)]), DAMAGED)
    yield Kind(
        "huge_tiles.tif", tiff(strip, more=[(322, 4, enormous), (323, 4, enormous)]), DAMAGED
    )
    for tag, kind in ((5, "lzw"), (8, "deflate"), (7, "jpeg"), (4, "fax"), (50000, "zstd")):
        yield Kind(f"not_{kind}.tif", tiff(strip, more=[(259, 3, tag)]), UNSURE)
    yield Kind("webp_size.webp", b"RIFF" + b"\xff" * 4 + whole_files()["lossy.webp"][8:], UNSURE)
    extended = b"VP8X" + struct.pack("<II", 10, 0) + b"\xff" * 6
    yield Kind("enormous.webp", b"RIFF" + struct.pack("<I", 22) + b"WEBP" + extended, DAMAGED)
    yield Kind("beyond_palette.png", png("beyond", 8, 3, extra=[(b"PLTE", bytes(9))]), UNSURE)
    yield Kind("no_palette.png", png("none", 8, 3), UNSURE)
    yield Kind("odd_filter.png", png("x", 8, rows=(b"\x09" + bytes(WIDTH)) * HEIGHT), DAMAGED)
    yield Kind("odd_depth.png", png("x", 7), DAMAGED)
    yield Kind(
        "two_headers.png", png("x", 8, extra=[(b"IHDR", bytes(13))]), DAMAGED | _one("too_small")
    )
    frames = [(b"acTL", struct.pack(">II", 2**31 - 1, 0))]
    yield Kind("frames.png", png("frames", 8, extra=frames), UNSURE)
    yield Kind("little_endian.bmp", b"BM" + little * 8, DAMAGED)


def _bombs() -> Iterator[Kind]:
    """Small files that unpack into much, beside the pixels or instead of them."""
    zeros = zlib.compress(bytes(200_000_000), 9)
    text = [(b"zTXt", b"Comment\0\0" + zeros)]
    profile = [(b"iCCP", b"profile\0\0" + zeros)]
    international = [(b"iTXt", b"Comment\0\1\0\0\0" + zeros)]
    yield Kind("text_bomb.png", png("zTXt", 8, extra=text), DAMAGED)
    yield Kind("many_texts.png", png("texts", 8, extra=text * 20), DAMAGED)
    yield Kind("international_bomb.png", png("iTXt", 8, extra=international), DAMAGED)
    yield Kind("profile_bomb.png", png("iCCP", 8, extra=profile), DAMAGED)
    rows = b"".join(b"\0" + row.tobytes() for row in noise("surplus"))
    yield Kind("surplus_bomb.png", png("x", 8, rows=rows + bytes(100_000_000)), UNSURE)
    body = zlib.compress(noise("unpacks").tobytes() + bytes(100_000_000), 9)
    yield Kind("deflate_bomb.tif", tiff([body], more=[(259, 3, 8)]), UNSURE)
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
        "icon.png": image_file(noise("icon"), "ICO"),
        "targa.png": image_file(noise("tga"), "TGA"),
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
    image = image_file(noise("other name"), "PNG")
    for name in ("image.txt", "image.png.bak", "image", "image.dm3", "image.py"):
        yield Kind(name, image, _one("not_an_image"))


def _odd_pixels() -> Iterator[Kind]:
    """Whole images that cannot be of use, or that only look as if."""
    yield Kind("black.png", image_file(np.zeros((HEIGHT, WIDTH), np.uint8), "PNG"), _one("blank"))
    yield Kind(
        "white.jpg", image_file(np.full((HEIGHT, WIDTH), 255, np.uint8), "JPEG"), _one("blank")
    )
    yield Kind(
        "grey.tif", image_file(np.full((HEIGHT, WIDTH), 777, np.uint16), "TIFF"), _one("blank")
    )
    yield Kind("mask.png", image_file(noise("mask", top=2), "PNG"), _one("mask"))
    yield Kind(
        "mask.tif", image_file(noise("mask 2", top=2, dtype=np.uint16), "TIFF"), _one("mask")
    )
    yield Kind("bits1.png", png("1 bit", 1), _one("mask"))
    fax = image_file(
        Image.fromarray(noise("fax", top=2) * 255).convert("1"), "TIFF", compression="group4"
    )
    yield Kind("fax.tif", fax, _one("mask"))
    for value in (np.nan, np.inf, -np.inf):
        pixels = noise(str(value), dtype=np.float32)
        pixels[3, 4] = value
        yield Kind(f"{value}.tif", image_file(pixels, "TIFF"), _one("corrupt"))
    tiny = noise("tiny", dtype=np.float32) * np.float32(1e-44)
    yield Kind("denormal.tif", image_file(tiny, "TIFF"), ACCEPTED)
    vast = noise("vast", dtype=np.float32) * np.float32(1e36) - np.float32(3e38) / 2
    yield Kind("vast.tif", image_file(vast.astype(np.float32), "TIFF"), ACCEPTED)
    for shape in ((1, 500), (500, 1), (1, 1), (31, 64), (64, 31)):
        kind = f"{shape[0]}x{shape[1]}.png"
        yield Kind(kind, image_file(noise(kind, *shape), "PNG"), _one("too_small"))
    yield Kind("32x32.png", image_file(noise("least", 32, 32), "PNG"), ACCEPTED)
    yield Kind("32x500.png", image_file(noise("long", 32, 500), "PNG"), ACCEPTED)
    yield Kind("500x32.jpg", image_file(noise("high", 500, 32), "JPEG"), ACCEPTED)
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    yield Kind("much_exif.jpg", image_file(noise("exif"), "JPEG", exif=exif), ACCEPTED)
    yield Kind("much_exif.png", image_file(noise("exif 2"), "PNG", exif=exif), ACCEPTED)
    yield Kind("odd_exif.png", png("exif", 8, extra=[(b"eXIf", b"II*\0" + b"\xff" * 60)]), UNSURE)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 500_000, zip=True)
    yield Kind("much_text.png", image_file(noise("text"), "PNG", pnginfo=info), ACCEPTED)
    for depth, channels, colour in ((16, 3, 2), (16, 2, 4), (16, 4, 6)):
        data = png(f"deep {colour}", depth, colour, channels=channels)
        yield Kind(f"deep{channels}.png", data, _one("deep_colour"))
    wide = noise("deep", HEIGHT, WIDTH, 3, top=65536, dtype="<u2")
    deep = {"bits": (16, 16, 16)}
    yield Kind("deep.tif", tiff([wide.tobytes()], **deep), _one("deep_colour"))
    planes = [wide[..., channel].tobytes() for channel in range(3)]
    yield Kind("deep_planar.tif", tiff(planes, **deep, more=[(284, 3, 2)]), _one("deep_colour"))
    yield Kind(
        "deep.ppm",
        b"P6\n64 48\n4095\n" + (wide % 4096).astype(">u2").tobytes(),
        _one("deep_colour"),
    )
    text = " ".join(map(str, (wide % 4096).ravel().tolist())).encode()
    yield Kind("deep_ascii.ppm", b"P3\n64 48\n4095\n" + text, _one("deep_colour"))
    yield Kind("deep.jp2", _deep_jp2(), _one("deep_colour"))
    trailing = image_file(noise("trailing"), "PNG") + b"<script>" + bytes(1000)
    yield Kind("trailing.png", trailing, ACCEPTED)
    yield Kind("png_named.jpg", image_file(noise("wrong suffix"), "PNG"), ACCEPTED)
    yield Kind("jpeg_named.tif", image_file(noise("wrong suffix 2"), "JPEG"), ACCEPTED)
    yield Kind("gif_named.bmp", image_file(noise("wrong suffix 3"), "GIF"), ACCEPTED)


def _deep_jp2() -> bytes:
    """Pillow writes no deep colour: the depths of three components become 16 bits."""
    data = bytearray(image_file(noise("jp2 rgb", HEIGHT, WIDTH, 3), "JPEG2000"))
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
        yield Kind(name, image_file(noise(repr(name)), "PNG"), ACCEPTED)


def _one(reason: str) -> frozenset[str]:
    return frozenset({reason})


def hostile_kinds() -> Iterator[Kind]:
    for name, data in whole_files().items():
        yield Kind(name, data, ACCEPTED)
    for make in (_cut_off, _flipped, _lying, _bombs, _foreign, _odd_pixels, _odd_names):
        yield from make()
