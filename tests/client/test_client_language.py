"""The language model of a version: its bytes, and how clients get it from servers new and old."""

import gc
import itertools
import json
import math
import weakref
import zlib

import grpc
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from htr_client import messages, ngrams
from htr_client.beam import PrefixBeamSearch, default_decoder
from htr_client.decoding import Alphabet, BestPath
from htr_client.errors import ServerFault, UnexpectedAnswer
from htr_client.language import CharacterModel, LanguageModel
from htr_client.testing import ALPHABET, png

LETTERS = Alphabet(ALPHABET)


def model_of(texts, alphabet=LETTERS, order=5, weight=2.0, length_bonus=1.0, **settings):
    return LanguageModel(ngrams.count(texts, alphabet, order, **settings), weight, length_bonus, 1.25)


HELLO = model_of(["hello"] * 9)


def automaton_scores(automaton, alphabet, text):
    """Logarithm of the probability of each character of a text and of its end."""
    state, found = automaton.start, []
    for character in [*alphabet.encode(text), alphabet.blank]:
        logarithm, state = automaton.step(state, character)
        found.append(logarithm)
    return found


@settings(max_examples=50)
@given(
    st.lists(st.text("abcé ", max_size=8), max_size=8), st.integers(1, 5), st.integers(1, 2),
    st.permutations("abcé "), st.lists(st.text("abcé ", max_size=6), max_size=4),
)  # fmt: skip
def test_bytes_hold_the_same_model_for_any_order_of_the_characters(corpus, order, least, shuffled, texts):
    """What is stored is rounded to 16 steps a nat, for each of the contexts that a probability is made of."""
    learnt = model_of(corpus, Alphabet("abcé "), order, least_texts=least)
    content = learnt.to_bytes()
    read = LanguageModel.from_bytes(content)
    assert (read.weight, read.length_bonus, read.temperature) == (2.0, 1.0, 1.25)
    assert read.to_bytes() == content
    alphabet = Alphabet(shuffled)
    for text in texts:
        exact = automaton_scores(learnt.compile(Alphabet("abcé ")), Alphabet("abcé "), text)
        np.testing.assert_allclose(automaton_scores(read.compile(alphabet), alphabet, text), exact, atol=order / 16)


@given(
    st.lists(st.text("abc", max_size=6), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(4, 60),
)
def test_language_model_stays_a_distribution_when_cut(corpus, order, least, most):
    alphabet = Alphabet("abcd")
    found = ngrams.count(corpus, alphabet, order, least_texts=least, most=most)
    assert len(found) <= most + 1  # the beginning always stays
    automaton = found.compile(alphabet)
    states = {automaton.start}
    for _ in range(order):
        states |= {automaton.step(state, character)[1] for state in states for character in range(4)}
    for state in states:
        probabilities = [math.exp(automaton.step(state, character)[0]) for character in range(5)]
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-5) and min(probabilities) > 0


def test_cut_language_model_keeps_what_shorter_contexts_do_not_tell():
    # Of any two of a, b and c nothing follows for the next one; "qu" is rarer than they are, and certain.
    corpus = [*map("".join, itertools.product("abc", repeat=6)), *["aqub"] * 20]
    alphabet = Alphabet("abcqu")
    found = ngrams.count(corpus, alphabet, 3, most=12)
    automaton = found.compile(alphabet)
    after_q = automaton.step(0, alphabet.encode("q")[0])[1]
    assert math.exp(automaton.step(after_q, alphabet.encode("u")[0])[0]) > 0.8


def test_format_as_documented():
    """The bytes read without the class, as another program would."""
    content = model_of(["ab", "ab"], Alphabet("ab"), 2).to_bytes()
    assert content.startswith(b"HTRLM\x01")
    header, _, arrays = zlib.decompress(content[6:]).partition(b"\n")
    told = json.loads(header)
    assert told == {"characters": ["a", "b"], "order": 2, "ngrams": 7, "weight": 2.0, "length_bonus": 1.0,
                    "temperature": 1.25}  # fmt: skip
    symbols, children = np.frombuffer(arrays, "<u2", 16).reshape(2, 8)
    own, backoff = np.frombuffer(arrays, np.uint8, offset=32).reshape(2, 8)
    # a, b, end, beginning; then a-b, b-end, beginning-a.
    assert symbols[1:].tolist() == [0, 1, 2, 3, 1, 2, 0] and children.tolist() == [4, 1, 1, 0, 1, 0, 0, 0]
    # Twice of two, with one kind of follower, which weighs four: 1/3 of its own, 2/3 from the shorter context.
    assert own[5] == round(-16 * math.log(1 / 3)) and backoff[1] == round(-16 * math.log(2 / 3))


def test_what_few_texts_hold_is_not_in_the_model():
    stored = LanguageModel(ngrams.count(["hello", "help", "xyzzy"], LETTERS, 4, least_texts=2), 1.0, 0.0).to_bytes()
    kept = LanguageModel.from_bytes(stored).ngrams
    assert {kept.characters[symbol] for symbol in kept.symbols[1:] if symbol < len(LETTERS)} == set("hel")
    # A text that says the same twice is still one text.
    assert len(ngrams.count(["abab"], LETTERS, 2, least_texts=2)) == 1  # the beginning of a text


def test_another_weight_is_another_model_of_the_same_ngrams():
    other = HELLO.weighed(0.5, 0.75, 3.0)
    assert other.compile(LETTERS) is HELLO.compile(LETTERS)
    read = LanguageModel.from_bytes(other.to_bytes())
    assert (read.weight, read.length_bonus, read.temperature) == (0.5, 0.75, 3.0)
    assert (HELLO.weight, HELLO.length_bonus, HELLO.temperature) == (2.0, 1.0, 1.25)


def test_ngrams_do_not_reach_over_unknown_characters():
    found = ngrams.count(["ab", "a-b"], Alphabet("ab"), 2).compile(Alphabet("ab"))
    b = (2 + 4 * 3 * (1 / 3)) / (6 + 4 * 3)
    exactly = math.log((1 + 4 * 1 * b) / (1 + 4 * 1))  # b after a: once; a-b says nothing about it
    after_a = found.step(found.start, 0)[1]
    assert found.step(after_a, 1)[0] == pytest.approx(exactly, abs=1e-5)


def test_characters_that_the_model_does_not_know_are_rare_but_possible():
    alphabet = Alphabet("abé")
    automaton = model_of(["ab"] * 5, Alphabet("ab")).compile(alphabet)
    known, unknown = automaton.step(automaton.start, 0)[0], automaton.step(automaton.start, 2)[0]
    assert -20 < unknown < known - 2


@pytest.mark.parametrize("at", [5, 40, -40, -1])
def test_damaged_bytes_are_refused(at):
    content = bytearray(HELLO.to_bytes())
    with pytest.raises(ValueError):
        LanguageModel.from_bytes(bytes(content[:at]))
    content[at] ^= 0x55
    with pytest.raises(ValueError):
        LanguageModel.from_bytes(bytes(content))


@given(st.binary(max_size=200))
def test_any_arrays_are_read_or_refused(arrays):
    """Whatever a server says, it gives an automaton that answers or an error."""
    size = len(arrays) // 6
    header = {
        "characters": ["a", "b"],
        "order": 3,
        "ngrams": size - 1,
        "weight": 1,
        "length_bonus": 0,
        "temperature": 1,
    }
    content = b"HTRLM\x01" + zlib.compress(json.dumps(header).encode() + b"\n" + arrays[: 6 * size])
    try:
        automaton = LanguageModel.from_bytes(content).compile(Alphabet("ab"))
    except ValueError:
        return
    for character in range(3):
        automaton.step(automaton.start, character)


def test_confidence_is_the_share_of_what_image_and_language_model_allow():
    """Both letters look alike; the language model has seen one of them nine times as often."""
    alphabet = Alphabet("ab")
    model = LanguageModel(ngrams.count(["a"] * 9 + ["b"], alphabet, 1), 1.0, 0.0)
    log_probs = np.log(np.array([[[0.45, 0.45, 0.1]]], np.float32))
    [result] = PrefixBeamSearch(language_model=model, alternatives=2).decode(log_probs, np.array([1]), alphabet)
    automaton = model.compile(alphabet)
    end = automaton.step(0, 2)[0]
    weights = {text: math.exp(math.log(p) + sum(automaton_scores(automaton, alphabet, text)))
               for text, p in {"a": 0.45, "b": 0.45, "": 0.1}.items()}  # fmt: skip
    assert end < 0 and result.text == "a"
    found = {result.text: result.confidence, **{other.text: other.confidence for other in result.alternatives}}
    for text, weight in weights.items():
        assert found[text] == pytest.approx(weight / sum(weights.values()), rel=1e-4)
    [hotter] = PrefixBeamSearch(language_model=LanguageModel(model.ngrams, 1.0, 0.0, 4.0)).decode(
        log_probs, np.array([1]), alphabet
    )
    assert 1 / 3 < hotter.confidence < result.confidence


def test_an_image_that_shows_nothing_certain_is_not_sure_because_of_the_language_model():
    random = np.random.default_rng(0)
    logits = random.normal(size=(1, 40, 27)).astype(np.float32)
    log_probs = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    [result] = default_decoder(HELLO).decode(log_probs, np.array([40]), LETTERS)
    assert result.confidence < 0.1


def test_confidence_is_calibrated_where_the_search_drops_much():
    """Half of the words are unknown to the language model, and what the frames say of the letters is true."""
    random, sharpness, count, length = np.random.default_rng(0), 2.0, 300, 6
    drawn = random.integers(0, 26, (60 + count, length))
    known, classes = drawn[:60], drawn[60:]
    classes[::2] = known[random.integers(0, 60, count // 2)]
    model = model_of(["".join(ALPHABET[i] for i in word) for word in known] * 3, order=4, weight=1.0, length_bonus=1.5)
    logits = random.normal(size=(count, length, 26)) + sharpness * (classes[:, :, None] == np.arange(26))
    logits *= sharpness  # the likelihood of each letter under that noise
    log_probs = np.full((count, 2 * length, 27), -20.0, np.float32)
    log_probs[:, ::2, :26] = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    log_probs[:, 1::2, 26] = 0.0
    results = default_decoder(model.weighed(1.0, 1.5)).decode(log_probs, np.full(count, 2 * length), LETTERS)
    right = [LETTERS.encode(result.text) == word.tolist() for result, word in zip(results, classes, strict=True)]
    assert 0.25 < np.mean(right) < 0.5
    assert np.mean([result.confidence for result in results]) == pytest.approx(np.mean(right), abs=0.12)


def test_another_weight_changes_the_bonus_of_a_character_as_much():
    random = np.random.default_rng(0)
    log_probs = np.log(random.dirichlet(np.full(27, 0.3), (20, 12))).astype(np.float32)

    def texts(**settings):
        search = PrefixBeamSearch(language_model=HELLO.weighed(0.5, 2.0), language_weight=1.0, **settings)
        return [result.text for result in search.decode(log_probs, np.full(20, 12), LETTERS)]

    assert texts() == texts(length_bonus=4.0) != texts(length_bonus=2.0)


@settings(max_examples=25)
@given(
    st.integers(1, 1100), st.sampled_from([0.0, 0.01, 0.3, 1.0]), st.integers(0, 2**32 - 1),
    st.sampled_from([0.05, 0.8, 1.0, 1.5]), st.integers(0, 2),
)  # fmt: skip
@example(256, 0.0, 0, 1.0, 0)  # what the search drops outweighs the best text by more than exp can tell
@example(1100, 0.0, 0, 1.0, 1)  # more alignments are as good as the best one than a float can count
def test_a_long_image_that_shows_nothing_certain_has_a_confidence(length, spread, seed, temperature, alternatives):
    logits = np.random.default_rng(seed).normal(size=(1, length, 60)) * spread
    log_probs = (logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))).astype(np.float32)
    alphabet = Alphabet(map(chr, range(97, 97 + 59)))
    model = LanguageModel(ngrams.count(["hello", "help"], alphabet, 3), 0.3, 0.45, temperature)
    [result] = default_decoder(model, alternatives).decode(log_probs, np.array([length]), alphabet)
    found = [result.confidence, *(other.confidence for other in result.alternatives)]
    assert all(0 <= confidence <= 1 for confidence in found) and found == sorted(found, reverse=True)
    if length > 250:
        assert len(result.text) > length / 6 and result.confidence < 1e-9


# From a server.


@pytest.fixture
def learned_server(server):
    server.model.language_models = {1: HELLO.to_bytes()}
    return server


def test_it_is_used_by_default_and_asked_once(kind, learned_server):
    with kind(learned_server.address) as client:
        results = [client.transcribe(png("hellp")) for _ in range(3)]
        assert [result.text for result in results] == ["hello"] * 3
        assert [result.text for result in client.transcribe_many([png("hellp"), png("hello")])] == ["hello"] * 2
    assert len(learned_server.model.metadata) == 3 + 2 + 1


@pytest.mark.parametrize("decoder", [BestPath(), PrefixBeamSearch(4)], ids=["best path", "beam"])
def test_a_decoder_of_ones_own_turns_it_off(kind, learned_server, decoder):
    with kind(learned_server.address, decoder=decoder) as client:
        assert client.transcribe(png("hellp")).text == "hellp"
    assert len(learned_server.model.metadata) == 2  # it is not even asked for


def test_a_function_gets_the_language_model_of_the_version(kind, learned_server):
    with kind(
        learned_server.address,
        decoder=lambda own: PrefixBeamSearch(language_model=own, language_weight=0.6, alternatives=1),
    ) as client:
        result = client.transcribe(png("hellp"))
    assert result.text == "hello" and len(result.alternatives) == 1


@pytest.mark.parametrize("told", [None, b""], ids=["an earlier release", "without"])
def test_a_version_without_one_is_read_by_the_best_path(kind, server, told):
    server.model.language_models = {} if told is None else {1: told}
    with kind(server.address) as client:
        for _ in range(2):
            assert client.transcribe(png("hellp")).text == "hellp"
    assert len(server.model.metadata) == 4


def test_each_version_brings_its_own(kind, learned_server):
    with kind(learned_server.address) as client:
        assert client.transcribe(png("hellp")).text == "hello"
        learned_server.model.alphabets[2] = list(reversed(ALPHABET))
        learned_server.model.language_models[2] = model_of(["svool"] * 9).to_bytes()  # hello, so turned around
        learned_server.model.version = 2
        result = client.transcribe(png("hellp"))
        assert (result.text, result.version) == ("svool", 2)
        learned_server.model.version = 1
        assert client.transcribe(png("hellp")).text == "hello"


def test_only_the_versions_that_answered_last_are_kept(kind, server):
    """A client that runs for months sees many versions, and each may bring a large language model."""
    decoders = weakref.WeakSet()

    def decoder(own):
        decoders.add(made := PrefixBeamSearch(language_model=own))
        return made

    server.model.alphabets = {version: list(ALPHABET) for version in range(1, 9)}
    server.model.language_models = {version: HELLO.to_bytes() for version in range(1, 9)}
    with kind(server.address, decoder=decoder) as client:
        for version in (*range(1, 6), 4, 3, 6):
            server.model.version = version
            assert client.transcribe(png("hello")).version == version
        for version, calls in ((3, 1), (4, 1), (6, 1), (5, 3)):  # 5 answered longest ago
            server.model.metadata.clear()
            server.model.version = version
            assert client.transcribe(png("hello")).version == version
            assert len(server.model.metadata) == calls
        gc.collect()
        assert len(decoders) == 3


def test_a_damaged_one_is_an_error(kind, server):
    server.model.language_models = {1: HELLO.to_bytes()[:-5]}
    with kind(server.address) as client, pytest.raises(UnexpectedAnswer, match="language_model"):
        client.transcribe(png("a"))


def test_one_of_a_later_format_is_left_out_with_a_warning(kind, server):
    server.model.language_models = {1: b"HTRLM\x02" + HELLO.to_bytes()[6:]}
    with kind(server.address) as client, pytest.warns(UserWarning, match="update it"):
        assert client.transcribe(png("hellp")).text == "hellp"


def test_one_that_is_too_large_is_no_fault_of_the_image(kind, server):
    noise = np.random.default_rng(0).integers(0, 26, (3000, 12))
    server.model.language_models = {1: model_of(["".join(ALPHABET[i] for i in row) for row in noise]).to_bytes()}
    too_large = pytest.raises(UnexpectedAnswer, match=r"max_message_bytes \(50000\).*BestPath")
    with kind(server.address, max_message_bytes=50_000) as client, too_large:
        list(client.transcribe_many([png("a"), png("b")]))


def test_other_failures_on_the_way_to_it_are_errors(kind, server):
    original = server.model.predict

    def predict(request, context):
        if request.model_spec.signature_name == "language_model":
            context.abort(*failure)
        return original(request, context)

    failure = (grpc.StatusCode.INTERNAL, "disk")
    server.model.predict = predict
    with kind(server.address) as client, pytest.raises(ServerFault, match="disk"):
        client.transcribe(png("a"))


def test_a_client_of_an_earlier_release_asks_what_it_always_asked(learned_server):
    """Its calls, on the wire: images to serving_default, then the alphabet of the version that answered."""
    with grpc.insecure_channel(learned_server.address) as channel:
        call = channel.unary_unary(
            messages.PREDICT, lambda m: m.SerializeToString(), messages.PredictResponse.FromString
        )
        images = {"image_bytes": [png("hellp")]}
        answer = call(messages.predict_request("htr", None, None, "serving_default", images))
        assert set(answer.outputs) == {"log_probs", "frames"}
        version = answer.model_spec.version.value
        told = call(messages.predict_request("htr", version, None, "alphabet", {"query": [b""]}))
    alphabet = Alphabet(c.decode() for c in messages.to_array(told.outputs["characters"]).reshape(-1))
    log_probs, frames = (messages.to_array(answer.outputs[name]) for name in ("log_probs", "frames"))
    assert BestPath().decode(log_probs, frames, alphabet)[0].text == "hellp"


def test_a_model_learnt_here_still_reports_what_the_image_shows():
    """Confidence with a CharacterModel, which is not calibrated, stays P(text | image)."""
    log_probs = np.log(np.array([[[0.6, 0.3, 0.1]]], np.float32))
    [result] = PrefixBeamSearch(language_model=CharacterModel(["a"] * 9)).decode(
        log_probs, np.array([1]), Alphabet("ab")
    )
    assert result.text == "a" and result.confidence == pytest.approx(0.6, rel=1e-5)


@given(st.lists(st.tuples(st.text("abc", max_size=5), st.integers(1, 4)), min_size=1, max_size=6), st.integers(1, 4))
def test_a_weight_is_how_often_a_text_counts(weighed, order):
    alphabet = Alphabet("ab")
    texts, weights = zip(*weighed, strict=True)
    for split in range(len(texts) + 1):
        found = ngrams.count(texts[:split], alphabet, order, others=texts[split:], weights=weights, most=8)
        again = ngrams.count([text for text, weight in weighed for _ in range(weight)], alphabet, order, most=8)
        assert found.to_bytes() == again.to_bytes()


@given(st.lists(st.text("ab ", min_size=1, max_size=5), min_size=1, max_size=6), st.text("abc ", max_size=6))
def test_texts_beside_the_language_model_of_a_version_are_interpolated(texts, text):
    """The share of the texts grows with their characters; of any context the probabilities sum to one."""
    alphabet = Alphabet("abc ")
    version = LanguageModel(ngrams.count(["abc", "cab"], alphabet, 3), 0.2, 0.3, 1.5)
    assert CharacterModel(texts).beside(None).compile(alphabet).step(0, 0)[0] < 0  # alone where the version has none
    for times in (1, 5_000):
        own = CharacterModel(texts * times, order=2)
        both = own.beside(version)
        size = times * sum(map(len, texts))
        assert both.share == pytest.approx(size / (size + 10_000))
        of_both = [both.share * a + (1 - both.share) * b for a, b in ((own.weight, 0.2), (own.length_bonus, 0.3))]
        assert [both.weight, both.length_bonus, both.temperature] == pytest.approx([*of_both, 1.5])
        models = [model.compile(alphabet) for model in (both, own, version)]
        states = [model.start for model in models]
        for character in (*alphabet.encode(text), alphabet.blank):
            of_all = [
                [math.exp(model.step(state, each)[0]) for each in range(len(alphabet) + 1)]
                for model, state in zip(models, states, strict=True)
            ]
            assert of_all[0] == pytest.approx(
                [both.share * a + (1 - both.share) * b for a, b in zip(*of_all[1:], strict=True)]
            )
            assert sum(of_all[0]) == pytest.approx(1)
            states = [model.step(state, character)[1] for model, state in zip(models, states, strict=True)]
