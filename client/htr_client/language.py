"""What a text may or is likely to be: lexicons and character language models for the beam search.

Both are tables over classes, compiled once for an alphabet, so that the beam search looks up all its beams at once.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TextIO, Union

import numpy as np

from htr_client.decoding import Alphabet

Path = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def _utf8(path: Path) -> Iterator[TextIO]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)} is not UTF-8 ({error}): convert it, for example with iconv") from None


class Lexicon:
    """The words a text is made of.

    An allowed text is empty, or words with separators between (before, after) them. Without separators in the
    alphabet, or with separators="", it is one word or nothing.

    Args:
        words: The words; with counts (a mapping) frequent words are preferred.
        separators: Characters that stand between words, and are free.
        unknown: None to allow no other words; otherwise a logarithm (such as -5.0) added to the score of a text for
            every word that is not in the lexicon.
        weight: With counts, how much the logarithm of a word's frequency weighs.

    Raises:
        ValueError: When there is no word, a word is empty or holds a separator, or a count is not positive.
    """

    def __init__(
        self,
        words: Iterable[str] | Mapping[str, int],
        *,
        separators: str = " ",
        unknown: float | None = None,
        weight: float = 0.5,
    ) -> None:
        counts = dict(words) if isinstance(words, Mapping) else dict.fromkeys(words, 1)
        self._weight = weight if isinstance(words, Mapping) else 0.0
        if not counts:
            raise ValueError("a lexicon needs words")
        for word, count in counts.items():
            if count <= 0:
                raise ValueError(f"the count of {word!r} is {count}")
            if not word or any(separator in word for separator in separators):
                raise ValueError(f"the word {word!r} is empty or holds one of the separators {separators!r}")
        self._counts = counts
        self._separators = separators
        self._unknown = -np.inf if unknown is None else unknown
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
        """
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
            ValueError: When it is not UTF-8.
        """
        with _utf8(path) as file:
            return cls(file.read().split(), unknown=unknown)

    def compile(self, alphabet: Alphabet) -> "CompiledLexicon":
        """The lexicon as tables; words that the alphabet cannot write are left out.

        Args:
            alphabet: Of the model.

        Returns:
            The tables, kept for the next time.
        """
        if alphabet not in self._compiled:
            self._compiled[alphabet] = self._build(alphabet)
        return self._compiled[alphabet]

    def _build(self, alphabet: Alphabet) -> "CompiledLexicon":
        width = len(alphabet)
        children: dict[int, int] = {}
        scores = [-np.inf]  # of the word that ends at a node
        likeliest = [-np.inf]  # of the words that go through a node
        total = sum(self._counts.values())
        for word, count in self._counts.items():
            try:
                ids = alphabet.encode(word)
            except ValueError:
                continue
            score = self._weight * np.log(count / total)
            node = 0
            for i in ids:
                node = children.setdefault(node * width + i, len(scores))
                if node == len(scores):
                    scores.append(-np.inf)
                    likeliest.append(-np.inf)
                likeliest[node] = max(likeliest[node], score)
            scores[node] = max(scores[node], score)
        likeliest[0] = 0.0
        keys = np.fromiter(children.keys(), np.int64, len(children))
        values = np.fromiter(children.values(), np.int32, len(children))
        order = np.argsort(keys)
        separators = np.zeros(width, bool)
        separators[[i for i, character in enumerate(alphabet) if character in self._separators]] = True
        ending = np.array(scores) - np.array(likeliest)
        ending[0] = 0.0
        return CompiledLexicon(
            np.append(keys[order], np.iinfo(np.int64).max),
            np.append(values[order], 0),
            np.array(likeliest),
            ending,
            separators,
            self._unknown,
        )


@dataclass(frozen=True)
class CompiledLexicon:
    """A lexicon as a trie over classes. Node 0 stands between words, node -1 in a word that is not in the lexicon.

    The score of a word is spread over its characters: each node carries that of the likeliest word through it, so
    that beams within words compare fairly.

    Attributes:
        keys: int64 [E + 1], sorted: node * (C - 1) + class of each edge, and a sentinel.
        children: int32 [E + 1], the node each edge leads to.
        likeliest: float64 [nodes], score of the likeliest word through a node; 0 for node 0.
        ending: float64 [nodes], added when a word ends at a node; -inf where none does; 0 for node 0.
        separators: bool [C - 1].
        unknown: Score of a word that is not in the lexicon.
    """

    keys: np.ndarray
    children: np.ndarray
    likeliest: np.ndarray
    ending: np.ndarray
    separators: np.ndarray
    unknown: float

    def step(self, nodes: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Follow one character from each node.

        Args:
            nodes: int, any shape.
            classes: int, of a shape that broadcasts with it.

        Returns:
            The nodes reached and what the step adds to the score (-inf where it is not allowed).
        """
        wanted = nodes * np.int64(len(self.separators)) + classes
        found = np.searchsorted(self.keys, wanted)
        known = (self.keys[found] == wanted) & (nodes >= 0)
        reached = np.where(known, self.children[found], -1)
        # Leaving the lexicon in the middle of a word replaces what its beginning had earned by the flat penalty.
        leaving = np.where(nodes >= 0, self.unknown - self.likeliest[nodes], 0.0)
        added = np.where(known, self.likeliest[reached] - self.likeliest[nodes], leaving)
        separating = self.separators[classes]
        if separating.any():
            reached = np.where(separating, 0, reached)
            added = np.where(separating, self.end(nodes), added)
        return reached, added

    def end(self, nodes: np.ndarray) -> np.ndarray:
        """What the score gains when the text, or a word, ends at each node.

        Args:
            nodes: int, any shape.

        Returns:
            float64 of the same shape; -inf where it may not end.
        """
        ending = self.ending[nodes]
        ending = np.where(np.isfinite(ending), ending, self.unknown - self.likeliest[nodes])
        return np.where(nodes >= 0, ending, 0.0)


class CharacterModel:
    """A character n-gram language model, interpolated after Witten and Bell (1991).

    Args:
        texts: To learn from, such as the labels of the training data.
        order: Length of the n-grams.
        most_cells: Bound on the size of the tables (12 bytes a cell); rare contexts are dropped to keep it.

    Raises:
        ValueError: When the order is not in 1..8 or there is no text.
    """

    def __init__(self, texts: Iterable[str], *, order: int = 5, most_cells: int = 8_000_000) -> None:
        self._texts = [text for text in texts if text]
        if not 1 <= order <= 8 or not self._texts:
            raise ValueError("a character model needs an order from 1 to 8 and texts to learn from")
        self._order = order
        self._most_cells = most_cells
        self._compiled: dict[Alphabet, CompiledCharacterModel] = {}

    @classmethod
    def from_file(cls, path: Path, *, order: int = 5) -> "CharacterModel":
        """Learn from a UTF-8 text file, one text a line.

        Args:
            path: The file.
            order: Length of the n-grams.

        Returns:
            The model.

        Raises:
            OSError: When the file cannot be read.
            ValueError: When it is not UTF-8.
        """
        with _utf8(path) as file:
            return cls((line.rstrip("\r\n") for line in file), order=order)

    def compile(self, alphabet: Alphabet) -> "CompiledCharacterModel":
        """The model as tables over the classes of an alphabet; other characters of the texts are skipped.

        Args:
            alphabet: Of the model that is decoded.

        Returns:
            The tables, kept for the next time.

        Raises:
            ValueError: When the alphabet is too large for the order.
        """
        if alphabet not in self._compiled:
            self._compiled[alphabet] = self._build(alphabet)
        return self._compiled[alphabet]

    def _build(self, alphabet: Alphabet) -> "CompiledCharacterModel":
        # Symbols: 0..C-2 characters, C-1 the end of a text, C the beginning. An n-gram is one integer to base C + 1.
        classes = len(alphabet) + 1
        base = classes + 1
        if base**self._order >= 2**63:
            raise ValueError(f"order {self._order} is too high for {len(alphabet)} characters")
        symbols: list[int] = []
        position: list[int] = []  # of each symbol in its text; contexts do not reach over the beginning
        for text in self._texts:
            ids = alphabet.encode(text, skip_unknown=True)
            symbols += [classes, *ids, classes - 1]
            position += range(len(ids) + 2)
        symbol, place = np.array(symbols, np.int64), np.array(position)
        # contexts[l]: the distinct contexts of l symbols that something follows, with counts of what follows.
        grams = []
        code = np.zeros_like(symbol)  # of the l symbols before each position
        for length in range(self._order):
            following = place >= max(1, length)
            grams.append(np.unique(code[following] * base + symbol[following], return_counts=True))
            if length + 1 < self._order:
                shifted = np.roll(symbol, length + 1)
                code = code + shifted * base**length
        totals = [_sum_by(keys // base, counts) for keys, counts in grams]
        least = _least_count([counts for _, counts in totals[1:]], self._most_cells // classes)
        kept = [contexts[counts >= least] if length else contexts for length, (contexts, counts) in enumerate(totals)]
        offsets = np.cumsum([0, *map(len, kept)])
        scores = np.empty((offsets[-1], classes))
        following_state = np.zeros((offsets[-1], classes - 1), np.int32)
        for length, contexts in enumerate(kept):
            here = slice(offsets[length], offsets[length + 1])
            if length == 0:
                lower = np.full((1, classes), 1.0 / classes)
            else:
                # A context of this length is where its own beginning goes with its last symbol. Only then is it
                # known where the shorter contexts go, which is where this one goes unless a longer one is found.
                last = contexts % base
                real = last < classes - 1
                before = offsets[length - 1] + np.searchsorted(kept[length - 1], contexts[real] // base)
                following_state[before, last[real]] = offsets[length] + np.flatnonzero(real)
                suffix = offsets[length - 1] + np.searchsorted(kept[length - 1], contexts % base ** (length - 1))
                following_state[here] = following_state[suffix]
                lower = scores[suffix]
            keys, counts = grams[length]
            row = np.searchsorted(contexts, keys // base)
            mine = contexts[np.minimum(row, len(contexts) - 1)] == keys // base if len(contexts) else row < 0
            seen = np.zeros((len(contexts), classes))
            seen[row[mine], (keys % base)[mine]] = counts[mine]
            kinds = (seen > 0).sum(axis=1, keepdims=True)
            scores[here] = (seen + kinds * lower) / (seen.sum(axis=1, keepdims=True) + kinds)
        beginning = np.flatnonzero(kept[1] == classes) if self._order > 1 else np.empty(0, int)
        start = int(offsets[1] + beginning[0]) if len(beginning) else 0
        return CompiledCharacterModel(np.log(scores), following_state, start)


@dataclass(frozen=True)
class CompiledCharacterModel:
    """A character model as an automaton over classes.

    Attributes:
        scores: float64 [states, C]: log P(class | context); the last column is the end of the text.
        next_state: int32 [states, C - 1]: the context after a character.
        start: The state at the beginning of a text.
    """

    scores: np.ndarray
    next_state: np.ndarray
    start: int


def _sum_by(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values of sorted keys and the sums of their counts."""
    unique, first = np.unique(keys, return_index=True)
    return unique, np.add.reduceat(counts, first) if len(first) else counts


def _least_count(counts: list[np.ndarray], most: int) -> int:
    """The smallest count that leaves at most so many contexts."""
    merged = np.sort(np.concatenate([*counts, np.zeros(0, int)]))[::-1]
    return 1 if len(merged) <= most else int(merged[most]) + 1
