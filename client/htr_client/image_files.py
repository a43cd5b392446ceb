"""Images in: checked by their header, decoded to upright 8-bit grey, and packed for the wire.

The graph on the server reads plain upright 8-bit PNG and JPEG only, and one image that it cannot decode spoils every
request of the same batch. So everything is checked here in full before it is sent, and whatever the graph does not
read natively (EXIF rotation, 16 bit, alpha, palettes, CMYK, other formats) is turned into a grey PNG first.
"""

import os
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Union

import cv2
import numpy as np

from htr_client.errors import ImageError
from htr_client.headers import ImageInfo, inspect
from htr_client.model_facts import MAX_PIXELS

# Decoded, an image takes at most what one of colours with 8 bits does that has as many pixels as are allowed.
_MOST_PIXEL_BYTES = 3
# Of a file: an uncompressed TIFF in colours, as archives keep, may have as many pixels as are allowed.
MAX_BYTES = 144 * 2**20
# Models transcribe text at 32 to 64 pixels of height. From this height on images are shrunk before sending; what
# remains is still at least four times what the model sees, so that its own antialiased resize decides.
TALL = 512
_BACK = {6: 8, 8: 6}  # orientation that turns an image back; of others it is the same
_FIRST_READ = 2**16
_LONG = 255  # characters, more than which no name of a file has; a path with more has a file's ending, base64 no dot
_RAISE = "raise the limit: max_pixels in Python, --set data.max_megapixels in commands that take --set"
_STRIP = 2**20  # pixels that become grey at a time, since what lies between takes several times their bytes


@dataclass(frozen=True)
class ImageFile:
    """An encoded image that has been read, with its path or another name, or None where it has none."""

    data: bytes
    path: str | None


Image = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, np.ndarray, ImageFile]


class PackedImage(NamedTuple):
    """A fully checked image, ready to be sent.

    Attributes:
        data: Encoded PNG or JPEG that the serving graph reads.
        width: Width in pixels of the upright original (before any shrinking).
        height: Height in pixels of the upright original.
    """

    data: bytes
    width: int
    height: int


def load(image: Image, max_pixels: int = MAX_PIXELS, *, upright: bool = True) -> np.ndarray:
    """Reads, checks and decodes an image to grey, upright unless told otherwise.

    Args:
        image: Path, encoded bytes, or an array [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] (BGR or BGRA as OpenCV
            has them) of uint8, uint16 (0..65535), bool or float (0..1).
        max_pixels: Images with more pixels are refused by their header, before decoding; and so are those that take
            more than three bytes for each of so many pixels, or of `MAX_PIXELS` if that is more.
        upright: Whether to turn the image as its EXIF orientation says.

    Returns:
        uint8 [h, w], 0 black and 255 white; transparent parts show white paper.

    Raises:
        ImageError: With its reason.
    """
    if isinstance(image, np.ndarray):
        if image.ndim >= 2 and image.shape[0] * image.shape[1] > max_pixels:
            raise _too_many_pixels(image.shape[1], image.shape[0], max_pixels)
        return _to_grey(image)
    data = read(image)
    info = _inspect_bounded(data, max_pixels)
    return _decode(data, info, upright)


def encode(grey: np.ndarray, tall: int = TALL) -> bytes:
    """Encodes a grey image as a compact PNG.

    Args:
        grey: uint8 [h, w].
        tall: Images at least this high, in pixels, are shrunk by area averaging to between half of it and it.

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
        raise ImageError("undecodable", f"OpenCV cannot encode an image of {grey.shape[1]} x {grey.shape[0]} pixels.")
    return png.tobytes()


def pack(image: Image, max_pixels: int = MAX_PIXELS) -> PackedImage:
    """Checks an image in full and makes it ready to send.

    Files that the serving graph reads natively go as they are: the model then sees exactly what it saw in training.

    Args:
        image: As for `load`.
        max_pixels: As for `load`.

    Returns:
        The bytes to send, with the size of the upright original.

    Raises:
        ImageError: With its reason.
    """
    return pack_with_pixels(image, max_pixels)[0]


def goes_as_it_is(data: bytes) -> bool:
    """Whether `pack` leaves the bytes of a file as they are; only the header is read.

    Args:
        data: The bytes of the file.

    Returns:
        False where `pack` makes a grey PNG of it.

    Raises:
        ImageError: The header cannot be read.
    """
    return _goes_as_it_is(inspect(data))


def pack_with_pixels(image: Image, max_pixels: int = MAX_PIXELS) -> tuple[PackedImage, np.ndarray]:
    """As `pack`, with what decoding the bytes to send would give, for callers that need the pixels too.

    Args:
        image: As for `load`.
        max_pixels: As for `load`.

    Returns:
        The bytes to send, and their pixels, uint8 [h, w].

    Raises:
        ImageError: With its reason.
    """
    if isinstance(image, np.ndarray):
        data, grey, as_it_is = b"", load(image, max_pixels), False
    else:
        data = read(image)
        info = _inspect_bounded(data, max_pixels)
        grey = _decode(data, info)  # also when the file goes as it is: only decoding proves that it can be decoded
        as_it_is = _goes_as_it_is(info)
    height, width = grey.shape
    if not as_it_is:
        grey = _shrink(grey, TALL)
        data = _encode(grey)
    return PackedImage(data, width, height), grey


def _goes_as_it_is(info: ImageInfo) -> bool:
    return info.plain and info.height < TALL


def read_file(file: BinaryIO) -> bytes:
    """Reads an open file to its end, or to one byte more than `MAX_BYTES`, so that `pack` refuses a longer one."""
    # Asked for all of it, Python makes room for as much first, which takes longer than to decode a small image.
    data = file.read(_FIRST_READ)
    return data + file.read(MAX_BYTES + 1 - _FIRST_READ) if len(data) == _FIRST_READ else data


def read(image: Image) -> bytes:
    """The encoded bytes of an image that is no array.

    Raises:
        ImageError: When the file cannot be opened, or is too large.
        TypeError: When it is neither bytes nor a path.
    """
    if isinstance(image, ImageFile):
        image = image.data
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
    elif isinstance(image, (str, os.PathLike)):
        try:
            with open(image, "rb") as file:
                data = read_file(file)
        except OSError as error:
            raise _unreadable(os.fspath(image), str(error.strerror)) from None
        except ValueError as error:  # a NUL in the path
            raise _unreadable(os.fspath(image), str(error)) from None
    else:
        unread = ", which cv2.imread returns for a file that it cannot read" if image is None else ""
        raise TypeError(f"an image is a path, bytes or a numpy array, not {type(image).__name__}{unread}")
    if len(data) > MAX_BYTES:
        raise ImageError(
            "too_large",
            f"The file is larger than {MAX_BYTES // 2**20} MiB, and no setting allows more.",
            advice="Save it with compression: as JPEG, PNG, or TIFF with LZW.",
        )
    return data


def _unreadable(path: str, why: str) -> ImageError:
    if len(path) <= _LONG or "." in path:
        return ImageError("unreadable", f"Cannot read {path!r}: {why}.")
    ends = f"{path[:60]}...{path[-60:]}"  # all of an image in base64 would go into logs
    return ImageError(
        "unreadable",
        f"Cannot read {ends!r} ({len(path):,} characters): {why}.",
        advice="A str is the path of a file: if this is an image in base64, decode it and give the bytes.",
    )


def path_of(image: Image) -> str | None:
    """The path of an image that is given by one, or its name."""
    if isinstance(image, ImageFile):
        return image.path
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else None


def _inspect_bounded(data: bytes, max_pixels: int) -> ImageInfo:
    info = inspect(data)
    if info.width * info.height > max_pixels:
        raise _too_many_pixels(info.width, info.height, max_pixels)
    size, most = info.width * info.height * info.pixel_bytes, _MOST_PIXEL_BYTES * max(max_pixels, MAX_PIXELS)
    if size > most:
        raise ImageError(
            "too_large",
            f"To decode the image takes {size:,} bytes, {info.pixel_bytes} for each of {info.width} x {info.height} "
            f"pixels, more than the limit of {most:,}.",
            advice="Save it with 8 bits a channel and without transparency (a JPEG not progressive), or smaller, or "
            f"{_RAISE}.",
        )
    return info


def _too_many_pixels(width: int, height: int, max_pixels: int) -> ImageError:
    return ImageError(
        "too_large",
        f"The image has {width} x {height} pixels, more than the limit of {max_pixels:,}.",
        advice=f"Save it smaller, or cut out the line of text, or {_RAISE}.",
    )


def _decode(data: bytes, info: ImageInfo, upright: bool = True) -> np.ndarray:
    # JPEG decodes straight to its luma as in the serving graph. Orientation is left to the code below, since which
    # formats OpenCV turns when it is asked to differs from version to version; TIFF it turns always.
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION if info.format == "jpeg" else cv2.IMREAD_UNCHANGED
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError("undecodable", f"OpenCV cannot decode this {info.format} image: {error.err}.") from None
    if decoded is None:
        raise ImageError(
            "undecodable",
            f"OpenCV cannot decode this {info.format} image: damaged, or a kind that this OpenCV does not read.",
            advice="Save it again as PNG or JPEG.",
        )
    # Sorted, since OpenCV has turned a TIFF, and the header's size is that of the upright image.
    if sorted(decoded.shape[:2]) != sorted((info.height, info.width)):
        raise ImageError(
            "undecodable",
            f"The header of this {info.format} image says {info.width} x {info.height} pixels, but it holds "
            f"{decoded.shape[1]} x {decoded.shape[0]}.",
            advice="Save it again as PNG or JPEG.",
        )
    grey = _to_grey(decoded)
    if (info.format == "tiff") == upright:
        return grey
    return _upright(grey, info.orientation if upright else _BACK.get(info.orientation, info.orientation))


def _to_grey(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.dtype == np.uint8 and array.size:
        return np.ascontiguousarray(array)  # nearly all
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageError("undecodable", f"An image is [h, w], [h, w, 1], [h, w, 3] or [h, w, 4], not {array.shape}.")
    if array.size == 0:
        raise ImageError("empty", f"The image has no pixels: {array.shape}.")
    shift = 0
    if array.dtype == np.uint16:
        # As the PNG decoder of the serving graph does, unless a scanner stored its 8 to 12 bits without spreading them.
        bits = int(array.max()).bit_length()
        shift = 8 if bits > 12 else max(0, bits - 8)
    elif np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # neither is NaN
            raise ImageError("undecodable", "An image of floats has values outside 0..1.")
    elif array.dtype not in (np.uint8, np.bool_):
        raise ImageError("undecodable", f"Pixels of type {array.dtype} are not supported.")
    grey = np.empty(array.shape[:2], np.uint8)
    rows = max(1, _STRIP // array.shape[1])
    for top in range(0, len(array), rows):
        grey[top : top + rows] = _strip_to_grey(array[top : top + rows], shift)
    return grey


def _strip_to_grey(array: np.ndarray, shift: int) -> np.ndarray:
    if array.dtype == np.uint16:
        array = (array >> shift).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        array = np.rint(array * 255).astype(np.uint8)
    array = np.ascontiguousarray(array)
    if array.ndim == 2:
        return array
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
