"""Decoders against brute force: on small cases every CTC path can be enumerated."""

import itertools
import math
import unicodedata
import warnings
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from htr_client import ngrams
from htr_client.beam import PrefixBeamSearch, default_decoder
from htr_client.decoding import Alphabet, BestPath, align, log_posteriors
from htr_client.kenlm import KenLmBeamSearch
from htr_client.language import CharacterModel, LanguageModel
from htr_client.lexicon import Lexicon

AB = Alphabet("ab ")
OWN_MODEL = LanguageModel(ngrams.count(["aab", "ab", "ba a"], AB, 3), 0.3, 0.45)
EVERYTHING = {"width": 400, "candidates": 99, "pruning": math.inf}


def collapse(path, blank):
    return tuple(c for c, _ in itertools.groupby(path) if c != blank)


def brute_force(log_probs, frames):
    """P(text) of every text, by summing over all paths."""
    classes = log_probs.shape[1]
    texts = defaultdict(float)
    for path in itertools.product(range(classes), repeat=frames):
        texts[collapse(path, classes - 1)] += math.exp(sum(float(log_probs[t, c]) for t, c in enumerate(path)))
    return texts


def forward(log_probs, ids):
    """log P(text) of one row by the CTC forward algorithm on logarithms, which needs no scale for long lines."""
    blank = log_probs.shape[1] - 1
    states = np.full(2 * len(ids) + 1, blank)
    states[1::2] = ids
    skips = (states != blank) & (states != np.roll(states, 2))
    alpha = np.where(np.arange(len(states)) == 0, 0.0, -np.inf)
    for frame in log_probs.astype(float):
        before = np.pad(alpha, (2, 0), constant_values=-np.inf)
        alpha = np.logaddexp.reduce([alpha, before[1:-1], np.where(skips, before[:-2], -np.inf)]) + frame[states]
    return np.logaddexp.reduce(alpha[-2:])


@st.composite
def batches(draw, classes=4, longest=5, most=3):
    """Log-probabilities from flat over peaky to impossible, with rows of different length and rubbish as padding."""
    count = draw(st.integers(1, most))
    length = draw(st.integers(1, longest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(size=(count, length, classes)) * draw(st.sampled_from([0.0, 0.3, 1.0, 4.0, 12.0, 20.0]))
    if draw(st.booleans()):  # blanks dominate, as in a trained model
        logits[:, :, -1] += 3
    if draw(st.booleans()):
        logits[rng.random(logits.shape) < 0.3] = -np.inf
        logits[..., rng.integers(classes)] = 0.0
    log_probs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    frames = rng.integers(0, length + 1, count) if draw(st.booleans()) else np.full(count, length)
    for row, valid in enumerate(frames):
        log_probs[row, valid:] = rng.normal(size=(length - valid, classes)) * 5
    return log_probs.astype(np.float32), frames.astype(np.int32)


@given(batches())
def test_posterior_is_the_sum_over_all_paths(batch):
    log_probs, frames = batch
    for row in range(len(frames)):
        texts = brute_force(log_probs[row], frames[row])
        every = [*texts, (0,) * 6]  # the last one does not fit
        rows = np.full(len(every), row)
        found = np.exp(log_posteriors(log_probs[rows], frames[rows], every))
        np.testing.assert_allclose(found, [texts.get(text, 0.0) for text in every], rtol=1e-4, atol=1e-9)
        assert found.sum() == pytest.approx(1.0, abs=1e-3)


@given(batches())
def test_best_path(batch):
    log_probs, frames = batch
    for row, result in enumerate(BestPath().decode(log_probs, frames, AB)):
        best = log_probs[row, : frames[row]].argmax(axis=1)
        ids = collapse(best, 3)
        assert result.text == AB.decode(ids) == "".join(c.text for c in result.characters)
        expected = brute_force(log_probs[row], frames[row])[ids] if frames[row] else 0.0
        assert result.confidence == pytest.approx(expected, rel=1e-4, abs=1e-9)
        at = 0
        for character, i in zip(result.characters, ids, strict=True):
            first, end = character.span
            assert at <= first < end <= frames[row]
            assert (best[first:end] == i).all() and (end == frames[row] or best[end] != i)
            assert character.confidence == pytest.approx(math.exp(log_probs[row, first:end, i].max()), rel=1e-5)
            at = end


@given(batches())
def test_alignment_is_the_most_probable_path(batch):
    log_probs, frames = batch
    for row in range(len(frames)):
        paths = defaultdict(lambda: (-np.inf, None))
        for path in itertools.product(range(4), repeat=int(frames[row])):
            score = float(sum(log_probs[row, t, c] for t, c in enumerate(path)))
            ids = collapse(path, 3)
            if score > paths[ids][0]:
                paths[ids] = (score, path)
        for ids, (score, path) in paths.items():
            if path is None:  # impossible
                continue
            [spans] = align(log_probs[row : row + 1], frames[row : row + 1], [ids])
            assert len(spans) == len(ids)
            path = np.full(frames[row], 3)
            for i, ((first, end), peak) in zip(ids, spans, strict=True):
                path[first:end] = i
                assert peak == pytest.approx(math.exp(log_probs[row, first:end, i].max()), rel=1e-5)
            assert collapse(path, 3) == ids
            assert sum(log_probs[row, t, c] for t, c in enumerate(path)) == pytest.approx(score, rel=1e-4, abs=1e-4)


@given(batches())
def test_beam_finds_the_most_probable_text(batch):
    log_probs, frames = batch
    decoder = PrefixBeamSearch(**EVERYTHING, alternatives=2)
    for row, result in enumerate(decoder.decode(log_probs, frames, AB)):
        texts = {AB.decode(ids): p for ids, p in brute_force(log_probs[row], frames[row]).items() if p > 0}
        if not frames[row]:
            assert (result.text, result.confidence) == ("", 0.0)
            continue
        ranking = sorted(texts.values(), reverse=True)
        found = [result.confidence, *(alternative.confidence for alternative in result.alternatives)]
        np.testing.assert_allclose(found, ranking[: len(found)], rtol=1e-4, atol=1e-12)
        assert len(found) == min(3, len(texts))
        for text, p in [(result.text, result.confidence), *result.alternatives]:
            assert texts[text] == pytest.approx(p, rel=1e-4)
        assert "".join(c.text for c in result.characters) == result.text


@given(batches())
def test_narrow_beam_gives_a_text_and_its_own_probability(batch):
    log_probs, frames = batch
    for row, result in enumerate(PrefixBeamSearch(1, candidates=1).decode(log_probs, frames, AB)):
        p = brute_force(log_probs[row], frames[row])[tuple(AB.encode(result.text))] if frames[row] else 0.0
        assert result.confidence == pytest.approx(p, rel=1e-4, abs=1e-9)


def allowed(text, words, separators=" "):
    """Scores by the definition in Lexicon's documentation: the words of a text, each with its own score."""
    for separator in separators:
        text = text.replace(separator, "\n")
    return [word for word in text.split("\n") if word]


@given(batches(), st.sets(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4))
def test_strict_lexicon_finds_the_most_probable_allowed_text(batch, words):
    log_probs, frames = batch
    decoder = PrefixBeamSearch(**EVERYTHING, lexicon=Lexicon(words))
    for row, result in enumerate(decoder.decode(log_probs, frames, AB)):
        texts = {AB.decode(ids): p for ids, p in brute_force(log_probs[row], frames[row]).items() if p > 0}
        possible = {text: p for text, p in texts.items() if set(allowed(text, words)) <= words}
        assert set(allowed(result.text, words)) <= words
        if frames[row]:
            best = max(possible.values(), default=0.0)
            assert result.confidence == pytest.approx(best, rel=1e-4, abs=1e-12)


@given(
    batches(),
    st.dictionaries(st.text("ab", min_size=1, max_size=3), st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from([-0.5, -2.0, -6.0]),
)
def test_soft_lexicon_weighs_words(batch, counts, unknown):
    log_probs, frames = batch
    decoder = PrefixBeamSearch(**EVERYTHING, lexicon=Lexicon(counts, unknown=unknown, weight=0.7))
    total = sum(counts.values())
    known = {word: 0.7 * math.log(count / total) for word, count in counts.items()}
    other = unknown + min(known.values())

    def score(text, p):
        return math.log(p) + sum(known.get(word, other) for word in allowed(text, counts))

    for row, result in enumerate(decoder.decode(log_probs, frames, AB)):
        if frames[row]:
            texts = {AB.decode(ids): p for ids, p in brute_force(log_probs[row], frames[row]).items() if p > 0}
            best = max(score(text, p) for text, p in texts.items())
            assert score(result.text, texts[result.text]) == pytest.approx(best, abs=1e-3)


def witten_bell(texts, order, alphabet):
    """The same language model written the slow way: a function from a text to its log-probability."""
    following = defaultdict(Counter)
    for text in texts:
        symbols = ["^", *text, "$"]
        for i in range(1, len(symbols)):
            for length in range(min(order - 1, i) + 1):
                following[tuple(symbols[i - length : i])][symbols[i]] += 1

    def p(context, symbol):
        lower = p(context[1:], symbol) if context else 1.0 / (len(alphabet) + 1)
        seen = following.get(context)
        new = 4 * len(seen) if seen else 0
        return (seen[symbol] + new * lower) / (seen.total() + new) if seen else lower

    def score(text):
        symbols = ["^", *text, "$"]
        return sum(math.log(p(tuple(symbols[max(0, i - order + 1) : i]), symbols[i])) for i in range(1, len(symbols)))

    return score


@given(
    batches(),
    st.lists(st.text("ab ", min_size=1, max_size=5), min_size=1, max_size=6),
    st.integers(1, 4),
    st.sampled_from([0.3, 1.0]),
    st.sampled_from([0.0, 0.5]),
)
def test_language_model_is_weighed_in(batch, corpus, order, weight, length_bonus):
    log_probs, frames = batch
    model = CharacterModel(corpus, order=order)
    decoder = PrefixBeamSearch(**EVERYTHING, language_model=model, language_weight=weight, length_bonus=length_bonus)
    language = witten_bell(corpus, order, AB)

    def score(text, p):
        return math.log(p) + weight * language(text) + length_bonus * len(text)

    for row, result in enumerate(decoder.decode(log_probs, frames, AB)):
        if frames[row]:
            texts = {AB.decode(ids): p for ids, p in brute_force(log_probs[row], frames[row]).items() if p > 0}
            best = max(score(text, p) for text, p in texts.items())
            assert score(result.text, texts[result.text]) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize(
    "decoder",
    [
        BestPath(),
        PrefixBeamSearch(8),
        PrefixBeamSearch(8, lexicon=Lexicon(["ab", "ba"], unknown=-2.0), language_model=CharacterModel(["abba"])),
    ],
    ids=["best path", "beam", "beam with lexicon and model"],
)
@settings(max_examples=30)
@given(batch=batches(longest=12, most=6))
def test_neighbours_and_padding_change_nothing(decoder, batch):
    log_probs, frames = batch
    together = decoder.decode(log_probs, frames, AB)
    for row, result in enumerate(together):
        valid = int(frames[row])
        [alone] = decoder.decode(log_probs[row : row + 1, :valid], frames[row : row + 1], AB)
        assert alone.text == result.text
        assert [c.span for c in alone.characters] == [c.span for c in result.characters]
        assert alone.confidence == pytest.approx(result.confidence, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    "decoder",
    [BestPath(), PrefixBeamSearch(), PrefixBeamSearch(lexicon=Lexicon(["aab"])), default_decoder(OWN_MODEL)],
    ids=["best path", "beam", "beam with lexicon", "default"],
)
@pytest.mark.parametrize("blanks", [1, 3])
@pytest.mark.parametrize("sure", [0.94, 0.9998])  # of 0.9998, pruning leaves nothing else in a frame
def test_blank_between_repeats(decoder, blanks, sure):
    classes = [0, 0, *[3] * blanks, 0, 1]
    length = len(classes)
    log_probs = np.full((1, length, 4), np.log((1 - sure) / 3), np.float32)
    log_probs[0, range(length), classes] = np.log(sure)
    [result] = decoder.decode(log_probs, np.array([length]), AB)
    assert result.text == "aab"
    assert [c.span for c in result.characters] == [(0, 2), (length - 2, length - 1), (length - 1, length)]


@pytest.mark.parametrize("decoder", [PrefixBeamSearch(), default_decoder(OWN_MODEL)], ids=["beam", "default"])
@given(path=st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_frames_that_are_certain_give_the_text_of_their_path(decoder, path):
    log_probs = np.full((1, len(path), 4), np.log(0.0002 / 3), np.float32)
    log_probs[0, range(len(path)), path] = np.log(0.9998)
    [result] = decoder.decode(log_probs, np.array([len(path)]), AB)
    assert result.text == AB.decode(collapse(path, 3))


def test_empty_batch_and_no_frames():
    for decoder in (BestPath(), PrefixBeamSearch()):
        assert decoder.decode(np.zeros((0, 7, 4), np.float32), np.zeros(0, int), AB) == []
        [result] = decoder.decode(np.zeros((1, 0, 4), np.float32), np.zeros(1, int), AB)
        assert (result.text, result.confidence, result.characters) == ("", 0.0, ())


@pytest.mark.parametrize(
    ("log_probs", "frames"),
    [
        (np.zeros((2, 3, 5), np.float32), np.array([3, 3])),
        (np.zeros((2, 3, 4), np.float32), np.array([3])),
        (np.zeros((2, 3, 4), np.float32), np.array([3, 4])),
        (np.zeros((2, 3, 4), np.float32), np.array([3, -1])),
        (np.full((1, 3, 4), np.nan, np.float32), np.array([3])),
    ],
    ids=["classes", "rows", "too many frames", "negative frames", "not a number"],
)
def test_what_does_not_fit_is_refused(log_probs, frames):
    for decoder in (BestPath(), PrefixBeamSearch()):
        with pytest.raises(ValueError):
            decoder.decode(log_probs, frames, AB)


@pytest.mark.parametrize("spread", [0.3, 8.0])
def test_probability_of_long_lines(spread):
    """Rows that end before, on and after the frames where the scale is moved."""
    frames = np.array([15, 16, 17, 33, 240])
    logits = np.random.default_rng(0).normal(size=(5, 240, 4)) * spread + [0, 0, 0, 3]
    log_probs = (logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))).astype(np.float32)
    rows = [log_probs[row, :valid] for row, valid in enumerate(frames)]
    for ids in ([], [0], [0, 1], [1, 1, 2]):
        expected = [forward(row, ids) for row in rows]
        np.testing.assert_allclose(log_posteriors(log_probs, frames, [ids] * 5), expected, rtol=1e-6)
    for result, row in zip(BestPath().decode(log_probs, frames, AB), rows, strict=True):
        assert math.log(result.confidence) == pytest.approx(forward(row, AB.encode(result.text)), rel=1e-5)


def test_long_and_improbable_lines_do_not_underflow():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(2, 800, 100)).astype(np.float32)
    log_probs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    alphabet = Alphabet(map(chr, range(200, 299)))
    frames = np.array([800, 700])
    texts = [alphabet.encode(result.text) for result in BestPath().decode(log_probs, frames, alphabet)]
    found = log_posteriors(log_probs, frames, texts)
    assert np.isfinite(found).all() and (found < -800).all()
    for result in PrefixBeamSearch(2, candidates=2).decode(log_probs, frames, alphabet):
        assert len(result.text) > 300 and 0 <= result.confidence < 1e-300


def test_a_strict_lexicon_keeps_improbable_classes():
    log_probs = np.array([[[-0.001, -8, -12, -9], [-0.001, -9, -12, -8]]], np.float32)  # looks like "a"
    assert PrefixBeamSearch(lexicon=Lexicon(["ab"])).decode(log_probs, np.array([2]), AB)[0].text == "ab"


def test_a_rare_word_that_turns_out_to_be_another_is_kept():
    """The start of "aa" costs 16 until "abc" is known to be none of the lexicon's words, which costs 3."""
    lexicon = Lexicon({"aa": 1, "b": 10**7}, unknown=13.0, weight=1.0)
    log_probs = np.full((1, 3, 5), -30.0, np.float32)  # of a, b, c, space and blank
    log_probs[0, 0, :2] = 0, -7
    log_probs[0, 1, [1, 3]] = -2.8, -0.06
    log_probs[0, 2, 2] = 0
    assert PrefixBeamSearch(lexicon=lexicon).decode(log_probs, np.array([3]), Alphabet("abc "))[0].text == "abc"


@pytest.mark.parametrize("unknown", [-0.5, -3.0, -6.0])
def test_a_rare_word_is_preferred_to_one_that_is_in_no_text(unknown):
    log_probs = np.full((1, 3, 4), -30.0, np.float32)
    log_probs[0, 0, 0] = log_probs[0, 1, -1] = 0
    log_probs[0, 2, :2] = math.log(0.55), math.log(0.45)  # looks like "aa", or else "ab"
    lexicon = Lexicon.from_texts(["ab", *["b"] * 10**5], unknown=unknown)
    assert PrefixBeamSearch(lexicon=lexicon).decode(log_probs, np.array([3]), AB)[0].text == "ab"


def test_a_lexicon_that_lets_nothing_end_gives_the_empty_text():
    log_probs = np.log(np.array([[[0.97, 0.01, 0.01, 0.01]]], np.float32))
    [result] = PrefixBeamSearch(1, lexicon=Lexicon(["ab"])).decode(log_probs, np.array([1]), AB)
    assert (result.text, result.characters) == ("", ())
    assert result.confidence == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("words", [[], ["a b"], [""], {"a": 0}])
def test_lexicons_that_make_no_sense(words):
    with pytest.raises(ValueError):
        Lexicon(words)


def test_the_beginning_of_words_has_the_score_of_the_likeliest():
    for words in ({"aa": 1, "ab": 9}, {"ab": 9, "aa": 1}):
        lexicon = Lexicon(words).compile(AB)
        assert lexicon.step(0, 0)[0] == max(lexicon.ending[1:])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # with a byte order mark, as some editors write it
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_words_and_texts_in_any_normal_form(form, encoding, tmp_path):
    """Files of macOS and of some editors hold letters and accents apart; labels and alphabets are in NFC."""
    alphabet, log_probs = Alphabet("gnrü"), np.full((1, 4, 5), -9.0, np.float32)
    classes = alphabet.encode("grün")
    log_probs[0, range(4), classes] = -0.1
    log_probs[0, 2] = [-9, -0.5, -9, -1.0, -9]  # rather "grn"
    file = tmp_path / "words"
    file.write_text(unicodedata.normalize(form, "grün rüng\n"), encoding=encoding)
    word = unicodedata.normalize(form, "grün")
    for lexicon in (Lexicon.from_file(file), Lexicon([word]), Lexicon.from_texts([word])):
        assert PrefixBeamSearch(lexicon=lexicon).decode(log_probs, np.array([4]), alphabet)[0].text == "grün"
    both = Lexicon({"grün": 1, unicodedata.normalize("NFD", "grün"): 2, "rn": 3}).compile(alphabet)
    assert both.likeliest[1] == both.likeliest[5]  # together as frequent as the other word

    def scores(model):
        automaton, state, found = model.compile(alphabet), model.compile(alphabet).start, []
        for character in classes:
            score, state = automaton.step(state, character)
            found.append(score)
        return found

    expected = scores(CharacterModel(["grün rüng"]))
    assert scores(CharacterModel.from_file(file)) == expected == scores(CharacterModel([file.read_text(encoding)[:-1]]))


def test_a_lexicon_and_texts_of_another_script_are_refused():
    log_probs = np.zeros((1, 1, 4), np.float32)
    for parts in ({"lexicon": Lexicon(["слово"], unknown=-6.0)}, {"language_model": CharacterModel(["слово"])}):
        with pytest.raises(ValueError, match="the model's alphabet"):
            PrefixBeamSearch(**parts).decode(log_probs, np.array([1]), AB)
    search = PrefixBeamSearch(lexicon=Lexicon(["слово", "a"]))
    with pytest.warns(UserWarning, match=r"1 of 2 words of the lexicon are left out.* 'слово' \('с' is not"):
        assert search.decode(log_probs, np.array([1]), AB)[0].text in ("", "a")
    with warnings.catch_warnings(record=True) as again:
        search.decode(log_probs, np.array([1]), AB)
    assert not again, "once for a model"


def test_lexicon_of_whole_texts():
    lexicon = Lexicon.from_texts(["a b", "a b", "b"], separators="")
    log_probs = np.log(np.full((1, 3, 4), 0.05, np.float32))
    log_probs[0, range(3), [0, 2, 0]] = np.log(0.85)  # looks like "a a"
    [result] = PrefixBeamSearch(lexicon=lexicon).decode(log_probs, np.array([3]), AB)
    assert result.text == "a b"


@pytest.mark.parametrize("decoder", [BestPath(), PrefixBeamSearch(8)], ids=["best path", "beam"])
@given(
    log_probs=hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(3, 5))),
    frames=st.lists(st.integers(-1, 7), max_size=4),
)
def test_any_numbers_are_decoded_or_refused(decoder, log_probs, frames):
    try:
        results = decoder.decode(log_probs, np.array(frames, np.int32), AB)
    except ValueError:
        return
    assert len(results) == len(log_probs)
    for result, valid in zip(results, frames, strict=True):
        assert result.confidence >= 0 or math.isnan(result.confidence)
        assert "".join(c.text for c in result.characters) == result.text
        assert all(0 <= c.span[0] < c.span[1] <= valid for c in result.characters)


@pytest.mark.parametrize("decoder", [BestPath(), PrefixBeamSearch(8)], ids=["best path", "beam"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_logarithm_of_a_probability_is_refused(decoder, number):
    log_probs = np.zeros((1, 3, 4), np.float32)
    log_probs[0, 1] = [number, 0, 0, 710]
    with pytest.raises(ValueError, match="NaN or infinity"):
        decoder.decode(log_probs, np.array([3]), AB)


def test_decoders_agree_on_a_model_without_characters():
    """It has the blank alone: the empty text is certain where there is a frame."""
    log_probs, frames, alphabet = np.zeros((2, 3, 1), np.float32), np.array([3, 0]), Alphabet("")
    expected = BestPath().decode(log_probs, frames, alphabet)
    assert [(result.text, result.confidence) for result in expected] == [("", 1.0), ("", 0.0)]
    assert PrefixBeamSearch().decode(log_probs, frames, alphabet) == expected


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(number):
    model = ngrams.count(["ab"], AB, 2)
    for make in (
        lambda: PrefixBeamSearch(language_weight=number),
        lambda: PrefixBeamSearch(language_model=CharacterModel(["ab"]), length_bonus=number),
        lambda: PrefixBeamSearch(language_weight=-number),
        lambda: PrefixBeamSearch(pruning=math.nan),
        lambda: Lexicon(["ab"], unknown=number),
        lambda: Lexicon({"ab": number}),
        lambda: Lexicon({"ab": 1}, weight=number),
        lambda: LanguageModel(model, number, 0.0),
        lambda: LanguageModel(model, 0.3, number),
        lambda: LanguageModel(model, 0.3, 0.0, number),
        lambda: LanguageModel(model, 0.3, 0.0, 0.0),
        lambda: KenLmBeamSearch("words.arpa", weight=number),
        lambda: KenLmBeamSearch("words.arpa", word_bonus=number),
    ):
        with pytest.raises(ValueError, match=r"finite|positive|logarithm|count"):
            make()
