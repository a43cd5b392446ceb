"""A dataset folder as an attacker, a careless colleague or a broken disk makes it, and what each row must become."""

import contextlib
import io
import os
import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.conftest import encode

UNTIDY = "Zo\udceb"  # the byte EB alone: Latin-1, and no UTF-8


@dataclass(frozen=True)
class Case:
    """A row and its result.

    Attributes:
        image: Image as the CSV names it.
        text: Text as the CSV has it.
        reason: Why it is rejected; empty if it is accepted.
        label: Text of the sample, where it is another one.
        pixels: Grey values of the sample; nothing about them is said if None.
        tolerance: Grey levels by which they may differ.
        outside: Reason if `data.allow_outside` is set, where it is another one.
    """

    image: str
    text: str = "Anna"
    reason: str = ""
    label: str | None = None
    pixels: np.ndarray | None = None
    tolerance: int = 0
    outside: str | None = None


def page(width: int = 90, height: int = 24) -> np.ndarray:
    """Smooth, so that JPEG keeps it, and without symmetry; uint8 [height, width]."""
    y, x = np.mgrid[:height, :width]
    return (127 + 100 * np.sin(x / 7 + y / 11) * np.cos(y / 5) + 20 * x / width).clip(0, 255).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG of 8 bits, whatever its header says of the size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + end


def many_scans(scans: int) -> bytes:
    """A progressive JPEG whose second scan is repeated: a few bytes each, a pass over all pixels for the decoder."""
    data = saved(Image.fromarray(page()), "JPEG", progressive=True)
    start = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    end = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
    while data[end] != 0xFF or data[end + 1] == 0:
        end += 1
    return data[:end] + data[start:end] * scans + data[end:]


def images() -> Iterator[tuple[Case, bytes]]:
    """Images of every kind, readable or not."""
    grey = page()
    still = Image.fromarray(grey)
    plain = encode(grey)
    yield Case("MiXeD.PnG", pixels=grey), plain
    yield Case("jpeg_by_name.jpg", pixels=grey), plain
    yield Case("png_by_name.png", pixels=grey, tolerance=8), saved(still, "JPEG", quality=95)
    yield Case("no_extension", pixels=grey), plain
    yield Case("movie.mp4", pixels=grey), plain
    yield Case("page.png", reason="not_an_image"), b"<html><body>404 Not Found</body></html>"
    yield Case("deep.png", pixels=grey), encode(grey.astype(np.uint16) * 256 + 200)
    yield Case("cmyk.jpg", pixels=grey, tolerance=8), saved(still.convert("CMYK"), "JPEG", quality=95)
    exif = Image.Exif()
    exif[274] = 6  # to be shown a quarter turned to the right
    turned = still.transpose(Image.Transpose.ROTATE_90)
    yield Case("turned.jpg", pixels=grey, tolerance=8), saved(turned, "JPEG", quality=95, exif=exif)
    yield Case("turned.png", pixels=grey), saved(turned, "PNG", exif=exif)
    ink = np.zeros((*grey.shape, 4), np.uint8)
    ink[..., 3] = 255 - grey
    yield Case("transparent.png", pixels=grey), encode(ink)
    palette = chunk(b"PLTE", bytes([0, 0, 0, 200, 200, 200])) + chunk(b"tRNS", b"\0")
    rows = b"".join(b"\0" + bytes([0, 1] * 8) for _ in range(8))
    clear = np.tile(np.array([255, 200], np.uint8), (8, 8))
    yield Case("palette.png", "a", pixels=clear), png(16, 8, 3, rows, palette)
    yield Case("one_pixel.png", "a", pixels=np.full((1, 1), 200, np.uint8)), encode(np.full((1, 1), 200, np.uint8))
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        moving = saved(still, kind, save_all=True, append_images=[Image.fromarray(255 - grey)])
        reason = "not_an_image" if kind == "GIF" else "image_undecodable"  # GIF is not read at all
        yield Case(f"moving.{kind.lower()}", reason=reason), moving
    alone = chunk(b"acTL", struct.pack(">II", 1, 0))  # an animation of one image
    yield Case("alone.png", pixels=grey), plain[:33] + alone + plain[33:]
    webp = saved(still, "WEBP", lossless=True)
    yield Case("still.webp", pixels=grey), webp
    yield Case("cut.webp", reason="image_undecodable"), webp[: len(webp) // 2]
    yield Case("trailer.jpg", pixels=grey, tolerance=8), saved(still, "JPEG", quality=95) + b"\0" * 100
    damaged = bytearray(plain)
    damaged[len(damaged) // 2] ^= 0xFF
    yield Case("damaged.png", reason="image_undecodable"), bytes(damaged)
    yield Case("bomb.png", reason="image_too_large"), png(60_000, 60_000, 0, bytes(10_000_000))
    yield Case("bomb_without_label.png", "", reason="empty_label"), png(60_000, 60_000, 0, bytes(10_000_000))
    yield Case("scans.jpg", pixels=grey, tolerance=8), many_scans(10)
    yield Case("many_scans.jpg", reason="image_too_large"), many_scans(600)
    yield Case("wide.png", "a", pixels=np.full((1, 20_000), 9, np.uint8)), encode(np.full((1, 20_000), 9, np.uint8))


def labels() -> Iterator[Case]:
    """Labels on a good image."""
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
    yield Case("good.png", "שלום")
    yield Case("good.png", "مَرْحَبًا")
    yield Case("good.png", "\u202eanna\u202c")  # shown from right to left
    yield Case("good.png", family)
    yield Case("good.png", "x\u0323\u0301")  # of which there is no composed form
    yield Case("good.png", "e\u0301\u0323", label="ẹ\u0301")  # marks in the order that NFC asks for
    yield Case("good.png", "<b>&\"'")
    yield Case("good.png", "=1+1")
    yield Case("good.png", "\ufeffAnna")
    yield Case("good.png", "An\u2028na", reason="control_character")
    yield Case("good.png", "An\u2029na", reason="control_character")
    yield Case("good.png", "\u200e", reason="empty_label")
    yield Case("good.png", "\ufeff \u00ad\u200b", reason="empty_label")
    yield Case("good.png", "Łódź")
    yield Case("good.png", "क्\u200dष")
    yield Case("good.png", "\t Anna\u3000", label="Anna")
    yield Case("good.png", "An\0na", reason="control_character")
    yield Case("good.png", "An\x1b[2Jna", reason="control_character")
    yield Case("good.png", "An\nna", reason="control_character")
    yield Case("good.png", "An\x85na", reason="control_character")
    yield Case("good.png", "a" * 10_000_000, reason="label_too_long")
    yield Case("good.png", "a" + "\u0301\u0323" * 5_000_000, reason="label_too_long")
    yield Case("good.png", "Anna")
    yield Case("good.png", "Anna")  # the row before, again


def names(outside: Path) -> Iterator[Case]:
    """Names of images; `build` makes what they mean."""
    yield Case(str(outside / "secret.png"), reason="outside_folder", outside="")
    yield Case("../outside/secret.png", reason="outside_folder", outside="")
    yield Case("images/../../outside/secret.png", reason="outside_folder", outside="")
    yield Case("link_out.png", reason="outside_folder", outside="")
    yield Case("folder_out/secret.png", reason="outside_folder", outside="")
    yield Case("/etc/passwd", reason="outside_folder", outside="not_an_image")
    yield Case("/dev/zero", reason="outside_folder", outside="unreadable_file")
    yield Case("zeros.png", reason="outside_folder", outside="unreadable_file")
    yield Case("link_in.png", pixels=page())
    yield Case("images/../good.png", pixels=page())
    yield Case("link_nowhere.png", reason="unreadable_file")
    yield Case("link_in_circles.png", reason="unreadable_file")
    yield Case("/home/somebody/scans/deeper.png", pixels=page())  # found by its base name
    yield Case("C:\\scans\\deeper.png", pixels=page())
    yield Case("https://example.org/scans/deeper.png", pixels=page())
    yield Case("gs://bucket/nowhere.png", reason="missing_file")
    yield Case(" good.png ", pixels=page())
    yield Case(unicodedata.normalize("NFC", "Zoë.png"), pixels=page())  # on the disk in NFD
    yield Case("in_an_untidy_folder.png", pixels=page())
    yield Case("תמונה🖋.png", pixels=page())
    yield Case("good\0.png", reason="missing_file")
    yield Case("\x1b[2Jgood.png", reason="missing_file")  # clears a terminal's screen
    yield Case("x" * 10_000_000, reason="missing_file")
    yield Case("../" * 100_000 + "x.png", reason="missing_file")
    yield Case("", reason="missing_file")
    yield Case(".", reason="unreadable_file")
    yield Case("folder.png", reason="unreadable_file")
    yield Case("pipe.png", reason="unreadable_file")
    yield Case("socket.png", reason="unreadable_file")
    yield Case("endless.png", reason="image_too_large")


def build(folder: Path) -> list[Case]:
    """Writes the dataset to `folder / "data"`, and what it must not reach to `folder / "outside"`.

    Returns:
        The cases in the order of the rows.
    """
    data, outside = folder / "data", folder / "outside"
    (data / "images" / "deep").mkdir(parents=True)
    outside.mkdir()
    cases = []
    for case, content in images():
        (data / case.image).write_bytes(content)
        cases.append(case)
    cases += [*labels(), *names(outside)]
    good = encode(page())
    for path in (outside / "secret.png", data / "good.png", data / "images" / "deep" / "deeper.png"):
        path.write_bytes(good)
    for name in (unicodedata.normalize("NFD", "Zoë.png"), "תמונה🖋.png"):
        (data / "images" / name).write_bytes(good)
    (data / UNTIDY).mkdir()
    (data / UNTIDY / "in_an_untidy_folder.png").write_bytes(good)
    for name, target in {
        "link_out.png": "../outside/secret.png", "folder_out": outside, "zeros.png": "/dev/zero",
        "link_in.png": "good.png", "link_nowhere.png": "nowhere.png", "link_in_circles.png": "link_in_circles.png",
        "images/circle": "..",
    }.items():  # fmt: skip
        (data / name).symlink_to(target)
    (data / "folder.png").mkdir()
    os.mkfifo(data / "pipe.png")
    os.mknod(data / "socket.png", stat.S_IFSOCK | 0o600)
    with contextlib.suppress(PermissionError):  # only root may, and not in every container
        os.mknod(data / "device.png", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        cases.append(Case("device.png", reason="unreadable_file"))
    with open(data / "endless.png", "wb") as file:
        file.write(good[:8])
        file.truncate(2**40)  # of which the disk holds one block
    with open(data / "labels.csv", "w", encoding="utf-8", newline="") as table:
        table.write("filename,text\n")
        # By hand, since the csv module of Python 3.10 writes no NUL.
        table.writelines('"{}","{}"\n'.format(*(f.replace('"', '""') for f in (c.image, c.text))) for c in cases)
    return cases


def decoded(sample_image: bytes) -> np.ndarray:
    """Grey values of an accepted image."""
    return cv2.imdecode(np.frombuffer(sample_image, np.uint8), cv2.IMREAD_GRAYSCALE)
