"""Where characters stand: within the image, in order, without gaps, bounded by the ink."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from htr_client.spans import EARLY, pixel_spans


@st.composite
def runs_of_frames(draw):
    """Runs as decoders return them: in order, of one frame or more."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=20))
    runs, at = [], 0
    for gap, length in lengths:
        runs.append((at + gap, at + gap + length))
        at += gap + length
    return runs, at + draw(st.integers(0, 3))


@given(runs_of_frames(), st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1))
def test_spans_are_ordered_and_within_the_image(found, width, a, b):
    runs, frames = found
    ink = (min(a, b) * width, max(a, b) * width)
    spans = pixel_spans(runs, frames, width, ink)
    assert len(spans) == len(runs)
    for (_, right), (left, _) in itertools.pairwise(spans):
        assert left == right
    if len(spans) > 1:
        assert all(0 <= left < right <= width for left, right in spans)


def test_neighbours_meet_half_way_and_the_ink_bounds_the_word():
    width = 10 * (32 - 0.375)  # frames of ten pixels
    spans = pixel_spans([(1, 2), (7, 9), (12, 13)], 32, width, (20.0, 130.0))
    middles = np.array([1.5, 8.0, 12.5]) + EARLY
    between = 10 * (middles[1:] + middles[:-1]) / 2
    assert np.array(spans) == pytest.approx(np.array([[20.0, between[0]], between, [between[1], 130.0]]))


def test_ink_that_contradicts_bounds_nothing():
    width = 10 * (32 - 0.375)
    spans = pixel_spans([(10, 11), (14, 15)], 32, width, (200.0, 210.0))
    assert spans[0][0] == pytest.approx(10 * (10.5 + EARLY - 2))
    assert spans[1][1] == pytest.approx(10 * (14.5 + EARLY + 2))
    assert pixel_spans([(10, 11), (14, 15)], 32, width, (0.0, 20.0))[1][1] == pytest.approx(10 * (14.5 + EARLY + 2))


def test_one_character_is_all_of_the_ink_and_no_character_nothing():
    assert pixel_spans([(3, 4)], 8, 100, (10, 40)) == [(10.0, 40.0)]
    assert pixel_spans([], 8, 100, (10, 40)) == []


@pytest.mark.parametrize("model", ["word, 30 epochs", "word, 14 epochs", "line, 12 epochs"])
def test_middles_are_less_than_a_quarter_of_a_character_off(model):
    """Answers of trained models to rendered words whose characters are known to the pixel (`benchmarks/spans.py`)."""
    words = json.loads(Path(__file__).with_name("spans.json").read_text())[model]
    off, first, plain = [], [], []
    for runs, frames, width, ink, extents in words:
        pitch = (extents[-1][1] - extents[0][0]) / len(extents)
        middles = np.array(extents).mean(axis=1)
        errors = (np.array(pixel_spans(runs, frames, width, ink)).mean(axis=1) - middles) / pitch
        off += np.abs(errors).tolist()
        first.append(errors[0])
        plain += np.abs((np.array(runs).mean(axis=1) * width / frames - middles) / pitch).tolist()
    assert len(words) == 50
    assert np.mean(off) < 0.2 and np.mean(off) < 0.75 * np.mean(plain) and abs(np.mean(first)) < 0.25
