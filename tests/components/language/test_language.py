"""The language model of a version: what is learnt from which texts, and how much it may weigh."""

import gzip
import hashlib
import json
import shutil
import tracemalloc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.base_model import packing
from components.common.settings import ConfigError
from components.language import learning, recording, texts
from components.language.component import in_words
from components.language.learning import Recorded, learn
from components.language.settings import LanguageConfig
from components.recogniser.model import ExportedModel
from components.trainer.warm_start import Start
from htr_client import ngrams
from htr_client.beam import default_decoder
from htr_client.decoding import Alphabet, BestPath, Decoded
from htr_client.language import LanguageModel
from serving.version_directory import LANGUAGE_MODEL_FILE

ALPHABET = Alphabet("abcdefghijklmnopqrstuvwxyz ")
NAMES = ["anna", "hanna", "johanna", "susanna", "marianna", "rosanna", "anne", "johannes", "hans", "susanne"]


def seen(label, doubt, random):
    """What a network sees that takes one character in some for another, nearly as often as it is right."""
    classes = [c for i in ALPHABET.encode(label) for c in (i, ALPHABET.blank)]
    probabilities = np.full((len(classes), len(ALPHABET) + 1), 0.02 / len(ALPHABET))
    probabilities[np.arange(len(classes)), classes] = 0.98
    for frame in range(0, len(classes), 2):
        if random.random() < doubt:
            other = int(random.integers(26))
            probabilities[frame] *= 0.1
            probabilities[frame, [classes[frame], other]] += (0.4, 0.5)
    return Recorded(np.log(probabilities).astype(np.float32), label)


def tempting(label, rightly=0.5):
    """What a network sees that reads each q, and n otherwise."""
    recorded = seen(label, 0.0, np.random.default_rng(0))
    probabilities = np.exp(recorded.log_probs)
    for frame in np.flatnonzero(probabilities[:, ALPHABET.encode("q")[0]] > 0.5):
        probabilities[frame, ALPHABET.encode("qn")] = rightly, 0.95 - rightly
    return Recorded(np.log(probabilities), label)


def images(labels, doubt=0.15, seed=0):
    random = np.random.default_rng(seed)
    return [seen(label, doubt, random) for label in labels]


def read(decoder, recorded):
    return [decoder.decode(r.log_probs[None], np.array([len(r.log_probs)]), ALPHABET)[0] for r in recorded]


def test_it_is_kept_where_it_helps_and_its_confidence_means_something():
    found, facts = learn(NAMES * 20, ALPHABET, images(NAMES * 12), LanguageConfig())
    assert found is not None and facts["weight"] == found.weight > 0
    assert facts["validation_cer"] < 0.7 * facts["validation_cer_best_path"]
    assert facts["bytes"] == len(found.to_bytes()) and facts["ngrams"] == len(found.ngrams)
    others = images(NAMES * 40, seed=1)
    results = read(default_decoder(found), others)
    right = [result.text == other.label for result, other in zip(results, others, strict=True)]
    plain = [result.text == other.label for result, other in zip(read(BestPath(), others), others, strict=True)]
    assert np.mean(right) > np.mean(plain) + 0.2
    assert np.mean([result.confidence for result in results]) == pytest.approx(np.mean(right), abs=0.08)
    json.dumps(facts)  # goes into the settings file


def test_no_room_for_any_ngram_is_no_language_model():
    found, facts = learn(NAMES * 20, ALPHABET, images(NAMES * 3), LanguageConfig(max_megabytes=1e-5))
    assert found is None and facts["ngrams"] == 1 and facts["bytes"] == 0


@pytest.mark.parametrize("validation", [
    images(["xyzzy", "qqwkv", "vwxzj"] * 20),  # nothing like the names
    images(NAMES, doubt=0.0),  # read without an error
    images(NAMES[:2], doubt=0.3),  # too few to tell
    images(["susanna"], doubt=0.3, seed=3),  # read better, but one image tells nothing
    [],
])  # fmt: skip
def test_it_is_left_out_where_it_does_not_help_by_more_than_chance(validation):
    found, facts = learn(NAMES * 20, ALPHABET, validation, LanguageConfig())
    assert found is None and (facts["weight"], facts["bytes"]) == (0, 0) and facts["ngrams"] > 50


# Any weight mends three of these, and 0.35 makes five wrong that 0.1 leaves: of so few, that is chance.
TORN = [Recorded(tempting("anqa").log_probs, "anna")] * 3 + [tempting("anqa", 0.9)] * 5 + images(NAMES[:3], doubt=0.0)


@pytest.mark.parametrize(("validation", "weight"), [
    (images(NAMES * 12), 0.35),  # helps, as well as any
    (images(NAMES[:2], doubt=0.3), 0.35),  # better, but too few to be sure
    (images(NAMES, doubt=0.0), 0.35),  # read without an error, but too few to tell
    (images(NAMES * 12, doubt=0.0), None),  # read without an error
    ([tempting(label) for label in ("anqa", "haqna", "johaqna")] * 4, None),  # surely worse
    ([tempting("anqa")], 0.35),  # worse, but one image tells nothing
    (TORN, 0.35),  # worse than a smaller weight, but not surely worse than none
    ([], None),
], ids=["helps", "few", "few and perfect", "perfect", "few and worse", "one and worse", "torn", "none"])  # fmt: skip
def test_the_weight_of_the_base_is_taken_unless_validation_contradicts(validation, weight):
    base = LanguageModel(ngrams.count(NAMES, ALPHABET, 2), 0.35, 0.5, 1.75)
    found, facts = learn(NAMES * 20, ALPHABET, validation, LanguageConfig(), base)
    assert (found.weight if found else None) == weight and facts["weight"] == (weight or 0)
    assert facts["trusts_base"] == (weight is not None and len(validation) < 12 * len(NAMES))
    if 1 <= len(validation) <= 2:
        assert found.temperature == 1.75, "two images tell no temperature"
    empty = learn(NAMES * 20, ALPHABET, validation, LanguageConfig(max_megabytes=1e-5), base).model
    assert empty is None, "no n-grams are no language model"


def test_own_texts_count_ten_times_beside_the_texts_of_the_base():
    base, config = LanguageModel(ngrams.count(NAMES, ALPHABET, 2), 0.35, 0.5), LanguageConfig(least_labels=1)
    labels, own, theirs = NAMES[:4] * 20, ["otto", "anna"], NAMES[4:]

    def learnt(*others):
        model, facts = learn(labels, ALPHABET, images(NAMES * 12), config, *others)
        return (model.ngrams.to_bytes(), facts["base_texts"])

    def counted(texts, others=()):
        return ngrams.count(texts, ALPHABET, config.order, others=others).to_bytes()

    assert learnt(base, theirs, own) == (counted(labels, [*own * 10, *theirs]), True)
    assert learnt(None, (), own) == (counted(labels, own), False)


def test_texts_of_the_base_are_left_out_where_it_does_not_know_the_labels_characters():
    """Of another script they only make its letters improbable."""
    base, config = LanguageModel(ngrams.count(["xyz"], Alphabet("xyz"), 2), 0.35, 0.5), LanguageConfig(least_labels=1)
    found, facts = learn(NAMES * 20, ALPHABET, images(NAMES * 12), config, base, ["xyz"] * 50, ["otto"])
    alone = ngrams.count(NAMES * 20, ALPHABET, config.order, others=["otto"])
    assert found.ngrams.to_bytes() == alone.to_bytes() and facts["texts"] == 20 * len(NAMES) + 1
    assert not facts["base_texts"] and "base_weight" not in facts


@pytest.mark.parametrize(
    ("wrong", "base", "taken", "asked"),
    [
        ([90, 80, 60, 40, 20, 50], None, 0.5, {0.3, 0.4, 0.5, 0.7}),
        ([90, 80, 60, 40, 20, 50], 0.3, 0.5, {0.2, 0.3, 0.4, 0.5, 0.7}),
        ([90, 80, 21, 20, 60, 90], None, 0.3, {0.2, 0.3, 0.4, 0.5}),
        ([90, 80, 20, 60, 80, 90], 0.3, 0.3, {0.2, 0.3, 0.4}),
        ([10, 30, 50, 60, 70, 80], None, 0.1, {0.1, 0.2, 0.3, 0.4}),
        ([20] * 6, None, 0.1, {*learning.WEIGHTS}),
    ],
)
def test_weights_are_tried_as_long_as_errors_fall(monkeypatch, wrong, base, taken, asked):
    """Of 200 images so many are transcribed wrong with each weight; with 100 without a language model."""
    by_weight, seen = dict(zip(learning.WEIGHTS, wrong, strict=True)), set()

    def decoded(weight, alphabet, recorded):
        if not isinstance(weight, BestPath):
            seen.add(weight)
        bad = by_weight.get(weight, 100)
        return [Decoded("?" * len(r.label) if i < bad else r.label, 0.5, (), ()) for i, r in enumerate(recorded)]

    monkeypatch.setattr(learning, "default_decoder", lambda model, alternatives: model.weight)
    monkeypatch.setattr(learning, "decoded", decoded)
    known = base and LanguageModel(ngrams.count(NAMES, ALPHABET, 2), base, 0.5, 1.75)
    found, facts = learn(NAMES * 20, ALPHABET, images(NAMES * 20, doubt=0.0), LanguageConfig(), known)
    assert (found.weight, facts["validation_weight"]) == (taken, taken)
    assert seen == asked


def test_the_step_names_the_weights_that_its_figures_belong_to():
    base = LanguageModel(ngrams.count(NAMES, ALPHABET, 2), 0.35, 0.5, 1.75)
    told = in_words(learn(NAMES * 20, ALPHABET, TORN, LanguageConfig(), base))
    assert "kB, weight 0.35, the base's, which these images do not contradict: CER 0.0" in told
    assert " without, " in told and " with weight 0.35, on 11 validation images" in told
    worse = [tempting("anqa", 0.9)] * 11
    told = in_words(learn(NAMES * 20, ALPHABET, worse, LanguageConfig(), base))
    assert told.startswith("no language model: it does not help by more than chance (CER 0.0000 without, 0.0000 with ")
    assert "with weight 0.1, 0.2500 with the base's weight 0.35, on 11 validation images" in told


def test_the_base_is_not_trusted_where_it_lacks_the_letters_of_the_labels():
    validation = images(NAMES[:2], doubt=0.3)
    base = LanguageModel(ngrams.count(["вера", "нина"], Alphabet("авени р"), 2), 0.35, 0.5, 1.75)
    found, facts = learn(NAMES * 20, ALPHABET, validation, LanguageConfig(), base)
    assert found is None and not facts["trusts_base"]


@pytest.mark.parametrize(("images", "temperature"), [(16, 1.0), (64, 0.5)])
def test_a_few_images_that_are_all_right_make_it_no_surer(images, temperature):
    labels = ["anqa", "haqna", "johaqna", "susaqna"] * (images // 4)
    recorded = [Recorded(tempting(label).log_probs, label.replace("q", "n")) for label in labels]
    found, facts = learn(NAMES * 20, ALPHABET, recorded, LanguageConfig())
    assert found.temperature == facts["temperature"] == temperature and facts["validation_cer"] == 0


def test_what_one_label_holds_is_left_out_unless_told_otherwise():
    validation = images(NAMES * 12)
    for least, kept in ((2, False), (1, True)):
        found, _ = learn([*NAMES * 20, "quizzical"], ALPHABET, validation, LanguageConfig(least_labels=least))
        known = {found.ngrams.characters[i] for i in found.ngrams.symbols[1:] if i < len(ALPHABET)}
        assert ({"q", "z"} <= known) == kept


def kept(found):
    """The n-grams as texts, with ^ for the beginning and $ for the end."""
    names, grams = [*found.characters, "$", "^"], [""]
    for parent, symbol in zip(found.parents[1:], found.symbols[1:], strict=True):
        grams.append(grams[parent] + names[symbol])
    return set(grams)


@settings(deadline=None, max_examples=100)
@given(*[st.lists(st.text("abc", max_size=6), max_size=5)] * 2, st.integers(1, 3))
def test_other_texts_do_not_keep_what_only_one_label_holds(labels, others, least):
    config = LanguageConfig(least_labels=least)

    def grams(labels, others):
        return kept(ngrams.count(labels, ALPHABET, config.order, others=others, least_texts=least))

    assert grams(labels, others) == grams(labels, []) | grams([], others)


def test_a_name_that_a_label_and_a_base_text_share_is_left_out():
    validation = images(NAMES * 12)
    alone, _ = learn([*NAMES * 20, "quizzical"], ALPHABET, validation, LanguageConfig(), base_texts=["quizzical"])
    public, _ = learn([*NAMES * 20, "quizzical"], ALPHABET, validation, LanguageConfig(), base_texts=["quizzical"] * 2)
    assert "quiz" not in kept(alone.ngrams) and "quiz" in kept(public.ngrams)


def test_an_image_has_one_label_however_many_rows_name_it():
    rows = [("Zoe", b"1"), ("Zoe,", b"1"), ("Zoe", b"1"), ("Anna", b"2"), ("Anna", b"3")]
    assert list(texts.labels({"text": text, "image": image} for text, image in rows)) == ["Zoe", "Anna", "Anna"]


def test_it_is_as_small_as_it_must_be():
    random = np.random.default_rng(0)
    many = ["".join(random.choice(list("abcdefgh"), 30)) for _ in range(1000)]
    sizes = {}
    for allowed in (2.0, 0.005):
        config = LanguageConfig(max_megabytes=allowed)
        found, _ = learn([*NAMES * 500, *many], ALPHABET, images(NAMES * 6), config)
        sizes[allowed] = len(found.to_bytes())
    assert 3_000 < sizes[0.005] <= 5_000 < sizes[2.0]


def test_texts_beyond_the_bound_are_counted(monkeypatch):
    monkeypatch.setattr(learning, "MOST_CHARACTERS", 50)
    _, facts = learn(["anna"] * 20, ALPHABET, [], LanguageConfig())
    assert (facts["texts"], facts["texts_left_out"]) == (12, 8)


def test_labels_beyond_the_bound_leave_room_for_other_texts(monkeypatch):
    monkeypatch.setattr(learning, "MOST_CHARACTERS", 50)
    others = ["x" * 60, "otto", "otto"]  # one that is longer than the room shuts out none of the others
    _, facts = learn(["anna"] * 20, ALPHABET, [], LanguageConfig(), texts=others)
    assert (facts["texts"], facts["texts_left_out"]) == (2 + 10, 1 + 10)


class Image:
    """What a weak reference can be held of, other than bytes."""


@pytest.mark.parametrize(("most", "expected"), [(10**9, 40), (1000, 10)], ids=["images", "numbers"])
def test_few_images_of_a_large_split_are_in_memory_at_once(monkeypatch, most, expected):
    images, at_once = weakref.WeakSet(), []

    def records(*_):
        for number in range(100):
            images.add(image := Image())
            yield {"image": image, "id": f"{number}", "text": f"{number}"}
            del image

    def log_probs(batch):
        at_once.append(len(images))
        return np.zeros((len(batch), 12, 10), np.float32), np.full(len(batch), 10)

    monkeypatch.setattr(recording, "records", records)
    monkeypatch.setattr(recording, "MOST_IMAGES", 40)
    monkeypatch.setattr(recording, "MOST_NUMBERS", most)
    found = recording.record(SimpleNamespace(batch_size=2, log_probs=log_probs), "", "")
    drawn = sorted(map(str, range(100)), key=lambda name: hashlib.sha256(name.encode()).digest())
    assert [recorded.label for recorded in found] == drawn[:expected]
    assert found[0].log_probs.shape == (10, 10) and max(at_once) <= 12
    monkeypatch.setattr(recording, "records", lambda *_: iter(()))
    assert recording.record(SimpleNamespace(batch_size=2), "", "") == []


def test_lines_of_text_files(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_bytes("\ufeffAnna \r\n\r\n  Zoe\u0301\n".encode())
    second.write_text("Bert", encoding="utf-8")
    assert list(texts.lines([str(first), str(second)])) == ["Anna", "Zo\u00e9", "Bert"]
    before = texts.fingerprint([str(first), str(second)])
    second.write_text("Berta", encoding="utf-8")
    assert texts.fingerprint([str(first), str(second)]) != before


def test_lines_end_where_python_ends_them(tmp_path):
    written = "\ufeffAnna\rBert\r\nZoe\u2028Max\x0bIda\x85Uwe\n\ufeffEva"
    (tmp_path / "a.txt").write_bytes(written.encode())
    assert list(texts.lines([str(tmp_path / "a.txt")])) == written.removeprefix("\ufeff").splitlines()


@pytest.mark.parametrize("use", [lambda paths: sum(1 for _ in texts.lines(paths)), texts.fingerprint])
def test_a_large_text_file_is_not_held_in_memory(tmp_path, use):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Anna Amalia und Johanna gehen durch den Wald\n" * 200_000)
    tracemalloc.start()
    try:
        use([str(corpus)])
        assert tracemalloc.get_traced_memory()[1] < corpus.stat().st_size / 3
    finally:
        tracemalloc.stop()


def test_text_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin1.txt").write_bytes(b"th\xc3\xa9\ncaf\xe9\n")
    with pytest.raises(ConfigError, match=r"language\.texts: .*latin1\.txt is not UTF-8 \(.* at byte 8\).*iconv"):
        list(texts.lines([str(tmp_path / "latin1.txt")]))
    (tmp_path / "utf16.txt").write_bytes("Anna\nBerta\n".encode("utf-16-le"))
    with pytest.raises(ConfigError, match=r"language\.texts: .*utf16\.txt is not UTF-8 \(NUL at byte 1; is it UTF-16"):
        list(texts.lines([str(tmp_path / "utf16.txt")]))
    with pytest.raises(ConfigError, match=r"language\.texts: .*nowhere\.txt cannot be read: No such file"):
        list(texts.lines([str(tmp_path / "nowhere.txt")]))


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ({"name": "the base model", "root_base": "word"}, "word"),
        ({"name": "version 7", "root_base": None}, None),
        (None, None),  # a model of an earlier release
    ],
    ids=["base", "version", "unknown"],
)
def test_the_base_model_counts_where_the_training_started_from_it(start, expected):
    assert texts.started_from({"transform": {"preset": "word"}, **({"start": start} if start else {})}) == expected


def test_the_base_model_counts_through_a_chain_of_versions(tmp_path):
    file = tmp_path / "assets.extra" / "htr.json"
    file.parent.mkdir()
    settings = {"alphabet": ["a"], "transform": {"preset": "word"}, "model": {}}
    file.write_text(json.dumps(settings))
    start = Start(str(tmp_path), "the base model", is_base=True).noted("word")
    for _ in range(2):
        file.write_text(json.dumps({**settings, "start": start}))
        start = Start(str(tmp_path), "version 7").noted("line")
        assert start["root_base"] == "word" and not start["base_model"]
        assert texts.started_from({"transform": {"preset": "word"}, "start": start}) == "word"
        assert texts.started_from({"transform": {"preset": "line"}, "start": start}) is None
    start = Start(None, "nothing").noted("word")
    file.write_text(json.dumps({**settings, "start": start}))
    start = Start(str(tmp_path), "7").noted("word")
    assert texts.started_from({"transform": {"preset": "word"}, "start": start}) is None


def test_a_language_model_of_a_later_format_is_left_out_with_a_warning(tmp_path):
    version = tmp_path / "1"
    shutil.copytree(packing.unpack("word"), version)
    content = bytearray((version / LANGUAGE_MODEL_FILE).read_bytes())
    content[5] += 1  # the version of the format
    (version / LANGUAGE_MODEL_FILE).write_bytes(content)
    with pytest.warns(UserWarning, match="without its language model: .* later format .*: update it"):
        model = ExportedModel(str(version))
    assert model.language_model is None and isinstance(model.decoder(), BestPath)


def test_what_the_base_models_bring_to_a_language_model(tmp_path, monkeypatch):
    for preset in packing.presets():
        known = packing.language_model(preset)
        assert known is not None and 0 < known.weight < 1 and len(known.ngrams) > 10_000
        assert len(packing.texts(preset)) > 1_000
    monkeypatch.setattr(packing, "FOLDER", tmp_path)
    (tmp_path / "word").mkdir()
    (tmp_path / "word" / "texts.txt.gz").write_bytes(gzip.compress("Anna\nZo\u00e9\n".encode()))
    assert packing.texts("word") == ["Anna", "Zo\u00e9"]
    assert packing.texts("line") == [] and packing.language_model("line") is None
