"""CTC prefix beam search over whole batches, with a lexicon and a character language model.

The search (Graves 2006; Hannun et al. 2014) is written over arrays [N, width, ...]: its time depends on the number of
frames, the width and the candidates only, never on what the log-probabilities are, so that a noisy or hostile image
costs no more than a clean one; and numpy lets go of the interpreter lock in the larger steps.
"""

import numpy as np

from htr_client.decoding import Alphabet, Alternative, Decoded, DecodedCharacter, align, check, log_posteriors
from htr_client.language import CharacterModel, CompiledCharacterModel, CompiledLexicon, Lexicon

# Prefixes are told apart by 64-bit hashes; with some thousand prefixes an image, two of them collide once in about
# 10^12 images.
_HASH_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class PrefixBeamSearch:
    """Finds texts by the sum over their alignments, instead of the one best alignment.

    The text returned has the highest log P(text | image) + language_weight * log P(text) + length_bonus * length,
    plus what the lexicon adds, among those that the beam holds. Its confidence is P(text | image) alone, as for
    `BestPath`.

    Args:
        width: Prefixes kept after every frame.
        candidates: The most probable characters of a frame that may extend a prefix.
        alternatives: How many other readings to return.
        lexicon: Words that the text is made of.
        language_model: Model of likely texts.
        language_weight: Weight of the language model.
        length_bonus: Added for every character; by default 1.5 x language_weight with a language model, which makes
            up for what the model takes away for every character, and 0 without.

    Raises:
        ValueError: When width or candidates are not positive.
    """

    def __init__(
        self,
        width: int = 16,
        *,
        candidates: int = 16,
        alternatives: int = 0,
        lexicon: Lexicon | None = None,
        language_model: CharacterModel | None = None,
        language_weight: float = 0.3,
        length_bonus: float | None = None,
    ) -> None:
        if width < 1 or candidates < 1 or alternatives < 0:
            raise ValueError("width and candidates are positive, alternatives not negative")
        self._width = width
        self._candidates = candidates
        self._alternatives = alternatives
        self._lexicon = lexicon
        self._language_model = language_model
        self._language_weight = language_weight
        default = 1.5 * language_weight if language_model is not None else 0.0
        self._length_bonus = default if length_bonus is None else length_bonus

    def decode(self, log_probs: np.ndarray, frames: np.ndarray, alphabet: Alphabet) -> list[Decoded]:
        """Decode a batch; see `Decoder.decode`."""
        check(log_probs, frames, alphabet)
        if log_probs.size == 0 or len(alphabet) == 0:
            return [Decoded("", 0.0, ()) for _ in log_probs]
        # Longest first, so that the rows still running at a frame are the first ones.
        order = np.argsort(-frames, kind="stable")
        found = _search(
            log_probs[order],
            frames[order],
            min(self._candidates, len(alphabet)),
            self._width,
            self._lexicon.compile(alphabet) if self._lexicon is not None else None,
            self._language_model.compile(alphabet) if self._language_model is not None else None,
            self._language_weight,
            self._length_bonus,
            1 + self._alternatives,
        )
        results: list[Decoded | None] = [None] * len(frames)
        best = [texts[0] for texts in found]
        rows = np.repeat(order, [len(texts) for texts in found])
        flat = [text for texts in found for text in texts]
        posteriors = np.where(frames[rows] > 0, np.exp(log_posteriors(log_probs[rows], frames[rows], flat)), 0.0)
        spans = align(log_probs[order], frames[order], best)
        at = 0
        for row, texts, row_spans in zip(order.tolist(), found, spans, strict=True):
            characters = tuple(
                DecodedCharacter(alphabet[i], confidence, span)
                for i, (span, confidence) in zip(texts[0], row_spans, strict=True)
            )
            others = tuple(
                Alternative(alphabet.decode(text), float(posterior))
                for text, posterior in zip(texts[1:], posteriors[at + 1 : at + len(texts)], strict=True)
            )
            results[row] = Decoded(alphabet.decode(texts[0]), float(posteriors[at]), characters, others)
            at += len(texts)
        return [result for result in results if result is not None]


def _search(
    log_probs: np.ndarray,
    frames: np.ndarray,
    candidates: int,
    width: int,
    lexicon: CompiledLexicon | None,
    model: CompiledCharacterModel | None,
    model_weight: float,
    length_bonus: float,
    wanted: int,
) -> list[list[list[int]]]:
    """The search itself; rows sorted by falling number of frames.

    Returns:
        For each row the classes of its best texts, best first: at least one, at most `wanted`.
    """
    count, length, classes = log_probs.shape
    blank = classes - 1
    # Of each prefix: log-probability of ending in a blank, of ending in its last character, and what else counts.
    blanks = np.full((count, width), -np.inf)
    blanks[:, 0] = 0.0
    characters = np.full((count, width), -np.inf)
    bonus = np.zeros((count, width))
    hashes = np.zeros((count, width), np.uint64)
    parents = np.zeros((count, width), np.uint64)
    last = np.full((count, width), -1)
    nodes = np.zeros((count, width), int)
    states = np.full((count, width), model.start if model is not None else 0)
    # How each prefix of each frame came about: from which one of the frame before, with which class (-1 for none).
    origins = np.zeros((length, count, width), np.int32)
    emitted = np.full((length, count, width), -1, np.int32)

    with np.errstate(invalid="ignore"):
        for t in range(int(frames.max(initial=0))):
            n = int(np.count_nonzero(frames > t))
            rows = np.arange(n)[:, None]
            now = log_probs[:n, t].astype(np.float64)
            b, c, h, tail = blanks[:n], characters[:n], hashes[:n], last[:n]
            total = np.logaddexp(b, c)

            stays_blank = total + now[:, blank, None]
            stays = np.where(tail >= 0, c + now[rows, tail], -np.inf)

            # Prefixes extended by the likeliest characters. A repeated character needs a blank in between.
            top = np.argpartition(now[:, :blank], blank - candidates, axis=1)[:, blank - candidates :]
            repeated = tail[:, :, None] == top[:, None, :]
            extended = np.where(repeated, b[:, :, None], total[:, :, None]) + now[rows, top][:, None, :]

            # A prefix of the beam that is another one's extension gets its probability, and the extension goes.
            alive = total > -np.inf
            is_parent = (parents[:n, :, None] == h[:, None, :]) & alive[:, None, :]
            child = is_parent.any(axis=2) & (tail >= 0) & alive
            if child.any():
                row, kid = np.nonzero(child)
                parent = is_parent[row, kid].argmax(axis=1)
                step = tail[row, kid]
                before = np.where(tail[row, parent] == step, b[row, parent], total[row, parent])
                stays[row, kid] = np.logaddexp(stays[row, kid], before + now[row, step])
                place = np.full((n, classes), -1)
                place[rows, top] = np.arange(candidates)
                at = place[row, step]
                extended[row[at >= 0], parent[at >= 0], at[at >= 0]] = -np.inf

            added = np.full((n, width, candidates), length_bonus)
            if model is not None:
                added += model_weight * model.scores[states[:n, :, None], top[:, None, :]]
            if lexicon is not None:
                reached, allowed = lexicon.step(nodes[:n, :, None], top[:, None, :])
                added += allowed

            scores = np.concatenate(
                [
                    np.logaddexp(stays_blank, stays) + bonus[:n],
                    (extended + bonus[:n, :, None] + added).reshape(n, width * candidates),
                ],
                axis=1,
            )
            kept = np.argpartition(scores, scores.shape[1] - width, axis=1)[:, -width:]
            new = kept >= width
            origin = np.where(new, (kept - width) // candidates, kept)
            pick = np.where(new, (kept - width) % candidates, 0)
            character = np.where(new, top[rows, pick], -1)
            dead = np.isneginf(scores[rows, kept])

            blanks[:n] = np.where(new | dead, -np.inf, stays_blank[rows, origin])
            characters[:n] = np.where(dead, -np.inf, np.where(new, extended[rows, origin, pick], stays[rows, origin]))
            bonus[:n] = bonus[rows, origin] + np.where(new & ~dead, added[rows, origin, pick], 0.0)
            parents[:n] = np.where(new, h[rows, origin], parents[rows, origin])
            hashes[:n] = np.where(new, _extend(h[rows, origin], character), h[rows, origin])
            if lexicon is not None:
                nodes[:n] = np.where(new, reached[rows, origin, pick], nodes[rows, origin])
            if model is not None:
                following = model.next_state[states[rows, origin], np.maximum(character, 0)]
                states[:n] = np.where(new, following, states[rows, origin])
            last[:n] = np.where(new, character, tail[rows, origin])
            origins[t, :n] = origin
            emitted[t, :n] = character

        scores = np.logaddexp(blanks, characters) + bonus
        if model is not None:
            scores += model_weight * model.scores[states, blank]
        if lexicon is not None:
            scores += lexicon.end(nodes)
    return [
        _read_back(origins[: frames[row], row], emitted[: frames[row], row], scores[row], wanted)
        for row in range(count)
    ]


def _extend(hashes: np.ndarray, characters: np.ndarray) -> np.ndarray:
    """Hash of a prefix and one more character."""
    mixed = (hashes ^ (characters + 2).astype(np.uint64)) * _HASH_FACTOR
    return mixed ^ mixed >> np.uint64(29)


def _read_back(origins: np.ndarray, emitted: np.ndarray, scores: np.ndarray, wanted: int) -> list[list[int]]:
    """Texts of the best prefixes of one row.

    Args:
        origins: int [frames, width].
        emitted: int [frames, width].
        scores: float64 [width], at the end.
        wanted: At most so many.

    Returns:
        Classes of the texts, best first. Only the empty text when a lexicon lets none of the prefixes end.
    """
    texts = []
    for place in np.argsort(-scores, kind="stable")[:wanted].tolist():
        if not scores[place] > -np.inf:
            break
        ids = []
        for t in range(len(origins) - 1, -1, -1):
            if emitted[t, place] >= 0:
                ids.append(int(emitted[t, place]))
            place = origins[t, place]
        texts.append(ids[::-1])
    return texts or [[]]
