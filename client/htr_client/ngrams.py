"""Character n-grams: counted, cut down, stored as bytes, and compiled for a beam search.

The estimate is that of Witten and Bell (1991), interpolated: P(c | context) = own(c | context) + backoff(context) x
P(c | shorter context), down to a uniform distribution, with more weight for the shorter context than theirs
(`_NOVELTY`). What is left out gives its probability to the backoff of its context, so that every distribution still
sums to one.

N-grams form a trie in breadth-first order. Node 0 is the root, the empty context; every other node is an n-gram: the
context that is its parent, and one more symbol. The children of a node follow each other, sorted by symbol. Symbols are
the characters, then the end of a text, then its beginning, which stands in contexts only.
"""

import json
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from htr_client.decoding import Alphabet

# Bytes begin with this; the last one is the version of the format.
_MAGIC = b"HTRLM\x01"
# A packed header and arrays that are larger than this are not unpacked.
_MOST_UNPACKED = 64 * 2**20
# Probabilities are stored as bytes: a code is -16 times the natural logarithm.
_CODES_PER_NAT = 16
_NEVER = 255
# Witten and Bell take a context to have been followed by something new as often as by something different. For
# characters a multiple of that is better (Carpenter 2005, "Scaling High-Order Character Language Models to Gigabytes",
# whose interpolation parameter it is): 4 lowers the entropy of texts by others by 2 to 10 % (docs/experiments.md).
_NOVELTY = 4.0
# Steps that an automaton remembers, some 30 MB at most.
_REMEMBERED = 200_000


class NewerFormat(ValueError):
    """The bytes are of a later version of the format."""


@dataclass(frozen=True)
class NGrams:
    """N-grams with their probabilities.

    Attributes:
        characters: Symbols 0 to K - 1; symbol K is the end of a text, K + 1 its beginning.
        order: Length of the longest n-grams.
        symbols: int32 [n + 1], last symbol of each node; that of the root means nothing.
        children: int32 [n + 1], number of children of each node.
        own: float32 [n + 1], share of the probability of a node's last symbol that its own context gives it.
        backoff: float32 [n + 1], weight of the shorter context; 1 where a node has no children.
    """

    characters: tuple[str, ...]
    order: int
    symbols: np.ndarray
    children: np.ndarray
    own: np.ndarray
    backoff: np.ndarray

    def __len__(self) -> int:
        return len(self.symbols) - 1

    @cached_property
    def parents(self) -> np.ndarray:
        """int64 [n + 1], parent of each node; that of the root is itself."""
        return np.concatenate([[0], np.repeat(np.arange(len(self.children)), self.children)])

    @cached_property
    def _levels(self) -> list[slice]:
        """Nodes of one symbol, of two symbols, ..."""
        levels, start, count = [], 1, int(self.children[0])
        while count:
            levels.append(slice(start, start + count))
            start, count = start + count, int(self.children[start : start + count].sum())
        return levels

    def _probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """What n-grams and shorter contexts say.

        Returns:
            int64 [n + 1], node of each n-gram without its first symbol, the root's where there is none; and
            float64 [n + 1], P(last symbol | the others) of each node, at the root that of the uniform distribution.
        """
        base = len(self.characters) + 2
        keys = self.parents[1:] * base + self.symbols[1:]
        suffixes = np.zeros(len(self.symbols), np.int64)
        probabilities = np.full(len(self.symbols), 1.0 / (len(self.characters) + 1))
        for level, here in enumerate(self._levels):
            parents = self.parents[here]
            if level:
                wanted = suffixes[parents] * base + self.symbols[here]
                places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
                # A suffix is as frequent as the n-gram itself; only damaged bytes lack one.
                suffixes[here] = np.where(keys[places] == wanted, places + 1, 0)
            probabilities[here] = self.own[here] + self.backoff[parents] * probabilities[suffixes[here]]
        return suffixes, probabilities

    def _losses(self, times: np.ndarray) -> np.ndarray:
        """How much less likely the texts become without each n-gram, and all that it is part of.

        Args:
            times: float64 [n + 1], how often the texts have each; 0 for the root and for the beginning.

        Returns:
            float64 [n + 1]: times x the logarithm of how many times less likely its last symbol is without it (Seymore
            and Rosenfeld 1996), and no more than what all n-grams of its context tell together, which is what is lost
            without any of them. That of an n-gram is not below any that it is part of.
        """
        suffixes, probabilities = self._probabilities()
        had = times > 0
        told, left = np.zeros(len(times)), np.zeros(len(times))
        told[had] = times[had] * np.log(probabilities[had] / probabilities[suffixes[had]])
        # Without it, its context gives its own share to the shorter one.
        left[had] = times[had] * np.log(self.backoff[self.parents[had]].astype(np.float64) + self.own[had])
        of_context = np.bincount(self.parents[1:], told[1:], len(times))
        losses = np.minimum(told - left, np.maximum(of_context, 0.0)[self.parents])
        for here in reversed(self._levels):
            for part in (self.parents, suffixes):
                np.maximum.at(losses, part[here], losses[here])
        return losses

    def without(self, dropped: np.ndarray) -> "NGrams":
        """The same n-grams but for some.

        Args:
            dropped: bool [n + 1]; with a node all that it is part of is dropped, the root never.

        Returns:
            The others; contexts give the probability of what is dropped to their backoff.
        """
        kept = ~dropped
        parents = self.parents
        backoff = self.backoff.astype(np.float64)
        np.add.at(backoff, parents[dropped], self.own[dropped])
        children = np.bincount(parents[1:][kept[1:]], minlength=len(kept))
        backoff[children == 0] = 1.0
        return NGrams(
            self.characters, self.order, self.symbols[kept], children[kept].astype(np.int32), self.own[kept],
            backoff[kept].astype(np.float32),
        )  # fmt: skip

    def to_bytes(self, **more: Any) -> bytes:
        """The n-grams as bytes, with probabilities rounded to some per cent.

        They are `HTRLM`, a byte for the version of the format, and packed by zlib: a line of JSON with `characters`,
        `order`, `ngrams` (their number n) and whatever is given besides; then uint16 [n + 1] symbols, uint16 [n + 1]
        children, uint8 [n + 1] own, uint8 [n + 1] backoff, all little-endian.

        Args:
            **more: More values for the header.

        Returns:
            What `from_bytes` reads.

        Raises:
            ValueError: When there are more than 65,000 characters.
        """
        if len(self.characters) > 65_000:
            raise ValueError(f"{len(self.characters)} characters are more than the format has room for")
        header = {**more, "characters": self.characters, "order": self.order, "ngrams": len(self)}
        parts = [
            json.dumps(header, ensure_ascii=False).encode() + b"\n", self.symbols.astype("<u2").tobytes(),
            self.children.astype("<u2").tobytes(), _coded(self.own).tobytes(), _coded(self.backoff).tobytes(),
        ]  # fmt: skip
        return _MAGIC + zlib.compress(b"".join(parts))  # level 9 takes 6 times as long for one per cent

    @classmethod
    def from_bytes(cls, content: bytes) -> tuple["NGrams", dict[str, Any]]:
        """Reads what `to_bytes` made.

        Args:
            content: The bytes.

        Returns:
            The n-grams, and the header.

        Raises:
            NewerFormat: When the bytes are of a later version of the format.
            ValueError: When they are no such bytes.
        """
        if content[: len(_MAGIC)] != _MAGIC:
            if content.startswith(_MAGIC[:-1]):
                raise NewerFormat("the language model has a later format than this htr-client knows: update it")
            raise ValueError("these are no n-grams")
        unpacker = zlib.decompressobj()
        try:
            unpacked = unpacker.decompress(content[len(_MAGIC) :], _MOST_UNPACKED)
            if not unpacker.eof:
                raise ValueError("cut off, or too large")
            end = unpacked.index(b"\n")
            header = json.loads(unpacked[:end])
            characters, order, size = tuple(map(str, header["characters"])), int(header["order"]), int(header["ngrams"])
            raw, nodes = unpacked[end + 1 :], size + 1
            if size < 0 or len(raw) != 6 * nodes:
                raise ValueError("its arrays have another size")
            symbols, children = np.frombuffer(raw, "<u2", 2 * nodes).astype(np.int32).reshape(2, nodes)
            own, backoff = np.frombuffer(raw, np.uint8, 2 * nodes, 4 * nodes).reshape(2, nodes)
            found = cls(characters, order, symbols, children, _decoded(own), _decoded(backoff))
            found._check()
        except (zlib.error, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"these n-grams are damaged: {error}") from None
        return found, header

    def _check(self) -> None:
        """Refuses a trie that is none."""
        if int(self.children.sum()) != len(self) or len(Alphabet(self.characters)) != len(self.characters):
            raise ValueError("it is no trie")
        keys = self.parents[1:] * (len(self.characters) + 2) + self.symbols[1:]
        ends = self._levels[-1].stop if self._levels else 1
        if ends != len(self.symbols) or (np.diff(keys) <= 0).any() or len(self._levels) > self.order:
            raise ValueError("it is no trie")
        if len(self) and int(self.symbols[1:].max()) > len(self.characters) + 1:
            raise ValueError("it has symbols that are no characters")

    def compile(self, alphabet: Alphabet) -> "Automaton":
        """The n-grams over the classes of an alphabet.

        Args:
            alphabet: Alphabet of the model that is decoded; its characters are found by themselves, in whatever order.
                N-grams with other characters are left out; characters that the n-grams do not know are possible but
                rare.

        Returns:
            The automaton.
        """
        nodes, base = len(self.symbols), len(self.characters) + 2
        parents, symbols = self.parents, self.symbols
        suffixes, probability = self._probabilities()
        states = np.zeros(nodes, np.int64)  # the longest context that ends like the n-gram
        contexts = self.children > 0
        for here in self._levels:
            states[here] = np.where(contexts[here], np.arange(here.start, here.stop), states[suffixes[here]])
        classes = np.full(base, -1)
        known = {character: i for i, character in enumerate(alphabet)}
        classes[: len(self.characters)] = [known.get(character, -1) for character in self.characters]
        classes[len(self.characters)] = alphabet.blank  # the end of a text; nothing else needs the blank's place
        predicted = np.flatnonzero(classes[symbols[1:]] >= 0) + 1
        keys = parents[predicted] * (len(alphabet) + 1) + classes[symbols[predicted]]
        order = np.argsort(keys)
        predicted = predicted[order]
        beginning = 1 + np.flatnonzero(symbols[1 : 1 + self.children[0]] == len(self.characters) + 1)
        with np.errstate(divide="ignore"):
            logarithms, backoff = np.log(probability[predicted]), np.log(self.backoff.astype(np.float64))
        return Automaton(
            len(alphabet) + 1,
            array("q", keys[order].tobytes()),
            array("d", logarithms.tobytes()),
            array("q", states[predicted].tobytes()),
            array("d", backoff.tobytes()),
            array("q", states[suffixes].tobytes()),
            int(states[beginning[0]]) if len(beginning) else 0,
            float(np.log(probability[0])),
        )


class Automaton:
    """N-grams over the classes of an alphabet: what is likely to follow, and where one is then.

    Attributes:
        start: State at the beginning of a text.
    """

    def __init__(
        self,
        classes: int,
        keys: Sequence[int],
        logarithms: Sequence[float],
        states: Sequence[int],
        backoff: Sequence[float],
        shorter: Sequence[int],
        start: int,
        unknown: float,
    ) -> None:
        """Keeps the tables; see `NGrams.compile`, which makes them.

        Args:
            classes: Number of characters, and one for the end of a text.
            keys: State x classes + class of every n-gram, sorted.
            logarithms: Logarithm of the probability of each.
            states: State after each.
            backoff: Logarithm of the backoff of every state.
            shorter: State of the next shorter context of every state.
            start: State at the beginning of a text.
            unknown: Logarithm of the probability of a class that no context knows.
        """
        self.start = start
        self._classes, self._keys, self._logarithms, self._states = classes, keys, logarithms, states
        self._backoff, self._shorter, self._unknown = backoff, shorter, unknown
        self._steps: dict[int, tuple[float, int]] = {}

    def step(self, state: int, character: int) -> tuple[float, int]:
        """Follows a character.

        Args:
            state: Where one is.
            character: Its class; the blank's stands for the end of the text.

        Returns:
            The logarithm of its probability, and the state after it.
        """
        asked = state * self._classes + character
        known = self._steps.get(asked)
        if known is None:
            if len(self._steps) >= _REMEMBERED:
                self._steps.clear()
            known = self._steps[asked] = self._find(state, character)
        return known

    def _find(self, state: int, character: int) -> tuple[float, int]:
        added = 0.0
        while True:
            key = state * self._classes + character
            place = bisect_left(self._keys, key)
            if place < len(self._keys) and self._keys[place] == key:
                return added + self._logarithms[place], self._states[place]
            added += self._backoff[state]
            if state == 0:
                return added + self._unknown, 0
            state = self._shorter[state]


def count(
    texts: Iterable[str],
    alphabet: Alphabet,
    order: int,
    *,
    others: Iterable[str] = (),
    weights: Sequence[float] | None = None,
    least_texts: int = 1,
    most: int | None = None,
) -> NGrams:
    """Learns n-grams from texts.

    Args:
        texts: Texts to learn from.
        alphabet: Their characters; n-grams do not reach over others.
        order: Length of the longest n-grams.
        others: More texts to learn from, which say nothing of what only one of `texts` holds.
        weights: How often each of `texts`, then each of `others`, is counted; once by default.
        least_texts: N-grams are left out that fewer of `texts`, and fewer of `others`, hold.
        most: Bound on the number of n-grams; those are left out to keep it that the texts are likely without, too.

    Returns:
        The n-grams.
    """
    texts = list(texts)
    symbols, room, text = _positions([*texts, *others], alphabet)
    weight = np.ones(len(text)) if weights is None else np.asarray(weights, float)[text]
    beginning, base = len(alphabet) + 1, len(alphabet) + 2
    starts = symbols == beginning
    # Of each position: the context before it that is to be extended, by its place among those of one length.
    context = np.where(starts, -1, 0)
    parents, last, counts, own, backoff = [np.zeros(1, int)], [np.zeros(1, int)], [np.zeros(1)], [np.ones(1)], []
    first, contexts = 0, 1  # of the contexts of one length: node of the first one, and their number
    for length in range(order):
        here = np.flatnonzero((context >= 0) & (room >= length))
        followed = context[here] * base + symbols[here]
        keys, inverse, times, in_texts = _distinct(followed, text[here], weight[here], len(texts))
        total = np.bincount(keys // base, times + _NOVELTY, contexts)
        kept = in_texts >= least_texts
        following = np.full_like(context, -1)
        following[here] = np.where(kept, np.cumsum(kept) - 1, -1)[inverse]
        keys, times = keys[kept], times[kept]
        if length == 0:  # the beginning is a context, although nothing predicts it
            following[starts] = len(keys)
            keys, times = np.append(keys, beginning), np.append(times, 0)
        parent = keys // base
        parents.append(first + parent)
        last.append(keys % base)
        counts.append(times)
        own.append(times / np.maximum(total[parent], 1))
        backoff.append(1.0 - np.bincount(parent, own[-1], contexts))
        first, contexts = first + contexts, len(keys)
        context = np.where(starts, -1, np.roll(following, 1))
    nodes = first + contexts
    found = NGrams(
        tuple(alphabet), order, np.concatenate(last).astype(np.int32),
        np.bincount(np.concatenate(parents[1:]), minlength=nodes).astype(np.int32),
        np.concatenate(own).astype(np.float32),
        np.concatenate([*backoff, np.ones(contexts)]).astype(np.float32),
    )  # fmt: skip
    if most is None or len(found) <= most:
        return found
    losses = found._losses(np.concatenate(counts))
    staying = found.symbols == beginning
    staying[0] = True
    losses[staying] = np.inf
    return found.without((losses <= np.sort(losses)[::-1][most + 1]) & ~staying)


def _positions(texts: Iterable[str], alphabet: Alphabet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All symbols of all texts in a row.

    Returns:
        int64 each: the symbols, with beginning and end of every text; how many symbols before each may be its context;
        the number of its text.
    """
    symbols: list[int] = []
    room: list[int] = []
    lengths: list[int] = []
    for text in texts:
        before = len(symbols)
        symbols.append(len(alphabet) + 1)
        pieces = alphabet.pieces(text)
        for number, piece in enumerate(pieces):
            symbols += piece
            room += range(len(piece) + 1) if number == 0 else range(len(piece))
        symbols.append(len(alphabet))
        room.append(len(pieces[-1]) + (len(pieces) == 1))
        lengths.append(len(symbols) - before)
    return np.array(symbols, int), np.array(room, int), np.repeat(np.arange(len(lengths)), lengths)


def _distinct(
    keys: np.ndarray, text: np.ndarray, weight: np.ndarray, first_other: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Different keys in rising order, and the place of each key among them.

    Besides, the sum of the weights where they occur, and in how many texts that is: before `first_other` or from it on,
    whichever are more.
    """
    order = np.argsort(keys, kind="stable")  # texts stay in order
    keys, text = keys[order], text[order]
    new = np.ones(len(keys), bool)
    new[1:] = keys[1:] != keys[:-1]
    new_text = new.copy()
    new_text[1:] |= text[1:] != text[:-1]
    place = np.cumsum(new) - 1
    inverse = np.empty_like(place)
    inverse[order] = place
    in_others = np.bincount(place, new_text & (text >= first_other))
    in_texts = np.bincount(place, new_text) - in_others
    return keys[new], inverse, np.bincount(inverse, weight), np.maximum(in_texts, in_others)


def _coded(probabilities: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        codes = np.rint(-_CODES_PER_NAT * np.log(probabilities.astype(np.float64)))
    return np.where(probabilities > 0, np.clip(codes, 0, _NEVER - 1), _NEVER).astype(np.uint8)


def _decoded(codes: np.ndarray) -> np.ndarray:
    return np.where(codes == _NEVER, 0.0, np.exp(codes.astype(np.float64) / -_CODES_PER_NAT)).astype(np.float32)
