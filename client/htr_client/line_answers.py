"""What is believed of a model's answer about the image of one line, alike for a server's and for a local model."""

from htr_client.decoding import Decoded
from htr_client.pages.reading import is_like_page
from htr_client.suspicion import NO_TEXT, PAGE_LIKE, Look, Suspicion, of_geometry

_PAGE_LIKE = Suspicion(
    PAGE_LIKE,
    "It has the shape of a page, and was transcribed as one line. If it is a page, its lines have to be found first: "
    "--kind auto or page, in Python transcribe_page.",
)
_NO_TEXT = Suspicion(
    NO_TEXT, "No text was found, although the image is not blank: it may be turned, or a page, or hold no writing."
)


def believed(
    decoded: Decoded, seen: Look, width: int, height: int, frames: int
) -> tuple[Decoded, tuple[Suspicion, ...]]:
    """Weighs what a model recognises against what the image shows.

    Args:
        decoded: What the model recognises.
        seen: What the pixels show.
        width: Width in pixels of the image.
        height: Height in pixels.
        frames: Number of valid frames in the answer.

    Returns:
        What the model recognises, or no text with confidence 0 where nothing is written, which a language model would
        fill with a probable word; and why the text may be nonsense.
    """
    if seen.is_empty:
        return Decoded("", 0.0, (), ()), seen.suspicions
    suspicions = list(seen.suspicions or of_geometry(width, height, frames))
    if is_like_page(width, height):
        suspicions.append(_PAGE_LIKE)
    if not (decoded.text.strip() or seen.suspicions):
        suspicions.append(_NO_TEXT)
    return decoded, tuple(suspicions)
