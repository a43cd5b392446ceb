"""Client for handwritten text recognition served by TensorFlow Serving, without TensorFlow.

    from htr_client import HtrClient

    with HtrClient("localhost:8500") as client:
        print(client.transcribe("word.png").text)

Everything is loaded at first use, so that decoding and image checks work where grpcio is not installed.
"""

from typing import TYPE_CHECKING, Any

# A name stands here and in _HOMES; "as" makes it public to type checkers, which do not run the line of __all__.
if TYPE_CHECKING:
    from htr_client.aio import AsyncHtrClient as AsyncHtrClient  # noqa: I001 one statement a module
    from htr_client.beam import PrefixBeamSearch as PrefixBeamSearch
    from htr_client.client import HtrClient as HtrClient
    from htr_client.decoding import Alphabet as Alphabet, BestPath as BestPath, Decoded as Decoded, Decoder as Decoder
    from htr_client.errors import (
        AccessDenied as AccessDenied,
        AlphabetMismatch as AlphabetMismatch,
        HtrError as HtrError,
        ImageError as ImageError,
        MissingExtra as MissingExtra,
        ModelNotFound as ModelNotFound,
        ModelUnusable as ModelUnusable,
        OutOfMemory as OutOfMemory,
        RequestRefused as RequestRefused,
        RequestTooLarge as RequestTooLarge,
        ServerBusy as ServerBusy,
        ServerFault as ServerFault,
        ServerUnavailable as ServerUnavailable,
        TimedOut as TimedOut,
        UnexpectedAnswer as UnexpectedAnswer,
    )
    from htr_client.language import CharacterModel as CharacterModel
    from htr_client.lexicon import Lexicon as Lexicon
    from htr_client.metrics import ClientMetrics as ClientMetrics
    from htr_client.request_log import RequestLog as RequestLog
    from htr_client.results import (
        Character as Character,
        Timings as Timings,
        Transcription as Transcription,
        VersionStatus as VersionStatus,
    )
    from htr_client.suspicion import Suspicion as Suspicion
    from htr_client.tls import Tls as Tls

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
        "OutOfMemory",
        "PictureError",
        "RequestRefused",
        "RequestTooLarge",
        "ServerBusy",
        "ServerFault",
        "ServerUnavailable",
        "TimedOut",
        "UnexpectedAnswer",
    ),
    "language": ("CharacterModel",),
    "lexicon": ("Lexicon",),
    "metrics": ("ClientMetrics",),
    "request_log": ("RequestLog",),
    "results": ("Character", "Timings", "Transcription", "VersionStatus"),
    "suspicion": ("Suspicion",),
    "version": ("__version__",),
}

__all__ = sorted({name for names in _HOMES.values() for name in names} - {"PictureError", "__version__"})


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
