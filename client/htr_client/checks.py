"""What is refused at once, with what to write instead, rather than by a later call."""

import os

import numpy as np

from htr_client.decoding import Decoder


def check_settings(
    version: int | None,
    label: str | None,
    timeout: float,
    decoder: object,
    batch_size: int,
    in_flight: int,
    patience: float,
    max_pixels: int,
    metadata: object,
) -> None:
    """Refuses settings of a client that contradict each other or cannot be; the arguments are those of the client.

    Raises:
        ValueError: When a number is impossible, or there is a version and a label.
        TypeError: When `decoder` is neither a decoder nor a function that makes one, or `metadata` no function.
    """
    if version is not None and label is not None:
        raise ValueError("give a version or a label, not both")
    if min(batch_size, in_flight) < 1 or not timeout > 0:
        raise ValueError("batch_size, in_flight and timeout are positive")
    if not patience >= 0:
        raise ValueError(f"patience is a number of seconds, 0 or more, not {patience}")
    if max_pixels < 1:
        raise ValueError(f"max_pixels is positive, not {max_pixels}")
    if version is not None and not 0 <= version < 2**63:
        raise ValueError(f"a version is a number from 0 to 2**63 - 1, not {version}")
    if isinstance(decoder, type):
        raise TypeError(f"decoder is the class {decoder.__name__}: give a decoder of it, such as {decoder.__name__}()")
    if not (decoder is None or isinstance(decoder, Decoder) or callable(decoder)):
        raise TypeError(f"decoder is a Decoder, such as BestPath(), or a function that makes one, not {decoder!r}")
    if metadata is not None and not callable(metadata):
        kind = type(metadata).__name__  # without the values, which may be secrets
        raise TypeError(f"metadata is a function that returns the pairs of a request, not a {kind}: lambda: [...]")


def refuse_one(images: object) -> None:
    """Refuses one image where several are expected; its characters, bytes or rows would be taken for images.

    Raises:
        TypeError: With what to write instead.
    """
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, np.ndarray)):
        raise TypeError(
            f"transcribe_many takes several images, such as a list, not one {type(images).__name__}: "
            "give [image], or call transcribe(image)"
        )
