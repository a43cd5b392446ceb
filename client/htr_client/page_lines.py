"""The recogniser of the lines of one page, through a client."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from htr_client.results import Transcription
from htr_client.windows import Given, Later


class PageLines:
    """Transcribes the lines of one page, which may have been tried before.

    To see which way up a page is, some of its lines are transcribed, also upside down. Such results become answers,
    which are counted and logged, only where the page turns out to have these very lines; then they are not transcribed
    again.
    """

    def __init__(self, transcribe_many: Callable[[list[Given]], Iterable[Transcription]], source: str | None) -> None:
        """Begins with no line.

        Args:
            transcribe_many: Transcribes images in their order.
            source: Path or name of the page, for the log.
        """
        self._transcribe_many = transcribe_many
        self._source = source
        self._tried: dict[tuple[tuple[int, ...], bytes], tuple[Transcription, Later]] = {}

    def try_out(self, lines: Sequence[np.ndarray]) -> list[Transcription]:
        """Transcribes images that may not be those of the page's lines."""
        given = [Given(line, self._source, []) for line in lines]
        results = list(self._transcribe_many(given))
        for line, (_, _, later), result in zip(lines, given, results, strict=True):
            assert later is not None
            self._tried[line.shape, line.tobytes()] = result, later
        return results

    def __call__(self, lines: Sequence[np.ndarray]) -> list[Transcription]:
        """Transcribes the images of the page's lines, except those that were tried."""
        tried = [self._tried.pop((line.shape, line.tobytes()), None) for line in lines]
        others = [Given(line, self._source) for line, known in zip(lines, tried, strict=True) if known is None]
        rest = iter(list(self._transcribe_many(others)))
        results = []
        for known in tried:
            result, later = known or (next(rest), [])
            results.append(result)
            for count in later:
                count()
        return results
