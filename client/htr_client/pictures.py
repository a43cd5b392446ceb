"""Pictures in: checked by their header, decoded to upright 8-bit grey, and packed for the wire.

The graph on the server reads plain upright 8-bit PNG and JPEG only, and one picture that it cannot decode spoils every
request of the same batch. So everything is checked here in full before it is sent, and whatever the graph does not
read natively (EXIF rotation, 16 bit, alpha, palettes, CMYK, other formats) is turned into a grey PNG first.
"""

import os
import struct
import zlib
from typing import BinaryIO, NamedTuple, Union

import cv2
import numpy as np

from htr_client.errors import PictureError

MAX_PIXELS = 50_000_000
MAX_BYTES = 64 * 2**20
# Models read text at 32 to 64 pixels of height. From this height on pictures are shrunk before sending; what
# remains is still at least four times what the model sees, so that its own antialiased resize decides what it reads.
TALL = 512
# A progressive JPEG has about ten scans. Each may be a few bytes long and costs the decoder a pass over all pixels.
MAX_SCANS = 500
_FIRST_READ = 2**16

Picture = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, np.ndarray]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK, _PNG_CHECKSUM = struct.Struct(">I4s").unpack_from, struct.Struct(">I").unpack_from
_SUPPORTED = "PNG, JPEG, BMP, TIFF, WebP and PNM images are read."
# What people send by mistake: where its signature stands, the signature, its name.
_OTHERS = (
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftypmif1", "a HEIC image"),
    (4, b"ftypavif", "an AVIF image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\0\0\0\x0cjP", "a JPEG 2000 image"),
    (0, b"\0\x05\x16\x07", "an AppleDouble file, which a Mac writes beside the image"),
)


class PictureInfo(NamedTuple):
    """What the header of a picture file says; nothing has been decoded.

    Attributes:
        format: "png", "jpeg", "bmp", "tiff", "webp" or "pnm".
        width: Width in pixels of the upright picture (after the EXIF orientation).
        height: Height in pixels of the upright picture.
        orientation: EXIF orientation, 1 (upright) to 8.
        plain: Whether the serving graph reads the file as it is: upright 8-bit grey or colour PNG or JPEG.
    """

    format: str
    width: int
    height: int
    orientation: int
    plain: bool


class PackedPicture(NamedTuple):
    """A fully checked picture, ready to be sent.

    Attributes:
        data: Encoded PNG or JPEG that the serving graph reads.
        width: Width in pixels of the upright original (before any shrinking).
        height: Height in pixels of the upright original.
    """

    data: bytes
    width: int
    height: int


def inspect(data: bytes) -> PictureInfo:
    """Read the header of an encoded picture.

    Args:
        data: The bytes of the file.

    Returns:
        Format, upright size in pixels and what else the header says.

    Raises:
        PictureError: reason "empty", "not_a_picture", "truncated" (the header itself is cut, or a PNG or JPEG lacks
            its end) or "undecodable" (damaged header, several frames).
    """
    if not data:
        raise PictureError("empty", "The picture has no bytes.")
    reader = next((reader for signature, reader in _READERS if data.startswith(signature)), None)
    if reader is None:
        for at, signature, name in _OTHERS:
            if data.startswith(signature, at):
                raise PictureError("not_a_picture", f"This is {name}.", advice=_SUPPORTED)
        raise PictureError("not_a_picture", f"Not a picture: it starts with {data[:8]!r}.", advice=_SUPPORTED)
    try:
        info = reader(data)
    except (struct.error, IndexError, ValueError):
        raise PictureError("truncated", "The picture ends within its header.") from None
    if info.width < 1 or info.height < 1:
        raise PictureError("undecodable", f"The header says {info.width} x {info.height} pixels.")
    return info


def load(picture: Picture, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read, check and decode a picture to upright grey.

    Args:
        picture: Path, encoded bytes, or an array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] (BGR or BGRA as OpenCV
            has them) of uint8, uint16 (0..65535), bool or float (0..1).
        max_pixels: Pictures with more pixels are refused by their header, before decoding.

    Returns:
        uint8 [h, w], 0 black and 255 white; transparent parts show white paper.

    Raises:
        PictureError: With its reason.
    """
    if isinstance(picture, np.ndarray):
        if picture.ndim >= 2 and picture.shape[0] * picture.shape[1] > max_pixels:
            raise _too_many_pixels(picture.shape[1], picture.shape[0], max_pixels)
        return _to_grey(picture)
    data = _read(picture)
    return _decode(data, _inspect_bounded(data, max_pixels))


def encode(grey: np.ndarray, tall: int = TALL) -> bytes:
    """Encode a grey picture as a compact PNG.

    Args:
        grey: uint8 [h, w].
        tall: Pictures at least this high, in pixels, are shrunk by area averaging to between half of it and it.

    Returns:
        The PNG file.
    """
    return _encode(_shrink(grey, tall))


def _shrink(grey: np.ndarray, tall: int) -> np.ndarray:
    height, width = grey.shape
    if height < tall:
        return grey
    new_height = round(height / (height // (tall // 2)))
    return cv2.resize(grey, (max(1, round(width * new_height / height)), new_height), interpolation=cv2.INTER_AREA)


def _encode(grey: np.ndarray) -> bytes:
    # Level 1 is within a few per cent of level 6 on scans and takes a quarter of its time.
    ok, png = cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not ok:
        raise PictureError(
            "undecodable", f"OpenCV cannot encode a picture of {grey.shape[1]} x {grey.shape[0]} pixels."
        )
    return png.tobytes()


def pack(picture: Picture, max_pixels: int = MAX_PIXELS, tall: int = TALL) -> PackedPicture:
    """Check a picture in full and make it ready to send.

    Files that the serving graph reads natively go as they are: the model then sees exactly what it saw in training.

    Args:
        picture: As for `load`.
        max_pixels: As for `load`.
        tall: As for `encode`.

    Returns:
        The bytes to send, with the size of the upright original.

    Raises:
        PictureError: With its reason.
    """
    return pack_with_pixels(picture, max_pixels, tall)[0]


def pack_with_pixels(
    picture: Picture, max_pixels: int = MAX_PIXELS, tall: int = TALL
) -> tuple[PackedPicture, np.ndarray]:
    """As `pack`, with what decoding the bytes to send would give, for callers that need the pixels too.

    Args:
        picture: As for `load`.
        max_pixels: As for `load`.
        tall: As for `encode`.

    Returns:
        The bytes to send, and their pixels, uint8 [h, w].

    Raises:
        PictureError: With its reason.
    """
    if isinstance(picture, np.ndarray):
        data, grey, as_it_is = b"", load(picture, max_pixels), False
    else:
        data = _read(picture)
        info = _inspect_bounded(data, max_pixels)
        grey = _decode(data, info)  # also when the file goes as it is: only decoding proves that it can be decoded
        as_it_is = info.plain and info.height < tall
    height, width = grey.shape
    if not as_it_is:
        grey = _shrink(grey, tall)
        data = _encode(grey)
    return PackedPicture(data, width, height), grey


def read_file(file: BinaryIO) -> bytes:
    """Read an open file to its end, or to one byte more than `MAX_BYTES`, so that `pack` refuses a longer one."""
    # Asked for all of it, Python makes room for 64 MiB first, which takes longer than to decode a small picture.
    data = file.read(_FIRST_READ)
    return data + file.read(MAX_BYTES + 1 - _FIRST_READ) if len(data) == _FIRST_READ else data


def _read(picture: Picture) -> bytes:
    if isinstance(picture, (bytes, bytearray, memoryview)):
        data = bytes(picture)
    elif isinstance(picture, (str, os.PathLike)):
        try:
            with open(picture, "rb") as file:
                data = read_file(file)
        except OSError as error:
            raise PictureError("unreadable", f"Cannot read {os.fspath(picture)!r}: {error.strerror}.") from None
        except ValueError as error:  # a NUL in the path
            raise PictureError("unreadable", f"Cannot read {os.fspath(picture)!r}: {error}.") from None
    else:
        raise TypeError(f"a picture is a path, bytes or a numpy array, not {type(picture).__name__}")
    if len(data) > MAX_BYTES:
        raise PictureError("too_large", f"The file is larger than {MAX_BYTES // 2**20} MiB.")
    return data


def _inspect_bounded(data: bytes, max_pixels: int) -> PictureInfo:
    info = inspect(data)
    if info.width * info.height > max_pixels:
        raise _too_many_pixels(info.width, info.height, max_pixels)
    return info


def _too_many_pixels(width: int, height: int, max_pixels: int) -> PictureError:
    return PictureError(
        "too_large",
        f"The picture has {width} x {height} pixels, more than the limit of {max_pixels:,}.",
        advice="Cut out the line of text, or raise max_pixels.",
    )


def _decode(data: bytes, info: PictureInfo) -> np.ndarray:
    # JPEG decodes straight to its luma as in the serving graph. Orientation is left to the code below, since which
    # formats OpenCV turns when it is asked to differs from version to version; TIFF it turns always.
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION if info.format == "jpeg" else cv2.IMREAD_UNCHANGED
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise PictureError("undecodable", f"OpenCV cannot decode this {info.format} picture: {error.err}.") from None
    if decoded is None:
        raise PictureError(
            "undecodable",
            f"OpenCV cannot decode this {info.format} picture: damaged, or a kind that this OpenCV does not read.",
            advice="Save it again as PNG or JPEG.",
        )
    return _upright(_to_grey(decoded), 1 if info.format == "tiff" else info.orientation)


def _to_grey(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.dtype == np.uint8 and array.size:
        return np.ascontiguousarray(array)  # nearly all
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise PictureError("undecodable", f"A picture is [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], not {array.shape}.")
    if array.size == 0:
        raise PictureError("empty", f"The picture has no pixels: {array.shape}.")
    if array.dtype == np.uint16:
        # As the PNG decoder of the serving graph does, unless a scanner stored its 8 to 12 bits without spreading them.
        bits = int(array.max()).bit_length()
        array = (array >> (8 if bits > 12 else max(0, bits - 8))).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise PictureError("undecodable", "A picture of floats has values outside 0..1.")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise PictureError("undecodable", f"Pixels of type {array.dtype} are not supported.")
    if array.ndim == 2:
        return np.ascontiguousarray(array)
    array = np.ascontiguousarray(array)
    if array.shape[2] == 3:
        return cv2.cvtColor(array, cv2.COLOR_BGR2GRAY)
    grey = cv2.cvtColor(array, cv2.COLOR_BGRA2GRAY).astype(np.uint16)
    alpha = array[:, :, 3].astype(np.uint16)
    return ((grey * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _upright(grey: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return grey
    if orientation >= 5:
        grey = grey.T
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    return np.ascontiguousarray(grey)


def _info(format_: str, width: int, height: int, orientation: int = 1, plain: bool = False) -> PictureInfo:
    if orientation >= 5:
        width, height = height, width
    return PictureInfo(format_, width, height, orientation, plain and orientation == 1)


def _png(data: bytes) -> PictureInfo:
    size: tuple[int, ...] | None = None
    orientation, plain = 1, True
    view = memoryview(data)
    at = len(_PNG)
    while at + 12 <= len(data):  # for each chunk: length, name, content, checksum of name and content
        length, name = _PNG_CHUNK(data, at)
        begin, at = at + 8, at + 12 + length
        if at > len(data):
            break
        if zlib.crc32(view[begin - 4 : at - 4]) != _PNG_CHECKSUM(data, at - 4)[0]:
            raise PictureError("undecodable", f"The PNG is damaged: wrong checksum in its chunk {name!r}.")
        if name == b"IHDR":
            size = struct.unpack(">IIBBBBB", view[begin : at - 4])
            depth, colour, interlace = size[2], size[3], size[6]
            plain = depth == 8 and colour in (0, 2) and interlace == 0
        elif name in (b"tRNS", b"acTL"):
            plain = False
        elif name == b"eXIf":
            orientation = _exif_orientation(data[begin : at - 4])
        elif name == b"IEND" and size is not None:
            # The graph wants the end at the end, and nothing in it.
            return _info("png", size[0], size[1], orientation, plain and length == 0 and at == len(data))
    raise PictureError("truncated", f"The PNG ends early, after {len(data)} bytes.")


def _jpeg(data: bytes) -> PictureInfo:
    frame: tuple[int, ...] | None = None
    orientation, adobe_rgb, process = 1, False, 0
    at = 2
    while True:
        # Between segments there may be fill bytes 0xFF; anything else means that the lengths were wrong.
        if data[at] != 0xFF:
            raise PictureError("undecodable", f"The JPEG is damaged at byte {at}.")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        at += 2
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        if marker == 0xD9:
            raise PictureError("undecodable", "The JPEG has no picture data.")
        length = data[at] << 8 | data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            process, frame = marker, struct.unpack_from(">BHHB", data, at + 2)
        elif marker == 0xE1 and data[at + 2 : at + 8] == b"Exif\0\0":
            orientation = _exif_orientation(data[at + 8 : at + length])
        elif marker == 0xEE and data[at + 2 : at + 7] == b"Adobe":
            adobe_rgb = data[at + 13] == 0
        at += length
        if marker == 0xDA:
            break
    if frame is None:
        raise PictureError("undecodable", "The JPEG has no frame header.")
    end = data.find(b"\xff\xd9", at)
    if end < 0:
        raise PictureError("truncated", f"The JPEG ends early, after {len(data)} bytes.")
    scans = 1 + data.count(b"\xff\xda", at, end)
    if scans > MAX_SCANS:
        raise PictureError("too_large", f"The JPEG has {scans} scans, more than the limit of {MAX_SCANS}.")
    precision, height, width, components = frame
    plain = process <= 0xC2 and precision == 8 and (components == 1 or (components == 3 and not adobe_rgb))
    plain = plain and data.endswith(b"\xff\xd9")  # the graph wants the end at the end
    return _info("jpeg", width, height, orientation, plain)


def _bmp(data: bytes) -> PictureInfo:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return _info("bmp", width, abs(height))


def _tiff(data: bytes) -> PictureInfo:
    entries, following = _tiff_entries(data)
    if following:
        raise _several("TIFF")
    orientation = entries.get(274, 1)
    return _info("tiff", entries.get(256, 0), entries.get(257, 0), orientation if 1 <= orientation <= 8 else 1)


def _tiff_entries(data: bytes) -> tuple[dict[int, int], int]:
    """Tags of the first directory of a TIFF with their (first, small) value, and where the next directory is."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    entries = {}
    for i in range(count):
        tag, kind = struct.unpack_from(order + "HH", data, at + 2 + 12 * i)
        form = {1: "B", 3: "H", 4: "I"}.get(kind)
        if form:
            entries[tag] = struct.unpack_from(order + form, data, at + 10 + 12 * i)[0]
    following = data[at + 2 + 12 * count : at + 6 + 12 * count]
    return entries, struct.unpack(order + "I", following)[0] if len(following) == 4 else 0


def _exif_orientation(exif: bytes) -> int:
    # EXIF is a small TIFF; when it is damaged every viewer shows the picture as it is stored.
    try:
        orientation = _tiff_entries(exif)[0].get(274, 1)
    except struct.error:
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _webp(data: bytes) -> PictureInfo:
    if data[8:12] != b"WEBP":
        raise PictureError("not_a_picture", "A RIFF file, but not WebP.", advice=_SUPPORTED)
    kind = data[12:16]
    if kind == b"VP8X":
        if data[20] & 0x02:
            raise _several("WebP")
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        if len(data) < 30:
            raise ValueError
        at = data.find(b"EXIF", 30) if data[20] & 0x08 else -1
        exif = data[at + 8 :].removeprefix(b"Exif\0\0") if at > 0 else b""
        return _info("webp", width, height, _exif_orientation(exif) if exif else 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return _info("webp", width & 0x3FFF, height & 0x3FFF)
    (bits,) = struct.unpack_from("<I", data, 21)
    return _info("webp", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)


def _pnm(data: bytes) -> PictureInfo:
    fields: list[int] = []
    lines = data[2:4096].split(b"\n")
    for line in lines:
        fields += [int(word) for word in line.split(b"#")[0].split()[: 2 - len(fields)]]
        if len(fields) == 2:
            return _info("pnm", fields[0], fields[1])
    raise ValueError


def _several(format_: str) -> PictureError:
    return PictureError(
        "undecodable",
        f"The {format_} holds several pictures (an animation or pages).",
        advice="Send the one picture that you mean.",
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
