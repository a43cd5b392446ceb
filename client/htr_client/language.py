"""What a text may or is likely to be: lexicons and character language models for the beam search.

Both are compiled once for an alphabet.
"""

import contextlib
import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TextIO, Union

from htr_client import ngrams
from htr_client.decoding import Alphabet
from htr_client.errors import AlphabetMismatch
from htr_client.ngrams import Automaton, NGrams

Path = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def _utf8(path: Path) -> Iterator[TextIO]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is not UTF-8 ({error}): convert it, for example with iconv") from None


def _refuse_one(texts: object, name: str) -> None:
    """Refuses one text where several are expected; its characters would be taken for texts."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(
            f"{name} takes several texts, such as a list, not one {type(texts).__name__}: give [text], "
            f"text.splitlines(), or a file with {name}.from_file(path)"
        )


class Lexicon:
    """The words a text is made of.

    An allowed text is empty, or words with separators between (before, after) them. Without separators in the
    alphabet, or with separators="", it is one word or nothing.

    Args:
        words: The words, in any Unicode normal form; with counts (a mapping) frequent words are preferred.
        separators: Characters that stand between words, and are free.
        unknown: None to allow no other words; otherwise a logarithm (such as -5.0) added to the score of a text for
            every word that is not in the lexicon.
        weight: Weight of the logarithm of a word's frequency, with counts.

    Attributes:
        unknown: Added to the score for a word that is not in the lexicon; -inf where there may be none.

    Raises:
        ValueError: When there is no word, a word is empty or holds a separator, a count is not positive, or a number is
            none.
        TypeError: When `words` is one text.
    """

    def __init__(
        self,
        words: Iterable[str] | Mapping[str, int],
        *,
        separators: str = " ",
        unknown: float | None = None,
        weight: float = 0.5,
    ) -> None:
        _refuse_one(words, "Lexicon")
        given = words if isinstance(words, Mapping) else dict.fromkeys(words, 1)
        self._weight = weight if isinstance(words, Mapping) else 0.0
        if not given:
            raise ValueError("a lexicon needs words")
        counts: Counter[str] = Counter()
        for word, count in given.items():
            if not 0 < count < math.inf:
                raise ValueError(f"the count of {word!r} is {count}")
            if not word or any(separator in word for separator in separators):
                raise ValueError(f"the word {word!r} is empty or holds one of the separators {separators!r}")
            counts[unicodedata.normalize("NFC", word)] += count
        self._counts = counts
        self._separators = separators
        self.unknown = -math.inf if unknown is None else unknown
        if not (self.unknown < math.inf and math.isfinite(weight)):
            raise ValueError(f"unknown is a logarithm and weight a finite number, not {unknown} and {weight}")
        self._compiled: dict[Alphabet, CompiledLexicon] = {}

    @classmethod
    def from_texts(cls, texts: Iterable[str], *, separators: str = " ", unknown: float | None = None) -> "Lexicon":
        """The words of some texts, such as the labels of the training data, with their counts.

        Args:
            texts: The texts.
            separators: As for `Lexicon`; "" makes each whole text an entry.
            unknown: As for `Lexicon`.

        Returns:
            The lexicon.

        Raises:
            ValueError: When there is no word.
            TypeError: When `texts` is one text.
        """
        _refuse_one(texts, "Lexicon")
        table = str.maketrans(dict.fromkeys(separators, "\n"))
        words = (word for text in texts for word in text.translate(table).split("\n"))
        return cls(Counter(word for word in words if word), separators=separators, unknown=unknown)

    @classmethod
    def from_file(cls, path: Path, *, unknown: float | None = None) -> "Lexicon":
        """The words of a UTF-8 text file, separated by white space.

        Args:
            path: The file.
            unknown: As for `Lexicon`.

        Returns:
            The lexicon, without counts.

        Raises:
            OSError: When the file cannot be read.
            ValueError: When it is not UTF-8, or holds no word.
        """
        with _utf8(path) as file:
            words = file.read().split()
        if not words:
            raise ValueError(f"{os.fspath(path)} holds no words for a lexicon")
        return cls(words, unknown=unknown)

    def compile(self, alphabet: Alphabet) -> "CompiledLexicon":
        """The lexicon as tables; words that the alphabet cannot write are left out, with a warning that counts them.

        Args:
            alphabet: Alphabet of the model.

        Returns:
            The tables, kept for the next time.

        Raises:
            AlphabetMismatch: When the alphabet can write none of the words.
        """
        if alphabet not in self._compiled:
            self._compiled[alphabet] = self._build(alphabet)
        return self._compiled[alphabet]

    def _build(self, alphabet: Alphabet) -> "CompiledLexicon":
        width = len(alphabet)
        children: dict[int, int] = {}
        ending = [-math.inf]  # score of the word that ends at a node
        likeliest = [-math.inf]  # of the words that go through a node
        total = sum(self._counts.values())
        left_out = []
        for word, count in self._counts.items():
            try:
                ids = alphabet.encode(word)
            except ValueError as error:
                left_out.append(f"{word!r} ({error})")
                continue
            score = self._weight * math.log(count / total)
            node = 0
            for i in ids:
                node = children.setdefault(node * width + i, len(ending))
                if node == len(ending):
                    ending.append(-math.inf)
                    likeliest.append(-math.inf)
                likeliest[node] = max(likeliest[node], score)
            ending[node] = max(ending[node], score)
        if not children:
            raise AlphabetMismatch(
                f"None of the lexicon's {len(self._counts)} words can be written with the model's alphabet, such as "
                f"{left_out[0]}."
            )
        if left_out:
            warnings.warn(
                f"{len(left_out)} of {len(self._counts)} words of the lexicon are left out, since the model's alphabet "
                f"cannot write them, such as {left_out[0]}",
                stacklevel=2,
            )
        likeliest[0] = ending[0] = 0.0
        separators = frozenset(i for i, character in enumerate(alphabet) if character in self._separators)
        return CompiledLexicon(width, children, likeliest, ending, separators, self.unknown)


@dataclass(frozen=True)
class CompiledLexicon:
    """A lexicon as a trie over classes. Node 0 stands between words, node -1 in a word that is not in the lexicon.

    The score of a word is spread over its characters: each node carries that of the likeliest word through it, so
    that beams within words compare fairly.

    Attributes:
        width: Number of characters.
        children: Node that each edge leads to, by node x width + class.
        likeliest: Score of the likeliest word through each node; 0 for node 0.
        ending: Score of the word that ends at each node; -inf where none does; 0 for node 0.
        separators: Classes that stand between words.
        unknown: Score of a word that is not in the lexicon.
    """

    width: int
    children: dict[int, int]
    likeliest: list[float]
    ending: list[float]
    separators: frozenset[int]
    unknown: float

    @property
    def is_strict(self) -> bool:
        """Whether other words are not allowed."""
        return self.unknown == -math.inf

    @cached_property
    def highest(self) -> float:
        """The most that a step adds to the score: where a rare word turns out to be one that is not in the lexicon."""
        return max(0.0, self.unknown - min(likeliest for likeliest in self.likeliest if likeliest > -math.inf))

    @cached_property
    def following(self) -> list[list[int]]:
        """Characters that may follow each node in a word of the lexicon, and the separators."""
        found: list[list[int]] = [list(self.separators) for _ in self.ending]
        for edge in self.children:
            found[edge // self.width].append(edge % self.width)
        return found

    def step(self, node: int, character: int) -> tuple[float, int]:
        """Follows one character.

        Args:
            node: Where one is.
            character: Its class.

        Returns:
            What the step adds to the score (-inf where it is not allowed), and the node reached.
        """
        if character in self.separators:
            return self.end(node), 0
        if node < 0:
            return 0.0, -1
        reached = self.children.get(node * self.width + character, -1)
        # Leaving the lexicon in the middle of a word replaces what its beginning had earned by the flat penalty.
        return (self.unknown if reached < 0 else self.likeliest[reached]) - self.likeliest[node], reached

    def end(self, node: int) -> float:
        """What the score gains when the text, or a word, ends at a node; -inf if it may not end there."""
        if node < 0:
            return 0.0
        ending = self.ending[node]
        return (ending if ending > -math.inf else self.unknown) - self.likeliest[node]


class CharacterModel:
    """A character n-gram language model learnt from texts; see `htr_client.ngrams` for the estimate.

    Args:
        texts: Texts to learn from, such as the labels of the training data, in any Unicode normal form.
        order: Length of the n-grams.
        most_ngrams: Bound on their number; those are left out to keep it that the texts are likely without, too.

    Raises:
        ValueError: When the order is not in 1..8 or there is no text.
        TypeError: When `texts` is one text.
    """

    # A heavier model takes more away for every character; see docs/experiments.md, as for those of versions.
    weight, length_bonus, temperature = 0.4, 1.4, None

    def __init__(self, texts: Iterable[str], *, order: int = 5, most_ngrams: int = 2_000_000) -> None:
        _refuse_one(texts, "CharacterModel")
        self._texts = [unicodedata.normalize("NFC", text) for text in texts if text]
        if not 1 <= order <= 8:
            raise ValueError(f"the order of a character model (--lm-order) is from 1 to 8, not {order}")
        if not self._texts:
            raise ValueError("a character model (--lm) needs texts to learn from, and there are none")
        self._order = order
        self._most_ngrams = most_ngrams
        self._compiled: dict[Alphabet, Automaton] = {}

    @classmethod
    def from_file(cls, path: Path, *, order: int = 5) -> "CharacterModel":
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
        with _utf8(path) as file:
            return cls((line.rstrip("\r\n") for line in file), order=order)

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
            learnt = ngrams.count(self._texts, alphabet, self._order, most=self._most_ngrams)
            self._compiled[alphabet] = learnt.compile(alphabet)
        return self._compiled[alphabet]


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
    def from_bytes(cls, content: bytes) -> "LanguageModel":
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
    def of_version(cls, content: bytes) -> "LanguageModel | None":
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

    def weighed(self, weight: float, length_bonus: float, temperature: float = 1.0) -> "LanguageModel":
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
