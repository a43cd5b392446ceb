"""CER and WER against plain definitions."""

import math
import random
import tracemalloc
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.metrics import (
    ErrorCounts,
    PairedErrors,
    count_errors,
    edits_and_length,
    samples_for,
    unseen_share,
)  # fmt: skip

TEXTS = st.text("abé ", max_size=8)


def plain_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, above = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@given(TEXTS, TEXTS)
def test_edits_are_the_levenshtein_distance(reference, prediction):
    assert edits_and_length(reference, prediction) == (plain_distance(reference, prediction), len(reference))
    words = reference.split()
    assert edits_and_length(reference, prediction, "word") == (plain_distance(words, prediction.split()), len(words))


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_distances_are_a_metric_on_any_characters(a, b, c):
    def distance(x, y):
        return edits_and_length(x, y)[0]

    assert distance(a, b) == distance(b, a) <= max(edits_and_length(a, "")[1], edits_and_length(b, "")[1])
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert (distance(a, b) == 0) == (unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b))


TRIPLES = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9))


@given(st.lists(TRIPLES, min_size=1, max_size=30))
def test_comparisons_are_the_same_from_both_sides(triples):
    there, back = PairedErrors(), PairedErrors()
    for before, after, length in triples:
        there.add(before, after, length)
        back.add(after, before, length)
    assert there.difference == -back.difference
    assert 0 < there.p_value == back.p_value <= 1
    low, high = there.interval(0.95)
    assert -9 <= low <= high <= 9


def test_paired_test_tells_a_real_difference_from_chance():
    source = np.random.default_rng(0)

    def errors(before, after):
        return PairedErrors(Counter((b, a, 8) for b, a in source.binomial(8, [before, after], (600, 2)).tolist()))

    real, chance = errors(0.05, 0.08), errors(0.05, 0.05)
    assert real.interval(0.95)[0] > 0 and real.p_value < 0.01
    low, high = chance.interval(0.95)
    assert low < 0 < high and chance.p_value > 0.05


def test_paired_test_is_exact_in_a_case_that_can_be_counted():
    # Five images, each one edit better: as large by chance in 2 of 32 cases.
    errors = PairedErrors(Counter({(1, 0, 10): 5}))
    assert errors.difference == pytest.approx(-0.1)
    assert errors.p_value == pytest.approx(2 / 32, abs=0.01)
    assert PairedErrors(Counter({(2, 2, 10): 9})).p_value == 1.0


@pytest.mark.parametrize("images, differs", [(1, 0), (5, 0), (6, -1)])
def test_a_few_images_that_all_say_the_same_prove_little(images, differs):
    errors, back = PairedErrors(Counter({(1, 0, 10): images})), PairedErrors(Counter({(0, 1, 10): images}))
    assert errors.interval(0.95) == pytest.approx((-0.1, -0.1))
    assert (errors.differs(0.95), back.differs(0.95)) == (differs, -differs)


def test_comparing_many_different_images_takes_little_memory():
    errors = PairedErrors()
    for number in range(1000):
        errors.add(number % 7, number % 5, number)
    tracemalloc.start()
    try:
        errors.interval(0.95)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_images_that_say_nothing_are_no_difference():
    assert PairedErrors().differs(0.95) == PairedErrors(Counter({(2, 2, 10): 9})).differs(0.95) == 0


def test_one_inserted_letter_is_one_error():
    # Counting by position, as public notebooks do, would call everything after it wrong.
    assert edits_and_length("handwriting", "hxandwriting") == (1, 11)


def test_micro_average_not_mean_of_rates():
    counts = count_errors(["a", "abcdefghij"], ["b", "abcdefghij"])
    assert counts.rate == pytest.approx(1 / 11)
    assert counts.exact == 0.5


def test_composed_and_decomposed_characters_are_equal():
    assert edits_and_length("é", "e\u0301") == (0, 1)


def test_empty_sets_have_no_rate():
    counts = ErrorCounts()
    assert math.isnan(counts.rate) and math.isnan(counts.interval(0.95)[0])


def test_empty_prediction_is_all_deletions_and_rates_may_exceed_one():
    assert count_errors(["abc"], [""]).rate == 1.0
    assert count_errors(["a"], ["bcd"]).rate == 3.0


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=30), st.integers(1, 5))
def test_counts_merge_to_the_same_result_in_any_order(pairs, parts):
    whole = count_errors(*zip(*pairs, strict=True))
    pieces = [count_errors([r for r, _ in pairs[i::parts]], [p for _, p in pairs[i::parts]]) for i in range(parts)]
    random.shuffle(pieces)
    merged = ErrorCounts().merge(pieces)
    assert merged.pairs == whole.pairs
    if whole.length:
        assert merged.interval(0.9) == whole.interval(0.9)


@given(st.lists(st.tuples(TEXTS.filter(bool), TEXTS), min_size=3, max_size=40))
def test_interval_contains_the_rate_and_grows_with_the_level(pairs):
    counts = count_errors(*zip(*pairs, strict=True))
    narrow, wide = counts.interval(0.5), counts.interval(0.99)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]
    assert wide[0] - 1e-9 <= counts.rate <= wide[1] + 1e-9


def test_interval_covers_at_least_as_often_as_it_says():
    source = random.Random(1)
    covered = 0
    for _ in range(200):
        counts = ErrorCounts()
        for _ in range(150):
            counts.pairs[(sum(source.random() < 0.1 for _ in range(10)), 10)] += 1
        low, high = counts.interval(0.9)
        covered += low <= 0.1 <= high
    assert 0.87 <= covered / 200 <= 0.99


@pytest.mark.parametrize("samples, high", [(1, 0.95), (3, 0.632), (10, 0.259), (29, 0.098), (100, 0.0295)])
def test_a_few_samples_all_right_prove_little(samples, high):
    """The rule of three, where a bootstrap knows no error."""
    right = ErrorCounts(Counter({(0, 7): samples}))
    assert right.interval(0.95) == (0.0, pytest.approx(high, abs=1e-3))
    assert unseen_share(samples, 0.95) == right.interval(0.95)[1] < right.interval(0.99)[1]
    assert samples_for(unseen_share(samples, 0.95) + 1e-9, 0.95) == samples
    # A difference of two models on the same samples is none of that.
    paired = PairedErrors(Counter({(1, 1, 7): samples}))
    assert paired.interval(0.95) == (0.0, 0.0)


@pytest.mark.parametrize("samples, wrong, high", [(35, 1, 0.149), (35, 3, 0.231), (50, 2, 0.137), (100, 2, 0.070)])
def test_a_few_wrong_samples_prove_little_more(samples, wrong, high):
    """Wholly wrong or right, as in the interval of Clopper and Pearson (1934) for shares, whose upper end is `high`."""
    counts = ErrorCounts(Counter({(0, 7): samples - wrong, (7, 7): wrong}))
    assert counts.interval(0.95)[1] == pytest.approx(high, rel=0.1)


@pytest.mark.parametrize("samples, share", [(35, 0.15), (50, 0.08), (100, 0.04)])
def test_the_upper_end_is_rarely_too_low_with_few_images(samples, share):
    drawn = np.random.default_rng(samples).binomial(samples, share, 1000)
    ends = {n: ErrorCounts(Counter({(0, 7): samples - n, (7, 7): n})).interval(0.95)[1] for n in set(drawn.tolist())}
    assert np.mean([ends[n] < share for n in drawn.tolist()]) <= 0.04


@pytest.mark.parametrize("samples", [100, 300, 1000])
def test_ordinary_errors_keep_the_interval_of_the_bootstrap(samples):
    source = np.random.default_rng(samples)
    for _ in range(20):
        hard = source.random(samples) < 0.35
        edits = np.where(hard, source.binomial(7, 0.2, samples), 0)
        resampled = source.choice(edits, (4000, samples)).sum(axis=1) / (7 * samples)
        high = ErrorCounts(Counter(zip(edits.tolist(), [7] * samples, strict=True))).interval(0.95)[1]
        assert 0 <= high - max(np.quantile(resampled, 0.975), unseen_share(samples, 0.95)) < 2 / samples
        assert high > 1.3 * unseen_share(samples, 0.95)


def test_more_samples_give_a_narrower_interval():
    small, large = ErrorCounts(), ErrorCounts()
    for edits in (0, 0, 0, 1, 2):
        small.pairs[(edits, 10)] += 4
        large.pairs[(edits, 10)] += 400
    assert small.rate == large.rate
    assert large.interval(0.95)[1] - large.interval(0.95)[0] < 0.2 * (small.interval(0.95)[1] - small.interval(0.95)[0])
