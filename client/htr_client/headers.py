"""What the header of an image file says, for each format that is read; nothing is decoded.

PNG and JPEG are walked to their end, since one that is cut spoils every request of its batch on the server.
"""

import math
import re
import struct
import zlib
from typing import NamedTuple

from htr_client.errors import ImageError

# A progressive JPEG has about ten scans. Each may be a few bytes long and costs the decoder a pass over all pixels.
MAX_SCANS = 500
_JPEG_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_TIFF_BITS = 258  # tag of BitsPerSample
_TIFF_COLOURS, _WHITE_IS_ZERO, _PALETTE = 262, 0, 3  # tag of PhotometricInterpretation, and values of it
_TIFF_CHANNELS = 277  # tag of SamplesPerPixel
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK, _PNG_CHECKSUM = struct.Struct(">I4s").unpack_from, struct.Struct(">I").unpack_from
# Space and comments as OpenCV reads them. To it a number also ends at any other byte, which is then lost: refused here.
_PNM_SPACE = rb"(?:\s|#[^\n\r]*[\n\r])*"
_PNM_HEADER = re.compile(rb"P([1-6])\s%b([0-9]+)\s%b([0-9]+)\s" % (_PNM_SPACE, _PNM_SPACE))
_PNM_HIGHEST = re.compile(rb"%b([0-9]+)" % _PNM_SPACE)
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}  # by colour type, as OpenCV decodes them
_SUPPORTED = "PNG, JPEG, BMP, TIFF, WebP and PNM images are read."
_PDF = "a PDF document"
_PDF_ADVICE = f"{_SUPPORTED} Make an image of each page: pdftoppm -r 300 -png FILE.pdf page."
# What people send by mistake: where its signature stands, the signature, its name.
_OTHERS = (
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftypavif", "an AVIF image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"%PDF", _PDF),
    (0, b"\0\0\0\x0cjP", "a JPEG 2000 image"),
    (0, b"\0\x05\x16\x07", "an AppleDouble file, which a Mac writes beside the image"),
)


class ImageInfo(NamedTuple):
    """What the header of an image file says; nothing has been decoded.

    Attributes:
        format: "png", "jpeg", "bmp", "tiff", "webp" or "pnm".
        width: Width in pixels of the upright image (after the EXIF orientation).
        height: Height in pixels of the upright image.
        orientation: EXIF orientation, 1 (upright) to 8.
        plain: Whether the serving graph reads the file as it is: upright 8-bit grey or colour PNG or JPEG.
        pixel_bytes: Bytes that the decoder takes for a pixel at most: channels x bytes of a channel.
    """

    format: str
    width: int
    height: int
    orientation: int
    plain: bool
    pixel_bytes: int


def inspect(data: bytes) -> ImageInfo:
    """Reads the header of an encoded image.

    Args:
        data: The bytes of the file.

    Returns:
        Format, upright size in pixels and what else the header says.

    Raises:
        ImageError: Reason "empty", "not_an_image", "truncated" (the header itself is cut, or a PNG or JPEG lacks
            its end) or "undecodable" (damaged header, several frames).
    """
    if not data:
        raise ImageError("empty", "The image has no bytes.")
    reader = next((reader for signature, reader in _READERS if data.startswith(signature)), None)
    if reader is None:
        for at, signature, name in _OTHERS:
            if data.startswith(signature, at):
                advice = _PDF_ADVICE if name == _PDF else _SUPPORTED
                raise ImageError("not_an_image", f"This is {name}.", advice=advice)
        start = repr(data[:8])[1:]  # as text, not as Python's bytes
        raise ImageError("not_an_image", f"Not an image: it starts with {start}.", advice=_SUPPORTED)
    try:
        info = reader(data)
    except (struct.error, IndexError, ValueError):
        raise ImageError("truncated", "The image ends within its header.") from None
    if info.width < 1 or info.height < 1:
        raise ImageError("undecodable", f"The header says {info.width} x {info.height} pixels.")
    return info


def suffix(data: bytes) -> str:
    """How the name of a file with a PNG or JPEG ends, without the dot."""
    return "png" if data.startswith(_PNG[:4]) else "jpg"


def _info(
    format_: str, width: int, height: int, pixel_bytes: int, orientation: int = 1, plain: bool = False
) -> ImageInfo:
    if orientation >= 5:
        width, height = height, width
    return ImageInfo(format_, width, height, orientation, plain and orientation == 1, pixel_bytes)


def _png(data: bytes) -> ImageInfo:
    size: tuple[int, ...] | None = None
    orientation, plain, pixel_bytes = 1, True, 1
    view = memoryview(data)
    at = len(_PNG)
    while at + 12 <= len(data):  # for each chunk: length, name, content, checksum of name and content
        length, name = _PNG_CHUNK(data, at)
        begin, at = at + 8, at + 12 + length
        if at > len(data):
            break
        if zlib.crc32(view[begin - 4 : at - 4]) != _PNG_CHECKSUM(data, at - 4)[0]:
            raise ImageError("undecodable", f"The PNG is damaged: wrong checksum in its chunk {repr(name)[2:-1]}.")
        if name == b"IHDR":
            size = struct.unpack(">IIBBBBB", view[begin : at - 4])
            depth, colour, interlace = size[2], size[3], size[6]
            plain = depth == 8 and colour in (0, 2) and interlace == 0
            pixel_bytes = _PNG_CHANNELS.get(colour, 4) * (depth + 7 >> 3)
        elif name == b"tRNS":
            plain, pixel_bytes = False, pixel_bytes * 4 // 3  # a fourth channel, of grey none
        elif name == b"acTL":
            if struct.unpack(">I", view[begin : begin + 4])[0] > 1:
                raise _several("PNG")
            plain = False
        elif name == b"eXIf":
            orientation = _exif_orientation(data[begin : at - 4])
        elif name == b"IEND" and size is not None:
            # The graph wants the end at the end, and nothing in it.
            plain = plain and length == 0 and at == len(data)
            return _info("png", size[0], size[1], pixel_bytes, orientation, plain)
    raise ImageError("truncated", f"The PNG ends early, after {len(data)} bytes.")


def _jpeg(data: bytes) -> ImageInfo:
    frame: tuple[int, ...] | None = None
    orientation, adobe_rgb, process, samples = 1, False, 0, 1.0
    at = 2
    while True:
        # Between segments there may be fill bytes 0xFF; anything else means that the lengths were wrong.
        if data[at] != 0xFF:
            raise ImageError("undecodable", f"The JPEG is damaged at byte {at}.")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker < 0xC0 and marker != 0x01:
            # No segment, so no length follows: the decoder goes on at once, and would read other segments from here.
            raise ImageError("undecodable", f"The JPEG is damaged at byte {at}: marker 0x{marker:02x}.")
        at += 2
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9:
            raise ImageError("undecodable", "The JPEG has no image data.")
        length = data[at] << 8 | data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            process, frame = marker, struct.unpack_from(">BHHB", data, at + 2)
            sampling = [(factor >> 4) * (factor & 15) for factor in data[at + 9 : at + 8 + 3 * frame[3] : 3]]
            samples = sum(sampling) / max([1, *sampling])
        elif marker == 0xE1 and data[at + 2 : at + 8] == b"Exif\0\0":
            orientation = _exif_orientation(data[at + 8 : at + length])
        elif marker == 0xEE and data[at + 2 : at + 7] == b"Adobe":
            adobe_rgb = data[at + 13] == 0
        at += length
        if marker == 0xDA:
            break
    if frame is None:
        raise ImageError("undecodable", "The JPEG has no frame header.")
    end = data.find(b"\xff\xd9", at)
    if end < 0:
        raise ImageError("truncated", f"The JPEG ends early, after {len(data)} bytes.")
    scans = 1 + data.count(b"\xff\xda", at, end)
    if scans > MAX_SCANS:
        raise ImageError("too_large", f"The JPEG has {scans} scans, more than the limit of {MAX_SCANS}.")
    precision, height, width, components = frame
    # Decoded to grey. Where all scans are needed for a pixel, the decoder keeps the coefficients of all components.
    pixel_bytes = 1 if scans == 1 and process not in _JPEG_PROGRESSIVE else max(1, math.ceil(2 * samples))
    plain = process <= 0xC2 and precision == 8 and (components == 1 or (components == 3 and not adobe_rgb))
    plain = plain and data.endswith(b"\xff\xd9")  # the graph wants the end at the end
    return _info("jpeg", width, height, pixel_bytes, orientation, plain)


def _bmp(data: bytes) -> ImageInfo:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    (bits,) = struct.unpack_from("<H", data, 24 if header == 12 else 28)
    return _info("bmp", width, abs(height), 4 if bits == 32 else 3)


def _tiff(data: bytes) -> ImageInfo:
    tags, entries, following = _tiff_entries(data)
    if following:
        raise _several("TIFF", "Split it into an image of each page: magick FILE.tif page-%03d.png.")
    if len(set(tags)) < len(tags):
        # Readers differ in which of them counts.
        raise ImageError("undecodable", "The TIFF is damaged: a tag occurs twice in its directory.")
    orientation = entries.get(274, 1)
    colours, bits, channels = entries.get(_TIFF_COLOURS), entries.get(_TIFF_BITS, 1), entries.get(_TIFF_CHANNELS, 1)
    # OpenCV drops the transparency of grey images, so that what is transparent comes out black, and inverts no values
    # of more than 8 bits.
    if channels == 2:
        raise _misread("grey with transparency")
    if colours == _WHITE_IS_ZERO and bits > 8:
        raise _misread(f"{bits} bits in which 0 is white")
    channels = 3 if colours == _PALETTE else channels
    pixel_bytes = max(1, channels * (bits + 7 >> 3))
    orientation = orientation if 1 <= orientation <= 8 else 1
    return _info("tiff", entries.get(256, 0), entries.get(257, 0), pixel_bytes, orientation)


def _tiff_entries(data: bytes) -> tuple[list[int], dict[int, int], int]:
    """Tags of the first directory of a TIFF, their (first, small) values, and where the next directory is."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    tags, entries = [], {}
    for i in range(count):
        tag, kind, values = struct.unpack_from(order + "HHI", data, at + 2 + 12 * i)
        tags.append(tag)
        form = {1: "B", 3: "H", 4: "I"}.get(kind)
        if form:
            entries[tag] = struct.unpack_from(order + form, data, at + 10 + 12 * i)[0]
        if tag == _TIFF_BITS and values > 2:  # of each channel, elsewhere
            (place,) = struct.unpack_from(order + "I", data, at + 10 + 12 * i)
            entries[tag] = int.from_bytes(data[place : place + 2], "little" if order == "<" else "big")
    following = data[at + 2 + 12 * count : at + 6 + 12 * count]
    return tags, entries, struct.unpack(order + "I", following)[0] if len(following) == 4 else 0


def _exif_orientation(exif: bytes) -> int:
    # EXIF is a small TIFF; when it is damaged every viewer shows the image as it is stored.
    try:
        orientation = _tiff_entries(exif)[1].get(274, 1)
    except struct.error:
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _webp(data: bytes) -> ImageInfo:
    if data[8:12] != b"WEBP":
        raise ImageError("not_an_image", "A RIFF file, but not WebP.", advice=_SUPPORTED)
    kind = data[12:16]
    if kind == b"VP8X":
        if data[20] & 0x02:
            raise _several("WebP")
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        if len(data) < 30:
            raise ValueError
        at = data.find(b"EXIF", 30) if data[20] & 0x08 else -1
        exif = data[at + 8 :].removeprefix(b"Exif\0\0") if at > 0 else b""
        return _info("webp", width, height, 4 if data[20] & 0x10 else 3, _exif_orientation(exif) if exif else 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return _info("webp", width & 0x3FFF, height & 0x3FFF, 3)
    (bits,) = struct.unpack_from("<I", data, 21)
    return _info("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 4 if bits >> 28 & 1 else 3)


def _pnm(data: bytes) -> ImageInfo:
    found = _PNM_HEADER.match(data, 0, 4096)
    if found is None:
        raise ValueError
    kind = int(found.group(1))
    highest = None if kind in (1, 4) else _PNM_HIGHEST.match(data, found.end(), 4096)
    depth = 2 if highest is not None and int(highest.group(1)) > 255 else 1
    return _info("pnm", int(found.group(2)), int(found.group(3)), depth * (3 if kind in (3, 6) else 1))


def _misread(kind: str) -> ImageError:
    return ImageError("undecodable", f"The TIFF is of a kind that is not read: {kind}.", advice="Save it as PNG.")


def _several(format_: str, advice: str = "Send the one image that you mean.") -> ImageError:
    return ImageError(
        "undecodable",
        f"The {format_} holds several images (an animation or pages).",
        advice=advice,
    )


_READERS = (
    (_PNG, _png),
    (b"\xff\xd8\xff", _jpeg),
    (b"BM", _bmp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"RIFF", _webp),
    *((f"P{n}".encode(), _pnm) for n in range(1, 7)),
)
