"""Which words a text is made of, for the beam search. A lexicon is compiled once for an alphabet."""

import math
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from htr_client.decoding import Alphabet
from htr_client.errors import AlphabetMismatch
from htr_client.given_texts import Path, refuse_one_text, utf8


class Lexicon:
    """The words a text is made of.

    An allowed text is empty, or words with separators between (before, after) them. Without separators in the
    alphabet, or with separators="", it is one word or nothing.

    Args:
        words: The words, in any Unicode normal form; with counts (a mapping) frequent words are preferred.
        separators: Characters that stand between words, and are free.
        unknown: None to allow no other words; otherwise a logarithm (such as -5.0) added to the score of a text for
            every word that is not in the lexicon. With counts it comes on top of what the rarest word costs.
        weight: Weight of the logarithm of a word's frequency, with counts.

    Attributes:
        unknown: All that is added to the score for a word that is not in the lexicon; -inf where there may be none.

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
        refuse_one_text(words, "Lexicon")
        given = words if isinstance(words, Mapping) else dict.fromkeys(words, 1)
        if not given:
            raise ValueError("a lexicon needs words")
        counts: Counter[str] = Counter()
        for word, count in given.items():
            if not 0 < count < math.inf:
                raise ValueError(f"the count of {word!r} is {count}")
            if not word or any(separator in word for separator in separators):
                raise ValueError(f"the word {word!r} is empty or holds one of the separators {separators!r}")
            counts[unicodedata.normalize("NFC", word)] += count
        penalty = -math.inf if unknown is None else unknown
        if not (penalty < math.inf and math.isfinite(weight)):
            raise ValueError(f"unknown is a logarithm and weight a finite number, not {unknown} and {weight}")
        total, used = counts.total(), weight if isinstance(words, Mapping) else 0.0
        self._scores = {word: used * math.log(count / total) for word, count in counts.items()}
        self._separators = separators
        # From the rarest word on, or a word that is known would cost more than one that is not.
        self.unknown = penalty + min(self._scores.values())
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
        refuse_one_text(texts, "Lexicon")
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
        with utf8(path) as file:
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
        left_out = []
        for word, score in self._scores.items():
            try:
                ids = alphabet.encode(word)
            except ValueError as error:
                left_out.append(f"{word!r} ({error})")
                continue
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
                f"None of the lexicon's {len(self._scores)} words can be written with the model's alphabet, such as "
                f"{left_out[0]}."
            )
        if left_out:
            warnings.warn(
                f"{len(left_out)} of {len(self._scores)} words of the lexicon are left out, since the model's alphabet "
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
        """The most that a step adds: where a rare word turns out to be one that is not in the lexicon, and costs less.

        Only a positive `unknown` of `Lexicon` makes such a word cost less.
        """
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
