"""Images that would take too much memory are refused before anything is decoded."""

import struct
import time

import cv2
import numpy as np
import pytest

from htr_client import image_files
from htr_client.errors import ImageError
from htr_client.model_facts import MAX_PIXELS
from tests.client.test_client_images import grey, raw_png, reason, saved

Image = pytest.importorskip("PIL.Image")


def test_bombs_are_refused_by_their_header():
    bomb = raw_png(60_000, 60_000, 8, 0, bytes(100_000_000))
    assert 90_000 < len(bomb) < 110_000
    started = time.process_time()
    assert reason(bomb) == "too_large"
    assert time.process_time() - started < 0.25  # decoding would take seconds and gigabytes
    jpeg = bytearray(saved(Image.fromarray(grey()), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    assert reason(bytes(jpeg)) == "too_large"
    assert reason(b"P5 60000 60000 255\n") == "too_large"
    bmp = bytearray(saved(Image.fromarray(grey()), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, -60_000)
    assert reason(bytes(bmp)) == "too_large"
    tiff = saved(Image.fromarray(grey()), "TIFF", tiffinfo={})
    for tag, value in ((256, 90), (257, 24)):
        entry = struct.pack("<HHII", tag, 4, 1, value)
        assert entry in tiff or struct.pack("<HHIHH", tag, 3, 1, value, 0) in tiff
        tiff = tiff.replace(entry, struct.pack("<HHII", tag, 4, 1, 60_000))
        tiff = tiff.replace(struct.pack("<HHIHH", tag, 3, 1, value, 0), struct.pack("<HHII", tag, 4, 1, 60_000))
    assert reason(tiff) == "too_large"
    assert reason(saved(Image.fromarray(grey()), "PNG"), max_pixels=1000) == "too_large"


def test_images_that_take_too_much_memory_are_refused_by_their_header():
    """Few bytes of a file, and few pixels, but many bytes of each pixel."""
    deep = raw_png(5000, 5000, 16, 6, b"")  # its rows are missing, which decoding would find
    with pytest.raises(ImageError, match=r"200,000,000 bytes, 8 for each of 5000 x 5000 pixels.* of 150,000,000"):
        image_files.load(deep)
    assert reason(deep) == "too_large" and reason(deep, max_pixels=70_000_000) == "undecodable"
    assert reason(raw_png(5000, 5000, 16, 2, b"")) == reason(raw_png(5000, 10_000, 8, 2, b"")) == "undecodable"
    small = cv2.imencode(".png", np.full((50, 50, 4), 65535, np.uint16))[1].tobytes()
    assert image_files.load(small, max_pixels=50 * 50).shape == (50, 50)  # a lower bound is one of pixels only
    progressive = bytearray(saved(Image.fromarray(grey()).convert("RGB"), "JPEG", progressive=True, subsampling=0))
    at = progressive.index(b"\xff\xc2") + 5
    progressive[at : at + 4] = struct.pack(">HH", 5000, 9000)
    with pytest.raises(ImageError, match="270,000,000 bytes, 6 for each of 9000 x 5000 pixels"):
        image_files.load(bytes(progressive))


def converted(mode):
    """The image of `grey` in a mode of Pillow or a type of numpy."""
    if mode in ("RGB16", "RGBA16"):
        return np.dstack([grey().astype(np.uint16) * 257] * (len(mode) - 2))
    return Image.fromarray(grey().astype(np.float32) / 255 if mode == "F" else grey()).convert(mode)


@pytest.mark.parametrize(
    ("format_", "mode"),
    [
        *(("PNG", mode) for mode in ("L", "LA", "RGB", "RGBA", "P", "1", "I;16", "RGB16", "RGBA16")),
        *(("TIFF", mode) for mode in ("L", "RGB", "RGBA", "P", "I;16", "F", "RGB16")),
        ("BMP", "RGB"),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("PPM", mode) for mode in ("L", "RGB", "1", "I;16")),
    ],
)
def test_the_header_tells_how_many_bytes_decoding_takes(format_, mode):
    image = converted(mode)
    if isinstance(image, np.ndarray):
        data = cv2.imencode(f".{format_.lower()}", image)[1].tobytes()
    else:
        data = saved(image, format_)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image_files.inspect(data).pixel_bytes == decoded.nbytes // (90 * 24)


def test_too_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_BYTES", 1000)
    path = tmp_path / "large.png"
    path.write_bytes(bytes(5000))
    for image in (path, bytes(5000), image_files.ImageFile(bytes(5000), "form 12")):
        assert reason(image) == "too_large"
    with pytest.raises(ImageError, match="Save it with compression") as refused:
        image_files.load(path)
    assert "max_megapixels" not in str(refused.value), "it allows more pixels, and no more bytes"


def test_a_file_without_compression_may_have_as_many_pixels_as_others(tmp_path):
    path, (width, height) = tmp_path / "master.ppm", (5000, 4500)
    with open(path, "wb") as file:
        header = f"P6 {width} {height} 255\n".encode()
        file.write(header)
        file.truncate(len(header) + 3 * width * height)  # of which the disk holds one block
    assert image_files.inspect(image_files.read(path)).height == height
    assert 3 * MAX_PIXELS < image_files.MAX_BYTES
