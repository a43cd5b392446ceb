"""What a version answered, read and checked: log-probabilities, its alphabet, its language model."""

from typing import Any, NamedTuple

import numpy as np

from htr_client import messages
from htr_client.decoding import Alphabet
from htr_client.errors import UnexpectedAnswer
from htr_client.language import LanguageModel

Headers = tuple[tuple[str, str | bytes], ...]


class Answer(NamedTuple):
    """One answer to serving_default.

    Attributes:
        version: Version that answered.
        log_probs: float32 [N, T, C].
        frames: int [N], 0..T.
        request_id: What the request's headers called it; "" without a name.
    """

    version: int
    log_probs: np.ndarray
    frames: np.ndarray
    request_id: str


def read_answer(response: Any, count: int, headers: Headers) -> Answer:
    """The answer to a request of `count` images that was sent with `headers`.

    Raises:
        UnexpectedAnswer: It is not one.
    """
    try:
        log_probs = messages.to_array(response.outputs["log_probs"])
        frames = messages.to_array(response.outputs["frames"])
    except ValueError as error:
        raise UnexpectedAnswer(f"The answer of serving_default cannot be read: {error}.") from None
    if log_probs.ndim != 3 or len(log_probs) != count or frames.shape != (count,):
        raise UnexpectedAnswer(
            f"{count} images were sent; log_probs came back as {log_probs.shape}, frames as {frames.shape}."
        )
    given = next((value for key, value in headers if key == "x-request-id"), "")
    request_id = given if isinstance(given, str) else given.decode("latin-1")
    return Answer(response.model_spec.version.value, log_probs, frames, request_id)


def read_alphabet(response: Any) -> Alphabet:
    """The answer of the signature `alphabet`.

    Raises:
        UnexpectedAnswer: It is not one.
    """
    try:
        characters = messages.to_array(response.outputs["characters"])
        return Alphabet([character.decode() for character in characters.reshape(-1)])
    except ValueError as error:
        raise UnexpectedAnswer(f"The answer of the signature alphabet cannot be read: {error}.") from None


def read_maps(response: Any) -> tuple[np.ndarray, float]:
    """The answer of the line finder about one page, as `htr_client.pages.find_lines` takes it.

    Raises:
        UnexpectedAnswer: It is not one.
    """
    try:
        maps, scale = (messages.to_array(response.outputs[name]) for name in ("maps", "scale"))
    except ValueError as error:
        raise UnexpectedAnswer(f"The answer of the line finder cannot be read: {error}.") from None
    if maps.ndim != 4 or len(maps) != 1 or maps.shape[3] != 3 or scale.shape != (1,):
        raise UnexpectedAnswer(
            f"One page was sent; maps came back as {maps.shape}, not (1, rows, columns, 3), scale as {scale.shape}."
        )
    if (maps.dtype != np.uint8 and maps.dtype.kind != "f") or not 0 <= scale[0] < np.inf:
        raise UnexpectedAnswer(
            f"Maps of the line finder are uint8 with a scale of 0 or more, not {maps.dtype} with {scale[0]}."
        )
    return maps[0], float(scale[0])


def read_language_model(response: Any, alphabet: Alphabet) -> LanguageModel | None:
    """The answer of the signature `language_model`, compiled for the version's alphabet.

    None where the version has none, or one of a later format.

    Raises:
        UnexpectedAnswer: It is not one.
    """
    try:
        content = b"".join(messages.to_array(response.outputs["model_bytes"]).reshape(-1))
        model = LanguageModel.of_version(content)
        if model is not None:
            model.compile(alphabet)  # now, so that what is wrong with it is told as the server's fault
        return model
    except ValueError as error:
        raise UnexpectedAnswer(f"The answer of the signature language_model cannot be read: {error}.") from None
