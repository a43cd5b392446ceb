"""Headers of image files: read or refused, and never another size than the decoder's."""

import os
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htr_client import headers, image_files
from htr_client.errors import ImageError
from tests.client.test_client_images import grey, reason, saved

Image = pytest.importorskip("PIL.Image")


@given(st.sampled_from([signature for signature, _ in headers._READERS]), st.binary(max_size=300))
def test_any_header_is_read_or_refused(signature, data):
    try:
        info = image_files.inspect(signature + data)
    except ImageError as error:
        assert error.reason in {"not_an_image", "truncated", "undecodable", "too_large"}
    else:
        assert info.width > 0 and info.height > 0 and 1 <= info.orientation <= 8


def test_scans_are_counted():
    """Each scan of a progressive JPEG may be a few bytes long and costs the decoder a pass over all pixels."""
    data = saved(Image.fromarray(grey()), "JPEG", progressive=True)
    start = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    end = next(at for at in range(start + 12, len(data)) if data[at] == 0xFF and data[at + 1] != 0)
    for more, expected in ((headers.MAX_SCANS - 100, None), (headers.MAX_SCANS, "too_large")):
        longer = data[:end] + data[start:end] * more + data[end:]
        if expected:
            assert reason(longer) == expected
        else:
            assert image_files.inspect(longer).plain


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(content)) + content


def tiff(*tags):
    """A TIFF of 64 x 32 black pixels; each tag is a pair of its number and its value, of four bytes."""
    usual = {256: 64, 257: 32, 258: 8, 259: 1, 262: 1, 277: 1, 278: 32, 279: 64 * 32}
    tags = sorted([*usual.items(), *tags, (273, 0)], key=lambda tag: tag[0])
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + bytes(64 * 32)


def test_a_jpeg_whose_header_the_decoder_finds_elsewhere_is_damaged():
    """To the decoder 0xFF00 is no segment and has no length; who believes in one finds a header in the comment."""
    data = saved(Image.fromarray(grey()), "JPEG")
    hidden = segment(0xC0, struct.pack(">BHHB", 8, 10, 10, 1) + b"\x01\x11\0") + segment(0xDA, b"\x01\x01\0\0\x3f\0")
    for marker in (0x00, 0x02, 0xBF):
        crafted = data[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", 6) + segment(0xFE, hidden) + data[2:]
        assert reason(crafted) == "undecodable"
    fill = data[:2] + b"\xff\x01\xff\xff" + data[2:]  # a marker that stands alone, and bytes that fill up
    assert image_files.inspect(fill)[1:3] == (90, 24)
    np.testing.assert_array_equal(image_files.load(fill), image_files.load(data))


def test_a_tiff_that_says_its_size_twice_is_damaged():
    """To the decoder the first one counts; of another type of number it may be one that is not read here."""
    assert image_files.inspect(tiff())[:3] == ("tiff", 64, 32)
    assert image_files.load(tiff()).shape == (32, 64)
    for tag in (256, 257):
        assert reason(tiff((tag, 10))) == "undecodable"
    signed = struct.pack("<HHII", 256, 4, 1, 64)
    assert reason(tiff((256, 10)).replace(signed, struct.pack("<HHII", 256, 9, 1, 64))) == "undecodable"


@pytest.mark.parametrize("tags", [[(277, 2)], [(262, 0), (258, 16)]], ids=["grey with alpha", "white is zero"])
def test_a_tiff_that_opencv_would_show_black_or_inverted_is_refused(tags):
    usual = tiff()
    for tag, value in tags:
        usual = usual.replace(*(struct.pack("<HHII", tag, 4, 1, one) for one in ({277: 1, 262: 1, 258: 8}[tag], value)))
    with pytest.raises(ImageError, match=r"of a kind that is not read.*Save it as PNG") as raised:
        image_files.load(usual)
    assert raised.value.reason == "undecodable"
    eight = tiff().replace(struct.pack("<HHII", 262, 4, 1, 1), struct.pack("<HHII", 262, 4, 1, 0))
    assert image_files.load(eight).min() == 255


def test_documents_of_several_pages_are_refused_with_what_to_do():
    with pytest.raises(ImageError, match=r"holds several images.*an image of each page"):
        image_files.load(saved(Image.fromarray(grey()), "TIFF", save_all=True, append_images=[Image.fromarray(grey())]))
    with pytest.raises(ImageError, match=r"PDF document.*an image of each page"):
        image_files.load(b"%PDF-1.7")


def test_a_command_says_what_is_wrong_with_a_file_and_opencv_does_not(server, tmp_path):
    (tmp_path / "cut.tif").write_bytes(tiff()[:-2000])
    command = [sys.executable, "-m", "htr_client.cli", "cut.tif", "--server", server.address]
    environment = {name: value for name, value in os.environ.items() if name != "OPENCV_LOG_LEVEL"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stderr.startswith("error: cut.tif: OpenCV cannot decode") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"P5\n# a comment, 9 9\n90 24\n255\n", (90, 24)),
        (b"P5 #\r 90 24\n10 10\n", (90, 24)),
        (b"P5\t90\v#\n#\r\n24\f255 ", (90, 24)),
        (b"P5 90 24 #\n255\n", (90, 24)),
        (b"P5 90#9\n24\n255\n", None),  # to OpenCV the 9 of this comment is the height
        (b"P5 90x24\n255\n", None),
        (b"P5#\n90 24\n255\n", None),
        (b"P5 90 24", None),
    ],
)
def test_a_pnm_has_the_size_that_the_decoder_finds(header, size):
    data = header + bytes(90 * 24)
    if size is None:
        assert reason(data) == "truncated"
        return
    info = image_files.inspect(data)
    assert (info.width, info.height) == size
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape == size[::-1]


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_what_decodes_to_another_size_than_its_header_says_is_refused(format_, monkeypatch):
    """Were there another way to craft a header, the file would not get by the bound, nor to the server as it is."""
    exif = Image.Exif()
    exif[274] = 6
    data = saved(Image.fromarray(grey()), format_, exif=exif)
    assert image_files.load(data).shape == (90, 24)
    assert image_files.load(data, upright=format_ == "TIFF").size == 90 * 24
    monkeypatch.setattr(image_files, "inspect", lambda data: headers.inspect(data)._replace(width=10, height=10))
    assert reason(data) == "undecodable"
