"""Maps of the line finder become lines in the page's pixels: as drawn, apart from each other, and in reading order."""

import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htr_client import pages
from htr_client.pages.model import Line, Page
from htr_client.pages.reading_order import with_columns
from htr_client.pages.vectorising import find_lines

SCALE = 0.5  # cells for a pixel
WIDTH, HEIGHT = 800, 1000
ABOVE, BELOW = 22, 8  # a body about its baseline, in pixels


def draw_maps(baselines, above=ABOVE, below=BELOW, ends=True, scale=SCALE):
    """Maps as a network would answer them: soft ones, of baselines in pixels."""
    maps = np.zeros((3, round(HEIGHT * scale), round(WIDTH * scale)), np.uint8)
    for baseline in baselines:
        course = np.array(baseline, np.float64)
        cells = np.rint(((course + 0.5) * scale - 0.5) * 16).astype(np.int32)
        cv2.polylines(maps[0], [cells], False, 255, 3, shift=4)
        outline = np.concatenate([course - np.array([0, above]), (course + np.array([0, below]))[::-1]]) * scale
        cv2.fillPoly(maps[1], [np.rint(outline).astype(np.int32)], 255)
        for x, y in course[[0, -1]] * scale if ends else ():
            cv2.line(maps[2], (round(x), round(y - 0.5 * above * scale)), (round(x), round(y)), 255, 3)
    return cv2.GaussianBlur(np.moveaxis(maps, 0, -1), (5, 5), 0.8)


def found(baselines, **how):
    return find_lines(draw_maps(baselines, **how), SCALE, WIDTH, HEIGHT)


def straight(left, right, y, slope=0.0):
    return ((left, y), (right, y + slope * (right - left)))


def in_order(lines):
    """The lines as `with_columns` sorts them, without their columns."""
    return [replace(line, region="") for line in with_columns(lines)]


def distance(line, baseline):
    """Greatest distance of a drawn baseline's points from a found one, at the same x."""
    x, y = np.array(line.baseline, np.float64).T
    drawn_x, drawn_y = np.array(baseline, np.float64).T
    places = np.linspace(x.min(), x.max(), 50)
    return np.abs(np.interp(places, x, y) - np.interp(places, drawn_x, drawn_y)).max()


def assert_same(lines, baselines, reach=8, above_or_below=2):
    """The lines are these baselines in this order, to within some pixels, and to within more at their ends."""
    assert len(lines) == len(baselines)
    for line, baseline in zip(lines, baselines, strict=True):
        assert distance(line, baseline) <= above_or_below
        assert abs(line.baseline[0][0] - baseline[0][0]) <= reach
        assert abs(line.baseline[-1][0] - baseline[-1][0]) <= reach


def test_lines_from_top_to_bottom():
    baselines = [straight(60, 740, y) for y in range(80, 900, 45)]
    assert_same(found(baselines), baselines)


@given(
    st.integers(-10, 10),
    st.integers(45, 120),
    st.lists(st.tuples(st.integers(40, 250), st.integers(100, 450)), min_size=1, max_size=6),
)
@settings(max_examples=40)
def test_drawn_lines_are_found_whatever_their_angle(degrees, pitch, spans):
    slope = np.tan(np.deg2rad(degrees))
    baselines = [
        straight(left, left + length, 220 + pitch * i + slope * left, slope) for i, (left, length) in enumerate(spans)
    ]
    assert_same(found(baselines), baselines)


def test_a_curved_line_keeps_its_course():
    x = np.arange(60, 740, 10)
    baseline = tuple(zip(x, 300 + 25 * np.sin(x / 120), strict=True))
    assert_same(found([baseline]), [baseline])


def test_the_polygon_is_the_body():
    [line] = found([straight(100, 700, 400)])
    left, top, right, bottom = line.box
    assert abs(top - (400 - ABOVE)) <= 3 and abs(bottom - (400 + BELOW)) <= 3
    assert abs(left - 100) <= 6 and abs(right - 700) <= 6


def test_lines_lie_in_the_middle_of_their_cells():
    """At 8 pixels a cell, at all heights within one: half a cell too far up or to the left would be 3.5 pixels."""
    baselines = [straight(100, 700, 150 + 101 * row) for row in range(8)]
    maps = draw_maps(baselines, above=64, below=24, scale=1 / 8)
    lines, mirrored = (find_lines(each, 1 / 8, WIDTH, HEIGHT) for each in (maps, maps[:, ::-1]))
    assert_same(lines, baselines, above_or_below=4, reach=24)
    assert abs(np.mean([line.baseline[0][1] - y for line, ((_, y), _) in zip(lines, baselines, strict=True)])) < 1
    for line, other in zip(lines, mirrored, strict=True):
        assert abs(line.baseline[0][0] - (WIDTH - 1 - other.baseline[-1][0])) <= 1


def test_close_lines_whose_bodies_touch_stay_apart():
    baselines = [straight(60, 740, y) for y in range(80, 900, 20)]
    lines = found(baselines)
    assert_same(lines, baselines)
    for line, ((_, y), _) in zip(lines[1:], baselines[1:], strict=True):
        _, top, _, bottom = line.box
        assert y - 20 < top < y - 8 and y < bottom < y + 12


def test_lines_that_touch_at_a_stroke_stay_two():
    baselines = [straight(60, 740, 300), straight(60, 740, 330)]
    maps = draw_maps(baselines)
    cv2.line(maps, (200, 150), (203, 165), (200, 255, 0), 2)  # OpenCV draws into the channels that it is given
    assert_same(find_lines(maps, SCALE, WIDTH, HEIGHT), baselines)


def test_two_columns_are_read_one_after_the_other():
    left = [straight(40, 380, y) for y in range(100, 900, 40)]
    right = [straight(420, 760, y + 12) for y in range(100, 900, 40)]
    assert_same(found(left + right), left + right)


@pytest.mark.parametrize("rotated", [True, False], ids=["skewed page", "climbing lines"])
@pytest.mark.parametrize("degrees", [-10, -4, 6, 10])
def test_columns_whose_lines_slope(degrees, rotated):
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle) if rotated else 1, -np.sin(angle) if rotated else 0], [np.sin(angle), 1]])
    middle = np.array([400, 500])
    columns = [[straight(a, b, y) for y in range(250, 750, 40)] for a, b in ((140, 380), (430, 660))]
    baselines = [tuple(map(tuple, (np.array(b) - middle) @ matrix.T + middle)) for column in columns for b in column]
    assert_same(found(baselines), baselines)


def test_columns_that_nearly_touch_are_parted_by_their_ends():
    left = [straight(40, 398, y) for y in range(100, 900, 40)]
    right = [straight(404, 760, y) for y in range(100, 900, 40)]
    assert_same(found(left + right), left + right, reach=10)


def test_a_heading_across_columns_comes_first_and_what_follows_it_after_it():
    heading, middle = straight(40, 760, 60), straight(40, 760, 500)
    above = [straight(40, 370, y) for y in range(120, 460, 40)], [straight(430, 760, y) for y in range(120, 460, 40)]
    below = [straight(40, 370, y) for y in range(560, 900, 40)], [straight(430, 760, y) for y in range(560, 900, 40)]
    order = [heading, *above[0], *above[1], middle, *below[0], *below[1]]
    assert_same(found(order), order)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_line_that_pokes_into_the_gutter_stays_in_its_column(mirrored):
    left = [straight(50, 540 if row == 5 else 450, 100 + 50 * row) for row in range(10)]
    right = [straight(570 if row == 5 else 520, 930, 100 + 50 * row) for row in range(10)]
    columns = [[Line(baseline=tuple(line)) for line in column] for column in (left, right)]
    if mirrored:
        turned = [[Line(baseline=tuple((980 - x, y) for x, y in line.baseline[::-1])) for line in c] for c in columns]
        columns = turned[::-1]
    order = columns[0] + columns[1]
    assert in_order(order[::2] + order[1::2]) == order


def test_columns_are_regions_of_their_own_in_every_format():
    rows = range(160, 900, 40)
    columns = [straight(40, 370, y) for y in rows], [straight(430, 760, y) for y in rows]
    heading = [straight(40, 760, 40), straight(40, 300, 80), straight(40, 760, 120)]  # of which one line is short
    lines = found([*heading, *columns[0], *columns[1]])
    assert_same(lines, [*heading, *columns[0], *columns[1]])
    expected = [["column_1"] * 3, ["column_2"] * len(rows), ["column_3"] * len(rows)]
    assert [line.region for line in lines] == [name for names in expected for name in names]
    page = Page("a.png", WIDTH, HEIGHT, tuple(replace(line, text="x") for line in lines))
    for kind in ("page", "alto"):
        again = pages.read(pages.write(page, kind).encode()).lines
        assert [(line.region, line.baseline) for line in again] == [(line.region, line.baseline) for line in lines]
    assert pages.write(page, "page").count("<TextRegion ") == 3
    assert pages.write(page, "hocr").count('class="ocr_carea"') == 3
    assert [len(part.split()) for part in pages.write(page, "text").split("\n\n")] == [3, len(rows), len(rows)]


def test_one_column_is_no_region():
    assert {line.region for line in found([straight(60, 740, y) for y in range(80, 900, 45)])} == {""}


@pytest.mark.parametrize(("left", "right"), [(18, 7), (5, 18), (18, 2)])
def test_columns_of_different_numbers_of_lines_below_a_heading(left, right):
    heading = straight(100, 700, 60)
    columns = (
        [straight(40, 370, 130 + 41 * row) for row in range(left)],
        [straight(430, 760, 137 + 43 * row) for row in range(right)],
    )
    assert_same(found([heading, *columns[0], *columns[1]]), [heading, *columns[0], *columns[1]])


def test_a_date_on_the_right_and_a_salutation_on_the_left_are_no_columns():
    order = [straight(480, 740, 80), straight(60, 300, 130), *(straight(60, 740, y) for y in range(180, 700, 45))]
    assert_same(found(order), order)


def test_gaps_in_two_of_ten_lines_are_no_gutter():
    rows = [[(60, 380), (420, 740)] if row in (3, 4) else [(60, 740)] for row in range(10)]
    lines = [Line(baseline=straight(*ends, 100 + 50 * row)) for row, parts in enumerate(rows) for ends in parts]
    assert with_columns(lines[::-1]) == tuple(lines)


def test_lines_above_each_other_are_no_row_however_close_they_are():
    upper, lower = (
        Line(baseline=straight(left, left + 500, y), polygon=((left, y - 40), (left + 500, y - 40), (left + 500, y)))
        for left, y in ((200, 100), (100, 108))
    )
    assert in_order([lower, upper]) == [upper, lower]


def test_a_register_of_hundreds_of_lines_is_sorted_in_no_time():
    """CPU time of this process; every pair of lines looked at for every line took two minutes."""
    columns = [[(x, y) for y in range(20, 2020, 20)] for x in range(0, 4000, 500)]
    lines = [
        Line(baseline=((x, y), (x + 450, y)), polygon=((x, y - 12), (x + 450, y - 12), (x + 450, y + 4), (x, y + 4)))
        for column in columns
        for x, y in column
    ]
    shuffled = [lines[place] for place in np.random.default_rng(0).permutation(len(lines))]
    begun = time.process_time()
    assert in_order(shuffled) == lines
    assert time.process_time() - begun < 30


def test_a_gap_within_a_line_is_bridged():
    maps = draw_maps([straight(60, 740, 400)])
    maps[:, 190:196] = 0
    assert_same(find_lines(maps, SCALE, WIDTH, HEIGHT), [straight(60, 740, 400)])


@pytest.mark.parametrize("branch", [straight(300, 380, 291), straight(620, 800, 291), straight(10, 110, 309)])
def test_a_ridge_that_forks_is_one_line(branch):
    """As at raised letters, and where a line goes on a little higher or lower than it began."""
    baseline = straight(80, 700, 300)
    [line] = find_lines(
        np.maximum(draw_maps([baseline], ends=False), draw_maps([branch], ends=False)), SCALE, WIDTH, HEIGHT
    )
    [alone] = found([baseline])
    assert line.baseline[0][0] <= alone.baseline[0][0] and line.baseline[-1][0] >= alone.baseline[-1][0]


def test_what_is_faint_beyond_an_end_is_no_part_of_the_line():
    left = [straight(40, 370, y) for y in range(100, 900, 40)]
    right = [straight(430, 760, y) for y in range(100, 900, 40)]
    maps = draw_maps(left + right)
    for y in range(100, 900, 80):
        maps[round(y * SCALE) - 1 : round(y * SCALE) + 2, 188:202, 0] |= 150
    assert_same(find_lines(maps, SCALE, WIDTH, HEIGHT), left + right)


def test_dots_and_faint_ridges_are_no_lines():
    maps = draw_maps([straight(60, 740, 400)])
    cv2.circle(maps, (300, 400), 2, (255, 255, 0), -1)
    maps[100:103, 50:300] = 60
    assert_same(find_lines(maps, SCALE, WIDTH, HEIGHT), [straight(60, 740, 400)])


@pytest.mark.parametrize("maps", [np.zeros((500, 400, 3), np.uint8), np.zeros((0, 0, 3), np.float32)])
def test_an_empty_page_has_no_lines(maps):
    assert find_lines(maps, SCALE, WIDTH, HEIGHT) == ()


def test_probabilities_and_their_bytes_mean_the_same():
    maps = draw_maps([straight(60, 740, y) for y in range(80, 900, 45)])
    assert find_lines(maps, SCALE, WIDTH, HEIGHT) == find_lines(maps.astype(np.float32) / 255, SCALE, WIDTH, HEIGHT)


def test_cells_beyond_the_page_do_not_count():
    maps = draw_maps([straight(60, 740, 400)])
    padded = np.pad(maps, ((0, 40), (0, 60), (0, 0)))
    padded[510:513, 50:300] = 255
    assert find_lines(padded, SCALE, WIDTH, HEIGHT) == find_lines(maps, SCALE, WIDTH, HEIGHT)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_noise_gives_lines_within_the_page_or_none(seed):
    rng = np.random.default_rng(seed)
    maps = cv2.GaussianBlur(rng.random((120, 90, 3), np.float32), (0, 0), rng.uniform(0.5, 4)) * rng.uniform(0.5, 1.5)
    for line in find_lines(np.clip(maps, 0, 1), 0.5, 180, 240):
        assert len(line.baseline) >= 2 and len(line.polygon) >= 3
        left, top, right, bottom = line.box
        assert 0 <= left < right < 180 and 0 <= top < bottom < 240


@pytest.mark.parametrize(("shape", "scale"), [((10, 10), 0.5), ((10, 10, 2), 0.5), ((10, 10, 3), 0.0)])
def test_other_maps_are_refused(shape, scale):
    with pytest.raises(ValueError, match=r"\[rows, columns, 3\]"):
        find_lines(np.zeros(shape, np.float32), scale, 20, 20)
