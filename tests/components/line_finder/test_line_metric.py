"""Targets that are drawn of lines become these lines again; F1 counts what the definition says."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.line_finder.geometry import line_heights, x_heights
from components.line_finder.metric import LineScore, score_page, score_pages
from components.line_finder.targets import draw_targets
from htr_client.pages import Line, find_lines
from htr_client.pages.vectorising import ENDS
from tests.components.line_pages import drawn_page, straight

HEIGHT = 19  # of a line of `straight`


@given(
    st.integers(1, 12),
    st.integers(30, 60),
    st.floats(-0.15, 0.15),
    st.sampled_from([0.4, 0.5, 1.0]),
)
@settings(max_examples=40)
def test_targets_become_their_lines_again(count, pitch, slope, scale):
    lines = [straight(40 + 5 * i, 560 - 7 * i, 120 + pitch * i, slope=slope) for i in range(count)]
    width, height = 640, 960
    maps = draw_targets(lines, scale, round(height * scale), round(width * scale))
    found = find_lines(255 * maps, scale, width, height)
    assert score_page(lines, found) == LineScore(count, count, count)
    for line, true in zip(found, lines, strict=True):
        assert np.abs(np.array(line.box) - np.array(true.box)).max() <= 4 / scale


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("with_polygons", [0, 3])
def test_targets_of_lines_without_polygons_become_their_lines_again(flat, with_polygons):
    lines = [straight(40, 560, 120 + 40 * i, slope=0.05) for i in range(6)]
    for i in range(with_polygons, 6):
        lines[i] = replace(lines[i], polygon=(*lines[i].baseline, *lines[i].baseline[::-1]) if flat else ())
    found = find_lines(255 * draw_targets(lines, 0.5, 240, 320), 0.5, 640, 480)
    assert score_page(lines, found) == LineScore(6, 6, 6)


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_both_ends_reach_further_above_the_baseline_than_below(slope):
    line = straight(40, 440, 100, slope=slope)
    ends = draw_targets([line], 0.5, 150, 250)[..., ENDS]
    for x, y in line.baseline:
        rows = np.flatnonzero(ends[:, x // 2 - 3 : x // 2 + 4].any(axis=1))
        assert y / 2 - rows[0] > rows[-1] - y / 2 + 1


def test_a_target_has_bodies_baselines_and_ends():
    maps = draw_targets([straight(40, 160, 50)], 0.5, 60, 100)
    baseline, body, ends = np.moveaxis(maps, -1, 0)
    assert maps.dtype == np.uint8 and set(np.unique(maps)) == {0, 1}
    assert set(np.flatnonzero(baseline.any(1))) <= set(range(23, 28))
    assert body[18:27, 20:80].all() and not body[:16].any() and not body[30:].any()
    columns = np.flatnonzero(ends.any(0))
    assert columns.min() <= 20 <= 22 >= columns[columns < 50].max() and columns[columns > 50].min() >= 77


def test_heights_come_from_polygons_else_from_the_distance_of_lines():
    lines = [straight(0, 100, 50), Line(baseline=((0, 90), (100, 90)))]
    assert line_heights(lines) == [HEIGHT, pytest.approx(0.8 * 40, abs=1)]
    assert x_heights(lines)[0] == HEIGHT / 2
    beside = [straight(0, 100, 50), Line(baseline=((200, 50), (300, 50)))]
    assert line_heights(beside) == [HEIGHT, HEIGHT]
    assert line_heights([Line(baseline=((0, 90), (400, 90)))]) == [20]
    assert line_heights([Line(baseline=((5, 9), (5, 9)))]) == [1]


def test_a_line_whose_height_nothing_tells_can_be_found():
    true = Line(baseline=((100, 100), (500, 100)))
    assert score_page([true], [straight(100, 500, 101)]) == LineScore(1, 1, 1)


TRUE = straight(100, 300, 100)


@pytest.mark.parametrize(
    ("found", "matched"),
    [
        (straight(100, 300, 100), 1),
        (straight(100, 300, 104), 1),  # half an x-height is 4.75 pixels
        (straight(100, 300, 106), 0),
        (straight(100, 245, 100), 1),  # 70 % of the true line
        (straight(100, 230, 100), 0),
        (straight(100, 380, 100), 1),  # of which the true line covers 70 %
        (straight(100, 400, 100), 0),
        (Line(), 0),
    ],
)
def test_what_counts_as_found(found, matched):
    assert score_page([TRUE], [found]).matched == matched


def test_pairs_are_one_to_one():
    two, other = straight(100, 300, 102), straight(100, 300, 200)
    assert score_page([TRUE], [TRUE, two]) == LineScore(1, 2, 1)
    assert score_page([TRUE, two], [TRUE]) == LineScore(2, 1, 1)
    assert score_page([TRUE, other], [other, TRUE]) == LineScore(2, 2, 2)
    halves = [straight(100, 199, 100), straight(201, 300, 100)]
    assert score_page([TRUE], halves) == LineScore(1, 2, 0)


def test_scores_add_up_over_pages():
    score = score_pages([([TRUE], [TRUE]), ([TRUE, TRUE], []), ([], [TRUE])])
    assert score == LineScore(3, 2, 1)
    assert (score.precision, score.recall, score.f1) == (0.5, pytest.approx(1 / 3), 0.4)
    assert LineScore().f1 == 1.0 and LineScore(2, 0, 0).f1 == 0.0


def test_a_page_is_its_own_perfect_answer():
    page = drawn_page(0)
    assert score_page(page.lines, page.lines).f1 == 1.0
