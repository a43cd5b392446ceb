"""Client for handwritten text recognition served by TensorFlow Serving, without TensorFlow.

    from htr_client import HtrClient

    with HtrClient("localhost:8500") as client:
        print(client.transcribe("word.png").text)

Everything is loaded at first use, so that decoding and image checks work where grpcio is not installed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from htr_client.aio import AsyncHtrClient
    from htr_client.beam import PrefixBeamSearch
    from htr_client.client import HtrClient
    from htr_client.decoding import Alphabet, BestPath, Decoded, Decoder
    from htr_client.errors import (
        AccessDenied,
        AlphabetMismatch,
        HtrError,
        ImageError,
        MissingExtra,
        ModelNotFound,
        ModelUnusable,
        RequestRefused,
        RequestTooLarge,
        ServerBusy,
        ServerFault,
        ServerUnavailable,
        TimedOut,
        UnexpectedAnswer,
    )
    from htr_client.language import CharacterModel, Lexicon
    from htr_client.metrics import ClientMetrics
    from htr_client.request_log import RequestLog
    from htr_client.results import Character, Timings, Transcription, VersionStatus
    from htr_client.suspicion import Suspicion
    from htr_client.tls import Tls

_HOMES = {
    "aio": ("AsyncHtrClient",),
    "client": ("HtrClient",),
    "tls": ("Tls",),
    "decoding": ("Alphabet", "BestPath", "Decoded", "Decoder"),
    "beam": ("PrefixBeamSearch",),
    "errors": (
        "AccessDenied",
        "AlphabetMismatch",
        "HtrError",
        "ImageError",
        "MissingExtra",
        "ModelNotFound",
        "ModelUnusable",
        "PictureError",
        "RequestRefused",
        "RequestTooLarge",
        "ServerBusy",
        "ServerFault",
        "ServerUnavailable",
        "TimedOut",
        "UnexpectedAnswer",
    ),
    "language": ("CharacterModel", "Lexicon"),
    "metrics": ("ClientMetrics",),
    "request_log": ("RequestLog",),
    "results": ("Character", "Timings", "Transcription", "VersionStatus"),
    "suspicion": ("Suspicion",),
    "version": ("__version__",),
}

__all__ = [
    "AccessDenied",
    "Alphabet",
    "AlphabetMismatch",
    "AsyncHtrClient",
    "BestPath",
    "Character",
    "CharacterModel",
    "ClientMetrics",
    "Decoded",
    "Decoder",
    "HtrClient",
    "HtrError",
    "ImageError",
    "Lexicon",
    "MissingExtra",
    "ModelNotFound",
    "ModelUnusable",
    "PrefixBeamSearch",
    "RequestLog",
    "RequestRefused",
    "RequestTooLarge",
    "ServerBusy",
    "ServerFault",
    "ServerUnavailable",
    "Suspicion",
    "TimedOut",
    "Timings",
    "Tls",
    "Transcription",
    "UnexpectedAnswer",
    "VersionStatus",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module
    from importlib.util import find_spec

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"htr_client.{module}"), name)
    if not name.startswith("_") and find_spec(f"htr_client.{name}") is not None:
        return import_module(f"htr_client.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
