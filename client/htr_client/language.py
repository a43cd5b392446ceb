"""How likely a text is: character language models for the beam search. They are compiled once for an alphabet."""

from __future__ import annotations

import math
import os
import unicodedata
import warnings
from collections.abc import Iterable

import numpy as np

from htr_client import ngrams
from htr_client.decoding import Alphabet
from htr_client.errors import AlphabetMismatch
from htr_client.given_texts import Path, refuse_one_text, utf8
from htr_client.lexicon import Lexicon as Lexicon  # where 0.1.0 had it
from htr_client.ngrams import Automaton, NGrams

# Characters of own texts that weigh as much as a version's language model; see docs/accuracy.md.
_AS_MUCH = 10_000
# Most n-grams of a character model; those are left out to keep it that the texts are likely without, too.
_MOST_NGRAMS = 2_000_000
# Steps that a mixed automaton remembers, some 30 MB at most, besides what its parts remember.
_REMEMBERED = 200_000


class CharacterModel:
    """A character n-gram language model learnt from texts; see `htr_client.ngrams` for the estimate.

    Args:
        texts: Texts to learn from, such as the labels of the training data, in any Unicode normal form.
        order: Length of the n-grams.

    Attributes:
        size: Number of characters of the texts.

    Raises:
        ValueError: When the order is not in 1..8 or there is no text.
        TypeError: When `texts` is one text.
    """

    # A heavier model takes more away for every character; see docs/experiments.md, as for those of versions.
    weight, length_bonus, temperature = 0.4, 1.4, None

    def __init__(self, texts: Iterable[str], *, order: int = 5) -> None:
        refuse_one_text(texts, "CharacterModel")
        self._texts = [unicodedata.normalize("NFC", text) for text in texts if text]
        if not 1 <= order <= 8:
            raise ValueError(f"the order of a character model (--lm-order) is from 1 to 8, not {order}")
        if not self._texts:
            raise ValueError("a character model (--lm) needs texts to learn from, and there are none")
        self.size = sum(map(len, self._texts))
        self._order = order
        self._compiled: dict[Alphabet, Automaton] = {}

    @classmethod
    def from_file(cls, path: Path, *, order: int = 5) -> CharacterModel:
        """Learns from a UTF-8 text file, one text a line.

        Args:
            path: The file.
            order: Length of the n-grams.

        Returns:
            The model.

        Raises:
            OSError: When the file cannot be read.
            ValueError: When it is not UTF-8 or holds no text, or the order is not from 1 to 8.
        """
        with utf8(path) as file:
            texts = [line for line in (line.rstrip("\r\n") for line in file) if line]
        if not texts:
            raise ValueError(f"{os.fspath(path)} holds no texts for a language model")
        return cls(texts, order=order)

    def compile(self, alphabet: Alphabet) -> Automaton:
        """The model over the classes of an alphabet; n-grams do not reach over other characters of the texts.

        Args:
            alphabet: Alphabet of the model that is decoded.

        Returns:
            The automaton, kept for the next time.

        Raises:
            AlphabetMismatch: When the alphabet has none of the texts' characters.
        """
        if alphabet not in self._compiled:
            if not any(alphabet.encode(text, skip_unknown=True) for text in self._texts):
                raise AlphabetMismatch("The language model's texts have no character of the model's alphabet.")
            learnt = ngrams.count(self._texts, alphabet, self._order, most=_MOST_NGRAMS)
            self._compiled[alphabet] = learnt.compile(alphabet)
        return self._compiled[alphabet]

    def beside(self, version: LanguageModel | None) -> CharacterModel | MixedModel:
        """The texts beside what a version knows, which is better than either alone where the texts are few.

        Args:
            version: The version's language model, as a decoder that is made by a function gets it; None where the
                version has none.

        Returns:
            Both in one, or these texts alone.
        """
        return self if version is None else MixedModel(self, version)


class LanguageModel:
    """The language model of a version: n-grams of its training labels, and how much they weigh.

    A version hands it out as bytes, which need nothing beside them; see `NGrams.to_bytes` for the format.

    Attributes:
        ngrams: The n-grams.
        weight: Weight of the logarithm of a text's probability.
        length_bonus: Added for every character.
        temperature: What scores are divided by for the confidence.

    Raises:
        ValueError: When a number is infinite or none, or the temperature not positive.
    """

    def __init__(self, found: NGrams, weight: float, length_bonus: float, temperature: float = 1.0) -> None:
        if not all(map(math.isfinite, (weight, length_bonus, temperature))) or temperature <= 0:
            raise ValueError(
                f"weight, length_bonus and temperature are finite and the latter positive, not {weight}, "
                f"{length_bonus} and {temperature}"
            )
        self.ngrams, self.weight, self.length_bonus, self.temperature = found, weight, length_bonus, temperature
        self._compiled: dict[Alphabet, Automaton] = {}

    @classmethod
    def from_bytes(cls, content: bytes) -> LanguageModel:
        """Reads what `to_bytes` made.

        Args:
            content: The bytes.

        Returns:
            The language model.

        Raises:
            NewerFormat: When the bytes are of a later version of the format.
            ValueError: When they are no such bytes.
        """
        found, header = NGrams.from_bytes(content)
        try:
            settings = [float(header[name]) for name in ("weight", "length_bonus", "temperature")]
        except (KeyError, TypeError) as error:
            raise ValueError(f"this language model is damaged: {error!r}") from None
        return cls(found, *settings)

    @classmethod
    def of_version(cls, content: bytes) -> LanguageModel | None:
        """Reads what a version hands out.

        Args:
            content: The bytes.

        Returns:
            The language model; None where the version has none, or one of a later format, of which a warning tells.

        Raises:
            ValueError: When they are no such bytes.
        """
        try:
            return cls.from_bytes(content) if content else None
        except ngrams.NewerFormat as error:
            warnings.warn(f"The version is decoded without its language model: {error}", stacklevel=2)
            return None

    def weighed(self, weight: float, length_bonus: float, temperature: float = 1.0) -> LanguageModel:
        """The same n-grams, which are compiled once for both, with another weight.

        Args:
            weight: Weight of the logarithm of a text's probability.
            length_bonus: Added for every character.
            temperature: What scores are divided by for the confidence.

        Returns:
            The language model.
        """
        other = LanguageModel(self.ngrams, weight, length_bonus, temperature)
        other._compiled = self._compiled
        return other

    def to_bytes(self) -> bytes:
        """The language model as bytes."""
        return self.ngrams.to_bytes(weight=self.weight, length_bonus=self.length_bonus, temperature=self.temperature)

    def compile(self, alphabet: Alphabet) -> Automaton:
        """The n-grams over the classes of an alphabet.

        Args:
            alphabet: Alphabet of the model that is decoded.

        Returns:
            The automaton, kept for the next time.
        """
        if alphabet not in self._compiled:
            self._compiled[alphabet] = self.ngrams.compile(alphabet)
        return self._compiled[alphabet]


class MixedModel:
    """Texts of one's own and a version's language model, interpolated (Jelinek and Mercer 1980).

    P(c | context) = share x P(c | context; own texts) + (1 - share) x P(c | context; the version). The share of the own
    texts grows with their size: n / (n + 10,000) with n characters.

    Args:
        own: What was learnt from the texts.
        version: The version's language model.

    Attributes:
        share: Share of the own texts.
        weight, length_bonus: Those of both, by their shares.
        temperature: As the version has it, for whose network it was fitted.
    """

    def __init__(self, own: CharacterModel, version: LanguageModel) -> None:
        self._own, self._version = own, version
        self.share = own.size / (own.size + _AS_MUCH)
        self.weight = self.share * own.weight + (1 - self.share) * version.weight
        self.length_bonus = self.share * own.length_bonus + (1 - self.share) * version.length_bonus
        self.temperature = version.temperature
        self._compiled: dict[Alphabet, MixedAutomaton] = {}

    def compile(self, alphabet: Alphabet) -> MixedAutomaton:
        """The model over the classes of an alphabet.

        Args:
            alphabet: Alphabet of the version.

        Returns:
            The automaton, kept for the next time.

        Raises:
            AlphabetMismatch: When the alphabet has none of the texts' characters.
        """
        if alphabet not in self._compiled:
            parts = self._own.compile(alphabet), self._version.compile(alphabet)
            states, classes = len(self._version.ngrams) + 1, len(alphabet) + 1
            self._compiled[alphabet] = MixedAutomaton(*parts, self.share, states, classes)
        return self._compiled[alphabet]


class MixedAutomaton:
    """Two automata side by side; a state stands for a state of each."""

    def __init__(self, own: Automaton, version: Automaton, share: float, states: int, classes: int) -> None:
        self._own, self._version = own, version
        self._states, self._classes = states, classes  # numbers of states of the version's, and of classes
        self._share, self._rest = math.log(share), math.log1p(-share)
        self.start = own.start * states + version.start
        self._steps: dict[int, tuple[float, int]] = {}

    def step(self, state: int, character: int) -> tuple[float, int]:
        """Follows a character; see `Automaton.step`."""
        asked = state * self._classes + character
        known = self._steps.get(asked)
        if known is None:
            if len(self._steps) >= _REMEMBERED:
                self._steps.clear()
            own, version = divmod(state, self._states)
            first, own = self._own.step(own, character)
            second, version = self._version.step(version, character)
            total = float(np.logaddexp(self._share + first, self._rest + second))
            known = self._steps[asked] = (total, own * self._states + version)
        return known
