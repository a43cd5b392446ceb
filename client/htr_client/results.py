"""What a client returns."""

from dataclasses import dataclass
from typing import NamedTuple

from htr_client.decoding import Alternative
from htr_client.errors import ImageError
from htr_client.suspicion import Suspicion


def rounded(confidence: float) -> float:
    """A confidence as logs, tables and JSON hold it: with six significant digits, since that of a line may be 1e-9."""
    return float(f"{confidence:.6g}")


class Character(NamedTuple):
    """One character of a transcription.

    Attributes:
        text: The character.
        confidence: The highest probability the model gave it where it stands, 0 to 1.
        span: Left and right edge in pixels of the (upright) image as it was given.
    """

    text: str
    confidence: float
    span: tuple[float, float]


class Timings(NamedTuple):
    """Where the time of one image went, in seconds; server and decode are those of its whole batch.

    Attributes:
        pack: Reading, checking and encoding the image.
        server: Time from sending the request to having the answer, with what the channel repeats; of the first answer
            of a version also the time for its alphabet and language model. Attempts of `transcribe_many` that failed
            are not in it.
        decode: Time from log-probabilities to text.
    """

    pack: float
    server: float
    decode: float


@dataclass(frozen=True)
class Transcription:
    """What the model recognises in one image.

    Attributes:
        text: The text; "" when `error` is set, and also when the model sees no writing.
        confidence: The model's probability that the whole text is right, 0 to 1 (`decoding.Decoded`).
        characters: The characters of the text with confidence and position.
        alternatives: Other readings, best first, from decoders that give them.
        model: Name of the served model.
        version: Version of the model that answered; 0 when none did.
        source: Name of the image: the path, when it was given as one.
        timings: Where the time went.
        error: Why there is no text for this image. Only `transcribe_many` sets it; `transcribe` raises it.
        suspicions: Why the text may be nonsense: the image is of another kind than the model was trained on.
    """

    text: str
    confidence: float
    characters: tuple[Character, ...]
    alternatives: tuple[Alternative, ...]
    model: str
    version: int
    source: str | None
    timings: Timings
    error: ImageError | None = None
    suspicions: tuple[Suspicion, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the image was transcribed."""
        return self.error is None


@dataclass(frozen=True)
class VersionStatus:
    """One version of the model on the server.

    Attributes:
        version: Its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error: Why it could not be loaded, or "".
    """

    version: int
    state: str
    error: str
