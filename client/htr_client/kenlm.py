"""Word n-gram language models made with KenLM, through the optional library ctc-beam-decoder."""

import math
import os
import threading
from collections.abc import Iterable
from typing import Any, Union

import numpy as np

from htr_client.decoding import Alphabet, Alternative, Decoded, DecodedCharacter, align, check, log_posteriors
from htr_client.errors import MissingExtra


class KenLmBeamSearch:
    """Beam search with a KenLM model over words: for lines of running text, where a word predicts the next one.

    The alphabet must have the space, which separates words. Its pruning of classes and prefixes bounds the time; noisy
    images still take longer than clean ones.

    Args:
        model: An .arpa file or a KenLM binary.
        words: Known words, needed with a KenLM binary (an .arpa file lists them).
        width: Prefixes kept after every frame.
        alternatives: How many other readings to return.
        weight: Weight of the language model (alpha).
        word_bonus: Added for every word (beta).

    Raises:
        MissingExtra: When ctc-beam-decoder is not installed.
        ValueError: When weight or word_bonus is infinite or not a number, width not positive or alternatives negative.
    """

    def __init__(
        self,
        model: Union[str, "os.PathLike[str]"],
        *,
        words: Iterable[str] | None = None,
        width: int = 50,
        alternatives: int = 0,
        weight: float = 0.5,
        word_bonus: float = 1.5,
    ) -> None:
        if not (math.isfinite(weight) and math.isfinite(word_bonus)):
            raise ValueError(f"weight and word_bonus are finite, not {weight} and {word_bonus}")
        if width < 1 or alternatives < 0:
            raise ValueError(f"width is positive and alternatives not negative, not {width} and {alternatives}")
        try:
            import ctc_beam_decoder
        except (ImportError, OSError) as error:  # OSError: the wheel is there, its library does not load
            raise MissingExtra(
                f"KenLM models need the package ctc-beam-decoder ({error}).",
                advice="Install it with: pip install ctc-beam-decoder (wheels exist for Linux on x86-64, macOS on "
                "ARM and Windows), or use htr_client.language.CharacterModel, which needs nothing.",
            ) from None
        self._build = ctc_beam_decoder.build_ctcdecoder
        self._model = os.fspath(model)
        self._words = list(words) if words is not None else None
        self._width = width
        self._alternatives = alternatives
        self._weight = weight
        self._word_bonus = word_bonus
        self._decoders: dict[Alphabet, Any] = {}
        self._lock = threading.Lock()  # the library says nothing about threads

    def decode(self, log_probs: np.ndarray, frames: np.ndarray, alphabet: Alphabet) -> list[Decoded]:
        """Decodes a batch; see `Decoder.decode`."""
        check(log_probs, frames, alphabet)
        with self._lock:
            if alphabet not in self._decoders:
                self._decoders[alphabet] = self._build(
                    [*alphabet, ""], self._model, self._words, alpha=self._weight, beta=self._word_bonus
                )
            library = self._decoders[alphabet]
        results = []
        for row, valid in enumerate(frames.tolist()):
            if valid == 0:
                results.append(Decoded("", 0.0, ()))
                continue
            with self._lock:
                beams = library.decode_beams(log_probs[row, :valid], beam_width=self._width)
            # The library joins words by single spaces, so that different prefixes can give the same text.
            texts = list(dict.fromkeys(beam[0] for beam in beams))[: 1 + self._alternatives] or [""]
            ids = [alphabet.encode(text) for text in texts]
            same = np.full(len(ids), row)
            posteriors = np.exp(log_posteriors(log_probs[same], frames[same], ids)).tolist()
            [spans] = align(log_probs[row : row + 1], frames[row : row + 1], ids[:1])
            characters = tuple(
                DecodedCharacter(alphabet[i], confidence, span)
                for i, (span, confidence) in zip(ids[0], spans, strict=False)
            )
            others = tuple(map(Alternative, texts[1:], posteriors[1:]))
            results.append(Decoded(texts[0], posteriors[0], characters, others))
        return results
