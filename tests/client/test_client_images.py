"""Every kind of image, good and hostile, has a defined result."""

import base64
import io
import os
import pickle
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htr_client import image_files
from htr_client.errors import ImageError, ServerUnavailable

Image = pytest.importorskip("PIL.Image")

PNG = b"\x89PNG\r\n\x1a\n"


def grey(height=24, width=90):
    """Something like handwriting: smooth, so that JPEG keeps it, and without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return (127 + 100 * np.sin(x / 7 + y / 11) * np.cos(y / 5) + 20 * x / width).clip(0, 255).astype(np.uint8)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width, height, depth, colour, rows, *extra, interlace=0):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return PNG + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def saved(image, format_, **options):
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def reason(image, **options):
    with pytest.raises(ImageError) as error:
        image_files.load(image, **options)
    assert str(error.value)
    if not isinstance(image, np.ndarray):
        with pytest.raises(ImageError) as again:
            image_files.pack(image, **options)
        assert again.value.reason == error.value.reason
    return error.value.reason


# What the serving graph reads as it is goes as it is.


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_plain_images_are_sent_as_they_are(format_, mode):
    data = saved(Image.fromarray(grey()).convert(mode), format_)
    pixel_bytes = 3 if (format_, mode) == ("PNG", "RGB") else 1
    assert image_files.inspect(data) == image_files.ImageInfo(format_.lower(), 90, 24, 1, True, pixel_bytes)
    assert image_files.pack(data) == image_files.PackedImage(data, 90, 24)
    np.testing.assert_allclose(image_files.load(data), grey(), atol=8)


@pytest.mark.parametrize("height", [24, 511, 512, 513, 767, 768, 1023, 5000])
@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "BMP"])
def test_what_is_sent_is_sent_again_as_it_is(format_, height):
    data = saved(Image.fromarray(grey()).resize((30, height)), format_)
    packed = image_files.pack(data).data
    assert image_files.goes_as_it_is(packed) and image_files.pack(packed).data == packed
    assert image_files.goes_as_it_is(data) == (packed == data) == (format_ == "PNG" and height < image_files.TALL)


def test_paths_and_kinds_of_bytes(tmp_path):
    data = saved(Image.fromarray(grey()), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for image in (path, str(path), bytearray(data), memoryview(data)):
        np.testing.assert_array_equal(image_files.load(image), grey())
    assert reason(tmp_path / "none.png") == "unreadable"
    assert reason(tmp_path) == "unreadable"
    assert reason("a\0b") == "unreadable"
    with pytest.raises(TypeError, match=r"not int$"):
        image_files.load(12)
    with pytest.raises(TypeError, match=r"not NoneType, which cv2\.imread returns"):
        image_files.load(None)


@pytest.mark.parametrize("begin", ["", "data:image/png;base64,", "/"])
def test_base64_in_place_of_its_bytes_is_told_without_all_of_it(begin):
    """Messages go into answers and logs, and handwriting is personal."""
    for size in (64, 3_000, 300_000):
        text = begin + base64.b64encode(bytes(range(64)) + bytes(size)).decode()
        with pytest.raises(ImageError) as error:
            image_files.load(text)
        assert error.value.reason == "unreadable" and len(str(error.value)) < 400
        assert ("base64, decode it" in str(error.value)) == (size > 64)


def test_a_long_path_is_told_as_it_is(tmp_path):
    path = str(tmp_path.joinpath(*["d" * 50] * 6, "missing.png"))
    with pytest.raises(ImageError, match="d" * 50 + "/missing.png': No such file") as error:
        image_files.load(path)
    assert path in str(error.value) and "base64" not in str(error.value)


# What it does not read becomes an upright grey PNG.


def turned(orientation):
    """How a camera stores the image when a viewer must undo the given EXIF orientation."""
    upright = Image.fromarray(grey())
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    return upright.transpose(undo[orientation]) if orientation in undo else upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(format_, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = saved(turned(orientation), format_, exif=exif, **options)
    info = image_files.inspect(data)
    assert (info.width, info.height, info.orientation) == (90, 24, orientation)
    assert info.plain == (orientation == 1 and format_ != "WEBP")
    tolerance = 8 if format_ == "JPEG" else 1
    np.testing.assert_allclose(image_files.load(data).astype(int), grey(), atol=tolerance)
    packed = image_files.pack(data)
    assert (packed.width, packed.height) == (90, 24)
    np.testing.assert_array_equal(image_files.load(packed.data), image_files.load(data))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation(orientation):
    data = saved(turned(orientation), "TIFF", tiffinfo={274: orientation})
    np.testing.assert_array_equal(image_files.load(data), grey())
    packed = image_files.pack(data)
    assert (packed.width, packed.height) == (90, 24)


def test_damaged_exif_is_ignored():
    data = saved(Image.fromarray(grey()), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert image_files.inspect(data).orientation == 1


def test_sixteen_bits():
    data = cv2.imencode(".png", grey().astype(np.uint16) * 256 + 99)[1].tobytes()
    assert not image_files.inspect(data).plain
    np.testing.assert_array_equal(image_files.load(image_files.pack(data).data), grey())


def test_alpha_shows_white_paper():
    ink = np.zeros((24, 90, 4), np.uint8)
    ink[..., 3] = 255 - grey()  # black ink, as transparent as the paper is white
    data = saved(Image.fromarray(ink), "PNG")
    assert not image_files.inspect(data).plain
    np.testing.assert_array_equal(image_files.load(data), grey())
    np.testing.assert_array_equal(image_files.load(cv2.cvtColor(ink, cv2.COLOR_RGBA2BGRA)), grey())
    grey_alpha = saved(Image.merge("LA", [Image.new("L", (90, 24)), Image.fromarray(255 - grey())]), "PNG")
    np.testing.assert_array_equal(image_files.load(grey_alpha), grey())


def test_palette_with_a_transparent_colour():
    palette = chunk(b"PLTE", bytes([0, 0, 0, 200, 200, 200]))
    data = raw_png(4, 1, 8, 3, b"\0\0\1\0\1", palette, chunk(b"tRNS", b"\0"))
    np.testing.assert_array_equal(image_files.load(data), [[255, 200, 255, 200]])
    assert not image_files.inspect(data).plain


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits(depth):
    data = raw_png(8 // depth, 1, depth, 0, b"\0\xc0" if depth == 1 else b"\0\xff")
    assert not image_files.inspect(data).plain
    assert image_files.load(data)[0, 0] == 255


def test_cmyk_jpeg():
    colours = Image.fromarray(grey()).convert("CMYK")
    data = saved(colours, "JPEG", quality=95)
    assert not image_files.inspect(data).plain
    np.testing.assert_allclose(image_files.load(data).astype(int), grey(), atol=8)


def test_an_end_that_holds_something_is_not_sent():
    data = raw_png(1, 1, 8, 0, b"\0\x42")
    odd = data[:-12] + chunk(b"IEND", b"x")
    assert image_files.inspect(data).plain and not image_files.inspect(odd).plain
    assert image_files.load(image_files.pack(odd).data)[0, 0] == 0x42


def test_progressive_jpeg_and_interlaced_png():
    assert image_files.inspect(saved(Image.fromarray(grey()), "JPEG", progressive=True)).plain
    assert not image_files.inspect(raw_png(1, 1, 8, 0, b"\0\x42", interlace=1)).plain


@pytest.mark.parametrize("format_", ["BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_other_formats(format_, mode):
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = saved(Image.fromarray(grey()).convert(mode), format_, **options)
    info = image_files.inspect(data)
    assert (info.width, info.height, info.plain) == (90, 24, False)
    np.testing.assert_allclose(image_files.load(data).astype(int), grey(), atol=1)
    lossy = image_files.inspect(saved(Image.fromarray(grey()), "WEBP"))
    assert (lossy.width, lossy.height) == (90, 24)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_as_it_is_stored(orientation, kind):
    stored = turned(orientation)
    exif = Image.Exif()
    exif[274] = orientation
    data = saved(stored, kind, **({"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}))
    np.testing.assert_array_equal(image_files.load(data, upright=False), np.asarray(stored))


def test_tiff_of_floats():
    data = saved(Image.fromarray((grey() / 255).astype(np.float32)), "TIFF")
    np.testing.assert_array_equal(image_files.load(data), grey())


def test_one_pixel():
    for format_ in ("PNG", "JPEG"):
        assert image_files.load(saved(Image.new("L", (1, 1), 200), format_)).shape == (1, 1)


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_bytes_after_the_end_are_dropped(format_):
    """Some cameras and download tools append bytes; the serving graph would take the file for a cut one."""
    data = saved(Image.fromarray(grey()), format_)
    packed = image_files.pack(data + b"\0trailer")
    assert packed.data.startswith(PNG) and packed.data.endswith(b"IEND\xaeB`\x82")
    np.testing.assert_array_equal(image_files.load(packed.data), image_files.load(data))


# Arrays.


@pytest.mark.parametrize(
    "array",
    [
        grey(),
        grey()[:, :, None],
        np.repeat(grey()[:, :, None], 3, axis=2),
        grey().astype(np.uint16) * 257,
        grey() / 255,
        (grey() / 255).astype(np.float32),
        np.asfortranarray(grey()),
        grey()[::-1][::-1],
    ],
    ids=["grey", "one channel", "colour", "16 bit", "double", "float", "column order", "strided"],
)
def test_arrays(array):
    np.testing.assert_array_equal(image_files.load(array), grey())
    np.testing.assert_array_equal(image_files.load(image_files.pack(array).data), grey())


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float64"])
def test_a_large_array_is_the_same_in_one_and_in_pieces(kind):
    array = np.random.default_rng(1).random((1100, 1000, 4))
    array = array if kind == "float64" else (array * np.iinfo(kind).max).astype(kind)
    pieces = [image_files.load(array[top : top + 100]) for top in range(0, 1100, 100)]
    np.testing.assert_array_equal(image_files.load(array), np.vstack(pieces))


def test_array_of_bools():
    np.testing.assert_array_equal(image_files.load(np.array([[True, False]])), [[255, 0]])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.zeros((0, 5), np.uint8), "empty"),
        (np.zeros(5, np.uint8), "undecodable"),
        (np.zeros((2, 2, 2), np.uint8), "undecodable"),
        (np.zeros((2, 2), np.int64), "undecodable"),
        (np.full((2, 2), np.nan), "undecodable"),
        (np.full((2, 2), 255.0), "undecodable"),
        (np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (60_000, 60_000), (0, 0)), "too_large"),
    ],
)
def test_arrays_that_are_no_images(array, expected):
    assert reason(array) == expected


# Hostile files; test_client_image_sizes.py has those that are too large.


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"Dear Sir or Madam,\nthis is a text file.\n", "not_an_image"),
        (b"%PDF-1.7\n", "not_an_image"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "not_an_image"),
        (PNG, "truncated"),
        (b"\xff\xd8\xff", "truncated"),
        (b"\xff\xd8\xff\xd9", "undecodable"),
        (b"GIF89a", "not_an_image"),
        (b"BM", "truncated"),
        (b"II*\0", "truncated"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "undecodable"),
        (b"RIFF\x24\0\0\0WEBPVP8X", "truncated"),
        (b"P5 12", "truncated"),
        (b"P5 x y", "truncated"),
        (raw_png(0, 5, 8, 0, b""), "undecodable"),
        (raw_png(50, 50, 8, 0, bytes(100)), "undecodable"),
        (raw_png(2, 2, 8, 0, b"\0ab\x09cd"), "undecodable"),
        (raw_png(2, 2, 77, 0, b"\0ab\0cd"), "undecodable"),
    ],
)
def test_bytes_that_are_no_images(data, expected):
    assert reason(data) == expected


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_truncated(format_):
    data = saved(Image.fromarray(grey()), format_)
    for length in (12, len(data) // 4, len(data) // 2, len(data) * 9 // 10, len(data) - 2):
        assert reason(data[:length]) in {"truncated", "undecodable"}
    if format_ in ("PNG", "JPEG"):
        assert reason(data[: len(data) // 2]) == "truncated"


def test_damaged_png():
    data = bytearray(saved(Image.fromarray(grey()), "PNG"))
    data[len(data) // 2] ^= 0xFF
    assert reason(bytes(data)) == "undecodable"


def test_animations_and_pages_are_refused():
    frames = [Image.fromarray(grey()), Image.fromarray(255 - grey())]
    for format_ in ("WEBP", "TIFF"):
        data = saved(frames[0], format_, save_all=True, append_images=frames[1:])
        assert reason(data) == "undecodable"
        with pytest.raises(ImageError, match="several images"):
            image_files.inspect(data)


def test_an_animated_png_of_one_image_is_that_image():
    """With more it is refused, as an animated WebP is."""
    frames = [Image.fromarray(grey()), Image.fromarray(255 - grey())]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert b"acTL" in data
    with pytest.raises(ImageError, match="The PNG holds several images"):
        image_files.inspect(data)
    plain = saved(frames[0], "PNG")
    content = b"acTL" + (1).to_bytes(4, "big") + bytes(4)
    alone = plain[:33] + (8).to_bytes(4, "big") + content + zlib.crc32(content).to_bytes(4, "big") + plain[33:]
    packed = image_files.pack(alone)
    assert b"acTL" not in packed.data
    np.testing.assert_array_equal(image_files.load(packed.data), grey())


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (saved(Image.fromarray(grey()), "GIF"), "a GIF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF image"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "an AppleDouble file"),
    ],
)
def test_what_people_send_by_mistake_is_named(data, name):
    assert reason(data) == "not_an_image"
    with pytest.raises(ImageError, match=name) as error:
        image_files.load(data)
    assert "PNG, JPEG, BMP, TIFF, WebP and PNM" in str(error.value)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_levels_of_16_bit_images_are_spread(bits):
    """Scanners store 8 to 12 bits in 16 without spreading them; the upper byte alone would be black."""
    stored = grey().astype(np.uint16) << (bits - 8)
    np.testing.assert_array_equal(image_files.load(cv2.imencode(".png", stored)[1].tobytes()), grey())


@given(st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]), st.data())
def test_mutilated_files_give_an_image_or_an_image_error(format_, data):
    file = bytearray(saved(Image.fromarray(grey()), format_))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    del file[data.draw(st.integers(0, len(file))) :]
    try:
        packed = image_files.pack(bytes(file), max_pixels=1_000_000)
    except ImageError as error:
        assert error.reason in {"empty", "not_an_image", "truncated", "too_large", "undecodable"}
    else:
        assert image_files.inspect(packed.data).plain


# Shrinking.


def resize_as_the_graph(image, height):
    """Antialiased bilinear, as the serving graph: each output pixel is a triangle filter over its footprint."""
    return Image.fromarray(image).resize(
        (round(image.shape[1] * height / image.shape[0]), height), Image.Resampling.BILINEAR
    )


@pytest.mark.parametrize("height", [600, 1023, 2000])
def test_shrinking_does_not_change_what_the_model_sees(height):
    rng = np.random.default_rng(0)
    large = cv2.resize(grey(60, 400), (height * 6, height), interpolation=cv2.INTER_CUBIC)
    large = (large.astype(int) + rng.integers(-20, 20, large.shape)).clip(0, 255).astype(np.uint8)
    packed = image_files.pack(large)
    assert (packed.width, packed.height) == (height * 6, height)
    sent = image_files.load(packed.data)
    assert 256 <= sent.shape[0] < 512
    seen = np.asarray(resize_as_the_graph(sent, 64), int)
    would_have_seen = np.asarray(resize_as_the_graph(large, 64), int)
    assert seen.shape == would_have_seen.shape
    assert np.abs(seen - would_have_seen).mean() < 1.0 and np.abs(seen - would_have_seen).max() <= 6


def test_images_of_usual_size_are_not_shrunk():
    assert image_files.inspect(image_files.encode(grey(511, 700))).height == 511
    assert image_files.inspect(image_files.encode(grey(512, 700))).height == 256
    assert image_files.inspect(image_files.encode(grey(5000, 2))).width == 1


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(ImageError("empty", "The image has no bytes.")))
    assert (error.reason, str(error)) == ("empty", "The image has no bytes.")
    refused = ImageError("refused", "The server says no.", advice="Ask again.", code="INVALID_ARGUMENT")
    for sent in (refused, ServerUnavailable("Nobody answers.", advice="Start it.", code="UNAVAILABLE")):
        come = pickle.loads(pickle.dumps(sent))
        assert type(come) is type(sent) and vars(come) == vars(sent) and str(come) == str(sent)


def test_no_grpc_needed(tmp_path):
    """ExampleGen and training import images and decoding only."""
    (tmp_path / "grpc.py").write_text("raise ImportError('grpc must not be needed')")
    code = (
        "import htr_client.image_files, htr_client.decoding, htr_client.beam, htr_client.language, htr_client.messages"
    )
    import subprocess
    import sys

    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=True)
