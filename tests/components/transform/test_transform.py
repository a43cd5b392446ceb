"""Preprocessing: sizes, normalisation, refusal of what cannot be decoded, class ids."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.transform import decoding, geometry, preprocessing
from components.transform.settings import TransformConfig
from tests.conftest import drawn_image, encode

WORD, LINE = TransformConfig(), TransformConfig(preset="line", width=400)


def resize(*files: bytes, config=WORD) -> list[np.ndarray | None]:
    """The transformed images uint8 [H, w], None for refused ones."""
    pngs = preprocessing.resize_images(tf.constant(list(files), tf.string), config).numpy()
    return [cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) if png else None for png in pngs]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 900), st.integers(1, 300), st.sampled_from([WORD, LINE, TransformConfig(resize="stretch")]))
def test_width_is_what_the_plain_arithmetic_says(width, height, config):
    (result,) = resize(encode(np.full((height, width), 200, np.uint8)), config=config)
    assert result.shape == (config.height, geometry.resized_width(width, height, config))


def test_ink_is_bright_paper_is_zero():
    (result,) = resize(encode(drawn_image(128, 32)))
    assert result.shape == (32, 128)
    assert np.median(result) == 0 and result.max() == 255


def test_contrast_of_faint_images_is_spread_but_empty_ones_stay_empty():
    faint = (drawn_image(128, 32) // 3 + 150).astype(np.uint8)
    strong, empty = resize(encode(faint), encode(np.full((32, 128), 180, np.uint8)))
    assert strong.max() == 255
    assert empty.max() == 0
    (as_it_is,) = resize(encode(faint), config=TransformConfig(contrast=False))
    assert as_it_is.max() < 120


def test_an_empty_page_with_noise_does_not_become_ink():
    noise = np.random.default_rng(0).normal(180, 2, (32, 128)).round().astype(np.uint8)
    (empty,) = resize(encode(noise))
    assert empty.max() < 128 and empty.mean() < 20


@pytest.mark.parametrize(
    ("width", "height", "first", "end"), [(1000, 50, 13, 19), (256, 8, 14, 18), (1280, 50, 13, 18)]
)
def test_an_image_that_is_too_wide_is_centred_between_paper(width, height, first, end):
    config = TransformConfig(contrast=False)
    ink = encode(np.zeros((height, width), np.uint8))
    (result,) = resize(ink, config=config)
    expected = np.zeros((32, 128), np.uint8)
    expected[first:end] = 255
    assert np.array_equal(result, expected)
    served, _ = preprocessing.image_batch(tf.constant([ink]), config)
    assert np.array_equal(served[0, :, :, 0], expected / 255)


def test_colours_are_as_dark_as_a_jpeg_shows_them():
    """Blue ink is much darker than green; the weights are those of ITU-R BT.601."""
    fields = np.zeros((32, 96, 3), np.uint8)
    for place, channel in enumerate((2, 1, 0)):  # red, green, blue, in the order of OpenCV
        fields[:, 32 * place : 32 * place + 32, channel] = 255
    png, jpeg = resize(encode(fields), encode(fields, ".jpg"), config=TransformConfig(contrast=False))
    middles = [16, 48, 80]
    assert png[16, middles].tolist() == [255 - 76, 255 - 150, 255 - 29]
    assert np.abs(jpeg[16, middles].astype(int) - png[16, middles]).max() <= 3


def test_colour_grey_and_transparent_versions_agree():
    page = drawn_image(100, 40)
    alpha = np.zeros((40, 100, 4), np.uint8)
    alpha[..., 3] = 255 - page  # black ink that is as opaque as it is dark
    grey, colour, transparent, jpeg = resize(
        encode(page), encode(drawn_image(100, 40, channels=3)), encode(alpha), encode(page, ".jpg")
    )
    assert np.abs(grey.astype(int) - colour).max() <= 1
    assert np.abs(grey.astype(int) - transparent).max() <= 2
    assert np.abs(grey.astype(int) - jpeg).mean() < 8


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_grey_level_that_is_transparent_shows_paper():
    page = drawn_image(100, 40)
    page[10:30, 40:60] = 7
    plain = encode(page)
    marked = plain[:33] + chunk(b"tRNS", b"\0\x07") + plain[33:]  # behind the header
    page[page == 7] = 255
    transparent, white, solid = resize(marked, encode(page), plain)
    assert np.abs(transparent.astype(int) - white).max() <= 1
    assert np.abs(transparent.astype(int) - solid).max() > 100


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_is_read(mode):
    page = drawn_image(100, 40)
    if mode == "1":
        page = np.where(page > 128, 255, 0).astype(np.uint8)
    image = Image.fromarray(page)
    image = Image.fromarray(page.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, "png")
    result, grey = resize(file.getvalue(), encode(page))
    assert np.abs(result.astype(int) - grey).max() <= 1


@pytest.mark.parametrize("transparency", [None, 0, bytes([255, 100])], ids=["opaque", "one colour", "half"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_all_depths_are_decoded(bits, transparency):
    image = Image.fromarray(drawn_image(100, 40)).convert("RGB").quantize(2**bits)
    file = io.BytesIO()
    image.save(file, "png", bits=bits, **({} if transparency is None else {"transparency": transparency}))
    assert file.getvalue()[24:26] == bytes([bits, 3])
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(Image.open(file).convert("RGBA"))
    kind = decoding.kinds_of(tf.constant([file.getvalue()]))[0]
    grey = decoding.decode_grey(tf.constant(file.getvalue()), kind)
    assert np.abs(grey[..., 0] - np.asarray(white.convert("L"), float)).max() < 1


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def jpeg_that_claims(width: int, height: int) -> bytes:
    data = bytearray(encode(drawn_image(), ".jpg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def jpeg_with(at: int, byte: int) -> bytes:
    """A JPEG with another byte in its frame header."""
    data = bytearray(encode(drawn_image(), ".jpg"))
    data[data.index(b"\xff\xc0") + at] = byte
    return bytes(data)


def cmyk_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(drawn_image()).convert("CMYK").save(file, "jpeg")
    return file.getvalue()


REFUSED = {
    "empty": b"",
    "short": b"\x89PNG\r\n\x1a\n",
    "text": b"this is not an image, although it is long enough to be one of the smaller ones there are",
    "cut png": encode(drawn_image())[:-20],
    "cut jpeg": encode(drawn_image(), ".jpg")[:-20],
    "png bomb": png_that_claims(60_000, 60_000),
    "jpeg bomb": jpeg_that_claims(60_000, 60_000),
    "negative size": png_that_claims(2**32 - 5, 4),
    "gif": b"GIF89a" + bytes(100),
    "jpeg of fill bytes": b"\xff\xd8" + b"\xff" * 200 + b"\xff\xd9",
    "cmyk jpeg": cmyk_jpeg(),
    "jpeg of 12 bits": jpeg_with(4, 12),
    "lossless jpeg": jpeg_with(1, 0xC3),
    "jpeg without frame": b"\xff\xd8\xff\xe0\x00\x10" + b"x" * 100 + b"\xff\xd9",
    "jpeg with a segment longer than the file": b"\xff\xd8\xff\xe0\x7f\x70" + bytes(100) + b"\xff\xd9",
    "jpeg with a segment up to the end": b"\xff\xd8\xff\xe0\x00\x66" + bytes(100) + b"\xff\xd9",
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_bad_image_does_not_fail_its_neighbours(name):
    png, jpeg = encode(drawn_image()), encode(drawn_image(), ".jpg")
    before, bad, after = resize(png, REFUSED[name], jpeg)
    assert bad is None
    assert np.abs(before.astype(int) - after).mean() < 8 and before.max() == 255


def test_no_files_are_an_empty_batch():
    assert preprocessing.resize_images(tf.constant([], tf.string), WORD).shape == (0,)


def test_jpegs_with_long_headers_are_read():
    plain = encode(drawn_image(), ".jpg")
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 5000) + bytes(5000)
    exif_like = b"\xff\xe1" + struct.pack(">H", 2 + 40) + b"\xff\xc0" * 20  # a frame header inside of another segment
    with_segments, reference = resize(plain[:2] + comment + exif_like + plain[2:], plain)
    assert np.array_equal(with_segments, reference)


def test_batches_pad_to_the_right_and_know_the_widths():
    pngs = preprocessing.resize_images(
        tf.constant([encode(drawn_image(40, 40)), b"", encode(drawn_image(300, 40))]), LINE
    )
    images, widths = preprocessing.decode_batch(pngs, LINE)
    assert widths.numpy().tolist() == [64, 0, 400]
    assert images.shape == (3, 64, 400, 1)
    assert not images.numpy()[0, :, 64:].any() and not images.numpy()[1].any()
    assert images.numpy().min() >= 0 and images.numpy().max() <= 1
    word_images, _ = preprocessing.decode_batch(
        preprocessing.resize_images(tf.constant([encode(drawn_image(20, 40))]), WORD), WORD
    )
    assert word_images.shape == (1, 32, 128, 1)


@given(st.lists(st.text("abé ", max_size=6), min_size=1, max_size=5))
@settings(deadline=None, max_examples=30)
def test_class_ids_are_positions_in_the_sorted_alphabet(texts):
    alphabet = sorted("abé ")
    codes = tf.strings.unicode_decode(tf.constant([t.encode() for t in texts]), "UTF-8")
    ids = preprocessing.class_ids(codes, tf.constant([ord(c) for c in alphabet]))
    assert ["".join(alphabet[i] for i in row) for row in ids.to_list()] == texts


def test_unknown_characters_are_left_out_of_the_labels():
    codes = tf.strings.unicode_decode(["xaybz"], "UTF-8")
    assert preprocessing.class_ids(codes, tf.constant([ord("a"), ord("b")])).to_list() == [[0, 1]]
