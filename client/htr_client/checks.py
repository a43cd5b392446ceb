"""What is refused at once, with what to write instead, rather than by a later call."""

import os
from numbers import Integral, Real

import numpy as np

from htr_client.decoding import Decoder
from htr_client.metrics import ClientMetrics
from htr_client.request_log import RequestLog
from htr_client.tls import Tls


def check_settings(
    *,
    model: object,
    version: object,
    label: object,
    tls: object,
    decoder: object,
    metadata: object,
    log: object,
    metrics: object,
    **numbers: float,
) -> None:
    """Refuses settings of a client that contradict each other or cannot be; the arguments are those of the client.

    Raises:
        ValueError: When a number is impossible, a name is empty, or there is a version and a label.
        TypeError: When a setting is of another type, with what to write instead.
    """
    _check_kinds(model, version, label, tls, log, metrics, numbers)
    if version is not None and label is not None:
        raise ValueError("give a version or a label, not both")
    if min(numbers["batch_size"], numbers["in_flight"]) < 1 or not numbers["timeout"] > 0:
        raise ValueError("batch_size, in_flight and timeout are positive")
    if not numbers["patience"] >= 0:
        raise ValueError(f"patience is a number of seconds, 0 or more, not {numbers['patience']}")
    if numbers["max_pixels"] < 1:
        raise ValueError(f"max_pixels is positive, not {numbers['max_pixels']}")
    if isinstance(version, Integral) and not 0 <= int(version) < 2**63:
        raise ValueError(f"a version is a number from 0 to 2**63 - 1, not {version}")
    if isinstance(decoder, type):
        raise TypeError(f"decoder is the class {decoder.__name__}: give a decoder of it, such as {decoder.__name__}()")
    if not (decoder is None or isinstance(decoder, Decoder) or callable(decoder)):
        raise TypeError(f"decoder is a Decoder, such as BestPath(), or a function that makes one, not {decoder!r}")
    if metadata is not None and not callable(metadata):
        kind = type(metadata).__name__  # without the values, which may be secrets
        raise TypeError(f"metadata is a function that returns the pairs of a request, not a {kind}: lambda: [...]")


def _check_kinds(
    model: object,
    version: object,
    label: object,
    tls: object,
    log: object,
    metrics: object,
    numbers: dict[str, float],
) -> None:
    for name, text in (("model", model), ("label", label)):
        if text is None and name == "label":
            continue
        if not isinstance(text, str):
            raise TypeError(f"{name} is a str, not a {type(text).__name__}")
        if not text:  # to a server, an empty label is its latest version
            raise ValueError(f"{name} is empty: leave it out, or see whether a variable of the environment is not set")
    if version is not None and not isinstance(version, Integral):
        raise TypeError(f"version is an int, not a {type(version).__name__}: {version!r}")
    for name, number in numbers.items():
        seconds = name in ("timeout", "patience")
        if not isinstance(number, Real if seconds else Integral):
            wanted = "a number of seconds (math.inf for no limit)" if seconds else "an int"
            raise TypeError(f"{name} is {wanted}, not a {type(number).__name__}: {number!r}")
    # Without the values: one of tls may be a key.
    if not (tls is None or isinstance(tls, (bool, Tls))):
        raise TypeError(f"tls is True or a Tls, such as Tls(ca='ca.pem'), not a {type(tls).__name__}")
    if not (log is None or isinstance(log, RequestLog)):
        raise TypeError(f"log is a RequestLog, such as RequestLog('requests'), not a {type(log).__name__}")
    if not (metrics is None or isinstance(metrics, ClientMetrics)):
        raise TypeError(f"metrics is a ClientMetrics, which several clients may share, not a {type(metrics).__name__}")


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
